"""The page in a real browser: it draws, says nothing on the console, sends nothing anywhere, and model text stays text."""

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from synthetic_run import put_lines, put_run

from faithful_rl.report import build

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (apt-get install chromium)")
ATTACK = "<script>document.title='taken';console.log('taken')</script><img src='http://127.0.0.1:9/leak.png'>"


class Visit(NamedTuple):
    """What a browser did with a page."""

    picture: np.ndarray  # (height, width, 3)
    console: list[str]
    requests: list[str]  # addresses that the page itself asked for, besides itself


def visit(page: Path, folder: Path) -> Visit:
    folder.mkdir(exist_ok=True)
    picture, log = folder / "page.png", folder / "net.json"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
               "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--window-size=1200,2400", f"--user-data-dir={folder / 'profile'}",
               "--enable-logging=stderr", f"--log-net-log={log}", f"--screenshot={picture}", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    asked = set()
    for line in log.read_text(encoding="utf-8").splitlines():
        # one event per line; those of the browser itself have no page as their initiator
        if '"url":"' in line and '"initiator":"' in line and '"initiator":"not an origin"' not in line:
            asked |= set(re.findall(r'"url":"((?:https?|wss?|ftp)://[^"]*)"', line))
    image = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
    return Visit(image, [line for line in done.stderr.splitlines() if "CONSOLE" in line], sorted(asked))


def test_a_page_that_misbehaves_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!doctype html><title>t</title>{ATTACK}")
    seen = visit(page, tmp_path / "visit")
    assert any("taken" in line for line in seen.console)
    assert seen.requests == ["http://127.0.0.1:9/leak.png"]


def test_the_report_in_a_browser(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=60, steps=8)
    for path in (run / "rollouts").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        put_lines(path, [{**line, "response": f"{ATTACK}{line['response']}", "question": ATTACK} for line in lines])
    seen = visit(build([run], tmp_path / "report.html"), tmp_path / "visit")
    assert seen.console == []
    assert seen.requests == []
    assert seen.picture.shape == (2400, 1200, 3)
    # the curves are drawn in the page's colours: accuracy's blue and the inconsistency rate's vermilion
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(seen.picture.astype(int) - colour).max(axis=2) <= 3).sum() > 200
