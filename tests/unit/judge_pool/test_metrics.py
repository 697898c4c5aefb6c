"""What a replica counts."""

from types import SimpleNamespace

from doubles import SENTENCES

from faithful_rl.judge_pool.metrics import Tally
from faithful_rl.types import Reason, Score


def test_counts() -> None:
    tally = Tally("default", "grounding", "default-grounding-0", export=False)
    for _ in range(5):
        tally.request("job-1")
    tally.answer(SENTENCES, 0.1)
    tally.answer(Score(1.0), 0.2)
    tally.answer(Score(0.0), 0.3)
    tally.answer(Score(None, Reason.NOTHING_TO_JUDGE), 0.4)
    tally.failure(Reason.JUDGE_TIMEOUT, 0.5)
    tally.refusal()
    counts = tally.counts()
    assert counts["requests"] == 5
    assert counts["refused"] == 1
    assert counts["verdicts"] == {"correct": 1, "skip": 1, "yes": 1, "no": 1}
    assert counts["unscored"] == {"nothing_to_judge": 1, "judge_timeout": 1}
    assert counts["latency_p50"] == 0.3


def test_usage_is_cumulative_and_survives_a_new_backend() -> None:
    tally = Tally("default", "grounding", "default-grounding-0", export=False)
    tally.used(SimpleNamespace(calls=3, prompt_tokens=30, completion_tokens=3, cache_hits=1))
    tally.used(SimpleNamespace(calls=5, prompt_tokens=50, completion_tokens=5, cache_hits=1))
    tally.used(SimpleNamespace(calls=1, prompt_tokens=10, completion_tokens=1, cache_hits=0))
    counts = tally.counts()
    assert (counts["calls"], counts["prompt_tokens"], counts["completion_tokens"], counts["cache_hits"]) == (6, 60, 6, 1)
