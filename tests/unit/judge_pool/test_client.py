"""Balancing, failover and deadlines of the client, on replicas of one process."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from doubles import SENTENCES, Backend, Cluster, Remote, request

pytest.importorskip("ray")
from ray.exceptions import RayActorError

from faithful_rl.judge_pool import client as client_module
from faithful_rl.judge_pool.choice import affinity_key, rendezvous
from faithful_rl.judge_pool.client import PoolClient
from faithful_rl.judge_pool.messages import Description
from faithful_rl.judge_pool.replica import Replica
from faithful_rl.types import Reason, Score

LONG = 1000.0  # seconds nobody waits for: a test that hangs is ended by its timeout


class Registry:
    def __init__(self, plain: dict[str, Any], names: dict[str, list[str]]) -> None:
        self.plain, self.names, self.serving = plain, names, True

    async def describe(self) -> Description:
        return Description(self.plain, self.names, self.serving, "2026-01-01T00:00:00+00:00")


class Pool:
    """A pool `default` with one consistency judge on a cluster of this process."""

    def __init__(self, cluster: Cluster, moods: list[str], **limits: Any) -> None:
        plain = {
            "health_seconds": LONG,
            "limits": limits,
            "consistency": {"backend": "test", "replicas": len(moods), "timeout_seconds": LONG},
        }
        self.backends: dict[str, Backend] = {}
        self.names = [f"default-consistency-{index}" for index in range(len(moods))]
        self.registry = Registry(plain, {"consistency": self.names})
        cluster.actors["default"] = Remote(self.registry)
        for index, mood in enumerate(moods):
            name = self.names[index]

            def build(settings: Any, name: str = name, mood: str = mood) -> Any:
                self.backends[name] = Backend({**settings, "mood": mood})
                return self.backends[name]

            cluster.actors[name] = Remote(Replica("consistency", index, plain, build=build, export_metrics=False))
        self.cluster = cluster

    async def ready(self) -> "Pool":
        for name in self.names:
            await self.cluster.actors[name].health.remote()
        for _ in range(5):
            await asyncio.sleep(0)
        return self


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr(client_module, "ray", found)
    monkeypatch.setattr(client_module, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(client_module, "PAUSES", (0.001, 0.002))
    monkeypatch.setattr(client_module, "GRACE_SECONDS", LONG)  # here a replica always answers, if only that its deadline has passed
    monkeypatch.setattr(client_module, "ABSENT_SECONDS", LONG)
    return found


async def informed(timeout_seconds: float) -> PoolClient:
    """A client that knows the pool already, so that all of its short deadline is for replicas."""
    client = PoolClient("default", "consistency", timeout_seconds)
    await client._find(LONG)
    return client


def seen(pool: Pool) -> dict[str, int]:
    return {name: len(backend.seen) for name, backend in pool.backends.items()}


def test_one_question_one_call(cluster: Cluster) -> None:
    async def run() -> None:
        pool = await Pool(cluster, ["fine", "fine", "fine"]).ready()
        client = PoolClient("default", "consistency")
        one = request(images=(b"image",))
        assert [await client.ask(one) for _ in range(6)] == [Score(1.0)] * 6
        preferred = rendezvous(affinity_key(one), pool.names)[0]
        assert {name for name, number in seen(pool).items() if number} == {preferred}
        assert client.counts() == {"asked": 6, "attempts": 6, "scored": 6}
        assert client.versions == {"0123456789abcdef"}

    asyncio.run(run())


@pytest.mark.parametrize("mood", ["broken", "fails", "nonsense"])
def test_a_failure_goes_to_another_replica(cluster: Cluster, mood: str) -> None:
    async def run() -> None:
        pool = await Pool(cluster, [mood, "fine"]).ready()
        client = PoolClient("default", "consistency")
        answers = await asyncio.gather(*(client.ask(request(f"q{number}")) for number in range(64)))
        assert answers == [Score(1.0)] * 64
        counts = client.counts()
        assert (counts["asked"], counts["scored"]) == (64, 64)
        assert counts["failed"] == counts["attempts"] - 64 == seen(pool)[pool.names[0]] > 0

    asyncio.run(run())


def test_every_replica_fails(cluster: Cluster) -> None:
    async def run() -> None:
        await Pool(cluster, ["broken", "fails"]).ready()
        client = PoolClient("default", "consistency")
        assert await client.ask(request()) == Score(None, Reason.JUDGE_ERROR)
        assert client.counts() == {"asked": 1, "attempts": 4, "failed": 4, "judge_error": 1}

    asyncio.run(run())


def test_what_cannot_be_judged_anywhere_is_not_asked_again(cluster: Cluster) -> None:
    async def run() -> None:
        await Pool(cluster, ["refuses", "refuses"]).ready()
        client = PoolClient("default", "consistency")
        assert await client.ask(request()) == Score(None, Reason.JUDGE_ERROR)
        assert client.counts() == {"asked": 1, "attempts": 1, "failed": 1, "judge_error": 1}

    asyncio.run(run())


def test_a_slow_replica_leaves_time_for_another(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ATTEMPT_SHARE", 1e-4)  # 0.1 s for the slow one, all of the rest for the other

    async def run() -> None:
        pool = await Pool(cluster, ["slow", "fine"]).ready()
        client = PoolClient("default", "consistency")
        slow_first = next(one for one in map(request, map(str, range(99))) if rendezvous(affinity_key(one), pool.names)[0] == pool.names[0])
        assert await client.ask(slow_first) == Score(1.0)
        assert client.counts() == {"asked": 1, "attempts": 2, "failed": 1, "scored": 1}

    asyncio.run(run())


def test_the_deadline_ends_it(cluster: Cluster) -> None:
    async def run() -> None:
        await Pool(cluster, ["slow"]).ready()
        client = await informed(0.5)
        assert await client.ask(request()) == Score(None, Reason.JUDGE_TIMEOUT)

    asyncio.run(run())


def test_a_dead_replica_is_passed_over_and_found_again(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        pool = await Pool(cluster, ["fine", "fine"]).ready()
        client = PoolClient("default", "consistency")
        dead = cluster.actors[pool.names[0]]
        dead.lost = RayActorError()
        answers = await asyncio.gather(*(client.ask(request(f"q{number}")) for number in range(64)))
        assert answers == [Score(1.0)] * 64
        assert client.counts()["unreachable"] >= 1
        dead.lost = None
        before = dead.calls["ask"]
        while dead.calls["ask"] == before:
            await asyncio.sleep(0.001)
            await asyncio.gather(*(client.ask(request(f"q{number}")) for number in range(8)))
        assert client.counts()["asked"] == client.counts()["scored"]

    with caplog.at_level(logging.WARNING, logger="faithful_rl.judges"):
        asyncio.run(run())
    assert any('"event": "replica_lost"' in line for line in caplog.messages)


def test_all_replicas_dead_for_the_whole_deadline(cluster: Cluster) -> None:
    async def run() -> None:
        pool = await Pool(cluster, ["fine", "fine"]).ready()
        for name in pool.names:
            cluster.actors[name].lost = RayActorError()
        client = await informed(0.5)
        assert await client.ask(request()) == Score(None, Reason.JUDGE_UNAVAILABLE)

    asyncio.run(run())


def test_a_restarted_pool_has_new_actors_of_the_same_names(cluster: Cluster) -> None:
    async def run() -> None:
        old = await Pool(cluster, ["fine"]).ready()
        client = PoolClient("default", "consistency")
        assert await client.ask(request()) == Score(1.0)
        cluster.actors[old.names[0]].lost = RayActorError()
        await Pool(cluster, ["fine", "fine"]).ready()
        assert await client.ask(request()) == Score(1.0)
        assert len(client._replicas) == 2

    asyncio.run(run())


def test_a_pool_that_is_stopped_ends_rollouts_at_once(cluster: Cluster) -> None:
    async def run() -> None:
        pool = await Pool(cluster, ["fine", "fine"]).ready()
        client = PoolClient("default", "consistency")
        assert await client.ask(request()) == Score(1.0)
        pool.registry.serving = False
        for name in pool.names:
            await cluster.actors[name].drain.remote(0.0)
        assert await client.ask(request()) == Score(None, Reason.JUDGE_UNAVAILABLE)

    asyncio.run(run())


def test_rollouts_that_wait_hear_of_it_too(cluster: Cluster) -> None:
    async def run() -> None:
        pool = await Pool(cluster, ["fine"]).ready()
        client = PoolClient("default", "consistency")
        assert await client.ask(request()) == Score(1.0)
        for replica in client._replicas.values():
            replica.paused_until = float("inf")
        waiting = [asyncio.create_task(client.ask(request(str(number)))) for number in range(4)]
        await asyncio.sleep(0)
        pool.registry.serving = False
        with pytest.raises(client_module._AbsentError):
            await client._find_again(LONG)  # what a fifth one does that has lost its replica
        assert await asyncio.gather(*waiting) == [Score(None, Reason.JUDGE_UNAVAILABLE)] * 4

    asyncio.run(run())


@pytest.mark.parametrize("why", ["no pool", "no Ray", "no such judge"])
def test_without_a_pool_rollouts_are_unscored_and_it_is_not_looked_for_each_time(cluster: Cluster, why: str) -> None:
    async def run() -> None:
        if why != "no pool":
            await Pool(cluster, ["fine"]).ready()
        cluster.initialised = why != "no Ray"
        client = PoolClient("default", "grounding" if why == "no such judge" else "consistency")
        answers = await asyncio.gather(*(client.ask(request(f"q{number}")) for number in range(8)))
        assert answers == [Score(None, Reason.JUDGE_UNAVAILABLE)] * 8
        assert cluster.lookups <= 1
        assert client.counts() == {"asked": 8, "judge_unavailable": 8}

    asyncio.run(run())


def test_a_full_pool_makes_the_client_wait(cluster: Cluster) -> None:
    async def run() -> None:
        pool = await Pool(cluster, ["fine", "fine"], concurrency_per_replica=1, queue_per_replica=1).ready()

        async def answer(_: Any) -> Score:
            await asyncio.sleep(0)
            return Score(1.0)

        for backend in pool.backends.values():
            backend.answer = answer
        client = PoolClient("default", "consistency")
        answers = await asyncio.gather(*(client.ask(request(f"q{number}")) for number in range(32)))
        assert answers == [Score(1.0)] * 32
        counts = client.counts()
        assert counts["refused"] > 0
        assert counts["attempts"] == 32 + counts["refused"]

    asyncio.run(run())


def test_a_busy_endpoint_is_asked_again_until_the_deadline(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = 4 * client_module.MAX_FAILURES

    async def run() -> None:
        pool = await Pool(cluster, ["busy", "busy"]).ready()
        client = PoolClient("default", "consistency")
        with monkeypatch.context() as patch:
            # The client's clock stands still and then passes the deadline at once: between two questions, and not within one.
            clock = SimpleNamespace(monotonic=lambda: 0.0 if client.counts().get("refused", 0) < refusals else LONG)
            patch.setattr(client_module, "time", clock)
            assert await client.ask(request("never")) == Score(None, Reason.JUDGE_UNAVAILABLE)
        assert client.counts()["refused"] == client.counts()["attempts"] == refusals
        assert "failed" not in client.counts()

        patient = PoolClient("default", "consistency")
        asked = asyncio.create_task(patient.ask(request("late")))
        while patient.counts().get("refused", 0) <= client_module.MAX_FAILURES:
            await asyncio.sleep(0)
        for backend in pool.backends.values():
            backend.mood = "fine"
        assert await asked == Score(1.0)

    asyncio.run(run())


def test_a_full_pool_beyond_the_deadline_is_a_timeout(cluster: Cluster) -> None:
    async def run() -> None:
        pool = await Pool(cluster, ["slow"], concurrency_per_replica=1, queue_per_replica=1).ready()
        held = [asyncio.create_task(PoolClient("default", "consistency").ask(request(str(number)))) for number in range(2)]
        while len(pool.backends[pool.names[0]].seen) < 1 or (await cluster.actors[pool.names[0]].health.remote()).queued < 1:
            await asyncio.sleep(0)
        client = await informed(0.5)
        assert await client.ask(request("late")) == Score(None, Reason.JUDGE_TIMEOUT)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    asyncio.run(run())


def test_grounding_verdicts_pass_through_and_clients_have_names(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAITHFUL_JUDGES_CLIENT", raising=False)
    assert client_module.default_client_name() == "job-01000000"
    monkeypatch.setenv("FAITHFUL_JUDGES_CLIENT", "mine")
    assert client_module.default_client_name() == "mine"

    async def run() -> None:
        plain = {"grounding": {"backend": "test"}, "health_seconds": LONG}
        cluster.actors["default"] = Remote(Registry(plain, {"grounding": ["default-grounding-0"]}))
        cluster.actors["default-grounding-0"] = Remote(Replica("grounding", 0, plain, build=Backend, export_metrics=False))  # type: ignore[arg-type]
        assert await PoolClient("default", "grounding").ask(request()) == SENTENCES, "also when the replica is still starting"

    asyncio.run(run())


def test_an_unknown_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="judge 'taste' is unknown, expected one of consistency, grounding"):
        PoolClient("default", "taste")
