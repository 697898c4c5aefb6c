"""Evaluations on benchmarks in the report: tables, marks of significance, coverage, seeds."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faithful_rl.evaluation.comparison")
pytest.importorskip("statsmodels")
from synthetic_evaluation import put_evaluation
from synthetic_run import put_run

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import figures
from faithful_rl.evaluation.rows import read_rows, write_rows
from faithful_rl.report import costs
from faithful_rl.report.__main__ import main
from faithful_rl.report.breakdowns import breakdowns, facts
from faithful_rl.report.evaluation_bars import bars
from faithful_rl.report.evaluation_tables import headline, tables
from faithful_rl.report.evaluations import Named, methods_of, over_benchmarks, power, read, warnings
from faithful_rl.report.markdown import markdown


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
        "No answer can be read %",
        "Cut at the limit of tokens %",
        "Response length, tokens",
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
    assert (ours[2].value, ours[2].partial) == ("50.0", False)
    assert (theirs[2].coverage, theirs[2].partial) == ("144 of 160", True)
    # right answers of the 60 of 80 that are right: a figure of its own n, of which nothing is missing
    assert (made["Right for a false reason %"].rows[0][2][0].coverage, made["Right for a false reason %"].rows[0][2][0].partial) == (
        "n = 60",
        False,
    )
    assert made["Response length, tokens"].rows[0][2][0].value == "50.0"


def test_one_name_twice_is_two_seeds(tmp_path: Path) -> None:
    seeds = [put_evaluation(tmp_path / f"s{seed}", "m", rate, 0.1, ("scenes",)) for seed, rate in enumerate((0.5, 0.75))]
    found = read([Named("m", seed) for seed in seeds])
    assert found.estimates["m"]["scenes"]["accuracy"].value == pytest.approx(0.625)
    # a single benchmark is one table, metrics across
    table, form = tables(found)
    assert (table.title, table.columns) == (
        "scenes",
        ("Accuracy %", "Inconsistency rate (IR) %", "Semantic grounding (R_S) %", "Right for a false reason %"),
    )
    assert form.columns == ("Well-formed %", "No answer can be read %", "Cut at the limit of tokens %", "Response length, tokens")
    assert [cell.value for cell in form.rows[0][2]] == ["100.0", "0.0", "0.0", "50.0"]
    # questions 0, 13, 26, 39, 52, 65, 78 and 11 contradict themselves: 5 of the first 40 (12.5%) and 6 of the first 60 (10%) are right
    assert [cell.value for cell in table.rows[0][2]] == ["62.5", "10.0", "90.0", "11.2"]
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
    assert "Holm corrects for all of them" in text
    assert "(72 of 80)" in text
    drawn = bars(found)
    assert drawn is not None
    assert drawn.svg.count("<svg") == 1
    accuracy, other, false = headline(found)
    # a mean of two benchmarks of 80 questions; 8 of each were not answered by the second
    assert accuracy.startswith("GRPO, mean of 2 benchmarks: 75.0% [")
    assert "of the answers are right (n = 160); 50.0% [" in accuracy
    assert "(n = 144 of 160)" in other
    assert "GRPO 51.7% of 120" in false


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
    (told, *_) = power(found)
    assert told.startswith("FGRPO against GRPO, accuracy, no difference found. scenes: 80 questions show a difference of")
    told = dict(facts(found))
    assert (told["questions"], told["responses scored"], told["judges"]) == ("80", "all", "openai big")


def changed(directory: Path, rows: Any = None, **summary: Any) -> Path:
    """Change an evaluation's rows (a function of number and row) and its summary; figures are computed again."""
    whole = json.loads((directory / "evaluation.json").read_text()) | summary
    for name, entry in whole["benchmarks"].items():
        found = read_rows(directory, name)
        for number, line in enumerate(found):
            if rows is not None:
                rows(number, line)
        write_rows(directory, name, found)
        entry["metrics"] = figures.metrics([line for line in found if line["generated"]])
    (directory / "evaluation.json").write_text(json.dumps(whole))
    return directory


