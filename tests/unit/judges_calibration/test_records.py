"""`calibrations.json`: what preflight may rely on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.judges.calibration import calibration_of, uncalibrated_warning
from faithful_rl.judges.calibration.cases import read_cases
from faithful_rl.judges.calibration.records import record
from faithful_rl.judges.calibration.results import JudgeResult, JudgeUnderTest, calibrate
from faithful_rl.types import Score


@pytest.fixture
def result(put: Callable[..., Path], make_row: Callable[..., dict[str, Any]]) -> JudgeResult:
    async def yes(_: object) -> Score:
        return Score(1.0)

    cases = read_cases(put(make_row(), make_row("two", consistency="NO")))
    return asyncio.run(calibrate(cases, JudgeUnderTest("consistency", yes, "v1", "always yes")))


def test_a_record_is_found_under_its_version_only(result: JudgeResult, tmp_path: Path) -> None:
    assert calibration_of("v1", tmp_path) == {}
    path = record([result], "mine.jsonl", "0123456789abcdef", tmp_path)
    found = calibration_of("v1", tmp_path)["consistency"]
    assert (found.version, found.judge, found.data, found.data_sha256, found.cases) == (
        "v1",
        "consistency",
        "mine.jsonl",
        "0123456789abcdef",
        2,
    )
    assert found.kappa[0] == 0.0
    assert found.ceiling == (1.0, pytest.approx(0.025), 1.0)  # one case without an error: Clopper-Pearson
    assert calibration_of("v2", tmp_path) == {}
    assert uncalibrated_warning("consistency", "v1", tmp_path) is None
    assert uncalibrated_warning("grounding", "v1", tmp_path) == (
        f"the grounding judge was not calibrated under its version v1 (looked in {path}): what its scores mean is not known. "
        "Run, with the settings of this judge (or pool=NAME): "
        f"python -m faithful_rl.judges calibrate data=shipped backend=... out={tmp_path}"
    )


def test_other_versions_and_judges_keep_their_entries(result: JudgeResult, tmp_path: Path) -> None:
    record([result], "a", "0" * 16, tmp_path)
    before = calibration_of("v1", tmp_path)
    record([replace(result, version="v2"), replace(result, judge="grounding")], "b", "1" * 16, tmp_path)
    assert calibration_of("v1", tmp_path)["consistency"] == before["consistency"]
    assert calibration_of("v1", tmp_path)["grounding"].data == "b"
    assert calibration_of("v2", tmp_path)["consistency"].data == "b"
    record([result], "c", "2" * 16, tmp_path)  # the same judge and version: the newest counts
    assert calibration_of("v1", tmp_path)["consistency"].data == "c"
    assert {path.name for path in tmp_path.iterdir()} == {"calibrations.json", ".calibrations.json.lock", "cases.jsonl"}


def test_writers_at_the_same_time_lose_nothing(result: JudgeResult, tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def write(index: int) -> None:
        start.wait()
        record([replace(result, version=f"v{index}")], "a", "0" * 16, tmp_path)

    writers = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert all(calibration_of(f"v{index}", tmp_path) for index in range(8))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format_version": 2, "calibrations": {}}', '{"format_version": 1, "calibrations": {"v1": 3}}']
)
def test_a_damaged_file_is_left_alone(result: JudgeResult, tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibrations.json"
    path.write_text(text)
    for use in (lambda: record([result], "a", "0" * 16, tmp_path), lambda: calibration_of("v1", tmp_path)):
        with pytest.raises(ValueError, match=r"calibrations\.json"):
            use()
    assert path.read_text() == text
    assert str(uncalibrated_warning("consistency", "v1", tmp_path)).startswith("the consistency judge's calibration cannot be read: ")


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    (tmp_path / "calibrations.json").write_text(json.dumps({"format_version": 1, "calibrations": {"v1": {"consistency": {"kappa": 1}}}}))
    with pytest.raises(ValueError, match="the entry of version v1 is damaged"):
        calibration_of("v1", tmp_path)


def test_asking_for_a_record_loads_nothing_heavy() -> None:
    code = (
        "import sys, faithful_rl.judges.calibration; print(sorted({'scipy', 'numpy', 'pyarrow', 'PIL', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
