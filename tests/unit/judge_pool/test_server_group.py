"""Servers on a cluster: room, reservation, starts, ends and restarts, with stand-ins for Ray and for vLLM."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
from ray.exceptions import RayActorError

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import server_group
from faithful_rl.judge_pool.server_actor import KEY_VARIABLE, Look, ModelServer, Started
from faithful_rl.judge_pool.server_group import Node, ServerGroup, Wish, check_room, fits, join, table
from faithful_rl.judge_pool.vllm_settings import VllmSettings

SETTINGS = VllmSettings(model="org/name", start_timeout_seconds=5.0, key="server")
NODES = [Node("big", {"CPU": 16.0, "GPU": 8.0}, {"CPU": 4.0, "GPU": 5.0}), Node("small", {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0})]


def test_a_server_fits_on_one_node_or_not_at_all() -> None:
    wish = Wish(3, num_cpus=2, num_gpus=2)
    assert [fits(wish, node.total) for node in NODES] == [4, 0], "8 / 2 GPUs; the single GPU of the small node is half a server"
    assert [fits(wish, node.free) for node in NODES] == [2, 0], "4 / 2 CPUs stand below 5 / 2 GPUs"
    assert fits(Wish(1, num_cpus=0.1, num_gpus=0.3), {"CPU": 16.0, "GPU": 0.9}) == 3, "0.9 / 0.3 is below 3 as floats go"
    assert Wish(1, num_cpus=1, num_gpus=0, resources={"here": 1.0}).bundle() == {"CPU": 1, "here": 1.0}


def test_the_table_says_what_is_asked_and_offered() -> None:
    assert table(Wish(9, num_cpus=2, num_gpus=2), NODES).splitlines() == [
        "                  CPU      GPU     servers",
        "  asked for each  2        2       9",
        "  free on big     4 of 16  5 of 8  2",
        "  free on small   4 of 4   0 of 1  0",
    ]


def test_what_the_cluster_can_never_hold_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_group, "_nodes", lambda: NODES)
    check_room(Wish(4, num_cpus=2, num_gpus=2))
    with pytest.raises(
        ConfigError, match=r"^ray: found a cluster with room for 4 of 5 servers, expected room for 5 with 2 CPU, 2 GPU each"
    ) as refused:
        check_room(Wish(5, num_cpus=2, num_gpus=2))
    assert refused.value.fix.endswith(table(Wish(5, num_cpus=2, num_gpus=2), NODES))
    check_room(Wish(5, num_cpus=2, num_gpus=2, seconds=60.0))  # an autoscaler may bring nodes


def test_no_cluster_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str | None) -> None:
        raise ConfigError("Ray cluster", f"none at {address}" if address else "none on this machine", "a cluster", "Use --address.")

    monkeypatch.setattr(server_group.pool, "connect", refuse)
    monkeypatch.setattr(server_group, "CONNECT_SECONDS", 1.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(server_group.ray, "is_initialized", lambda: False)
    with pytest.raises(
        ConfigError, match=r"^ray\.address: found none on this machine, expected a running Ray cluster\. Start one with `ray start"
    ):
        join("auto")
    with socket.socket() as bound:  # bound, and nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"^ray\.address: found {address}, where nobody answers"):
            join(address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=rf"^ray\.address: found {address}, where nobody answers"):
            join("auto")
    with pytest.raises(ConfigError, match=r"^ray\.address: found none at ray://10\.0\.0\.1:10001"):
        join("ray://10.0.0.1:10001")


def test_living_nodes_with_what_they_have_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import state

    known = {"Alive": True, "NodeManagerAddress": "10.0.0.1"}
    there = [
        {**known, "NodeID": "a", "NodeManagerHostname": "one", "Resources": {"CPU": 8.0}},
        {**known, "NodeID": "b", "NodeManagerHostname": "", "Resources": {"CPU": 4.0}},
        {**known, "NodeID": "c", "NodeManagerHostname": "dead", "Resources": {}, "Alive": False},
    ]
    monkeypatch.setattr(server_group, "ray", SimpleNamespace(nodes=lambda: there))
    monkeypatch.setattr(state, "available_resources_per_node", lambda: {"a": {"CPU": 3.0}})
    assert server_group._nodes() == [Node("one", {"CPU": 8.0}, {"CPU": 3.0}), Node("10.0.0.1", {"CPU": 4.0}, {})]


class Cluster:
    """What `server_group` asks of Ray: actors by `answers` (what `start`, `look` and `end` return or raise), and placement groups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room_after: int = 0) -> None:
        self.made: list[dict[str, Any]] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.killed: list[str] = []
        self.reserved: list[Any] = []
        self.removed: list[Any] = []
        self.answers: dict[str, Callable[[str], Any]] = {
            "start": lambda name: Started("node (10.0.0.1)", "http://10.0.0.1:8000/v1", "org/name@0"),
            "look": lambda name: Look(True),
            "end": lambda name: f"log of {name}".encode(),
        }
        self._waits = iter([False] * room_after + [True] * 1000)
        monkeypatch.setattr(
            server_group, "ray", SimpleNamespace(remote=self._remote, kill=lambda handle, no_restart: self.killed.append(handle.name))
        )
        monkeypatch.setattr(server_group, "placement_group", self._place)
        monkeypatch.setattr(server_group, "remove_placement_group", self.removed.append)
        monkeypatch.setattr(
            server_group, "PlacementGroupSchedulingStrategy", lambda group, placement_group_bundle_index: placement_group_bundle_index
        )
        monkeypatch.setattr(server_group, "_nodes", lambda: NODES)

    def _place(self, bundles: list[Any], strategy: str, name: str) -> Any:
        self.reserved.append(bundles)
        return SimpleNamespace(wait=lambda seconds: next(self._waits), name=name)

    def _remote(self, kind: type) -> Any:
        assert kind is ModelServer

        def options(**given: Any) -> Any:
            self.made.append(given)

            def remote(*arguments: Any) -> Any:
                self.arguments.append(arguments)
                name = given["name"]
                return SimpleNamespace(name=name, **{verb: SimpleNamespace(remote=self._call(verb, name)) for verb in self.answers})

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(options=options)

    def _call(self, verb: str, name: str) -> Any:
        async def call() -> Any:
            answer = self.answers[verb](name)
            if isinstance(answer, Exception):
                raise answer
            return await answer if asyncio.iscoroutine(answer) else answer

        return call


