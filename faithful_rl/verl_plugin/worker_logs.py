"""Bring what Ray's workers printed, vLLM's servers among them, from Ray's session folder into the run's own `logs/`.

Ray writes each worker's output below its session folder, which the next reboot or Ray's clean-up deletes. The run's directory
must explain the run by itself, so a run that started Ray copies these files when it ends, however it ends.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import ray

logger = logging.getLogger(__name__)

FOLDER = "ray"
PATTERNS = ("worker-*.out", "worker-*.err", "raylet.err", "gcs_server.err")
LARGEST = 16 * 2**20  # bytes; of a longer file only its end is kept


def session_logs() -> Path:
    """The log folder of the Ray session that this process is connected to, on this machine."""
    context = ray.init(ignore_reinit_error=True)  # connected already: returns where the session is and starts nothing
    return Path(context.address_info["session_dir"]) / "logs"


def keep(source: Path, run_dir: Path) -> int:
    """Copy the workers' non-empty output files to `<run_dir>/logs/ray/<session>`; return how many.

    A resumed run has a session of its own, so nothing of an earlier start is overwritten. Failing to copy is logged and does not
    end a run that has succeeded.
    """
    target = run_dir / "logs" / FOLDER / source.parent.name
    copied = 0
    for path in sorted({path for pattern in PATTERNS for path in source.glob(pattern)}):
        try:
            if path.stat().st_size == 0:
                continue
            target.mkdir(parents=True, exist_ok=True)
            _copy_end(path, target / path.name)
        except OSError as error:
            logger.warning("could not keep the worker log %s: %s", path, error)
            continue
        copied += 1
    return copied


def _copy_end(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        surplus = source.stat().st_size - LARGEST
        if surplus > 0:
            writing.write(f"[the first {surplus} bytes are left out]\n".encode())
            reading.seek(surplus)
        shutil.copyfileobj(reading, writing)