def test_every_figure_says_on_how_many_questions_it_is(tmp_path: Path) -> None:
    """80 questions: 2 without a response, 10 with nothing to judge, consistency failed on every second one."""

    def odd(number: int, line: dict[str, Any]) -> None:
        if number < 10:
            line |= {"semantic_grounding": None, "semantic_grounding_scored": False, "semantic_grounding_reason": "nothing_to_judge"}
            line |= {"judged_sentence_count": 0, "correct_sentence_count": 0}
        if number % 2:
            line |= {"consistent": None, "consistent_scored": False, "consistent_reason": "judge_error"}

    found = read([Named("m", changed(put_evaluation(tmp_path / "e", "m", 1.0, 0.1, ("scenes",), missing=2), odd))])
    cells = dict(zip(tables(found)[0].columns, tables(found)[0].rows[0][2], strict=True))
    assert (cells["Accuracy %"].coverage, cells["Accuracy %"].partial) == ("78 of 80", True)
    assert (cells["Inconsistency rate (IR) %"].coverage, cells["Inconsistency rate (IR) %"].partial) == ("39 of 80", True)
    assert cells["Semantic grounding (R_S) %"].coverage == "68 of 70 that apply"
    assert cells["Right for a false reason %"].coverage == "68 of 70 that apply"
    assert "(78 of 80)" in markdown(found)
    assert "(39 of 80)" in markdown(found)
    whole = read([Named("m", put_evaluation(tmp_path / "whole", "m", 1.0, 0.1, ("scenes",)))])
    assert [cell.coverage for cell in tables(whole)[0].rows[0][2]] == ["", "", "", ""]


def test_seeds_that_lack_something_say_so(tmp_path: Path) -> None:
    def odd(number: int, line: dict[str, Any]) -> None:
        if number % 2:
            line |= {"consistent": None, "consistent_scored": False, "consistent_reason": "judge_timeout"}

    one, other = (put_evaluation(tmp_path / name, "m", 0.5, 0.1, ("scenes",)) for name in ("a", "b"))
    found = read([Named("m", one), Named("m", changed(other, odd))])
    assert found.coverage["m"]["scenes"]["inconsistency_rate"].text == "40 of 80"
    assert found.coverage["m"]["scenes"]["accuracy"].text == ""


def test_one_directory_is_not_two_seeds(tmp_path: Path) -> None:
    one = put_evaluation(tmp_path / "a", "m", 0.5, 0.1, ("scenes",))
    with pytest.raises(ConfigError, match="the same evaluation twice as two seeds"):
        read(methods_of([(one, ""), (one, "")]))
    copied = shutil.copytree(one, tmp_path / "copied")
    with pytest.raises(ConfigError, match="taken for two seeds"):
        read([Named("m", one), Named("m", copied)])


def test_what_is_not_the_pinned_set_or_partial_is_said_everywhere(tmp_path: Path) -> None:
    one = put_evaluation(tmp_path / "a", "small", 0.5, 0.1, ("mmvp",), missing=5)
    whole = json.loads((one / "evaluation.json").read_text())
    whole["benchmarks"]["mmvp"] |= {"pinned": False, "notes": ["not the pinned benchmark (pins=note): 80 rows instead of 300"]}
    (one / "evaluation.json").write_text(json.dumps(whole))
    found = read([Named("a|b <script>", one)])
    assert warnings(found) == (
        "a|b <script>, mmvp: not the pinned benchmark (80 rows instead of 300).",
        "a|b <script>, mmvp: partial, 75 of 80 questions scored.",
    )
    assert tables(found)[0].rows[0][2][0].coverage == "75 of 80, not the pinned set"
    text = markdown(found)
    assert "**Partial, or not the pinned set**" in text
    assert "(75 of 80, not the pinned set)" in text
    assert r"| a\|b &lt;script&gt; |" in text  # a name ends no cell and opens no markup
    assert "<script>" not in text
    out = tmp_path / "r.html"
    assert main([f"evaluation=a|b <script>={one}", f"out={out}"]) == 0
    assert '<div class="warn"><b>Partial, or not the pinned set</b>' in out.read_text()
    drawn = bars(found)
    assert drawn is not None
    assert all(patch.get_hatch() for axis in drawn.figure.axes for patch in axis.patches)
    assert "partial" in drawn.svg
    assert "Hatched: partial, or not the pinned set." in drawn.caption


def test_whole_bars_are_plain_on_a_scale_to_100_and_no_place_is_empty(tmp_path: Path) -> None:
    """A method without judges has no bar in the panels of judges; the legend has the order of the bars."""
    names = [f"m{number}" for number in range(5)]
    directories = {name: put_evaluation(tmp_path / name, name, 0.5, 0.1, ("scenes", "mmvp")) for name in names}

    def unjudged(number: int, line: dict[str, Any]) -> None:
        for signal in ("consistent", "semantic_grounding"):
            line |= {signal: None, f"{signal}_scored": False, f"{signal}_reason": "not_asked"}
        line |= {"judged_sentence_count": 0, "correct_sentence_count": 0}

    changed(directories["m1"], unjudged)
    drawn = bars(read([Named(name, directory) for name, directory in directories.items()]))
    assert drawn is not None
    accuracy, inconsistency, grounding = drawn.figure.axes
    assert [len(axis.patches) for axis in drawn.figure.axes] == [10, 8, 8]
    assert {axis.get_ylim() for axis in drawn.figure.axes} == {(0.0, 100.0)}
    places = sorted(patch.get_x() for patch in inconsistency.patches)
    assert max(np.diff(places)) == pytest.approx(1.6)  # the gap between benchmarks, and none inside one
    (legend,) = drawn.figure.legends
    # matplotlib fills columns first: five names in four columns read m0 m1 m2 m3 / m4 where the first column holds m0 and m4
    assert [text.get_text() for text in legend.get_texts()] == ["m0", "m4", "m1", "m2", "m3"]
    assert not any(patch.get_hatch() for axis in (accuracy, grounding) for patch in axis.patches)