def test_servers_are_reserved_together_named_and_ended_with_their_logs_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = Cluster(monkeypatch, room_after=1)
    group = ServerGroup(Wish(2, num_cpus=2, num_gpus=1, resources={"here": 0.0}), SETTINGS, tmp_path / "logs")

    async def use() -> None:
        await group.reserve()
        assert (await group.start(0)).url == "http://10.0.0.1:8000/v1"
        await group.start(1)
        assert await group.look(0) == ""
        await group.close()
        await group.close()

    asyncio.run(use())
    assert cluster.reserved == [[{"CPU": 2, "GPU": 1}] * 2]
    assert [(one["name"], one["scheduling_strategy"], one["num_cpus"], one["num_gpus"]) for one in cluster.made] == [
        (f"{group.name}-0", 0, 2, 1),
        (f"{group.name}-1", 1, 2, 1),
    ]
    assert {one["namespace"] for one in cluster.made} == {"faithful-evaluation"}
    assert cluster.arguments[0] == (SETTINGS, SETTINGS.served_name(), group.secret)
    assert sorted(cluster.killed) == [f"{group.name}-0", f"{group.name}-1"]
    assert len(cluster.removed) == 1
    assert (tmp_path / "logs" / "server-1.log").read_text() == f"log of {group.name}-1"


def test_a_busy_cluster_is_refused_with_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = Cluster(monkeypatch, room_after=1000)
    monkeypatch.setattr(server_group, "RESERVE_SECONDS", 0.0)
    group = ServerGroup(Wish(3, num_cpus=2, num_gpus=2), SETTINGS, tmp_path)
    with pytest.raises(ConfigError, match=r"^ray: found a cluster on which 3 servers had no room together for 0 s") as refused:
        asyncio.run(group.reserve())
    assert "free on big     4 of 16  5 of 8  2" in str(refused.value)
    assert len(cluster.removed) == 1, "the request is taken back"


def started(monkeypatch: pytest.MonkeyPatch, logs: Path, answer: Any) -> tuple[Cluster, ConfigError]:
    """The refusal of a server whose actor answers `answer` to its start, and the cluster after the group's end."""
    cluster = Cluster(monkeypatch)
    cluster.answers["start"] = lambda name: answer
    group = ServerGroup(Wish(1), SETTINGS, logs)

    async def use() -> None:
        await group.reserve()
        try:
            await group.start(0)
        finally:
            await group.close()

    with pytest.raises(ConfigError) as refused:
        asyncio.run(use())
    assert cluster.killed == [f"{group.name}-0"]
    return cluster, refused.value


def test_a_model_that_a_node_lacks_is_told_with_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problem = ConfigError("server.model", "/models/x, which is not a directory", "a model directory", "Download the model.")
    _, error = started(monkeypatch, tmp_path, Started("n7 (10.0.0.7)", problem=problem, log=b"the reason"))
    assert str(error).startswith(
        "server.model: found /models/x, which is not a directory, on node n7 (10.0.0.7), expected a model directory."
    )
    assert error.fix == f"Download the model. Its log is kept in {tmp_path / 'server-0.log'}."


