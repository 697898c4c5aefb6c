"""A pool of fake judges under load: verdicts per second, added latency, resident memory."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from data_prep.scenes.dataset import SceneDataSettings, scene_rows
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene_language import LETTERS

ROOT = Path(__file__).resolve().parents[2]
CONCURRENT = 64  # rollouts
POOL = "benchmark"
TIMEOUT = 60.0  # seconds for one rollout
TARGET_RATE = 170.0  # verdicts per second
TARGET_ADDED_MS = 10.0  # 99th percentile
TARGET_GROWTH_MIB = 16.0  # between a fifth of the verdicts and the end, in each process
WARM_UP_SECONDS = 3.0
MEMORY_SAMPLES = 50
KEPT_VERDICTS = 2000  # entries of the cache in `memory`: full early, so that what still grows is a leak
MIB = 2**20


def scene_requests(number: int) -> list[JudgeRequest]:
    """Rollouts about different scenes, with a reasoning of four sentences of which two or three are judged."""
    requests = []
    for row in scene_rows(SceneDataSettings(train=number, families=("left_right", "above_below")), "train"):
        facts = row["extra_info"]
        said = [f"The {name} is at <bbox>{box}</bbox>." for name, box in zip(facts["box_labels"], facts["gt_boxes"], strict=True)]
        option = facts["options"][facts["gold_index"]]
        said.append(f"The {facts['box_labels'][0]} is {option}. So the answer is {option}.")
        requests.append(
            JudgeRequest(
                uid=facts["uid"],
                question=facts["question"],
                options=tuple(facts["options"]),
                reasoning=" ".join(said),
                answer=LETTERS[facts["gold_index"]],
                images=tuple(image["bytes"] for image in row["images"]),
                dataset="scenes",
            )
        )
    return requests


def endless(requests: Sequence[JudgeRequest]) -> Iterator[JudgeRequest]:
    """The requests over and over, no reasoning twice."""
    for number in itertools.count():
        one = requests[number % len(requests)]
        yield replace(one, uid=f"{one.uid}-{number}", reasoning=f"{one.reasoning} This is attempt {number}.")


@contextmanager
def served(latency: float, replicas: int, **more: Any) -> Iterator[Any]:
    """A local Ray with a pool of two fake judges; yields the pool's status."""
    import ray

    from faithful_rl.judge_pool import pool
    from faithful_rl.judge_pool.settings import from_mapping

    folder = tempfile.mkdtemp(prefix="jb")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # for Ray's workers
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 * MIB, _temp_dir=folder)
    try:
        judge = {"backend": "fake", "latency_seconds": latency, "replicas": replicas, "timeout_seconds": TIMEOUT}
        settings: dict[str, Any] = {"name": POOL, "consistency": dict(judge), "grounding": dict(judge)}
        settings["cache"] = {"memory_entries": KEPT_VERDICTS}
        for name in ("consistency", "grounding"):
            settings[name].update(more)
        yield pool.serve(from_mapping(settings))
        pool.stop(POOL, 0.0)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Asked:
    """Both judges asked about rollouts: how long each answer took, and how many were no verdict."""

    clients: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    unscored: int = 0

    async def rollout(self, request: JudgeRequest) -> None:
        await asyncio.gather(*(self._ask(client, request) for client in self.clients.values()))

    async def _ask(self, client: Any, request: JudgeRequest) -> None:
        began = time.perf_counter()
        verdict = await client.ask(request)
        self.seconds.append(time.perf_counter() - began)
        self.unscored += getattr(verdict, "reason", 0) != 0


def new_asked() -> Asked:
    from faithful_rl.judge_pool import JUDGES
    from faithful_rl.judge_pool.client import PoolClient

    return Asked({judge: PoolClient(POOL, judge, TIMEOUT, "benchmark") for judge in JUDGES})


