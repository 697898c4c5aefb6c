"""The page, the table and the JSON: what data or a judge wrote stays text."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from faithful_rl.judges.calibration.attacks import attack_judges, load_attacks
from faithful_rl.judges.calibration.cases import read_cases
from faithful_rl.judges.calibration.present import Calibration, page, show, write
from faithful_rl.judges.calibration.results import JudgeUnderTest, Prices, calibrate
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

HOSTILE = "<script>document.title='taken';console.log('taken')</script>[bold red]"
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def found() -> Calibration:
    """A careless judge on a tenth of the shipped set: errs on every seventh case, fails on every fifteenth."""
    exact = SceneJudge()
    cases = read_cases("shipped")[::10]
    order = {case.id: index for index, case in enumerate(cases)}

    async def consistency(request: JudgeRequest) -> Score:
        index = order.get(request.uid, 1)
        value = exact.consistency(request).value or 0.0
        return Score(None, Reason.JUDGE_TIMEOUT) if index % 15 == 0 else Score(1.0 - value if index % 7 == 0 else value)

    async def grounding(request: JudgeRequest) -> list[SentenceVerdict]:
        swap = {Verdict.CORRECT: Verdict.INCORRECT, Verdict.INCORRECT: Verdict.CORRECT, Verdict.SKIP: Verdict.CORRECT}
        wrong = order.get(request.uid, 1) % 7 == 0
        return [replace(said, verdict=swap[said.verdict]) if wrong else said for said in exact.grounding(request)]

    async def run() -> Calibration:
        judges = [
            await calibrate(
                cases, JudgeUnderTest("consistency", consistency, "0123456789abcdef", f"careless {HOSTILE}"), prices=Prices(1, 1)
            ),
            await calibrate(cases, JudgeUnderTest("grounding", grounding, "fedcba9876543210", "careless")),
        ]
        attacks = await attack_judges(load_attacks(), {"consistency": consistency, "grounding": grounding})
        return Calibration(HOSTILE, "0" * 16, len(cases), "2026-01-01T00:00:00+00:00", tuple(judges), attacks)

    return asyncio.run(run())


def test_what_data_and_judges_wrote_is_escaped(
    found: Calibration, put: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    async def wrong(_: object) -> Score:
        return Score(0.0)

    cases = read_cases(put(make_row(HOSTILE, kind=HOSTILE)))
    result = asyncio.run(calibrate(cases, JudgeUnderTest("consistency", wrong, HOSTILE, HOSTILE)))
    text = page(replace(found, judges=(result,)))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4  # labelled set, description, version, kind, case
    console = Console(file=io.StringIO(), width=400)
    show(replace(found, judges=(result,)), console)
    assert "[bold red]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_page_says_what_was_measured(found: Calibration) -> None:
    text = " ".join(page(found).split())
    for result in found.judges:
        assert result.kappa.value is not None
        assert f"{result.kappa.value:.3f}" in text
        assert result.reach.message in text
    assert "judge_timeout" in text
    assert text.count("<svg") == 2
    assert "closing fence" in text
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_the_files(found: Calibration, tmp_path: Path) -> None:
    assert write(found, tmp_path / "new") == tmp_path / "new" / "calibration.html"
    report = json.loads((tmp_path / "new" / "calibration.json").read_text())
    for result in found.judges:
        stated = report["judges"][result.judge]
        assert sum(sum(row.values()) for row in stated["confusion"].values()) == stated["verdicts"] == len(result.pairs)
        assert stated["kappa"] == result.kappa.as_list()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"calibration.json", "calibration.html", "verdicts.jsonl"}


def test_a_set_with_one_label_only_is_shown_too(
    found: Calibration, put: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    async def fail(_: object) -> Score:
        return Score(None, Reason.JUDGE_UNAVAILABLE)

    result = asyncio.run(calibrate(read_cases(put(make_row())), JudgeUnderTest("consistency", fail, "v", "down")))
    one = replace(found, judges=(result,), attacks=None)
    assert "it is not known whether the threshold 0.95 can be reached" in page(one)
    show(one, Console(file=io.StringIO(), width=120))
    json.dumps(one.as_json(), allow_nan=False)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_the_page_in_a_browser(found: Calibration, tmp_path: Path) -> None:
    place = write(found, tmp_path)
    picture = tmp_path / "page.png"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
               "--hide-scrollbars", "--window-size=1200,3200", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
               f"--screenshot={picture}", place.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    drawn = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (213, 94, 0)):  # the judge's line and the threshold
        assert (np.abs(drawn - colour).max(axis=2) <= 3).sum() > 100
