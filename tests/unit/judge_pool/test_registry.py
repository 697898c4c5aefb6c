"""The registry tells how its replicas are, also those that do not answer. No Ray is started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("ray")
from doubles import Cluster, Remote

from faithful_rl.judge_pool import registry as registry_module
from faithful_rl.judge_pool.messages import Health, State
from faithful_rl.judge_pool.registry import Registry

PLAIN = {"name": "lab", "health_seconds": 1000.0, "consistency": {"backend": "fake", "replicas": 2}}


class Replica:
    """Says that it is ready and has judged one rollout more with each answer."""

    def __init__(self, name: str) -> None:
        self.name, self.looks, self.hangs = name, 0, False

    async def health(self) -> Health:
        if self.hangs:
            await asyncio.Event().wait()
        self.looks += 1
        return Health(self.name, State.READY, version="0123456789abcdef", counts={"requests": self.looks})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    for name in ("lab-consistency-0", "lab-consistency-1"):
        found.actors[name] = Remote(Replica(name))
    monkeypatch.setattr(registry_module, "ray", found)
    monkeypatch.setattr(registry_module, "LOOK_SECONDS", 60.0)
    return found


def test_it_describes_the_pool_until_it_is_refused() -> None:
    async def run() -> None:
        registry = Registry(PLAIN, "2026-01-01T00:00:00+00:00")
        before = await registry.describe()
        assert before.replicas == {"consistency": ["lab-consistency-0", "lab-consistency-1"]}
        assert (before.serving, before.settings["name"], before.started_at) == (True, "lab", "2026-01-01T00:00:00+00:00")
        await registry.refuse()
        assert not (await registry.describe()).serving

    asyncio.run(run())


def test_a_replica_that_is_gone_or_silent_keeps_its_last_counters(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        registry = Registry(PLAIN)
        assert [one.state for one in await registry.look()] == [State.READY] * 2
        gone: Any = cluster.actors.pop("lab-consistency-0")
        lost, there = await registry.look()
        assert (lost.state, lost.message) == (State.UNREACHABLE, "Failed to look up actor with name 'lab-consistency-0'")
        assert (lost.version, lost.counts, there.counts) == ("0123456789abcdef", {"requests": 1}, {"requests": 2})
        cluster.actors["lab-consistency-1"]._actor.hangs = True
        monkeypatch.setattr(registry_module, "LOOK_SECONDS", 0.05)
        _, silent = await registry.look()
        assert (silent.state, silent.message, silent.counts) == (State.UNREACHABLE, "no answer within 0 s", {"requests": 2})
        cluster.actors["lab-consistency-0"] = gone
        monkeypatch.setattr(registry_module, "LOOK_SECONDS", 60.0)
        cluster.actors["lab-consistency-1"]._actor.hangs = False
        assert [one.counts["requests"] for one in await registry.look()] == [2, 3]
        await registry.refuse()

    asyncio.run(run())


def test_it_looks_by_itself_and_so_wakes_what_ray_has_restarted(cluster: Cluster) -> None:
    async def run() -> None:
        registry = Registry({**PLAIN, "health_seconds": 0.001})
        await registry.describe()
        replicas = [remote._actor for remote in cluster.actors.values()]
        while any(replica.looks < 3 for replica in replicas):
            await asyncio.sleep(0.001)
        await registry.refuse()

    asyncio.run(asyncio.wait_for(run(), 60.0))
