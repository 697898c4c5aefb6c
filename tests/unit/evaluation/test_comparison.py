"""Paired comparisons by hand: groups, means, what was not measured alike, seeds that are none, and what too few questions can show."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_figures import row

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.comparison import Evaluated, by_which_test, cautions, compare, differs, power_note
from faithful_rl.evaluation.paired_tests import mcnemar, paired_difference, sign_flips, smallest_share


def evaluated(rows: list[dict[str, Any]], name: str = "x", trials: dict[str, int] | None = None, **summary: Any) -> Evaluated:
    whole = {"benchmarks": {"b": {}}, **summary}
    return Evaluated(Path(name), whole, {"b": {one["uid"]: one for one in rows if one["generated"]}}, {"b": trials or {}})


def answers(letters: str, groups: str = "", **more: Any) -> list[dict[str, Any]]:
    return [row(f"q{i:03d}", letter == "1", group=groups[i] if groups else f"q{i:03d}", **more) for i, letter in enumerate(letters)]


def by_metric(a: Evaluated, b: Evaluated) -> dict[str, dict[str, Any]]:
    return {entry["metric"]: entry for entry in compare([a], [b])}


def test_trials_of_one_group_count_once() -> None:
    """40 pairs whose two trials always agree: 8 pairs are lost. Trial by trial it would be 16 of 80, and look twice as sure."""
    pairs = "".join(chr(200 + i) * 2 for i in range(40))
    before, after = answers("11" * 20 + "00" * 20, pairs), answers("11" * 12 + "00" * 28, pairs)
    found = by_metric(evaluated(before), evaluated(after))["accuracy"]
    assert (found["n"], found["groups"], found["test"]) == (80, 40, "sign flips over groups")
    assert found["p"] == pytest.approx(2 * 0.5**8)  # eight groups, all in one direction
    assert mcnemar([True] * 16, [False] * 16)["p"] == pytest.approx(2 * 0.5**16)  # what the trials would say
    alone = paired_difference(np.repeat([-1.0, 0.0], [8, 32]), [str(i) for i in range(40)], share=True)
    assert (found["difference"]["low"], found["difference"]["high"]) == (alone.low, alone.high)
    assert found["difference"]["value"] == pytest.approx(-0.2)


def test_a_group_without_one_of_its_trials_is_not_all_right() -> None:
    rows = answers("11110", "aabbc")
    half = [one for one in answers("11110", "aabbc") if one["uid"] != "q003"]
    entries = {
        e["metric"]: e
        for e in compare([evaluated(rows, trials={"a": 2, "b": 2, "c": 1})], [evaluated(half, trials={"a": 2, "b": 2, "c": 1})])
    }
    assert (entries["accuracy"]["n"], entries["accuracy_all_right"]["n"]) == (4, 2)  # pair b has one trial left: no pair


def test_sign_flips_are_mcnemars_test_on_signs_and_exact_for_means() -> None:
    moved = np.array([1.0] * 7 + [-1.0] * 2 + [0.0] * 50)
    assert sign_flips(moved) == pytest.approx(stats.binomtest(2, 9, 0.5).pvalue)
    # three differences, all positive: 1 of 8 ways of signs is as large, 2 of 8 on both sides
    assert sign_flips(np.array([0.1, 0.2, 0.4])) == pytest.approx(0.25)
    assert sign_flips(np.zeros(5)) == 1.0


def test_every_figure_is_compared_and_means_have_p_values() -> None:
    a = [
        row(f"q{i}", True, semantic_grounding=0.0, semantic_grounding_scored=True, truncated=False, response_tokens=10 + i)
        for i in range(8)
    ]
    b = [
        row(f"q{i}", True, semantic_grounding=0.5, semantic_grounding_scored=True, truncated=True, response_tokens=12 + 2 * i)
        for i in range(8)
    ]
    found = by_metric(evaluated(a), evaluated(b))
    assert set(found) == {
        "accuracy",
        "inconsistency_rate",
        "semantic_grounding",
        "format_rate",
        "unparsed_rate",
        "truncated_rate",
        "response_tokens",
    }
    grounding = found["semantic_grounding"]
    assert (grounding["test"], grounding["p"]) == ("sign flips over questions", pytest.approx(2 * 0.5**8))
    # six p values: accuracy, IR, format and unparsed are 1, the two that moved have 2 / 256 each
    assert grounding["p_holm"] == pytest.approx(6 * 2 * 0.5**8)
    assert differs(grounding)
    assert "p" not in found["response_tokens"]  # longer is neither better nor worse
    assert "McNemar's exact test" in by_which_test(found.values())
    assert "Holm" in by_which_test(found.values())


def test_questions_that_never_change_leave_room() -> None:
    """Equal answers to 40 questions: the difference is not known to be 0.0, but to be at most what 0 of 40 allows."""
    found = by_metric(evaluated(answers("10" * 20)), evaluated(answers("10" * 20)))["accuracy"]
    room = 1 - 0.025 ** (1 / 40)  # Clopper-Pearson, 0 of 40
    assert found["difference"]["value"] == 0.0
    assert (found["difference"]["low"], found["difference"]["high"]) == (pytest.approx(-room), pytest.approx(room))
    assert found["p"] == 1.0
    share = smallest_share(40)
    assert share is not None
    assert stats.binom.sf(5, 40, share) == pytest.approx(0.8)
    assert power_note(found) == f"b, accuracy: 40 questions show a difference of {100 * share:.1f} points or more (power 0.8), not less"
    few = by_metric(evaluated(answers("1010")), evaluated(answers("1010")))["accuracy"]
    assert power_note(few) == "b, accuracy: 4 questions are too few to show any difference"


def judged(one: Evaluated, version: str, value: float, **decoding: Any) -> Evaluated:
    rows = {uid: {**line, "semantic_grounding": value, "semantic_grounding_scored": True} for uid, line in one.rows["b"].items()}
    judges = {"consistency": {"is": "scene", "version": "1"}, "grounding": {"is": "big", "version": version}}
    made = {"generated_here": True, "prompt": "think", "max_new_tokens": 4096, "temperature": 0, **decoding}
    return replace(one, rows={"b": rows}, summary={**one.summary, "judges": judges, "mode": "reasoning", "decoding": made})


def test_what_other_judges_say_is_no_difference_between_models() -> None:
    same = evaluated(answers("1100" * 5))
    found = compare([judged(same, "1", 1.0)], [judged(same, "2", 0.0)], ("old", "new"))
    assert {entry["metric"] for entry in found} == {
        "accuracy",
        "inconsistency_rate",
        "format_rate",
        "unparsed_rate",
        "truncated_rate",
        "response_tokens",
    }
    assert cautions(found) == [
        "b: the judges of grounding differ (old: big 1; new: big 2): semantic_grounding and right_for_a_false_reason not compared"
    ]
    alike = compare([judged(same, "1", 1.0)], [judged(same, "1", 0.0)])
    assert "semantic_grounding" in {entry["metric"] for entry in alike}
    assert cautions(alike) == []


def test_another_mode_prompt_or_length_is_named_and_compared() -> None:
    same = evaluated(answers("1100" * 5))
    a = judged(same, "1", 1.0)
    b = judged(same, "1", 1.0, prompt="none", max_new_tokens=96, temperature=1)
    b = replace(b, summary={**b.summary, "mode": "no_reasoning"})
    assert cautions(compare([a], [b])) == [
        "b: mode differs (a: reasoning; b: no_reasoning)",
        "b: prompt differs (a: think; b: none)",
        "b: temperature differs (a: 0; b: 1)",
        "b: max_new_tokens differs (a: 4096; b: 96)",
    ]
    kept = judged(same, "1", 1.0, generated_here=False, max_new_tokens=96)
    (told,) = cautions(compare([a], [kept]))
    assert "come from a prediction file" in told  # whose limit of tokens nobody knows


def test_answers_read_by_a_model_are_compared_as_the_rule_reads_them() -> None:
    """The second side's model reads four answers that the rule cannot: no difference between the models that answered."""
    a = evaluated(answers("1" * 6 + "0" * 4, rule_correct=False))
    a = replace(a, rows={"b": {uid: {**line, "rule_correct": line["correct"]} for uid, line in a.rows["b"].items()}})
    read = {uid: {**line, "correct": True} for uid, line in a.rows["b"].items()}
    b = replace(a, rows={"b": read}, summary={"benchmarks": {"b": {"extractor": {"model": "small"}}}})
    found = compare([a], [b])
    assert (found[0]["metric"], found[0]["b"]) == ("accuracy", pytest.approx(0.6))
    assert cautions(found) == [
        "b: answers were read differently (a: the rule alone; b: small): accuracy is compared as the rule reads them"
    ]
    assert "unparsed_rate" not in {entry["metric"] for entry in found}


