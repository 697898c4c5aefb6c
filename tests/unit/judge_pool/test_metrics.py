"""What a replica counts."""

from types import SimpleNamespace

import pytest
from doubles import SENTENCES, request

from faithful_rl.judge_pool.metrics import Tally, size_class
from faithful_rl.types import Reason, Score


def test_counts() -> None:
    tally = Tally("default", "grounding", "default-grounding-0", export=False)
    for _ in range(5):
        tally.request("job-1")
    small, large = ("none", "1,000"), ("1 MiB", "more")
    tally.answer(SENTENCES, 0.1, small)
    tally.answer(Score(1.0), 0.2, small)
    tally.answer(Score(0.0), 0.3, large)
    tally.answer(Score(None, Reason.NOTHING_TO_JUDGE), 0.4, small)
    tally.failure(Reason.JUDGE_TIMEOUT, 0.5, large)
    tally.refusal()
    counts = tally.counts()
    assert counts["requests"] == 5
    assert counts["refused"] == 1
    assert counts["verdicts"] == {"correct": 1, "skip": 1, "yes": 1, "no": 1}
    assert counts["unscored"] == {"nothing_to_judge": 1, "judge_timeout": 1}
    assert counts["latency_p50"] == 0.3
    assert counts["by_size"] == {"images <= 1 MiB, text more": [2, 1], "images none, text <= 1,000": [3, 0]}


@pytest.mark.parametrize(
    ("images", "characters", "expected"),
    [
        ((), 0, ("none", "1,000")),
        ((b"",), 1000, ("none", "1,000")),
        ((b"a" * 2**17, b"b" * 2**17), 1001, ("256 KiB", "4,000")),
        ((b"a" * (2**18 + 1),), 16_000, ("1 MiB", "16,000")),
        ((b"a" * (2**22 + 1),), 16_001, ("more", "more")),
    ],
)
def test_sizes_are_those_of_all_images_and_of_the_reasoning(images: tuple[bytes, ...], characters: int, expected: tuple[str, str]) -> None:
    assert size_class(request(images=images, reasoning="x" * characters)) == expected


def test_usage_is_cumulative_and_survives_a_new_backend() -> None:
    tally = Tally("default", "grounding", "default-grounding-0", export=False)
    tally.used(SimpleNamespace(calls=3, prompt_tokens=30, completion_tokens=3, cache_hits=1))
    tally.used(SimpleNamespace(calls=5, prompt_tokens=50, completion_tokens=5, cache_hits=1))
    tally.used(SimpleNamespace(calls=1, prompt_tokens=10, completion_tokens=1, cache_hits=0))
    counts = tally.counts()
    assert (counts["calls"], counts["prompt_tokens"], counts["completion_tokens"], counts["cache_hits"]) == (6, 60, 6, 1)
