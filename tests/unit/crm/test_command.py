"""`python -m faithful_rl.crm`: pairs from a run's dump, by its own labels or by any judge."""

import json
from pathlib import Path

import pytest

from faithful_rl.crm.__main__ import main
from faithful_rl.crm.pairs import read_pairs


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    rows = []
    for number, (conclusion, answer, own) in enumerate((("left", "A", 1.0), ("left", "B", 0.0), ("right", "B", None))):
        rows.append(
            {
                "uid": f"q{number}",
                "question": f"Question {number}: is the red circle left or right of the blue square?",
                "options": ["left", "right"],
                "response": f"<think>So the answer is {conclusion}.</think><answer>{answer}</answer>",
                "columns": {"consistency": own or 0.0, "consistency_scored": float(own is not None)},
            }
        )
    file = tmp_path / "step_000001.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_own_labels_are_taken_and_swapped_answers_added(dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.parquet"
    assert main(["pairs", f"data={dump}", f"out={out}", "swap=true"]) == 0
    made = [(pair.uid, pair.answer, pair.consistent, pair.origin) for pair in read_pairs([out])]
    assert made == [("q0", "A) left", 1.0, "own"), ("q0", "B) right", 0.0, "swapped"), ("q1", "B) right", 0.0, "own")]
    assert "3 pairs of 2 questions, 33.3% consistent, 1 rollouts without a label" in capsys.readouterr().out


def test_any_judge_labels(dump: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.parquet"
    assert main(["pairs", f"data={dump}", f"out={out}", "label=scene"]) == 0
    assert [pair.consistent for pair in read_pairs([out])] == [1.0, 0.0, 1.0]
    assert main(["pairs", f"data={dump}", f"out={out}", "label=fake", "label.latency_seconds=0.0"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pairs", "out=x"], "error: data: found nothing"),
        (["pairs", "data=absent.jsonl", "out=x"], "error: data: found no file absent.jsonl"),
        (["pairs", "data=a", "out=b", "labels=own"], "error: labels: found an unknown key"),
        (["pairs", "nonsense"], "error: command line: found 'nonsense', expected key=value."),
        (["train"], "error: command: found 'train', expected pairs or evaluate."),
        (["evaluate", "model=absent", "data=b"], "error: model: found absent, which is not a directory"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_help_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "swap=true" in capsys.readouterr().out
    assert main([]) == 2


def test_rollouts_without_any_label_are_refused(dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = tmp_path / "unscored.jsonl"
    only.write_text(dump.read_text().splitlines()[2] + "\n")
    assert main(["pairs", f"data={only}", f"out={tmp_path / 'x'}"]) == 2
    assert "1 rollouts without a label" in capsys.readouterr().err
