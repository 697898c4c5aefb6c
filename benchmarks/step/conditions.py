"""What a machine is like before each run: what other programs take of it, and how fast it is itself.

Virtual machines share their cores. One was seen to take 6.7 s and 10.4 s for the same steps within an hour while nothing else ran on it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

BUSY_SHARE = 0.15  # of all cores' time, taken by other programs before a run: above it the machine counts as busy
DRIFT = 1.1  # slowest over fastest piece of work: above it runs were not made on the same machine, as it were
LOOK_SECONDS = 5.0  # how long others are watched; a load average would still remember the run before
PIECES = 7
PIECE = 1_500_000  # additions; about 0.1 s


@dataclass
class Conditions:
    """One entry for each look: `busy`, a share in [0, 1] of all cores' time; `piece_seconds` > 0 for one fixed piece of work."""

    busy: list[float] = field(default_factory=list)
    piece_seconds: list[float] = field(default_factory=list)

    def look(self, seconds: float = LOOK_SECONDS) -> None:
        """Watch others for so many seconds, then work for about one."""
        self.busy.append(round(psutil.cpu_percent(interval=seconds) / 100, 3))
        self.piece_seconds.append(round(statistics.median(_piece() for _ in range(PIECES)), 4))

    @property
    def quiet(self) -> bool:
        """Whether other programs left the machine alone before every run."""
        return max(self.busy) <= BUSY_SHARE

    @property
    def drift(self) -> float:
        """The slowest piece over the fastest, >= 1."""
        return max(self.piece_seconds) / min(self.piece_seconds)

    @property
    def steady(self) -> bool:
        """Whether the machine was about as fast before every run."""
        return self.drift <= DRIFT

    def plain(self) -> dict[str, Any]:
        """For the result file."""
        return {
            "busy_share_before_each_run": self.busy,
            "piece_seconds_before_each_run": self.piece_seconds,
            "quiet": self.quiet,
            "drift": round(self.drift, 3),
            "steady": self.steady,
        }


def _piece() -> float:
    began = time.perf_counter()
    total = 0
    for number in range(PIECE):
        total += number
    return time.perf_counter() - began
