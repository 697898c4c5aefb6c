"""What a run's judges were asked, kept when the run ends: `judges.json` in its directory, one entry per start of the run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import pool
from faithful_rl.judge_pool.messages import Health
from faithful_rl.judge_pool.pool import PoolError
from faithful_rl.run_directory import JUDGES, read_json, write_json

logger = logging.getLogger(__name__)

COUNTED = ("requests", "refused", "calls", "prompt_tokens", "completion_tokens", "cache_hits", "shared")


def totals(replicas: dict[str, list[str]], healths: Sequence[Health]) -> dict[str, dict[str, Any]]:
    """Counts by judge, summed over its replicas; `latency_p99` is the slowest replica's, `by_size` holds rollouts and failures for each
    size of images and text."""
    found: dict[str, dict[str, Any]] = {}
    for judge, names in replicas.items():
        counts = [health.counts for health in healths if health.name in names]
        summed: Counter[str] = Counter()
        unscored: Counter[str] = Counter()
        sizes: dict[str, list[int]] = {}
        for one in counts:
            for size, numbers in (one.get("by_size") or {}).items():
                sizes[size] = [have + more for have, more in zip(sizes.get(size, (0, 0)), numbers, strict=True)]
            summed.update({name: int(one.get(name, 0)) for name in COUNTED})
            unscored.update(one.get("unscored") or {})
        slowest = max((float(one.get("latency_p99", 0.0)) for one in counts), default=0.0)
        found[judge] = {**{name: summed[name] for name in COUNTED}, "unscored": dict(unscored), "by_size": sizes, "latency_p99": slowest}
    return found


def keep(run_dir: Path, name: str, shared: bool) -> None:
    """Add this start's counts to `judges.json`. A pool that cannot be asked any more leaves a line in the log and nothing else.

    Args:
        shared: the pool serves other runs too, so that its counts are theirs as well.
    """
    try:
        status = pool.status(name)
    except (ConfigError, PoolError, RayError) as error:
        logger.warning("what the judges were asked is not known: %s", error)
        return
    if status.description is None:
        logger.warning("what the judges were asked is not known: the registry of pool %s does not answer", name)
        return
    before = read_json(run_dir / JUDGES)
    start = {"pool": name, "judges": totals(status.description.replicas, status.replicas)}
    write_json(run_dir / JUDGES, {"format": 1, "shared": shared, "starts": [*before.get("starts", []), start]})
