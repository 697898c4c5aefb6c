"""No phase of a run may wait for ever: the one that hangs is named, every thread's stack is written down, and the process ends."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

STACKS_FILE = "hang_stacks.txt"
REPORT_FILE = "hang.json"
EXIT_CODE = 70  # EX_SOFTWARE


class Watchdog:
    """Watches the phase that the main thread is in.

    Args:
        folder: where the stacks and the report go.
        limit_seconds: longest time any phase may take, > 0.
        on_hang: what to do after the report is written; the default ends the process, since a thread that hangs in a remote
            call cannot be woken.
        details: called for more facts about a hanging phase, for example the prompts still being generated.
    """

    def __init__(
        self,
        folder: Path,
        limit_seconds: float,
        on_hang: Callable[[], None] | None = None,
        details: Callable[[], dict[str, object]] | None = None,
    ) -> None:
        if not limit_seconds > 0:
            raise ValueError(f"the watchdog needs a limit above 0 seconds, got {limit_seconds}")
        self._folder, self._limit = folder, limit_seconds
        self._on_hang = on_hang or (lambda: os._exit(EXIT_CODE))
        self._details = details or dict
        self._lock = threading.Lock()
        self._phases: list[tuple[str, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Everything inside must end within the limit; a phase may hold shorter ones, each with its own clock."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave(name)

    def enter(self, name: str) -> None:
        with self._lock:
            self._phases.append((name, time.monotonic()))

    def leave(self, name: str) -> None:
        """End the innermost phase; its parent's clock starts anew, so that a parent is never blamed for its children's sum."""
        with self._lock:
            if self._phases and self._phases[-1][0] == name:
                self._phases.pop()
                if self._phases:
                    self._phases[-1] = (self._phases[-1][0], time.monotonic())

    def overdue(self) -> tuple[str, float] | None:
        """Name and age in seconds of the innermost phase when it is over the limit."""
        with self._lock:
            if not self._phases:
                return None
            name, since = self._phases[-1]
        age = time.monotonic() - since
        return (name, age) if age > self._limit else None

    def _watch(self) -> None:
        interval = min(5.0, self._limit / 4)
        while not self._stop.wait(interval):
            late = self.overdue()
            if late is not None:
                self._report(*late)
                self._on_hang()
                return

    def _report(self, name: str, age: float) -> None:
        logger.critical("phase %r has taken %.0f s, more than the limit of %.0f s", name, age, self._limit)
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / STACKS_FILE, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
        facts: dict[str, object] = {"phase": name, "seconds": round(age, 1), "limit_seconds": self._limit, "stacks": STACKS_FILE}
        facts.update(self._details())
        (self._folder / REPORT_FILE).write_text(json.dumps(facts, indent=2, default=str), encoding="utf-8")


def describe_hang(folder: Path) -> str | None:
    """One sentence on the hang reported in `folder`, or None if there was none."""
    try:
        facts = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    extra = "".join(f", {key}: {value}" for key, value in facts.items() if key not in ("phase", "seconds", "limit_seconds", "stacks"))
    return (
        f"the run hung in phase {facts['phase']!r} for {facts['seconds']} s (limit {facts['limit_seconds']} s{extra}); "
        f"stacks of all threads: {folder / facts['stacks']}"
    )
