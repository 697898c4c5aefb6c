"""Where everything of one run lies, by name, and how its small JSON files are written without ever being half there.

The trainer writes a run directory, the console and the report read it; nothing else travels between them.
Imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"
RUN = "run.json"
EVALUATION = "evaluation.json"  # of `python -m faithful_rl.evaluate`
STATUS = "status.json"
METRICS = "metrics.jsonl"
JUDGES = "judges.json"
REPORT = "report.html"
ROLLOUTS = "rollouts"
HELDOUT = "heldout"
CHECKPOINTS = "checkpoints"

MOMENTS = ("before", "after")
DECODINGS = ("T1", "greedy")
DECODING_LABELS = {"T1": "T=1", "greedy": "greedy"}


def heldout_file(run_dir: Path, moment: str, decoding: str) -> Path:
    """`<run_dir>/heldout/<before|after>_<T1|greedy>.jsonl`; refuses any other word, so that a typing error names itself."""
    if moment not in MOMENTS or decoding not in DECODINGS:
        raise ValueError(f"held-out files exist for moments {MOMENTS} and decodings {DECODINGS}, got {moment!r} and {decoding!r}")
    return run_dir / HELDOUT / f"{moment}_{decoding}.jsonl"


def rollout_file(run_dir: Path, step: int) -> Path:
    """`<run_dir>/rollouts/step_000010.jsonl`."""
    return run_dir / ROLLOUTS / f"step_{step:06d}.jsonl"


def decoding_key(written: str | None) -> str | None:
    """The file-name form of a decoding: "T=1", "T1" and "t=1.0" are `T1`, "greedy" is `greedy`, anything else stays as it is."""
    if written is None:
        return None
    squeezed = written.strip().lower().replace("=", "").removesuffix(".0")
    return {"t1": "T1", "greedy": "greedy", "t0": "greedy"}.get(squeezed, written)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON so that a reader, or the machine after a crash, finds the old file or the new one and never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with half.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, ensure_ascii=False, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(half, path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or {} when there is no such file.

    Raises ValueError that names the file when its text is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it or restore it from the run that wrote it") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object with named fields")
    return value


@dataclass(frozen=True, slots=True)
class Status:
    """What the run is doing right now, for people who wait: `updated` is seconds since the epoch, `total_steps` 0 when unknown."""

    phase: str = ""
    detail: str = ""
    updated: float = 0.0
    total_steps: int = 0


def write_status(run_dir: Path, phase: str, detail: str = "", total_steps: int = 0) -> None:
    """Say what the run is doing: a few words such as phase "evaluating" and detail "held-out, T=1"."""
    write_json(run_dir / STATUS, {"phase": phase, "detail": detail, "updated": time.time(), "total_steps": total_steps})


def read_status(run_dir: Path) -> Status:
    """The last written status; an empty one before the first."""
    found: Mapping[str, Any] = read_json(run_dir / STATUS)
    updated = found.get("updated", 0.0)
    return Status(
        phase=str(found.get("phase", "")),
        detail=str(found.get("detail", "")),
        updated=float(updated) if isinstance(updated, int | float) else 0.0,
        total_steps=int(found.get("total_steps") or 0),
    )
