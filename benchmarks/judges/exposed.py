"""Judge time that generation does not hide: the rollouts of a step sent to the pool as each of them ends, or all together after the last.

Generation is replayed by the clock: nothing is generated, each rollout has a second at which its text is there. Exposed are the seconds
from the last text to the last verdict, as training logs them (`judge/exposed_seconds`).

Two judges answer: that of the other parts (`--latency`, as many rollouts at a time as a pool takes by default), and a slow one whose step
takes about as long as the generation, such as a large model on a busy GPU.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.judges import pool_load
from benchmarks.judges.kept_rollouts import Step
from faithful_rl import metrics, run_directory
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.verl_plugin import judge_timing

ROLLOUTS = 80  # sent at once: half of a tiny recipe's step
GENERATION_SECONDS = 6.0  # where no run says how long its steps generate
REPEATS = 5  # of both ways, in turns
WARM_UP = 8  # rollouts, before anything is measured
ARMS = ("with_overlap", "without_overlap")


@dataclass(frozen=True)
class FakeJudge:
    """Seconds of each answer, and rollouts that one replica judges at the same time (None: a pool's default)."""

    latency_seconds: float
    concurrency_per_replica: int | None = None


SLOW = FakeJudge(0.5, 8)  # 80 rollouts by eights: 5 s


@dataclass(frozen=True)
class Phase:
    """The generation of one step: the rollouts, the second at which each text is there, and whether it goes to the judges at all."""

    source: str
    requests: list[JudgeRequest]
    ends: list[float]
    asked: list[bool]


@dataclass(frozen=True)
class Times:
    """One rollout, in seconds after generation began: text there, sent to the judges, both verdicts there.

    One that is not sent (masked) has `sent` and `judged` where its text is there.
    """

    text: float
    sent: float
    judged: float


def even_phase(seconds: float = GENERATION_SECONDS) -> Phase:
    """A step of which one rollout ends every `seconds` / 80, all of them judged."""
    ends = [seconds * (number + 1) / ROLLOUTS for number in range(ROLLOUTS)]
    return Phase("invented: rollouts end evenly, all are judged", pool_load.scene_requests(ROLLOUTS), ends, [True] * ROLLOUTS)


def kept_phase(steps: Sequence[Step], seconds: float) -> Phase:
    """The first 80 rollouts that a run has kept as if one step had generated them together: each ends after a share of `seconds` that is
    its length over the longest one's, which is how a server ends rollouts that it decodes side by side. Wrong answers are not judged."""
    rows = [one for step in steps for one in zip(step.requests, step.right, step.lengths, strict=True)][:ROLLOUTS]
    longest = max(length for _, _, length in rows)
    return Phase(
        "kept rollouts of a run, each ends by its length, wrong answers are not judged",
        [request for request, _, _ in rows],
        [seconds * length / longest for _, _, length in rows],
        [right for _, right, _ in rows],
    )


def in_run(run_dir: Path) -> dict[str, float]:
    """Medians over the steps of a run that logged them: seconds of generation without what was exposed, exposed seconds, and their share of
    the step; {} where no step has them. The first step, in which servers warm up, is left out."""
    file = run_dir / run_directory.METRICS
    rows = metrics.read_metrics(file)[1:] if file.is_file() else []
    names = ("timing_s/gen", metrics.JUDGE_EXPOSED, metrics.STEP_TIME)
    found = [tuple(row[name] for name in names) for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]
    if not found:
        return {}
    return {
        "steps": float(len(found)),
        "generation_seconds": statistics.median(generated - exposed for generated, exposed, _ in found),
        "exposed_seconds": statistics.median(exposed for _, exposed, _ in found),
        "exposed_share_of_step": statistics.median(exposed / step for _, exposed, step in found),
    }


async def replay(phase: Phase, asked: pool_load.Asked, overlap: bool) -> list[Times]:
    """Let the clock generate, and ask both judges about each rollout when its text is there, or (without overlap) when all texts are."""
    loop = asyncio.get_running_loop()
    began, last = loop.time(), max(phase.ends)

    async def one(request: JudgeRequest, end: float) -> Times:
        await asyncio.sleep(max(0.0, began + (end if overlap else last) - loop.time()))
        sent = loop.time() - began
        await asked.rollout(request)
        return Times(end, sent, loop.time() - began)

    judged = [one(request, end) for request, end, wanted in zip(phase.requests, phase.ends, phase.asked, strict=True) if wanted]
    masked = [Times(end, end, end) for end, wanted in zip(phase.ends, phase.asked, strict=True) if not wanted]
    return [*masked, *await asyncio.gather(*judged)]


def exposed_seconds(times: Sequence[Times]) -> float:
    """From the last text to the last verdict, by the rule of `judge/exposed_seconds`."""
    step = judge_timing.step_metrics([{judge_timing.TIMES_KEY: (one.text, one.judged)} for one in times])
    return step[metrics.JUDGE_EXPOSED]


def busy_seconds(times: Sequence[Times]) -> float:
    """Seconds in which at least one rollout was with the judges."""
    total, until = 0.0, 0.0
    for one in sorted(times, key=lambda one: one.sent):
        total += max(0.0, one.judged - max(one.sent, until))
        until = max(until, one.judged)
    return total


def compared(replays: dict[str, list[list[Times]]]) -> dict[str, Any]:
    """Medians over repeats by arm: exposed seconds, seconds in which judges were busy, and the share of these that is exposed; and what is
    left of the exposed seconds by overlapping (`exposed_ratio`)."""
    result: dict[str, Any] = {}
    for arm, repeats in replays.items():
        exposed = [exposed_seconds(times) for times in repeats]
        busy = [busy_seconds(times) for times in repeats]
        result[arm] = {
            "exposed_seconds": statistics.median(exposed),
            "exposed_seconds_each": exposed,
            "judging_seconds": statistics.median(busy),
            # At most 1: what is sent late, because this process was busy, is exposed before a judge is.
            "share_not_hidden": statistics.median(
                min(1.0, one / all_of) if all_of else 0.0 for one, all_of in zip(exposed, busy, strict=True)
            ),
        }
    without = result["without_overlap"]["exposed_seconds"]
    result["exposed_ratio"] = result["with_overlap"]["exposed_seconds"] / without if without else None
    return result


def measure(phase: Phase, latency: float, replicas: int, repeats: int) -> dict[str, Any]:
    """Both ways against both judges, `repeats` times in turns."""
    result: dict[str, Any] = {
        "phase": {
            "source": phase.source,
            "rollouts": len(phase.ends),
            "judged": sum(phase.asked),
            "generation_seconds": max(phase.ends),
        },
        "repeats": repeats,
        "judges": {},
        "unscored": 0,
    }
    for name, judge in {"fast": FakeJudge(latency), "slow": SLOW}.items():
        limits = {} if judge.concurrency_per_replica is None else {"concurrency_per_replica": judge.concurrency_per_replica}
        with pool_load.served(judge.latency_seconds, replicas, limits=limits):
            asked = pool_load.new_asked()
            asyncio.run(_warm_up(phase, asked))
            replays: dict[str, list[list[Times]]] = {arm: [] for arm in ARMS}
            for number in range(repeats):
                for arm in ARMS if number % 2 == 0 else ARMS[::-1]:  # what drifts meets both alike
                    replays[arm].append(asyncio.run(replay(phase, asked, overlap=arm == "with_overlap")))
        result["judges"][name] = {**asdict(judge), **compared(replays)}
        result["unscored"] += asked.unscored
    return result


async def _warm_up(phase: Phase, asked: pool_load.Asked) -> None:
    await asyncio.gather(*(asked.rollout(request) for request in phase.requests[:WARM_UP]))
