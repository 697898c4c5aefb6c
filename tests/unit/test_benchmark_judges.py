"""The judges' benchmark: its counting, on cases worked by hand. No pool is started."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("psutil")
pytest.importorskip("cachetools")
from benchmarks.judges import agreement, exposed, kept_rollouts, pool_load
from benchmarks.judges.__main__ import judge_settings, merged, missed
from faithful_rl.config import ConfigError
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

C, F, S = Verdict.CORRECT, Verdict.INCORRECT, Verdict.SKIP


def row(response: str, accuracy: float, image: str, split: str = "train") -> dict[str, Any]:
    return {
        "uid": "q",
        "question": "Is the red circle left of the blue square?",
        "options": ["left", "right"],
        "response": response,
        "image_png_base64": image,
        "split": split,
        "columns": {"accuracy": accuracy},
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two steps. Right rollouts: A twice and B in the first step, A again in the second; one wrong rollout; one held-out file."""
    import base64

    file = io.BytesIO()
    Image.new("RGB", (28, 28), "red").save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    a = "<think>The red circle is left of the blue square. So the answer is left.</think><answer>A</answer>"
    b = "<think>The red circle is small. The blue square is large. So the answer is left.</think><answer>A</answer>"
    wrong = "<think>The red circle is right of the blue square. So the answer is right.</think><answer>B</answer>"
    folder = tmp_path / "rollouts"
    folder.mkdir()
    first = [row(a, 1.0, image), row(a, 1.0, image), row(b, 1.0, image), row(wrong, 0.0, image)]
    for name, rows in (
        ("step_000001", first),
        ("step_000002", [row(a, 1.0, image)]),
        ("step_000002_heldout", [row(b, 1.0, image, "heldout")]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return tmp_path


def test_savings_are_told_apart_and_add_up(run_dir: Path) -> None:
    steps = kept_rollouts.read_steps(run_dir)
    assert [(step.name, step.right) for step in steps] == [("step_000001", [True, True, True, False]), ("step_000002", [True])]
    found = kept_rollouts.savings(steps)
    assert found["calls"]["consistency"] == {
        "without_saving": 5,
        "saved_by_mask": 1,
        "saved_by_duplicates": 1,
        "saved_by_cache": 1,
        "made": 2,
    }
    assert found["calls"]["grounding"] == {
        "without_saving": 6,
        "saved_by_mask": 1,
        "saved_by_duplicates": 1,
        "saved_by_cache": 1,
        "made": 3,
    }
    assert found["accuracy"] == 0.8
    assert found["made_share"] == {"consistency": 0.4, "grounding": 0.5}


def test_modes_count_calls_on_different_right_rollouts(run_dir: Path) -> None:
    found = kept_rollouts.modes(kept_rollouts.read_steps(run_dir), {})
    assert (found["rollouts"], found["sentences"]) == (2, 3)
    assert found["per_sentence"]["calls"] == 3
    assert found["per_rollout"]["calls"] == 2
    assert found["per_rollout"]["characters_sent"] < found["per_sentence"]["characters_sent"]
    assert found["agreement"] == "not measured: needs --model"


def test_how_much_of_a_run_was_kept(run_dir: Path) -> None:
    steps = kept_rollouts.read_steps(run_dir)
    assert kept_rollouts.kept_share(run_dir, steps) is None
    (run_dir / "config.yaml").write_text("data: {train_batch_size: 2}\nactor_rollout_ref: {rollout: {n: 5}}\n")
    assert kept_rollouts.kept_share(run_dir, steps) == 0.25  # five of two steps with ten each
    assert kept_rollouts.savings(steps, 0.25)["share_of_all_rollouts"] == 0.25


def test_nothing_saved_is_said_too(run_dir: Path) -> None:
    (first, _) = kept_rollouts.read_steps(run_dir)
    assert kept_rollouts.savings([first])["calls"]["grounding"]["saved_by_cache"] == 0


def said(*verdicts: Verdict) -> list[SentenceVerdict]:
    return [SentenceVerdict("a", 0, 1, one) for one in verdicts]


def test_agreement_is_over_sentences_that_both_modes_judged() -> None:
    # Both: CC, CF, FF, SS; the third rollout has no verdict in one mode, one sentence none in the other.
    one = [said(C, C), said(F, S, C), said(C)]
    other = [said(C, F), said(F, S, Verdict.UNSCORED), Score(None, Reason.JUDGE_TIMEOUT)]
    found = agreement.compared(one, other)
    assert found["rollouts_judged_by_both"] == 2
    assert found["rollouts_without_a_verdict"] == {"per_sentence": 0, "per_rollout": 1}
    assert found["sentences_judged_by_both"] == 4
    assert found["same_verdict"][0] == 0.75
    # by chance: C 2/4 x 1/4, F 1/4 x 2/4, S 1/4 x 1/4 together 5/16; (12/16 - 5/16) / (11/16)
    assert found["cohens_kappa"][0] == pytest.approx(7 / 11)
    assert found["verdicts_per_sentence_then_per_rollout"] == {
        "CORRECT CORRECT": 1, "CORRECT INCORRECT": 1, "INCORRECT INCORRECT": 1, "SKIP SKIP": 1,
    }  # fmt: skip


def test_agreement_of_nothing_is_not_a_number() -> None:
    found = agreement.compared([Score(None, Reason.JUDGE_ERROR)], [said(C)])
    assert found["same_verdict"] == found["cohens_kappa"] == [None, None, None]


def test_both_modes_of_one_judge_are_asked(run_dir: Path) -> None:
    settings = judge_settings(None, ["backend=fake", "through_prompts=true", "latency_seconds=0.001"])
    found = kept_rollouts.modes(kept_rollouts.read_steps(run_dir), settings)["agreement"]
    assert (found["backend"], found["rollouts_judged_by_both"], found["sentences_judged_by_both"]) == ("fake", 2, 3)
    assert (found["cost"]["per_sentence"]["calls"], found["cost"]["per_rollout"]["calls"]) == (3, 2)
    assert sum(found["verdicts_per_sentence_then_per_rollout"].values()) == 3


def test_the_judge_of_the_modes() -> None:
    assert judge_settings(None, []) == {}
    assert judge_settings("dir", ["max_model_len=64"]) == {"backend": "vllm", "model": "dir", "max_model_len": 64}
    assert judge_settings(None, ["model=m"]) == {"backend": "vllm", "model": "m"}
    with pytest.raises(ConfigError, match="--judge: found 'max'"):
        judge_settings("dir", ["max"])


T = exposed.Times


def test_exposed_and_busy_seconds_by_hand() -> None:
    # texts at 1, 2, 3 s; verdicts at 2.5, 2.25 and 3.5 s; a masked rollout ends last, at 3.25 s: 0.25 s are waited for judges
    times = [T(1.0, 1.0, 2.5), T(2.0, 2.0, 2.25), T(3.0, 3.0, 3.5), T(3.25, 3.25, 3.25)]
    assert exposed.exposed_seconds(times) == 0.25
    assert exposed.busy_seconds(times) == 2.0  # 1 to 2.5 and 3 to 3.5
    late = [T(1.0, 3.25, 4.0), T(2.0, 3.25, 4.25), T(3.0, 3.25, 4.75), T(3.25, 3.25, 3.25)]
    assert exposed.exposed_seconds(late) == exposed.busy_seconds(late) == 1.5


def test_arms_are_compared_by_medians() -> None:
    def repeat(sent: float, judged: float) -> list[exposed.Times]:
        return [T(2.0, sent, judged)]

    overlapping = [[T(1.0, 1.0, 2.0), *repeat(2.0, judged)] for judged in (2.5, 2.25, 3.0)]
    waiting = [[T(1.0, 2.0, 3.0), *repeat(2.0, judged)] for judged in (3.5, 4.0, 4.5)]
    found = exposed.compared({"with_overlap": overlapping, "without_overlap": waiting})
    assert found["with_overlap"]["exposed_seconds_each"] == [0.5, 0.25, 1.0]
    assert found["with_overlap"]["exposed_seconds"] == 0.5
    assert found["with_overlap"]["judging_seconds"] == 1.5
    assert found["with_overlap"]["share_not_hidden"] == pytest.approx(1 / 3)
    assert found["without_overlap"]["exposed_seconds"] == 2.0
    assert found["without_overlap"]["share_not_hidden"] == 1.0
    assert found["exposed_ratio"] == 0.25


def test_a_replay_sends_as_texts_end_or_after_the_last() -> None:
    class Slow:
        async def ask(self, request: Any) -> Score:
            await asyncio.sleep(0.05)
            return Score(1.0)

    request = pool_load.scene_requests(1)[0]
    phase = exposed.Phase("", [request] * 3, [0.05, 0.2, 0.1], [True, True, False])

    def replayed(overlap: bool) -> list[exposed.Times]:
        asked = pool_load.Asked({"consistency": Slow()})
        times = asyncio.run(exposed.replay(phase, asked, overlap))
        assert len(asked.seconds) == 2
        return sorted(times, key=lambda one: one.text)

    early, masked, last = replayed(True)
    assert masked == T(0.1, 0.1, 0.1)
    assert 0.05 <= early.sent < early.judged
    assert early.sent < last.sent
    early, masked, last = replayed(False)
    assert masked == T(0.1, 0.1, 0.1)
    assert min(early.sent, last.sent) >= 0.2


def test_both_ways_are_measured_in_turns_against_both_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[float, int, dict[str, Any]]] = []

    @contextmanager
    def pool(latency: float, replicas: int, **more: Any) -> Iterator[None]:
        served.append((latency, replicas, more))
        yield

    class Quick:
        async def ask(self, request: Any) -> Score:
            await asyncio.sleep(0.01)
            return Score(1.0)

    monkeypatch.setattr(pool_load, "served", pool)
    monkeypatch.setattr(pool_load, "new_asked", lambda: pool_load.Asked({"consistency": Quick()}))
    request = pool_load.scene_requests(1)[0]
    found = exposed.measure(exposed.Phase("made", [request] * 3, [0.02, 0.04, 0.06], [True, False, True]), 0.05, 2, 2)
    assert served == [(0.05, 2, {"limits": {}}), (0.5, 2, {"limits": {"concurrency_per_replica": 8}})]
    assert found["phase"] == {"source": "made", "rollouts": 3, "judged": 2, "generation_seconds": 0.06}
    assert (found["repeats"], found["unscored"]) == (2, 0)
    assert set(found["judges"]) == {"fast", "slow"}
    for one in found["judges"].values():
        assert len(one["with_overlap"]["exposed_seconds_each"]) == len(one["without_overlap"]["exposed_seconds_each"]) == 2
        assert one["without_overlap"]["share_not_hidden"] == 1.0
        assert min(one["with_overlap"]["exposed_seconds_each"]) > 0


def test_a_kept_phase_ends_by_length_and_leaves_masked_ones_out(run_dir: Path) -> None:
    steps = kept_rollouts.read_steps(run_dir)
    assert steps[1].lengths == [
        float(len("<think>The red circle is left of the blue square. So the answer is left.</think><answer>A</answer>"))
    ]
    phase = exposed.kept_phase([kept_rollouts.Step("s", steps[0].requests[:3], [True, False, True], [10.0, 40.0, 20.0])], 8.0)
    assert (phase.ends, phase.asked) == ([2.0, 8.0, 4.0], [True, False, True])


def test_an_even_phase() -> None:
    phase = exposed.even_phase(8.0)
    assert len(phase.requests) == len(phase.ends) == 80
    assert phase.ends[:2] == pytest.approx([0.1, 0.2])
    assert phase.ends[-1] == 8.0
    assert all(phase.asked)


def test_what_a_run_logged(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "timing_s/gen": 90.0, "judge/exposed_seconds": 9.0, "timing_s/step": 100.0},
        {"step": 2, "timing_s/gen": 6.0, "judge/exposed_seconds": 1.0, "timing_s/step": 10.0},
        {"step": 3, "timing_s/gen": 4.0, "judge/exposed_seconds": 2.0, "timing_s/step": 8.0},
        {"step": 4, "timing_s/gen": 4.0, "judge/exposed_seconds": None, "timing_s/step": 8.0},
    ]
    assert exposed.in_run(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert exposed.in_run(tmp_path) == pytest.approx(
        {"steps": 2, "generation_seconds": 3.5, "exposed_seconds": 1.5, "exposed_share_of_step": 0.175}
    )


def test_a_part_replaces_its_own_entry_only() -> None:
    before = {"what": "old", "modes": {"rollouts": 1}, "load": {"verdicts": 2}}
    found = merged(before, {"exposed": {"repeats": 5}, "load": {"verdicts": 3}})
    assert list(found) == ["what", "load", "exposed", "modes"]
    assert (found["load"], found["modes"]) == ({"verdicts": 3}, {"rollouts": 1})


def test_a_directory_without_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="found no training rollouts"):
        kept_rollouts.read_steps(tmp_path)