def test_one_evaluation_is_not_two_seeds(tmp_path: Path) -> None:
    one, other = (evaluated(answers("1100", response="said"), str(tmp_path / name)) for name in ("one", "other"))
    with pytest.raises(ConfigError, match="the same evaluation twice as two seeds"):
        compare([one, one], [other])
    with pytest.raises(ConfigError, match=r"the same responses as in .*one, taken for two seeds"):
        compare([one, other], [evaluated(answers("1111"))])


def test_seeds_count_what_was_measured() -> None:
    """Consistency is unscored on every second question of one seed: its figure rests on 10 of 20 questions, accuracy on all."""
    half = answers("10" * 10)
    for line in half[::2]:
        line |= {"consistent": None, "consistent_scored": False, "consistent_reason": "judge_error"}
    sides = [
        [evaluated(half, "a0"), evaluated(answers("10" * 10), "a1")],
        [evaluated(answers("11" * 10), "b0"), evaluated(answers("01" * 10), "b1")],
    ]
    found = {entry["metric"]: entry for entry in compare(*sides)}
    assert (found["accuracy"]["n"], found["inconsistency_rate"]["n"]) == (20, 10)
    assert found["inconsistency_rate"]["difference"]["n"] == 10
    assert found["inconsistency_rate"]["shared"] == 20
    room = 1 - 0.025 ** (1 / 20)  # nobody contradicts itself: 0 of 20, not [0.0, 0.0]
    assert found["inconsistency_rate"]["difference"]["high"] == pytest.approx(room)
    assert "20 questions show a difference of" in power_note(
        {**found["accuracy"], "difference": {"value": 0.0, "low": -0.1, "high": 0.1, "n": 20}}
    )
    assert math.isfinite(found["accuracy"]["detectable_difference"])
    assert "bootstrap over questions and seeds" in by_which_test(found.values())
    assert "McNemar" not in by_which_test(found.values())


def test_seeds_keep_their_groups_together() -> None:
    """Ten pairs that always agree give the interval of ten questions, not of twenty."""
    pairs = "".join(chr(200 + i) * 2 for i in range(10))
    sides = [["1100110011" * 2, "1111110000" * 2], ["1111110011" * 2, "1100111111" * 2]]
    twice = [[evaluated(answers(text, pairs), f"{i}{k}") for k, text in enumerate(side)] for i, side in enumerate(sides)]
    once = [[evaluated(answers(text[::2]), f"{i}{k}") for k, text in enumerate(side)] for i, side in enumerate(sides)]
    grouped, alone = (compare(*given)[0]["difference"] for given in (twice, once))
    assert (grouped["value"], grouped["low"], grouped["high"]) == pytest.approx((alone["value"], alone["low"], alone["high"]))
