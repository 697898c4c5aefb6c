"""Names of metrics and the append-only file: right up to the last finished step after any crash, and when a run resumes."""

import json
import math
from pathlib import Path

import pytest

from faithful_rl import metrics

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, steps: int) -> None:
    with metrics.MetricsWriter(path) as writer:
        for number in range(1, steps + 1):
            writer.append(number, {"train/accuracy": number / 10})


def test_the_page_of_metrics_is_the_table_in_the_code() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == metrics.markdown_table()


def test_names() -> None:
    assert metrics.constraint_metric("consistency", "multiplier") == "constraint/consistency/multiplier"
    assert metrics.heldout_metric("T1", "accuracy") == "heldout/T1/accuracy"
    with pytest.raises(ValueError, match="unknown constraint field 'lambda', expected one of score"):
        metrics.constraint_metric("consistency", "lambda")


def test_steps_come_back_and_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsWriter(path) as writer:
        writer.append(1, {"a": 0.1 + 0.2, "b": math.inf})
    assert json.loads(path.read_text()) == {"step": 1, "a": 0.1 + 0.2, "b": None}
    (row,) = metrics.read_metrics(path)
    assert (row["step"], row["a"]) == (1.0, 0.1 + 0.2)
    assert math.isnan(row["b"])


@pytest.mark.parametrize("torn", ['{"step": 4, "a', '{"step": 4'])
def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 3)
    whole = path.read_text()
    path.write_text(whole + torn)
    assert [row["step"] for row in metrics.read_metrics(path)] == [1, 2, 3]
    with metrics.MetricsWriter(path) as writer:
        writer.append(4, {})
    assert path.read_text() == whole + '{"step": 4}\n'


def test_damage_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is not JSON"):
        metrics.read_metrics(path)


def test_resuming_drops_later_steps_and_keeps_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 5)
    before = path.read_text()
    assert metrics.drop_after(path, 3) == 2
    assert [row["step"] for row in metrics.read_metrics(path)] == [1, 2, 3]
    assert (tmp_path / "metrics.jsonl.1").read_text() == before
    assert metrics.drop_after(path, 3) == 0
    assert metrics.drop_after(tmp_path / "absent.jsonl", 3) == 0


def test_steps_never_go_backwards(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 5)
    with metrics.MetricsWriter(path) as writer, pytest.raises(ValueError, match=r"call drop_after\(2\) first"):
        writer.append(3, {})
