"""Methods beside each other: numbers of known runs, and what may not be compared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import END, START, put_run

from benchmarks import tiny_comparison
from faithful_rl.heldout_statistics import Estimate
from faithful_rl.report.comparison import WARM_START, as_json, compare, headline, markdown

QUESTIONS = 100


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    recipes = [(seed, recipe) for seed in (1, 0) for recipe in ("fgrpo_tiny", "grpo_tiny", "fgrpo_fixed_tiny")]
    return [put_run(tiny_comparison.run_dir_of(root, recipe, seed), recipe, seed, QUESTIONS, 5) for seed, recipe in recipes]


def test_methods_over_seeds(runs: list[Path]) -> None:
    found = compare(runs)
    assert found.methods == (WARM_START, "GRPO", "FGRPO, fixed multipliers", "FGRPO, adaptive")
    assert found.seeds["GRPO"] == (0, 1)
    assert (found.questions, found.steps) == (QUESTIONS, (5,))
    for decoding in ("T1", "greedy"):
        assert found.estimates[decoding][WARM_START]["accuracy"].value == pytest.approx(START[decoding].accuracy)
        for method, recipe in (("GRPO", "grpo_tiny"), ("FGRPO, adaptive", "fgrpo_tiny")):
            rates = END[recipe][decoding]
            assert found.estimates[decoding][method]["inconsistency_rate"].value == pytest.approx(rates.inconsistency)
            assert found.per_seed[decoding][method]["accuracy"] == pytest.approx((rates.accuracy,) * 2)
    (gap,) = [d for d in found.differences if (d.method, d.decoding, d.quantity) == ("FGRPO, adaptive", "T1", "inconsistency_rate")]
    assert gap.bootstrap.value == pytest.approx(-0.20)
    assert gap.bootstrap.excludes_zero
    assert gap.per_seed == pytest.approx((-0.20, -0.20))


def test_the_headline_is_about_one_method_under_both_decodings(runs: list[Path]) -> None:
    found = compare(runs)
    assert [sentence.split("contradict")[0] for sentence in headline(found)] == [
        "Sampled at temperature 1, 5.0% of the answers of FGRPO, adaptive ",
        "Decoded greedily, 1.0% of the answers of FGRPO, adaptive ",
    ]
    better = Estimate(-1.0, -1.0, -1.0, QUESTIONS)
    greedy_wins = [
        replace(d, bootstrap=better) if (d.method, d.decoding) == ("FGRPO, fixed multipliers", "greedy") else d for d in found.differences
    ]
    assert headline(replace(found, differences=tuple(greedy_wins))) == headline(found)
    assert headline(replace(found, differences=())) == ()


def test_one_seed_is_said_to_be_one(runs: list[Path]) -> None:
    assert "another seed" not in markdown(compare(runs))
    assert "With one seed an interval holds the questions' chance alone" in markdown(compare([run for run in runs if "seed0" in run.name]))


def test_tables_and_json(runs: list[Path]) -> None:
    found = compare(runs)
    text = markdown(found)
    assert "**T=1**" in text
    assert "**greedy**" in text
    assert text.count("| FGRPO, adaptive |") == 2
    assert "| 79.0 [" in text
    assert "Seeds per method: 2; held-out questions: 100; steps: 5." in text
    parsed = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert parsed["estimates"]["T1"]["GRPO"]["inconsistency_rate"]["value"] == pytest.approx(0.25)


def test_the_benchmark_puts_finished_runs_beside_each_other(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "front.png"
    out = runs[0].parent
    assert tiny_comparison.main(["--seeds", "0", "1", "--out", str(out), "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished before, kept") == 6  # nothing is trained again
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.html").exists()
    assert json.loads((out / "comparison.json").read_text())["questions"] == QUESTIONS


def test_what_may_not_be_compared(runs: list[Path], tmp_path: Path) -> None:
    twin = shutil.copytree(runs[0], tmp_path / "twin")
    with pytest.raises(ValueError, match="are both FGRPO, adaptive, seed 1"):
        compare([runs[0], twin])
    (twin / "heldout" / "after_T1.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no evaluation after training"):
        compare([runs[1], twin])
    with pytest.raises(ValueError, match="10 questions differ"):
        compare([runs[1], put_run(tmp_path / "shorter", "fgrpo_tiny", 1, QUESTIONS - 10, 5)])
