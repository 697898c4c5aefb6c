"""A pool of judges on a real Ray cluster: it outlives its driver, survives a killed replica, shares fairly, drains."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
import ray
from judge_endpoint import MODEL, endpoint
from judge_pool_cluster import SECONDS, cluster, driver, judges, requests

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import pool
from faithful_rl.judge_pool.client import PoolClient
from faithful_rl.judge_pool.messages import Health, State
from faithful_rl.judge_pool.settings import from_mapping
from faithful_rl.types import Reason, Score, Verdict

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster(num_cpus=2) as found:
        yield found


@pytest.fixture
def served(address: str) -> Iterator[Any]:
    """Serves pools by settings and ends those that the test has left."""
    names = []

    def serve(**settings: Any) -> pool.PoolStatus:
        typed = from_mapping({"health_seconds": 0.5, "start_seconds": SECONDS, **settings})
        names.append(typed.name)
        return pool.serve(typed)

    yield serve
    for name in names:
        if name in pool.pools():
            pool.stop(name, 0.0)


def fake(**settings: Any) -> dict[str, Any]:
    return {"backend": "fake", "timeout_seconds": SECONDS, **settings}


async def ask_all(client: PoolClient, asked: list[Any]) -> list[Any]:
    return list(await asyncio.gather(*(client.ask(one) for one in asked)))


def health_of(name: str, replica: str) -> Health:
    return next(one for one in pool.status(name).replicas if one.name == replica)


def wait_for(what: Any) -> Any:
    """Poll until `what()` is true; the deadline is generous, nothing depends on how long it takes."""
    end = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


ASK = """
import asyncio, sys
sys.path.insert(0, "tests/integration")
from judge_pool_cluster import requests
from faithful_rl.judge_pool.client import PoolClient
client = PoolClient("lab", "consistency")
async def ask():
    return await asyncio.gather(*(client.ask(one) for one in requests(8)))
