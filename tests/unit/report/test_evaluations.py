"""Evaluations on benchmarks in the report: tables, marks of significance, coverage, seeds."""

import json
from pathlib import Path

import pytest

pytest.importorskip("faithful_rl.evaluation.comparison")
pytest.importorskip("statsmodels")
from synthetic_evaluation import put_evaluation
from synthetic_run import put_run

from faithful_rl.config import ConfigError
from faithful_rl.report import costs
from faithful_rl.report.__main__ import main
from faithful_rl.report.evaluations import Named, bars, headline, markdown, methods_of, read, tables


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


def test_two_models_of_one_name_are_not_taken_for_seeds(tmp_path: Path) -> None:
    """Models are often exported into folders of one name; only a given name joins evaluations."""
    one, two = (put_evaluation(tmp_path / name, "hf", 0.5, 0.1, ("scenes",)) for name in ("grpo", "fgrpo"))
    deep = put_evaluation(tmp_path / "x" / "grpo", "hf", 0.5, 0.1, ("scenes",))
    assert [named.method for named in methods_of([(one, ""), (two, "")])] == ["hf (grpo)", "hf (fgrpo)"]
    assert [named.method for named in methods_of([(one, "GRPO"), (two, "GRPO")])] == ["GRPO", "GRPO"]
    assert [named.method for named in methods_of([(one, "hf"), (two, "")])] == ["hf", "hf (fgrpo)"]
    assert [named.method for named in methods_of([(one, ""), (deep, "")])] == [f"hf ({one})", f"hf ({deep})"]


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


def test_costs_of_evaluations_by_hand(tmp_path: Path) -> None:
    asked = {"requests": 30, "calls": 24, "prompt_tokens": 1000, "completion_tokens": 200, "cache_hits": 6}
    kept = {
        "starts": 2, "serving_seconds": 900.0, "generation_seconds": 720.0, "judge_seconds": 180.0, "gpu_seconds": 7200.0,
        "responses": 80, "prompt_tokens": 12000, "response_tokens": 3400, "judges": {"consistency": asked, "grounding": asked},
    }  # fmt: skip
    one = costs.evaluation_costs("a", {"costs": kept})
    assert one.cells == ("0.20", "2.00", "12,000", "3,400", "0.05", "60", "48", "2,400")
    pool = {**asked, "calls": None, "prompt_tokens": None, "completion_tokens": None}
    shared = costs.evaluation_costs("a", {"costs": {**kept, "gpu_seconds": None, "judges": {"consistency": asked, "grounding": pool}}})
    assert shared.cells == ("0.20", "–", "12,000", "3,400", "0.05", "60", "–", "–"), "what is not known of one is not known of the sum"
    assert costs.evaluation_costs("a", {}).cells == ("–",) * 8
    made = put_evaluation(tmp_path / "fixed", "fixed", 0.75, 0.50, ("scenes",))
    assert main([f"evaluation={made}", f"out={tmp_path / 'old.html'}"]) == 0
    assert "What it cost" not in (tmp_path / "old.html").read_text(), "evaluations that kept none show none"
    summary = json.loads((made / "evaluation.json").read_text())
    (made / "evaluation.json").write_text(json.dumps({**summary, "costs": kept}))
    assert main([f"evaluation={made}", f"out={tmp_path / 'new.html'}"]) == 0
    page = (tmp_path / "new.html").read_text()
    assert "What it cost" in page
    assert "<th>evaluation</th><th>generation hours</th>" in page
    assert "<td>0.20</td><td>2.00</td><td>12,000</td><td>3,400</td>" in page


def test_names_and_mistakes(directories: tuple[Path, Path], tmp_path: Path) -> None:
    assert methods_of([(directories[1], "")]) == [Named("fgrpo", directories[1])]
    with pytest.raises(ConfigError, match=r"no evaluation\.json"):
        read([Named("x", tmp_path)])
    with pytest.raises(ConfigError, match="baseline: found 'nobody'"):
        read([Named("GRPO", directories[0])], "nobody")


def test_what_lies_behind_the_figures(tmp_path: Path) -> None:
    """Cells, conventions, task types, what a text model read, and what 80 questions cannot show."""
    from faithful_rl.report.breakdowns import breakdowns, facts

    directories = [put_evaluation(tmp_path / name, name, right, 0.25, ("scenes",)) for name, right in (("grpo", 0.5), ("fgrpo", 0.525))]
    for directory in directories:
        file = directory / "evaluation.json"
        summary = json.loads(file.read_text())
        entry = summary["benchmarks"]["scenes"]
        accuracy = entry["metrics"]["accuracy"]
        entry["conventions"] = {"per_question": accuracy, "per_pair": {"value": 0.25, "low": 0.1, "high": 0.4, "n": 40}}
        entry["by_task_type"] = {"count": {"accuracy": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 30}}, "side": {"accuracy": accuracy}}
        kappa = {"value": 0.98, "low": 0.9, "high": 1.0, "n": 80}
        entry["extractor"] = {"model": "small", "read": 79, "failed": 1, "agreement": 0.99, "kappa": kappa, "decided_by_model": 2}
        summary["judges"] = {judge: {"is": "openai big", "version": "1"} for judge in ("consistency", "grounding")}
        file.write_text(json.dumps(summary))
    found = read([Named("GRPO", directories[0]), Named("FGRPO", directories[1])])
    (detail,) = breakdowns(found)
    assert (detail.benchmark, detail.asked) == ("scenes", "80 questions")
    cells, conventions, types = detail.tables
    # 40 of 80 are right and 20 contradict themselves: questions 13k mod 80 for k < 20, of which 0, 13, 26, 39, 11, 24, 37, 9, 22, 35, 7 are below 40
    assert [cell.value for cell in cells.rows[0][2]] == ["29", "11", "31", "9", "0"]
    assert conventions.columns == ("per_question", "per_pair")
    assert (conventions.rows[0][2][1].value, conventions.rows[0][2][1].coverage) == ("25.0", "n = 40")
    assert (types.title, [cell.value for cell in types.rows[1][2]]) == ("Accuracy % by task type", ["100.0", "52.5"])
    assert "GRPO: answers read by small too: 79 read, 1 failed, agreement 99.0%, kappa 0.980, 2 decided by it" in detail.remarks
    assert any(remark.startswith("FGRPO against GRPO: scenes, accuracy: 80 questions show a difference of") for remark in detail.remarks)
    told = dict(facts(found))
    assert (told["questions"], told["responses scored"], told["judges"]) == ("80", "all", "openai big")
