"""How many threads a training rank may use on a machine that is shared with a run's other processes."""

from __future__ import annotations

import os

THREADS_VARIABLE = "FAITHFUL_RL_TRAIN_THREADS"


def training_threads(ranks: int) -> int:
    """Threads of one training rank: `FAITHFUL_RL_TRAIN_THREADS`, else the machine's usable cores divided by the ranks.

    The other processes of a run rest while a rank computes, so a rank may use all cores although
    `OMP_NUM_THREADS=1` is right for them.

    Raises:
        ValueError: the variable is not a whole number of 1 or more.
    """
    chosen = os.environ.get(THREADS_VARIABLE, "").strip()
    if chosen:
        if not (chosen.isascii() and chosen.isdigit() and int(chosen) > 0):
            raise ValueError(f"{THREADS_VARIABLE} is {chosen!r}, expected a whole number of threads, 1 or more")
        return int(chosen)
    return max(1, len(os.sched_getaffinity(0)) // ranks)
