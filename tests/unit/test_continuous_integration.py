"""`.ci/run`: pages are tested in a browser, or it says loudly that they were not."""

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / ".ci" / "run"


def ci(folder: Path, browser: bool, status: int) -> subprocess.CompletedProcess[str]:
    """Run it where there is no package manager, with a `make` that says what it was asked and ends with `status`."""
    for tool in ("bash", "dirname", "id", "cat"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    stubs = {"make": f'echo "$1 ${{FAITHFUL_RL_REQUIRE_BROWSER-unset}}"; exit {status}'} | ({"chromium": "exit 0"} if browser else {})
    for name, body in stubs.items():
        (folder / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
        (folder / name).chmod(0o755)
    return subprocess.run([str(folder / "bash"), str(RUN)], env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("status", [0, 2])
def test_with_a_browser_its_tests_are_required(tmp_path: Path, status: int) -> None:
    found = ci(tmp_path, True, status)
    assert (found.returncode, found.stdout, found.stderr) == (status, "test 1\n", "")


@pytest.mark.parametrize("status", [0, 2])
def test_without_one_the_last_words_are_that_they_were_skipped(tmp_path: Path, status: int) -> None:
    found = ci(tmp_path, False, status)
    assert (found.returncode, found.stdout) == (status, "test unset\n")
    assert "in a browser were SKIPPED" in found.stderr