found = {"scored": sum(one.scored for one in asyncio.run(ask())), "counts": client.counts(), "versions": sorted(client.versions)}
"""


def test_a_pool_outlives_the_commands_that_start_and_use_it(address: str, tmp_path: Path) -> None:
    config = tmp_path / "pool.yaml"
    config.write_text("name: lab\nconsistency: {backend: fake, replicas: 2}\n")
    started = judges("serve", f"config={config}", address=address)
    assert started.returncode == 0, started.stderr
    assert "pool lab: consistency by fake; serving since" in started.stdout
    assert "consistency-1" in started.stdout
    try:
        found = driver(ASK, address)
        assert found["scored"] == 8
        assert found["counts"]["asked"] == found["counts"]["attempts"] == 8
        again = driver(ASK, address)
        assert again["versions"] == found["versions"]

        (status,) = json.loads(judges("status", "--json", address=address).stdout)
        assert (status["name"], status["serving"], len(status["replicas"])) == ("lab", True, 2)
        assert {one["state"] for one in status["replicas"]} == {"ready"}
        assert sum(one["counts"]["requests"] for one in status["replicas"]) == 16

        refused = judges("serve", f"config={config}", address=address)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: name: found a pool 'lab', serving since 20")
        assert "stop name=lab" in refused.stderr
    finally:
        stopped = judges("stop", "name=lab", "drain=5", address=address)
    assert stopped.returncode == 0, stopped.stderr
    assert "Stopped pool lab. Rollouts given up: 0." in stopped.stdout
    assert "No pool is served in this cluster." in judges("status", address=address).stdout
    missing = judges("stop", "name=lab", address=address)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: name: found 'lab', expected a pool of this cluster (none).")


OWN = """
from faithful_rl.judge_pool import pool
from faithful_rl.judge_pool.settings import from_mapping
started = pool.start(from_mapping({"name": "own", "consistency": {"backend": "fake", "replicas": 2}}))
found = [len(started.handles), sorted(pool.pools())]
"""


def test_a_pool_that_is_not_served_ends_with_its_job(address: str) -> None:
    assert driver(OWN, address) == [3, ["own"]]
    wait_for(lambda: pool.pools() == [])


def test_mistakes_are_told_before_anything_starts(address: str, served: Any) -> None:
    with pytest.raises(ConfigError, match=r"^consistency: "):
        served(name="typo", consistency={"backend": "scenes"})
    with pytest.raises(ConfigError, match=r"^num_gpus: found 2 GPU for all replicas, expected at most the 0 of the cluster\."):
        served(name="big", consistency=fake(replicas=2, num_gpus=1))
    assert pool.pools() == []


def test_a_replica_is_killed_in_the_middle_of_a_batch(address: str, served: Any) -> None:
    served(
        name="chaos", consistency=fake(replicas=3, latency_seconds=0.1, fail_every=11), grounding=fake(latency_seconds=0.05),
        limits={"concurrency_per_replica": 4},
    )  # fmt: skip
    victim = health_of("chaos", "chaos-consistency-1")
    yes_no, sentences = PoolClient("chaos", "consistency"), PoolClient("chaos", "grounding")
    batch = requests(96)

    async def run() -> tuple[list[Any], list[Any]]:
        tasks = [asyncio.create_task(yes_no.ask(one)) for one in batch]
        grounded = asyncio.create_task(ask_all(sentences, batch))
        while sum(task.done() for task in tasks) < 12:
            await asyncio.sleep(0.01)
        os.kill(victim.pid, signal.SIGKILL)
        return list(await asyncio.gather(*tasks)), await grounded

    verdicts, grounded = asyncio.run(run())
    assert len(verdicts) == len(grounded) == 96
    counts = yes_no.counts()
    assert all(isinstance(one, Score) for one in verdicts)
    assert counts["asked"] == counts["scored"] == 96, "no rollout is lost, none is unscored: others took over"
    assert counts["unreachable"] > 0
    assert counts["attempts"] == 96 + counts["unreachable"] + counts.get("failed", 0) + counts.get("refused", 0)
    assert all(isinstance(one, list) and {each.verdict for each in one} <= set(Verdict) - {Verdict.UNSCORED} for one in grounded)

    back = wait_for(lambda: (one := health_of("chaos", victim.name)).state is State.READY and one.pid != victim.pid and one)
    assert back.version == victim.version
    # The verdicts are those of an undisturbed judge: nothing became 0 on the way.
    assert asyncio.run(ask_all(PoolClient("chaos", "consistency"), batch)) == verdicts


def test_an_endpoint_that_fails_in_every_way_in_turn(address: str, served: Any, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    batch = requests(64)
    with endpoint() as server:
        served(
            name="endpoint",
            consistency={"backend": "openai", "base_url": server.base_url, "model": MODEL, "replicas": 2, "timeout_seconds": 30.0},
        )
        server.behave("ok", "500", "garbage", "ok", "busy", "ok", "timeout", "ok")
        client = PoolClient("endpoint", "consistency")
        verdicts = asyncio.run(ask_all(client, batch))
        assert {mood for mood, number in server.calls.items() if number} == {"ok", "500", "garbage", "timeout", "busy"}
        server.behave("ok")
        truth = asyncio.run(ask_all(PoolClient("endpoint", "consistency"), batch))
        replicas = pool.status("endpoint").replicas
    assert all(one.scored for one in truth)
    assert {one.value for one in truth} == {0.0, 1.0}
    for found, true in zip(verdicts, truth, strict=True):
        assert found == true or found.reason in (Reason.JUDGE_ERROR, Reason.JUDGE_TIMEOUT, Reason.JUDGE_UNAVAILABLE)
    counts = client.counts()
    assert counts["asked"] == 64 == sum(counts.get(end, 0) for end in ("scored", "judge_error", "judge_timeout", "judge_unavailable"))
    assert counts["scored"] == sum(one.scored for one in verdicts) >= 48, "most were answered on another try"
    assert counts["failed"] > 0
    assert counts["refused"] > 0, "what is busy is asked again, and is no failure"
    answered = sum(sum(one.counts["verdicts"].values()) for one in replicas)
    assert answered == counts["scored"] + 64
    assert sum(one.counts["cache_hits"] for one in replicas) > 0, "the second time they were known"


def test_a_full_queue_and_two_clients(address: str, served: Any) -> None:
    limits = {"concurrency_per_replica": 2, "queue_per_replica": 20}
    served(name="small", consistency=fake(latency_seconds=0.1), limits=limits)
    order: list[str] = []

    async def ask(client: PoolClient, name: str, one: Any) -> Any:
        verdict = await client.ask(one)
        order.append(name)
        return verdict

    async def run() -> tuple[PoolClient, PoolClient, list[Any]]:
        greedy, modest = PoolClient("small", "consistency", client_name="greedy"), PoolClient("small", "consistency", client_name="modest")
        await modest.ask(requests(1, first=2000)[0])  # so that it knows the pool: what counts below is its place in the queue
        tasks = [asyncio.create_task(ask(greedy, "greedy", one)) for one in requests(80)]
        while len(order) < 4:
            await asyncio.sleep(0.005)
        tasks += [asyncio.create_task(ask(modest, "modest", one)) for one in requests(8, first=1000)]
        return greedy, modest, list(await asyncio.gather(*tasks))

    greedy, modest, verdicts = asyncio.run(run())
    assert all(one.scored for one in verdicts)
    assert greedy.counts()["refused"] > 0, "80 rollouts do not fit in a queue of 20"
    assert modest.counts()["scored"] == 1 + 8
    served_before = order[: max(index for index, name in enumerate(order) if name == "modest")].count("greedy")
    assert served_before < 40, f"the modest client waited for {served_before} of the 80 rollouts of the greedy one"


def test_stop_finishes_what_is_queued(address: str, served: Any) -> None:
    served(name="drained", consistency=fake(latency_seconds=0.1), limits={"concurrency_per_replica": 1})
    client = PoolClient("drained", "consistency")

    async def run() -> tuple[pool.Stopped, list[Any], Any]:
        tasks = [asyncio.create_task(client.ask(one)) for one in requests(12)]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(asyncio.to_thread(pool.stop, "drained", SECONDS))
        verdicts = list(await asyncio.gather(*tasks))
        return await stopping, verdicts, await client.ask(requests(1, first=99)[0])

    stopped, verdicts, late = asyncio.run(run())
    assert stopped.left == {"drained-consistency-0": 0}
    assert all(one.scored for one in verdicts)
    assert late == Score(None, Reason.JUDGE_UNAVAILABLE)
    assert pool.pools() == []


def test_stop_without_patience_reports_what_is_left(address: str, served: Any) -> None:
    served(name="hurried", consistency=fake(latency_seconds=60.0), limits={"concurrency_per_replica": 1})
    client = PoolClient("hurried", "consistency")

    async def run() -> tuple[pool.Stopped, list[Any]]:
        tasks = [asyncio.create_task(client.ask(one)) for one in requests(3)]
        while health_of("hurried", "hurried-consistency-0").queued < 2:
            await asyncio.sleep(0.01)
        stopped = await asyncio.to_thread(pool.stop, "hurried", 0.0)
        return stopped, list(await asyncio.gather(*tasks))

    stopped, verdicts = asyncio.run(run())
    assert stopped.left == {"hurried-consistency-0": 3}
    assert verdicts == [Score(None, Reason.JUDGE_UNAVAILABLE)] * 3


def test_prometheus_metrics_are_on_rays_endpoint(address: str, served: Any) -> None:
    served(name="metered", consistency=fake(latency_seconds=0.001), health_seconds=0.2)
    assert all(one.scored for one in asyncio.run(ask_all(PoolClient("metered", "consistency", client_name="run-7"), requests(20))))
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> dict[str, float] | None:
        """None until all is there: Ray's agent starts after the cluster, and exports now and then, also in the middle of the twenty."""
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                lines = [
                    line
                    for line in reply.read().decode().splitlines()
                    if line.startswith("ray_faithful_judges") and 'pool="metered"' in line
                ]
        except OSError:
            return None
        found = {line.split("{")[0].removeprefix("ray_faithful_judges_"): float(line.rsplit(" ", 1)[1]) for line in lines}
        counted = min(found.get("requests_total", 0.0), found.get("latency_seconds_count", 0.0))
        return found if counted >= 20 and "model_calls_total" in found else None

    found = wait_for(exported)
    assert found["requests_total"] == 20
    assert found["latency_seconds_count"] == 20
    assert {"queue_depth", "verdicts_total", "model_calls_total"} <= set(found)


