"""Which judge versions were calibrated, in `calibrations.json`: what preflight asks before a training run trusts a judge.

The file maps a judge's version hash to the summary of its last calibration, one per judge. Writers take a lock and rename a whole new file
into place, so readers never see half a file and no writer loses another version's entry.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # preflight reads records without loading scipy
    from faithful_rl.judges.calibration.results import JudgeResult

FILE = "calibrations.json"
FORMAT_VERSION = 1
DEFAULT_DIRECTORY = Path("calibrations")  # as `faithful_rl.judges.calibrations`, where preflight looks; a test compares


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """The last calibration of one judge under one version. Estimates are (value, low, high), None where not defined."""

    judge: str
    version: str
    calibrated: str  # ISO 8601, UTC
    data: str
    data_sha256: str  # first 16 hexadecimal digits
    cases: int
    kappa: tuple[float | None, ...]
    ceiling: tuple[float | None, ...]
    floor: tuple[float | None, ...]
    unscored_share: float


def calibration_of(version: str, directory: Path | str = DEFAULT_DIRECTORY) -> dict[str, CalibrationRecord]:
    """Judge name -> its calibration under this version hash; {} when there is none, or no file.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    entries = _read(Path(directory) / FILE)
    found = entries.get(version, {})
    try:
        return {judge: _record(judge, version, entry) for judge, entry in found.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{Path(directory) / FILE}: the entry of version {version} is damaged ({error}). Calibrate again") from error


def uncalibrated_warning(judge: str, version: str, directory: Path | str = DEFAULT_DIRECTORY) -> str | None:
    """What preflight says of a judge that was not calibrated under its current version hash; None when it was."""
    try:
        found = calibration_of(version, directory)
    except ValueError as error:
        return f"the {judge} judge's calibration cannot be read: {error}"
    if judge in found:
        return None
    return (
        f"the {judge} judge was not calibrated under its version {version} (looked in {Path(directory) / FILE}): "
        f"what its scores mean is not known. Run, with the settings of this judge (or pool=NAME): "
        f"python -m faithful_rl.judges calibrate data=shipped backend=... out={directory}"
    )


def record(results: Sequence[JudgeResult], data: str, data_sha256: str, directory: Path | str = DEFAULT_DIRECTORY) -> Path:
    """Put the results under their versions, each beside what the file already holds; returns the file.

    Raises:
        ValueError: the present file is damaged: it is left as it is.
    """
    path = Path(directory) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _read(path)
        for result in results:
            entries.setdefault(result.version, {})[result.judge] = _entry(result, data, data_sha256)
        half = path.with_name(f".{FILE}.tmp")
        text = json.dumps({"format_version": FORMAT_VERSION, "calibrations": entries}, indent=2, sort_keys=True) + "\n"
        half.write_text(text, encoding="utf-8")
        os.replace(half, path)
    return path


def _record(judge: str, version: str, entry: Mapping[str, Any]) -> CalibrationRecord:
    kappa, ceiling, floor = (tuple(None if end is None else float(end) for end in entry[key]) for key in ("kappa", "ceiling", "floor"))
    return CalibrationRecord(
        judge=judge,
        version=version,
        calibrated=str(entry["calibrated"]),
        data=str(entry["data"]),
        data_sha256=str(entry["data_sha256"]),
        cases=int(entry["cases"]),
        kappa=kappa,
        ceiling=ceiling,
        floor=floor,
        unscored_share=float(entry["unscored_share"]),
    )


def _entry(result: JudgeResult, data: str, data_sha256: str) -> dict[str, Any]:
    return {
        "calibrated": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data,
        "data_sha256": data_sha256,
        "cases": result.cases,
        "kappa": result.kappa.as_list(),
        "ceiling": result.reach.ceiling.as_list(),
        "floor": result.reach.floor.as_list(),
        "unscored_share": result.unscored_share,
    }


def _read(path: Path) -> dict[str, dict[str, Mapping[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Move it away and calibrate again") from error
    entries = content.get("calibrations") if isinstance(content, dict) and content.get("format_version") == FORMAT_VERSION else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"{path} holds no calibrations of format {FORMAT_VERSION}. Move it away and calibrate again")
    return entries
