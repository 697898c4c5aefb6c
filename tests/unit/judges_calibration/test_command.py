"""The command from argument to files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faithful_rl.judges.backend import BACKENDS, JudgeFailure, SceneBackend
from faithful_rl.judges.calibration import calibration_of, main
from faithful_rl.judges.calibration.command import parse
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.types import Reason

HELP = "See python -m faithful_rl.judges calibrate --help."


def test_the_exact_judge_on_the_shipped_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backend=scene", f"out={tmp_path}", "--attacks"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "the threshold 0.95 is in its reach" in " ".join(shown.out.split())
    report = json.loads((tmp_path / "calibration.json").read_text())
    assert report["data"]["name"] == "shipped"
    for judge, labels in (("consistency", 400), ("grounding", 1800)):
        found = report["judges"][judge]
        assert found["kappa"][0] == 1.0
        assert found["verdicts"] >= labels
        assert found["unscored"] == {}
        assert found["reach"]["state"] == "in reach"
        assert found["reach"]["ceiling"][1] > 0.98
        assert calibration_of(found["version"], tmp_path)[judge].kappa[0] == 1.0
    assert report["attacks"]["all"]["flipped"] == 0
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == sum(found["verdicts"] for found in report["judges"].values())
    assert (tmp_path / "calibration.html").read_text().startswith("<!doctype html>")


def test_one_judge_some_cases_another_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["judges=consistency", "consistency.backend=scene", "threshold.consistency=0.99", "limit=60", f"out={tmp_path}"]
    assert main(words) == 0
    assert "warning: consistency: with this judge a perfect policy scores 1.000 [0." in " ".join(capsys.readouterr().out.split())
    report = json.loads((tmp_path / "calibration.json").read_text())
    assert list(report["judges"]) == ["consistency"]
    assert report["data"]["cases"] == 60
    assert report["judges"]["consistency"]["reach"]["state"] == "uncertain"
    assert len({kind["name"] for kind in report["judges"]["consistency"]["kinds"]}) > 10  # spread over the file
    assert report["attacks"] is None


def test_settings_reach_the_judge_that_they_name() -> None:
    options = parse(
        [
            "backend=openai",
            "temperature=0",
            "consistency.model=text",
            "grounding.model=vision",
            "grounding.mode=per_rollout",
            "price.prompt=0.5",
        ]
    )
    assert options.backends == {
        "consistency": {"backend": "openai", "temperature": 0, "model": "text"},
        "grounding": {"backend": "openai", "temperature": 0, "model": "vision", "mode": "per_rollout"},
    }
    assert (options.data, options.concurrency, options.attacks, options.prices.prompt, options.prices.completion) == (
        "shipped",
        64,
        False,
        0.5,
        None,
    )
    assert parse(["pool=default"]).backends == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], f"backend: found nothing, expected backend=NAME (scene, openai, vllm, ...) or pool=NAME. {HELP}"),
        (["consistency.backend=scene"], f"backend: found nothing, expected backend=NAME (scene, openai, vllm, ...) or pool=NAME. {HELP}"),
        (["backend"], f"command line: found 'backend', expected key=value or --attacks. {HELP}"),
        (["--attack"], f"command line: found '--attack', expected key=value or --attacks. {HELP}"),
        (["data="], f"command line: found 'data=', expected key=value or --attacks. {HELP}"),
        (["backend=scene", "backend=fake"], "backend: found two values, expected one value. Remove one."),
        (["out=a", "out=b"], "out: found two values, expected one value. Remove one."),
        (
            ["backend=scene", "judges=grounding,colour"],
            f"judges: found 'grounding,colour', expected some of consistency, grounding, comma between them. {HELP}",
        ),
        (["pool=p", "model=m"], "model: found a setting of a judge beside pool=, expected pool= alone. The pool has its own settings."),
        (
            ["backend=scene", "threshold.grounding=0.9"],
            f"threshold.grounding: found an unknown key, expected one of threshold.consistency, threshold.semantic_grounding, price.prompt, price.completion. {HELP}",
        ),
        (
            ["backend=scene", "threshold.consistency=95"],
            "threshold.consistency: found '95', expected a number in [0, 1]. Change threshold.consistency.",
        ),
        (["backend=scene", "concurrency=0"], "concurrency: found '0', expected a whole number >= 1. Change concurrency."),
        (["backend=scene", "limit=1.5"], "limit: found '1.5', expected a whole number >= 1. Change limit."),
        (["backend=scene", "timeout_seconds=soon"], "timeout_seconds: found 'soon', expected a finite number > 0. Change timeout_seconds."),
        (["backend=scene", "price.prompt=-1"], "price.prompt: found '-1', expected a finite number >= 0. Change price.prompt."),
        (["backend=scene", "consistency=3"], f"consistency: found 3, expected consistency.KEY=VALUE. {HELP}"),
        (
            ["backend=scene", "data=no.jsonl"],
            "data: found no.jsonl, expected a .jsonl or .parquet file of labelled cases. Give an existing file, or data=shipped.",
        ),
    ],
)
def test_a_wrong_command_line_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_judge_without_a_label_is_said(put: object, make_row: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(make_row(grounding=None))  # type: ignore[operator]
    assert main(["backend=scene", f"data={path}", f"out={path.parent}"]) == 2
    expected = "error: data: found no case with a grounding label, expected at least one. Label some, or leave grounding out of judges=.\n"
    assert capsys.readouterr().err == expected


def test_results_that_have_no_place_are_said_before_a_judge_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["backend=scene", f"out={tmp_path / 'file' / 'out'}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: out: found {tmp_path / 'file' / 'out'}, which cannot be made (")


def test_an_unknown_backend_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backend=oracle", f"out={tmp_path}"]) == 2
    assert "'oracle'" in capsys.readouterr().err


def test_a_serving_pool_is_asked_through_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With doubles of the pool's two modules: two replicas of one version, whose counters grow together."""
    judge, calls = SceneJudge(), Counter[str]()

    class PoolClient:
        def __init__(self, pool: str, name: str, timeout_seconds: float, client: str) -> None:
            assert (pool, timeout_seconds, client) == ("lab", 60.0, "calibrate")
            self.name = name

        async def ask(self, request: JudgeRequest) -> object:
            calls[f"lab-{self.name}-{calls.total() % 2}"] += 1
            return getattr(judge, self.name)(request)

    def status(name: str) -> SimpleNamespace:
        names = [f"lab-{kind}-{index}" for kind in ("consistency", "grounding") for index in (0, 1)]
        return SimpleNamespace(
            replicas=[
                SimpleNamespace(name=one, version=one.split("-")[1], counts={"calls": calls[one], "prompt_tokens": 7 * calls[one]})
                for one in names
            ]
        )

    doubles = {
        "faithful_rl.judge_pool.pool": SimpleNamespace(connect=lambda: None, status=status),
        "faithful_rl.judge_pool.client": SimpleNamespace(PoolClient=PoolClient),
    }
    for module, double in doubles.items():
        monkeypatch.setitem(sys.modules, module, double)
    assert main(["pool=lab", "limit=40", f"out={tmp_path}"]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "calibration.json").read_text())["judges"]
    assert {name: found["version"] for name, found in report.items()} == {"consistency": "consistency", "grounding": "grounding"}
    assert all(
        found["per_1000_rollouts"]["calls"] == 1000 and found["per_1000_rollouts"]["prompt_tokens"] == 7000 for found in report.values()
    )
    assert all(found["kappa"][0] == 1.0 for found in report.values())