def test_pairs_are_marked_by_the_test_on_pairs(tmp_path: Path) -> None:
    """Accuracy per pair has the arrow of McNemar's test on pairs, and conventions stand in the Markdown."""

    def paired(number: int, line: dict[str, Any]) -> None:
        line["group"] = f"pair{number // 2}"

    directories = [
        changed(put_evaluation(tmp_path / name, name, right, 0.25, ("mmvp",)), paired) for name, right in (("grpo", 0.5), ("fgrpo", 0.9))
    ]
    for directory, value in zip(directories, (0.5, 0.9), strict=True):
        whole = json.loads((directory / "evaluation.json").read_text())
        entry = whole["benchmarks"]["mmvp"]
        entry["conventions"] = {
            "per_question": entry["metrics"]["accuracy"],
            "per_pair": {"value": value, "low": None, "high": None, "n": 38, "of": 40, "unit": "pairs"},
        }
        (directory / "evaluation.json").write_text(json.dumps(whole))
    found = read([Named("GRPO", directories[0]), Named("FGRPO", directories[1])])
    (detail,) = breakdowns(found)
    per_pair = detail.tables[1].rows[1][2][1]
    assert (per_pair.mark, per_pair.coverage, per_pair.partial) == ("better", "38 of 40 pairs", True)
    assert "on 40 shared questions" in per_pair.why
    assert found.tests["FGRPO"]["mmvp", "accuracy"]["test"] == "sign flips over groups"
    text = markdown(found)
    assert "**Accuracy % by convention**" in text
    assert "90.0 ▲ (38 of 40 pairs)" in text
    assert "**Answer against consistency, responses**" in text
    assert "sign flips" in text


def test_what_was_not_measured_alike_is_not_compared_and_said(tmp_path: Path) -> None:
    directories = [put_evaluation(tmp_path / name, name, 0.5, wrong, ("scenes",)) for name, wrong in (("a", 0.0), ("b", 1.0), ("c", 0.0))]
    for directory, version in zip(directories, ("1", "2", "1"), strict=True):
        changed(directory, judges={"consistency": {"is": "big", "version": version}, "grounding": {"is": "big", "version": version}})
    other = json.loads((directories[2] / "evaluation.json").read_text())
    other["benchmarks"] = {"mmvp": other["benchmarks"].pop("scenes")}
    (directories[2] / "rows" / "scenes.parquet").rename(directories[2] / "rows" / "mmvp.parquet")
    (directories[2] / "evaluation.json").write_text(json.dumps(other))
    found = read([Named(directory.name, directory) for directory in directories])
    assert ("scenes", "semantic_grounding") not in found.tests["b"]
    assert (
        found.cautions[0] == "b against a: scenes: the judges of consistency differ (a: big 1; b: big 2): inconsistency_rate not compared"
    )
    assert found.untested[0].startswith("c is not tested against a: compare: found no benchmark in common")
    text = markdown(found)
    assert "**Not measured alike**" in text
    assert "**Not tested**" in text
    assert "**What could be seen**" in text
    assert "accuracy, no difference found. scenes: 80 questions show a difference of" in text
    # 80 equal answers: at most 4.5% of others could differ, so that the table says no more than that
    assert found.tests["b"]["scenes", "accuracy"]["difference"]["high"] == pytest.approx(1 - 0.025 ** (1 / 80))


def test_seeds_are_captioned_by_their_own_test(tmp_path: Path) -> None:
    pairs = [
        Named(name[0], put_evaluation(tmp_path / name, name, right, 0.1, ("scenes",)))
        for name, right in (("a0", 0.5), ("a1", 0.6), ("b0", 0.7), ("b1", 0.8))
    ]
    text = markdown(read(pairs))
    assert "McNemar" not in text
    assert "two-way bootstrap over questions and seeds" in text


def test_the_mean_over_benchmarks_has_an_interval(directories: tuple[Path, Path]) -> None:
    found = read([Named("GRPO", directories[0])])
    mean, covered = over_benchmarks(found, "GRPO", found.benchmarks, "accuracy")
    assert (mean.value, covered.counted) == (pytest.approx(0.75), 160)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 80 / 2)  # two benchmarks of 80 questions, apart
    assert (mean.low, mean.high) == (pytest.approx(0.75 - half, abs=0.01), pytest.approx(0.75 + half, abs=0.01))