async def closed_loop(asked: Asked, requests: Iterator[JudgeRequest], done: Callable[[], bool]) -> None:
    """`CONCURRENT` rollouts at a time until `done`; those on their way are finished."""

    async def one_after_another() -> None:
        while not done():
            await asked.rollout(next(requests))

    await asyncio.gather(*(one_after_another() for _ in range(CONCURRENT)))


async def open_loop(asked: Asked, requests: Iterator[JudgeRequest], rollouts_per_second: float, seconds: float) -> None:
    """Rollouts at a fixed rate, whether or not those before are answered."""
    loop = asyncio.get_running_loop()
    began, tasks = loop.time(), []
    for number in range(int(seconds * rollouts_per_second)):
        await asyncio.sleep(max(0.0, began + number / rollouts_per_second - loop.time()))
        tasks.append(loop.create_task(asked.rollout(next(requests))))
    await asyncio.gather(*tasks)


def load(latency: float, replicas: int, seconds: float) -> dict[str, Any]:
    """The closed loop and then the paced one, `seconds` each, after a warm-up."""
    requests = endless(scene_requests(CONCURRENT))
    with served(latency, replicas):
        warm, closed, paced = new_asked(), new_asked(), new_asked()
        end = time.monotonic() + WARM_UP_SECONDS
        asyncio.run(closed_loop(warm, requests, lambda: time.monotonic() > end))
        began = time.monotonic()
        asyncio.run(closed_loop(closed, requests, lambda: time.monotonic() - began > seconds))
        took = time.monotonic() - began
        asyncio.run(open_loop(paced, requests, TARGET_RATE / len(paced.clients), seconds))
    return {
        "concurrent_rollouts": CONCURRENT,
        "verdicts": len(closed.seconds),
        "verdicts_per_second": len(closed.seconds) / took,
        "ceiling_per_second": CONCURRENT * len(closed.clients) / latency,
        "added_milliseconds_when_saturated": added(closed.seconds, latency),
        "paced_verdicts_per_second": TARGET_RATE,
        "added_milliseconds": added(paced.seconds, latency),
        "unscored": closed.unscored + paced.unscored,
        "target": {"verdicts_per_second_at_least": TARGET_RATE, "added_milliseconds_p99_below": TARGET_ADDED_MS},
    }


def added(seconds: Sequence[float], latency: float) -> dict[str, float]:
    """Percentiles of the milliseconds that answers took beyond the fake judge's own time."""
    beyond = sorted((one - latency) * 1e3 for one in seconds)
    cuts = statistics.quantiles(beyond, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": beyond[-1], "answers": float(len(beyond))}


def memory(latency: float, replicas: int, verdicts: int) -> dict[str, Any]:
    """Resident memory of every replica and of this process, sampled while `verdicts` different verdicts go through prompts and cache."""
    requests = endless(scene_requests(CONCURRENT))
    every = max(1, verdicts // MEMORY_SAMPLES)
    with served(latency, replicas, through_prompts=True) as status:
        watched = {one.name: psutil.Process(one.pid) for one in status.replicas} | {"client": psutil.Process()}
        samples: dict[str, list[float]] = {name: [] for name in watched}
        asked = new_asked()

        def done() -> bool:
            if len(asked.seconds) >= every * len(samples["client"]):
                for name, process in watched.items():
                    samples[name].append(process.memory_info().rss / MIB)
            return len(asked.seconds) >= verdicts

        asyncio.run(closed_loop(asked, requests, done))
    growth = {name: statistics.mean(one[-5:]) - statistics.mean(one[len(one) // 5 :][:5]) for name, one in samples.items()}
    return {
        "verdicts": len(asked.seconds),
        "unscored": asked.unscored,
        "resident_mib_each": {"every_verdicts": every, **{name: [round(one, 1) for one in found] for name, found in samples.items()}},
        "growth_mib_after_a_fifth": {name: round(one, 1) for name, one in growth.items()},
        "target": {"growth_mib_at_most": TARGET_GROWTH_MIB},
    }
