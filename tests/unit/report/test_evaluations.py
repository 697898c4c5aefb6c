"""Evaluations on benchmarks in the report: tables, marks of significance, coverage, seeds."""

from pathlib import Path

import pytest

pytest.importorskip("faithful_rl.evaluation.comparison")
pytest.importorskip("statsmodels")
from synthetic_evaluation import put_evaluation
from synthetic_run import put_run

from faithful_rl.config import ConfigError
from faithful_rl.report.__main__ import main
from faithful_rl.report.evaluations import Named, bars, headline, markdown, method_name, read, tables


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("evaluations")
    return put_evaluation(root / "grpo", "grpo", 0.75, 0.50), put_evaluation(root / "fgrpo", "fgrpo", 0.80, 0.05, missing=8)


def test_a_table_per_metric_with_marks_and_coverage(directories: tuple[Path, Path]) -> None:
    found = read([Named("GRPO", directories[0]), Named("FGRPO", directories[1])])
    made = {table.title: table for table in tables(found)}
    assert set(made) == {
        "Accuracy %",
        "Inconsistency rate (IR) %",
        "Semantic grounding (R_S) %",
        "Right for a false reason %",
        "Well-formed %",
    }
    table = made["Inconsistency rate (IR) %"]
    assert table.columns == ("scenes", "mmvp", "mean")
    (name, _, ours), (other, _, theirs) = table.rows
    assert (name, other) == ("GRPO", "FGRPO")
    assert (ours[0].value, ours[0].mark, ours[0].coverage) == ("50.0", "", "")
    assert theirs[0].mark == "better"
    assert "McNemar exact" in theirs[0].why
    assert "points to GRPO on 72 shared questions" in theirs[0].why
    assert theirs[0].coverage == "72 of 80"  # a partial evaluation is never printed as a whole one
    assert made["Accuracy %"].rows[1][2][0].mark == ""  # 5 points on 80 questions are no difference
    assert ours[2].value == "50.0"


def test_one_name_twice_is_two_seeds(tmp_path: Path) -> None:
    seeds = [put_evaluation(tmp_path / f"s{seed}", "m", rate, 0.1, ("scenes",)) for seed, rate in enumerate((0.5, 0.75))]
    found = read([Named("m", seed) for seed in seeds])
    assert found.estimates["m"]["scenes"]["accuracy"].value == pytest.approx(0.625)
    # a single benchmark is one table, metrics across
    (table,) = tables(found)
    assert (table.title, table.columns) == (
        "scenes",
        ("Accuracy %", "Inconsistency rate (IR) %", "Semantic grounding (R_S) %", "Right for a false reason %", "Well-formed %"),
    )
    # questions 0, 13, 26, 39, 52, 65, 78 and 11 contradict themselves: 5 of the first 40 (12.5%) and 6 of the first 60 (10%) are right
    assert [cell.value for cell in table.rows[0][2]] == ["62.5", "10.0", "90.0", "11.2", "100.0"]
    assert found.baseline == "m"


def test_markdown_bars_and_headline(directories: tuple[Path, Path]) -> None:
    found = read([Named("GRPO", directories[0]), Named("FGRPO", directories[1])])
    text = markdown(found)
    assert "| FGRPO |" in text
    assert "▲ better and ▼ worse than GRPO" in text
    assert "(72 of 80)" in text
    drawn = bars(found)
    assert drawn is not None
    assert drawn.svg.count("<svg") == 1
    assert "GRPO 51.7%" in headline(found)


def test_the_page_with_and_without_runs(directories: tuple[Path, Path], tmp_path: Path) -> None:
    out, figures = tmp_path / "report.html", tmp_path / "figures"
    words = [
        f"evaluation=GRPO={directories[0]}",
        f"evaluation={directories[1]}",
        f"out={out}",
        f"figures={figures}",
        f"markdown={tmp_path / 't.md'}",
    ]
    assert main(words) == 0
    page = out.read_text()
    assert "<h3" in page
    assert "72 of 80" in page
    assert "mmvp: its images are small" in page
    assert '<td><span class="key" style="background:var(--c1)"></span>GRPO</td>' in page
    assert (figures / "benchmarks.svg").exists()
    run = put_run(tmp_path / "run", questions=20, steps=3)
    assert main([f"run={run}", *words]) == 0
    assert "<h2>Benchmarks</h2>" in out.read_text()


def test_names_and_mistakes(directories: tuple[Path, Path], tmp_path: Path) -> None:
    assert method_name(directories[1]) == "fgrpo"
    with pytest.raises(ConfigError, match=r"no evaluation\.json"):
        read([Named("x", tmp_path)])
    with pytest.raises(ConfigError, match="baseline: found 'nobody'"):
        read([Named("GRPO", directories[0])], "nobody")