def test_an_actor_that_does_not_start_or_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, error = started(monkeypatch, tmp_path, RayActorError(error_msg="ModuleNotFoundError: No module named 'faithful_rl'"))
    assert "server 0, whose actor did not start (" in str(error)
    assert "Install this project" in error.fix
    monkeypatch.setattr(server_group, "WORKER_SECONDS", -SETTINGS.start_timeout_seconds)
    _, error = started(monkeypatch, tmp_path, asyncio.sleep(60))
    assert "0 s, in which server 0 did not come up" in str(error)


def test_a_server_that_is_gone_says_why_and_starts_again_under_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = Cluster(monkeypatch)
    group = ServerGroup(Wish(1), SETTINGS, tmp_path)

    async def use() -> list[str]:
        said = [await group.look(0)]
        await group.reserve()
        await group.start(0)
        for answer in (Look(False, "OutOfMemoryError: 80 GiB"), Look(False), RayActorError(error_msg="The node died.")):
            cluster.answers["look"] = lambda name, answer=answer: answer  # type: ignore[misc]
            said.append(await group.look(0))
        await group.start(0)
        await group.close()
        return said

    assert asyncio.run(use()) == [
        "it was not started",
        "OutOfMemoryError: 80 GiB",
        "the server ended",
        "its actor is gone (The node died.)",
    ]
    assert [one["name"] for one in cluster.made] == [f"{group.name}-0", f"{group.name}-0-restart-1"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["server-0-restart-1.log", "server-0.log"]
    assert cluster.killed == [f"{group.name}-0", f"{group.name}-0-restart-1"]


class Server:
    """Stands in for `OwnedServer`: writes a log and serves at once, or refuses."""

    refusal: ConfigError | None = None

    def __init__(self, settings: VllmSettings, host: str, private: dict[str, str]) -> None:
        self.settings, self.host, self.private, self.lives = settings, host, private, False
        self.process = SimpleNamespace(log=SimpleNamespace(cause=lambda: "RuntimeError: no more"), answers=self._answers)
        self.silent, self.looks = False, 0

    async def start(self, connect: Any) -> None:
        assert self.settings.log_directory is not None
        (Path(self.settings.log_directory) / "vllm.log").write_text("loading\n")
        if self.refusal is not None:
            raise self.refusal
        self.lives = True
        await connect(8123, "name", 1.0)

    def alive(self) -> bool:
        self.looks += 1
        if self.silent and self.looks > 3:  # it has stopped answering and is about to be seen to have ended
            self.lives = False
        return self.lives

    def _answers(self) -> bool:
        return self.lives and not self.silent

    async def close(self, keep_log: bool) -> None:
        self.lives = False


def test_an_actor_serves_on_its_nodes_address_with_the_groups_key() -> None:
    built: list[Server] = []

    def build(*words: Any, **more: Any) -> Server:
        built.append(Server(*words, **more))
        return built[-1]

    async def use() -> None:
        actor = ModelServer(SETTINGS, SETTINGS.served_name(), "key", "10.0.0.9", build)
        assert await actor.look() == Look(False, "it was not started")
        found = await actor.start()
        assert (found.url, found.name, found.problem) == ("http://10.0.0.9:8123/v1", SETTINGS.served_name(), None)
        assert await actor.look() == Look(True)
        built[0].silent, built[0].looks = True, 0
        assert await actor.look() == Look(False, "RuntimeError: no more")
        assert await actor.end() == b"loading\n"
        assert await actor.end() == b""

    asyncio.run(use())
    (server,) = built
    assert (server.host, server.private) == ("10.0.0.9", {KEY_VARIABLE: "key"})
    assert server.settings.log_directory is not None
    assert not Path(server.settings.log_directory).exists(), "the driver has the log"


def test_an_actor_answers_with_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*words: Any) -> Started:
        actor = ModelServer(*words, "10.0.0.9", Server)
        found = await actor.start()
        await actor.end()
        return found

    other = asyncio.run(start(SETTINGS, "org/name@000000000000", "key"))
    assert other.problem is not None
    assert "org/name, whose content or vLLM settings differ from where the evaluation was started" in str(other.problem)
    monkeypatch.setattr(Server, "refusal", ConfigError("server.model", "a model", "another", "Change it."))
    refused = asyncio.run(start(SETTINGS, SETTINGS.served_name(), "key"))
    assert (str(refused.problem), refused.log) == (str(Server.refusal), b"loading\n")
    assert refused.node.endswith("(10.0.0.9)")
