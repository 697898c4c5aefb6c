"""Conventions, groups, coverage, seeds and power on small sets worked by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import comparison, figures
from faithful_rl.evaluation.comparison import Evaluated, compare, detectable_difference, mcnemar, power_note
from faithful_rl.evaluation.present import cell
from faithful_rl.evaluation.scoring import _nothing


def row(uid: str, correct: bool, **more: Any) -> dict[str, Any]:
    """A generated, judged row."""
    return {
        **_nothing(), "uid": uid, "group": uid, "stratum": "", "task_type": "t", "question": f"question {uid}", "options": ["a", "b"],
        "gold": "a", "generated": True, "failure": None, "parsed": True, "correct": correct, "consistent": 1.0, "consistent_scored": True,
        "consistent_reason": "scored", "format": True, "truncated": False, "response_tokens": 10, **more,
    }  # fmt: skip


def rows(answers: str, groups: str = "", strata: str = "") -> list[dict[str, Any]]:
    """One row for each letter: 1 right, 0 wrong, - not generated."""
    return [
        row(f"q{i}", letter == "1", generated=letter != "-", failure=None if letter != "-" else "no answer: gone",
            group=groups[i] if groups else f"q{i}", stratum=strata[i] if strata else "")
        for i, letter in enumerate(answers)
    ]  # fmt: skip


def test_mmvp_counts_questions_and_pairs() -> None:
    found = figures.conventions(rows("11100100", groups="aabbccdd"), ["per_pair"])
    assert (found["per_question"]["value"], found["per_question"]["n"]) == (0.5, 8)
    assert (found["per_pair"]["value"], found["per_pair"]["n"]) == (0.25, 4)  # only the first pair is right twice


def test_a_pair_without_one_of_its_responses_is_no_pair() -> None:
    found = figures.conventions(rows("11-1", groups="aabb"), ["per_pair"])
    assert (found["per_pair"]["value"], found["per_pair"]["n"]) == (1.0, 1)
    assert (found["per_question"]["value"], found["per_question"]["n"]) == (1.0, 3)


def test_sat_real_counts_orders_together_and_apart() -> None:
    found = figures.conventions(rows("101011", groups="aabbcc"), ["circular_mean", "all_orders"])
    assert found["circular_mean"] == {**found["per_question"], "unit": "trials"}
    assert found["circular_mean"]["value"] == pytest.approx(4 / 6)
    assert found["all_orders"]["value"] == pytest.approx(1 / 3)


def test_cvbench_weighs_its_sources_equally() -> None:
    found = figures.conventions(rows("1110" + "1000000001", strata="AAAA" + "CCCCCCCCCC"), ["mean_of_strata"])
    assert found["stratum A"]["value"] == 0.75
    assert found["stratum C"]["value"] == 0.2
    assert found["mean_of_strata"]["value"] == pytest.approx((0.75 + 0.2) / 2)
    assert found["per_question"]["value"] == pytest.approx(5 / 14)
    assert found["mean_of_strata"]["low"] < 0.475 < found["mean_of_strata"]["high"]
    parts = {"cvbench_2d": {"conventions": found, "metrics": {"accuracy": {"n": 14}}, "questions": 14}}
    parts["cvbench_3d"] = {"conventions": {"per_question": {"value": 0.5}}, "metrics": {"accuracy": {"n": 6}}, "questions": 7}
    both = figures.combined_mean(parts, ["cvbench_2d", "cvbench_3d"], ["mean_of_strata", "per_question"])
    assert both is not None
    assert (both["value"], both["n"], both["of"]) == (pytest.approx((0.475 + 0.5) / 2), 20, 21)
    assert (
        figures.combined_mean({"cvbench_2d": parts["cvbench_2d"]}, ["cvbench_2d", "cvbench_3d"], ["mean_of_strata", "per_question"]) is None
    )


def test_trials_of_one_group_are_resampled_together() -> None:
    """Two orders that always agree carry the information of one: the interval is that of the groups, not of twice as many questions."""
    alone = figures.figure(rows("1100101101" * 4), figures.BY_NAME["accuracy"])
    twice = [row(f"q{i}-{k}", r["correct"], group=f"g{i}") for i, r in enumerate(rows("1100101101" * 4)) for k in range(2)]
    grouped = figures.figure(twice, figures.BY_NAME["accuracy"])
    assert (grouped.value, grouped.low, grouped.high, grouped.count) == (alone.value, alone.low, alone.high, 80)


def test_an_interval_is_near_statsmodels_and_exact_at_the_ends() -> None:
    accuracy = figures.figure(rows("1" * 120 + "0" * 80), figures.BY_NAME["accuracy"])
    low, high = proportion_confint(120, 200, method="wilson")
    assert accuracy.low == pytest.approx(low, abs=0.015)
    assert accuracy.high == pytest.approx(high, abs=0.015)
    sure = figures.figure(rows("1" * 20), figures.BY_NAME["accuracy"])
    assert sure.low == pytest.approx(proportion_confint(20, 20, method="beta")[0])
    assert sure.high == 1.0


def test_coverage_counts_failed_judges_and_missing_responses() -> None:
    found = [
        *rows("11-"),
        row("down", True, consistent=None, consistent_scored=False, consistent_reason="judge_unavailable"),
        row("nothing", True, semantic_grounding_reason="nothing_to_judge"),
    ]
    entry = figures.benchmark_summary(found, 8, (), ["limited to 5 of 8 questions (limit=5)"])
    assert (entry["questions"], entry["generated"], entry["scored"], entry["coverage"]) == (8, 4, 3, 3 / 8)
    assert entry["metrics"]["accuracy"]["n"] == 4
    assert entry["metrics"]["inconsistency_rate"]["n"] == 3
    # four that nobody asked about and one without a response; the reasoning of the sixth has nothing to judge
    assert entry["metrics"]["semantic_grounding"] == {"value": None, "low": None, "high": None, "n": 0, "of": 4}
    assert entry["cells"]["unscored"] == 1
    assert entry["notes"][:3] == [
        "limited to 5 of 8 questions (limit=5)",
        "1 question(s) without a response (no answer): q2",
        "1 response(s) without a verdict on consistency: judge_unavailable",
    ]
    assert cell(entry["metrics"]["semantic_grounding"], True) == "–"


def test_a_benchmark_without_any_response_has_no_figures() -> None:
    entry = figures.benchmark_summary(rows("--"), 2, ("per_pair", "mean_of_strata"))
    assert entry["coverage"] == 0.0
    assert all(one["value"] is None for one in entry["metrics"].values())
    assert all(one["value"] is None for one in entry["conventions"].values())


def evaluated(answers: str, **more: Any) -> Evaluated:
    found = rows(answers, **more)
    return Evaluated(Path("x"), {"benchmarks": {"b": {}}}, {"b": {one["uid"]: one for one in found if one["generated"]}})


def test_mcnemar_counts_discordant_questions() -> None:
    before = np.array([True] * 30 + [False] * 20)
    after = np.array([True] * 22 + [False] * 8 + [True] * 2 + [False] * 18)
    found = mcnemar(before, after)
    assert (found["only_a"], found["only_b"]) == (8, 2)
    assert found["p"] == pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10)
    assert mcnemar(before, before)["p"] == 1.0


def test_only_shared_questions_are_compared() -> None:
    (accuracy, *_) = compare([evaluated("1101-")], [evaluated("10-11")])
    assert (accuracy["shared"], accuracy["n"], accuracy["only_a"], accuracy["only_b"]) == (3, 3, 1, 0)


def test_groups_get_a_test_of_their_own() -> None:
    entries = {one["metric"]: one for one in compare([evaluated("111100", groups="aabbcc")], [evaluated("101111", groups="aabbcc")])}
    grouped = entries["accuracy_all_right"]
    assert (grouped["n"], grouped["a"], grouped["b"]) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (grouped["only_a"], grouped["only_b"]) == (1, 1)


def test_questions_that_only_share_a_name_are_refused() -> None:
    other = evaluated("11")
    changed = {"b": {uid: {**one, "question": "another"} for uid, one in other.rows["b"].items()}}
    with pytest.raises(ConfigError, match="two questions called q0"):
        compare([evaluated("11")], [Evaluated(Path("y"), other.summary, changed)])
    with pytest.raises(ConfigError, match="no benchmark in common"):
        compare([evaluated("11")], [Evaluated(Path("y"), {}, {"c": {}})])


def test_several_seeds_are_resampled_with_their_questions() -> None:
    a, b = (
        [replace(evaluated(one), directory=Path(one)) for one in side]
        for side in (("1010101010", "1010101011"), ("1111101010", "1111101011"))
    )
    entries = {one["metric"]: one for one in compare(a, b)}
    accuracy = entries["accuracy"]
    assert accuracy["seeds"] == [2, 2]
    assert (accuracy["a"], accuracy["b"]) == (pytest.approx(0.55), pytest.approx(0.75))
    assert accuracy["difference"]["value"] == pytest.approx(0.2)
    assert accuracy["difference_t_over_seeds"] == {
        "value": pytest.approx(0.2),
        "low": None,  # two equal differences do not say that a third is equal too
        "high": None,
        "n": 2,
    }
    assert "p" not in accuracy


def test_the_smallest_difference_that_so_few_questions_show() -> None:
    differences = np.array([1.0, -1.0, 0.0, 0.0] * 25)
    found = detectable_difference(differences)
    assert found is not None
    spread = differences.std(ddof=1)
    assert TTestPower().power(found / spread, 100, 0.05) == pytest.approx(0.8, abs=1e-4)
    assert found == pytest.approx(2.83 * spread / 10, rel=0.01)  # (1.96 + 0.84) standard errors
    # nobody changed: with power 0.8 six of 100 would have to, all in one direction; the chance of six or more is 0.8 at 7.8%
    exact = detectable_difference(np.zeros(100))
    assert exact == pytest.approx(0.0779, abs=5e-5)
    assert stats.binom.sf(5, 100, exact) == pytest.approx(0.8)
    assert detectable_difference(np.zeros(5)) is None  # 2 * 0.5 ** 5 is above 0.05
    (accuracy, *_) = compare([evaluated("1100" * 25)], [evaluated("1010" * 25)])
    assert power_note(accuracy).startswith("b, accuracy: 100 questions show a difference of 20.")
    assert power_note({**accuracy, "p_holm": 0.01}) == ""  # a difference that was found needs none


def test_an_unfinished_or_foreign_directory_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no evaluation\.json"):
        comparison.read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"format": 2}')
    with pytest.raises(ConfigError, match="format 2"):
        comparison.read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"format": 1, "benchmarks": {"b": {}}}')
    with pytest.raises(ConfigError, match=r"no b\.parquet"):
        comparison.read_evaluation(tmp_path)
