"""The wish that a run ends with a checkpoint: a file in its directory, which any process may write that sees it.

A wish may name the run's holder by the token of its `run.owner.json`: then it is no wish to whoever trains there later. Any other content,
an empty file included, is for whoever trains there now; it is forgotten when the next run begins. Imports no Ray.
"""

from __future__ import annotations

import os
from pathlib import Path

from faithful_rl.run_lock import read_owner

STOP_FILE = "stop_requested"
_FOR = "owner "


def request_stop(run_dir: Path, reason: str, token: str = "") -> None:
    """Ask the run in `run_dir`, or only its holder with this token, to write a checkpoint at the end of the current step and to end."""
    half = run_dir / f".{STOP_FILE}.{os.getpid()}"
    half.write_text(f"{_FOR}{token}: {reason}" if token else reason, encoding="utf-8")
    os.replace(half, run_dir / STOP_FILE)  # an empty file would be a wish to everybody


def stop_requested(run_dir: Path) -> bool:
    """Whether the process that holds `run_dir` now is asked to end."""
    try:
        said = (run_dir / STOP_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return not said.startswith(_FOR) or _is_for_holder(run_dir, said)


def _is_for_holder(run_dir: Path, said: str) -> bool:
    holder = read_owner(run_dir)
    return holder is not None and said.startswith(f"{_FOR}{holder[0].token}:")


def clear_stop(run_dir: Path) -> None:
    """Forget a wish that an earlier start of this run has fulfilled, or that was meant for an earlier holder; one to the present holder,
    who has only begun, stays."""
    try:
        said = (run_dir / STOP_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if not (said.startswith(_FOR) and _is_for_holder(run_dir, said)):
        (run_dir / STOP_FILE).unlink(missing_ok=True)
