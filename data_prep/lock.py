"""One process at a time makes a data set: two on one directory would mix their parts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from faithful_rl.config import ConfigError
from faithful_rl.run_lock import kernel_lock

LOCK = ".lock"  # in the directory; removed by its holder, so that a finished data set holds its files only


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold `out` for the block. The kernel's lock: a dead process loses it at once. On a network file system it may reach one machine
    only, and where there are no locks at all nothing is held.

    Raises:
        ConfigError: another process makes data there, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError("out", f"the file {out}", "a directory", "Choose another out=DIR.")
    out.mkdir(parents=True, exist_ok=True)
    path = out / LOCK
    with _taken(out, path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile finds that it is another file, and opens anew


@contextmanager
def _taken(out: Path, path: Path) -> Iterator[None]:
    while True:
        with path.open("a") as handle:
            if not kernel_lock(handle):
                fix = "Wait for it, stop it, or choose another out=DIR."
                raise ConfigError("out", f"{out}, where another process makes data", "a directory that nobody writes in", fix)
            if _is(handle, path):
                yield
                return


def _is(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