def test_added_latency_is_what_lies_beyond_the_judge() -> None:
    found = pool_load.added([0.050 + number / 1e5 for number in range(101)], 0.05)
    assert found == pytest.approx({"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0, "answers": 101})


def test_no_request_comes_twice() -> None:
    requests = pool_load.endless(pool_load.scene_requests(4))
    drawn = [next(requests) for _ in range(9)]
    assert len({(one.question, one.reasoning) for one in drawn}) == 9
    assert drawn[0].images == drawn[4].images


def test_missed_targets_are_named() -> None:
    result = {
        "load": {"verdicts_per_second": 160.0, "added_milliseconds": {"p99": 12.0}, "unscored": 1},
        "memory": {"growth_mib_after_a_fifth": {"client": 1.0, "benchmark-grounding-0": 30.0}, "unscored": 0},
        "exposed": {"judges": {"fast": {"exposed_ratio": 0.4}, "slow": {"exposed_ratio": 1.25}}, "unscored": 2},
    }
    assert missed(result) == [
        "160 verdicts/s, expected at least 170",
        "12.0 ms added at p99, expected less than 10",
        "benchmark-grounding-0 grew by 30.0 MiB, expected at most 16",
        "overlap hides nothing of the slow judge's time (ratio 1.25, expected below 1)",
        "3 answers were no verdict",
    ]
    assert missed({}) == []