def test_a_pool_of_two_versions_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replicas = [SimpleNamespace(name=f"lab-consistency-{index}", version=f"v{index}", counts={}) for index in (0, 1)]
    pool = SimpleNamespace(connect=lambda: None, status=lambda name: SimpleNamespace(replicas=replicas))
    monkeypatch.setitem(sys.modules, "faithful_rl.judge_pool.pool", pool)
    monkeypatch.setitem(sys.modules, "faithful_rl.judge_pool.client", SimpleNamespace())
    assert main(["pool=lab", f"out={tmp_path}"]) == 2
    assert (
        capsys.readouterr().err
        == "error: pool: found 2 versions of the consistency judge in pool lab, expected one. Serve the judge, or serve the pool anew.\n"
    )


def test_a_judge_that_does_not_start_is_said_and_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = []

    class Down(SceneBackend):
        async def start(self) -> None:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "nobody at home")

        async def close(self) -> None:
            closed.append(self)

    monkeypatch.setitem(BACKENDS, "down", Down)
    assert main(["backend=down", f"out={tmp_path}"]) == 1
    assert capsys.readouterr().err == "error: nobody at home\n"
    assert len(closed) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_judge_knows_which_one_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pool says so too: a model for grounding shows at its start that it can see, and a text model is refused there."""
    built = []

    def build(settings: Any) -> SceneBackend:
        built.append(settings["judge"])
        return SceneBackend({})

    monkeypatch.setitem(BACKENDS, "seen", build)
    assert main(["backend=seen", "limit=2", f"out={tmp_path}"]) == 0
    assert built == ["consistency", "grounding"]


def test_a_damaged_record_is_said_before_a_judge_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "calibrations.json").write_text("[]")
    assert main(["backend=oracle", f"out={tmp_path}"]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / 'calibrations.json'} holds no calibrations of format 1. Move it away and calibrate again\n"
    )


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for key in (
        "data=",
        "backend=",
        "pool=",
        "judges=",
        "out=",
        "threshold.consistency=",
        "concurrency=",
        "limit=",
        "price.prompt=",
        "--attacks",
    ):
        assert key in shown
