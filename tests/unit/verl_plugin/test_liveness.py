"""A dead worker ends the wait for its rollouts. Real Ray actors, one of them killed."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
import ray

from faithful_rl.verl_plugin import liveness

CPUS = 4  # of the Ray that `cluster` starts


def start() -> Any:
    class Worker:  # inside, so that Ray ships the class itself: its workers cannot import this module
        async def work(self) -> str:
            return "done"

    handle = ray.remote(Worker).options(num_cpus=0).remote()
    ray.get(handle.work.remote(), timeout=120)
    return handle


def ask_until_dead(handle: Any) -> None:
    while True:
        ray.get(handle.work.remote(), timeout=60)


def test_a_killed_worker_is_named_and_ends_the_wait(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "INTERVAL_SECONDS", 0.0)
    workers = {"agent loop worker 0": start(), "reward worker 0": start()}
    buffer = SimpleNamespace(_wait_for_next_poll=lambda partition, last: last + 1.0)
    liveness.guard_polling(buffer, workers)
    assert buffer._wait_for_next_poll("train", 1.0) == 2.0
    ray.kill(workers["reward worker 0"])
    with pytest.raises(ray.exceptions.RayActorError):  # the kill is only asked for; wait until it has happened
        ask_until_dead(workers["reward worker 0"])
    monkeypatch.setattr(liveness, "ANSWER_SECONDS", 60.0)
    with pytest.raises(liveness.DeadActorError, match="reward worker 0"):
        buffer._wait_for_next_poll("train", 2.0)


def test_nobody_to_ask() -> None:
    assert liveness.dead_actors({}) == {}