def test_score_from_a_shell(address: str, served: Any, tmp_path: Path) -> None:
    served(name="shell", consistency=fake(), grounding=fake())
    data = tmp_path / "rollouts.jsonl"
    rows = [
        {"uid": f"q{index}", "question": "Where is it?", "options": ["left", "right"], "ground_truth": "A",
         "response": f"<think>The red circle is left of the blue square.</think><answer>{'AB'[index % 2]}</answer>"}
        for index in range(6)
    ]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = judges("score", f"data={data}", "pool=shell", address=address)
    assert ended.returncode == 0, ended.stderr
    assert "masked 3" in ended.stdout
    written = [json.loads(line) for line in (tmp_path / "rollouts.jsonl.scored.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in written] == [row["uid"] for row in rows]
    assert [row["consistency_scored"] for row in written] == [1.0, 0.0] * 3
    assert [row["accuracy"] for row in written] == [1.0, 0.0] * 3
    assert len(written[0]["sentences"]) == 1


def test_a_trained_classifier_serves_many_at_once(served: Any, tmp_path: Path) -> None:
    """In an actor's process: loaded, batched, continuous, and the same numbers as the model itself gives."""
    pytest.importorskip("torch")
    from faithful_rl.crm import model, pairs
    from faithful_rl.crm.files import check
    from faithful_rl.crm.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(128)
    model.tiny_model(model.tiny_config(tokenizer, 128), seed=0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = {"backend": "classifier", "model": str(tmp_path), "wait_milliseconds": 50.0, "timeout_seconds": SECONDS}
    status = served(name="crm", consistency=judge)
    (health,) = status.replicas
    assert (health.state, len(health.version)) == (State.READY, 16)
    asked = requests(48)
    scores = asyncio.run(ask_all(PoolClient("crm", "consistency"), asked))
    alone = model.load(check(str(tmp_path), "model"), "cpu").probabilities([pairs.of_request(one) for one in asked], 1.0, 128)
    assert [score.value for score in scores] == pytest.approx(alone.values.tolist(), abs=1e-4)
    with pytest.raises(ConfigError, match="expected a backend that sees images"):
        served(name="crm2", grounding=judge)
