"""The judges' benchmark: its counting, on cases worked by hand. No pool is started."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("psutil")
pytest.importorskip("cachetools")
from benchmarks.judges import kept_rollouts, pool_load
from benchmarks.judges.__main__ import missed


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
    found = kept_rollouts.modes(kept_rollouts.read_steps(run_dir), None)
    assert (found["rollouts"], found["sentences"]) == (2, 3)
    assert found["per_sentence"]["calls"] == 3
    assert found["per_rollout"]["calls"] == 2
    assert found["per_rollout"]["characters_sent"] < found["per_sentence"]["characters_sent"]
    assert found["agreement"] == "not measured: needs --model"


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
    }
    assert missed(result) == [
        "160 verdicts/s, expected at least 170",
        "12.0 ms added at p99, expected less than 10",
        "benchmark-grounding-0 grew by 30.0 MiB, expected at most 16",
        "1 answers were no verdict",
    ]
    assert missed({}) == []
