"""Time of the constrained advantage beside verl's GRPO estimator called once per signal, on the same rewards in one process.

    python -m benchmarks.advantage [--rollouts 100000] [--group-size 5] [--repeats 5]

Ours does all of Eq. 6: labels groups by their text uid, checks columns, applies masks, normalises the task reward and three
constrained signals inside their groups, combines and whitens. verl's estimator normalises one reward, given as the (B, 1) float32
token-level tensor that is cheapest for it; it knows no masks, so each call gets a reward for every rollout. On unmasked rewards
both must give the same numbers, which is checked before anything is timed. Runs alternate; medians count. Both run on one thread, so
processor time is what they take on an idle machine; wall time is recorded beside it and depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faithful_rl.advantage import AdvantageSettings, constrained_advantage
from faithful_rl.constraints import Constraint
from faithful_rl.run_record import code_version, machine, versions
from faithful_rl.verl_plugin.guards import torchvision_schema

RESULTS = Path(__file__).parent / "results" / "advantage.json"
CONSTRAINTS = (
    Constraint("consistency", 0.95, "accuracy"),
    Constraint("semantic_grounding", 0.95, "accuracy"),
    Constraint("spatial_grounding", 0.65, "has_reference_boxes"),
)
SIGNALS = ("task", *(constraint.name for constraint in CONSTRAINTS))
MULTIPLIERS = {constraint.name: 1.0 for constraint in CONSTRAINTS}
TARGET_SECONDS = 0.2
TARGET_RATIO = 20.0

Columns = dict[str, np.ndarray]


def batch(rollouts: int, group_size: int) -> tuple[Columns, np.ndarray]:
    """Reward columns like a run's (half of the answers right, a few judge failures) and text uids in shuffled order."""
    generator = np.random.default_rng(0)
    columns: Columns = {
        "task": generator.choice([0.0, 0.5, 1.0], rollouts),
        "consistency": generator.integers(0, 2, rollouts).astype(np.float64),
        "semantic_grounding": generator.integers(0, 6, rollouts) / 5.0,
        "spatial_grounding": generator.random(rollouts),
        "accuracy": generator.integers(0, 2, rollouts).astype(np.float64),
        "has_reference_boxes": np.ones(rollouts),
    }
    for signal in SIGNALS:
        scored = np.ones(rollouts) if signal == "task" else (generator.random(rollouts) > 0.02).astype(np.float64)
        columns[f"{signal}_scored"] = scored
        columns[f"{signal}_reason"] = np.where(scored == 1.0, 0.0, 4.0)
    uids = np.array([f"{i // group_size:032x}" for i in range(rollouts)], dtype=object)
    generator.shuffle(uids)
    return columns, uids


@dataclass
class Times:
    """Seconds of each call, by both clocks."""

    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def take(self, call: Callable[[], object]) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        call()
        self.processor.append(time.process_time() - processor)
        self.wall.append(time.perf_counter() - wall)

    def summary(self) -> dict[str, float]:
        return {
            "median": statistics.median(self.processor),
            "min": min(self.processor),
            "max": max(self.processor),
            "wall_median": statistics.median(self.wall),
            "wall_min": min(self.wall),
            "runs": len(self.wall),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--group-size", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    torchvision_schema.apply()
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    torch.set_num_threads(1)  # one-element tensors: more threads only slow verl's loop down
    columns, uids = batch(arguments.rollouts, arguments.group_size)
    response_mask = torch.ones(arguments.rollouts, 1)

    def ours() -> None:
        constrained_advantage(columns, uids, CONSTRAINTS, MULTIPLIERS)

    def verls() -> None:
        for signal in SIGNALS:
            rewards = torch.from_numpy(columns[signal]).to(torch.float32)[:, None]
            compute_grpo_outcome_advantage(rewards, response_mask, uids)

    task_only = constrained_advantage(columns, uids, settings=AdvantageSettings(std_floor=0.0, whitening="none")).total
    peer, _ = compute_grpo_outcome_advantage(torch.from_numpy(columns["task"]).to(torch.float32)[:, None], response_mask, uids)
    difference = float(np.abs(task_only - peer[:, 0].numpy()).max())
    if difference > 1e-4:
        raise SystemExit(f"advantages of the task reward differ by up to {difference}, expected at most 1e-4 (float32): not comparable")

    our_times, verl_times = Times(), Times()
    for _ in range(arguments.repeats):
        for _ in range(3):
            our_times.take(ours)
        verl_times.take(verls)
    result = report(arguments, our_times.summary(), verl_times.summary(), difference)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{arguments.rollouts} rollouts x {len(SIGNALS)} signals: ours {result['ours_seconds']['median']:.4f} s, "
        f"verl {result['verl_seconds']['median']:.2f} s, of processor time each, ratio {result['ratio']:.0f}; written to {RESULTS}"
    )
    if result["ours_seconds"]["median"] > TARGET_SECONDS or result["ratio"] < TARGET_RATIO:
        raise SystemExit(f"missed: expected at most {TARGET_SECONDS} s and a ratio of at least {TARGET_RATIO}")


def report(arguments: argparse.Namespace, ours: dict[str, float], verl: dict[str, float], difference: float) -> dict[str, Any]:
    return {
        "what": "constrained advantage (Eq. 6, masks, whitening) beside verl's GRPO estimator called once per signal",
        "rollouts": arguments.rollouts,
        "group_size": arguments.group_size,
        "signals": list(SIGNALS),
        "ours_seconds": ours,
        "verl_seconds": verl,
        "ratio": verl["median"] / ours["median"],
        "wall_ratio": verl["wall_median"] / ours["wall_median"],
        "largest_difference_on_task_reward": difference,
        "target": {"ours_seconds_at_most": TARGET_SECONDS, "ratio_at_least": TARGET_RATIO},
        "machine": {**machine(), "processor": processor(), "threads": 1, "load_average_1min": os.getloadavg()[0]},
        "code_version": code_version(),
        "versions": versions(),
    }


def processor() -> str:
    """Model name as Linux gives it, or "unknown"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
