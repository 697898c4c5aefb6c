"""servers=ray: its settings, and chats that follow their servers. No Ray is started."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from model_doubles import ModelDouble, lost, refused

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import ray_fleet, servers
from faithful_rl.evaluation.ray_fleet import ClusterChat
from faithful_rl.evaluation.settings import EvaluationSettings, RaySettings, parse
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.openai_chat import OpenAIChat

BASE = ("model=org/name", "benchmarks=scenes", "out=o")


def settings(*words: str) -> EvaluationSettings:
    return parse([*BASE, *words])


def test_settings_of_the_cluster() -> None:
    found = settings("servers=ray", "ray.address=10.0.0.1:6379", "ray.num_cpus=4", "ray.resources.fast=1").ray
    assert found == RaySettings("10.0.0.1:6379", None, 4.0, {"fast": 1.0})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("servers=slurm",), r"^servers: found 'slurm', expected one of local, ray"),
        (("ray.num_gpus=1",), r"^ray\.num_gpus: found a value beside servers=local, expected servers=ray"),
        (("servers=ray", "gpus=[0,1]"), r"^gpus: found a value beside servers=ray, expected nothing"),
        (("servers=ray", "base_url=http://127.0.0.1:1/v1"), r"^base_url: found a value beside servers=ray"),
        (("servers=ray", "predictions=p.jsonl"), r"^predictions: found a value beside servers=ray"),
        (("servers=ray", "ray.num_gpus=1.5"), r"^ray\.num_gpus: found 1\.5, expected a number >= 0, a whole one above 1"),
        (("servers=ray", "ray.num_cpus=0"), r"^ray\.num_cpus: found 0, expected a number > 0"),
        (("servers=ray", "ray.resources.fast=-1"), r"^ray\.resources\.fast: found -1, expected a number >= 0"),
        (("servers=ray", "ray.resources.GPU=1"), r"^ray\.resources\.GPU: found a second value, expected ray\.num_gpus"),
        (("servers=ray", "ray.nodes_seconds=-1"), r"^ray\.nodes_seconds: found -1, expected seconds >= 0"),
        (("servers=ray", "ray.restarts=-1"), r"^ray\.restarts: found -1"),
        (("servers=ray", "ray.adress=x"), r"^ray\.adress: found a problem"),
        (("servers=ray", "ray.address="), r"^ray\.address: found "),
    ],
)
def test_settings_that_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(*words)


def test_gpus_of_a_server_follow_its_shards_and_its_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")

    def gpus(*words: str) -> float:
        return float(ray_fleet.wish(settings("servers=ray", *words)).num_gpus)

    monkeypatch.setattr(ray_fleet, "_on_cpu", lambda: False)
    assert (gpus(), gpus("server.tensor_parallel_size=4"), gpus("ray.num_gpus=0.5")) == (1.0, 4.0, 0.5)
    with pytest.raises(ConfigError, match=r"^ray\.num_gpus: found 2 for a replica of ray with tensor_parallel_size 4"):
        gpus("server.tensor_parallel_size=4", "ray.num_gpus=2")
    monkeypatch.setattr(ray_fleet, "_on_cpu", lambda: True)
    assert (gpus(), gpus("server.tensor_parallel_size=2")) == (0.0, 0.0)


def test_joining_and_looking_come_before_a_group_and_a_group_without_room_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Full:
        def __init__(self, wanted: Any, server: Any, logs: Path) -> None:
            done.append(f"a group of {wanted.replicas}")

        async def reserve(self) -> None:
            raise ConfigError("ray", "no room", "room", "Wait.")

        async def close(self) -> None:
            done.append("closed")

    home = SimpleNamespace(
        join=lambda address: done.append(f"join {address}"),
        check_room=lambda wanted: done.append(f"room for {wanted.replicas}"),
        Wish=lambda replicas, *_: SimpleNamespace(replicas=replicas),
        ServerGroup=Full,
    )
    monkeypatch.setattr(ray_fleet, "_home", lambda: home)
    chosen = settings("servers=ray", "replicas=3", "ray.num_gpus=0", "ray.address=10.0.0.1:6379")
    with pytest.raises(ConfigError, match="no room"):
        asyncio.run(ray_fleet.open_group(chosen, None, Path("logs")))  # type: ignore[arg-type]
    assert done == ["join 10.0.0.1:6379", "room for 3", "a group of 3", "closed"]
    done.clear()
    asyncio.run(servers.check_cluster(settings()))
    assert done == [], "without servers=ray nobody joins anything"
    asyncio.run(servers.check_cluster(chosen))
    assert done == ["join 10.0.0.1:6379", "room for 3"]


def test_an_installation_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faithful_rl.judge_pool.server_group", None)  # as an import that fails
    with pytest.raises(ConfigError, match=r"^servers: found ray without Ray \("):
        asyncio.run(ray_fleet.check(settings("servers=ray", "ray.num_gpus=0")))


class Group:
    """Servers that answer by `chats`, one for each life; `problems` are told instead of a start."""

    secret = "key"

    def __init__(self, *chats: ModelDouble, why: str = "OutOfMemoryError: 80 GiB", problems: tuple[ConfigError, ...] = ()) -> None:
        self._chats, self._why, self._problems = list(chats), why, list(problems)
        self.started: list[int] = []
        self.closed = False

    async def reserve(self) -> None:
        """Nothing to do."""

    async def start(self, index: int) -> Any:
        await asyncio.sleep(0)
        if self.started and self._problems:
            raise self._problems.pop(0)
        self.started.append(index)
        return SimpleNamespace(url=f"http://10.0.0.1:{len(self.started)}/v1", name="org/name@0")

    async def look(self, index: int) -> str:
        return self._why

    async def close(self) -> None:
        self.closed = True

    async def connect(self, serving: Any) -> Any:
        return self._chats.pop(0)


def ask(group: Group, restarts: int, times: int = 1) -> tuple[ClusterChat, list[Any]]:
    """So many questions at the same time at server 0 of `group`."""

    async def use() -> tuple[ClusterChat, list[Any]]:
        chat = ClusterChat(group, 0, restarts, group.connect)
        await chat.start()
        asked = (chat.complete([], choices=None, json_schema=None, max_tokens=8, deadline=1.0) for _ in range(times))
        return chat, await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(use())


FINE = Completion("fine", 1, 1, "stop")


def says(answer: Completion | JudgeFailure, healthy: bool = True) -> ModelDouble:
    return ModelDouble(lambda *_: answer, healthy)


def test_questions_at_a_server_that_ends_are_asked_at_the_next_one_and_start_it_once() -> None:
    group = Group(says(lost()), says(FINE))
    chat, answers = ask(group, restarts=1, times=5)
    assert answers == [FINE] * 5
    assert group.started == [0, 0]
    assert (chat.model, chat.gone) == ("org/name@0", "")


def test_a_server_is_given_up_when_its_restarts_are_used() -> None:
    group = Group(says(lost()), says(lost()))
    chat, (failure,) = ask(group, restarts=1)
    assert str(failure) == "no connection", "asked again where it was started again, and not a third time"
    assert group.started == [0, 0]
    group = Group(says(lost()))
    chat, failures = ask(group, restarts=0, times=3)
    assert all(isinstance(one, JudgeFailure) and one.retryable for one in failures), "the next replica is asked"
    assert chat.gone == "server 0 is gone: OutOfMemoryError: 80 GiB"
    assert not asyncio.run(chat.healthy())
    with pytest.raises(JudgeFailure, match="server 0 is gone: OutOfMemoryError"):
        asyncio.run(chat.complete([], choices=None, json_schema=None, max_tokens=8, deadline=1.0))
    fleet = servers.Fleet("org/name@0", [chat], group=group)
    assert fleet.why_gone() == "server 0 is gone: OutOfMemoryError: 80 GiB"
    asyncio.run(fleet.close())
    assert group.closed


def test_a_server_that_does_not_come_up_again_says_both_reasons() -> None:
    problem = ConfigError("ray", "no node", "a node", "Add one.")
    chat, _ = ask(Group(says(lost()), problems=(problem,)), restarts=3)
    assert chat.gone == f"server 0 is gone (OutOfMemoryError: 80 GiB) and did not come up again: {problem}"


def test_a_server_that_lives_is_not_started_again() -> None:
    group = Group(says(lost()), why="")
    _, (failure,) = ask(group, restarts=3)
    assert str(failure) == "no connection"
    group = Group(says(refused()))
    _, (failure,) = ask(group, restarts=3)
    assert not failure.retryable
    assert group.started == [0]


def test_a_fleet_on_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group, seen = Group(), []

    async def open_group(chosen: EvaluationSettings, server: Any, logs: Path) -> Group:
        seen.append((server, logs))
        return group

    async def start(chat: OpenAIChat) -> None:
        seen.append((chat.base_url, chat.model, chat._read_key()))

    monkeypatch.setattr(ray_fleet, "open_group", open_group)
    monkeypatch.setattr(ray_fleet, "_on_cpu", lambda: False)
    monkeypatch.setattr(OpenAIChat, "start", start)
    monkeypatch.setattr(servers, "model_name", lambda chosen: "model@0")
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    chosen = parse(["model=model", "benchmarks=scenes", "out=o", "servers=ray", "replicas=2"])
    fleet = asyncio.run(servers.start_fleet(chosen, 1, Path("o/logs")))
    (server, logs), *chats = seen
    assert server.model == str((tmp_path / "model").resolve()), "a relative path is another one on a node"
    assert logs == tmp_path / "o" / "logs"
    assert sorted(chats) == [("http://10.0.0.1:1/v1", "org/name@0", "key"), ("http://10.0.0.1:2/v1", "org/name@0", "key")]
    assert (len(fleet.chats), fleet.gpus) == (2, 2.0)

    async def unreachable(chat: OpenAIChat) -> None:
        raise ConfigError("model.base_url", f"{chat.base_url}, which did not answer within 60 s", "an endpoint", "Start it.")

    monkeypatch.setattr(OpenAIChat, "start", unreachable)
    with pytest.raises(ConfigError, match=r"^ray: found http://10\.0\.0\.1:\d/v1, which answers on its node and not to this machine"):
        asyncio.run(servers.start_fleet(chosen, 1, Path("o/logs")))
    assert group.closed

    async def fail(chosen: EvaluationSettings, server: Any, logs: Path) -> Group:
        raise ConfigError("ray", "no room", "room", "Add nodes.")

    monkeypatch.setattr(ray_fleet, "open_group", fail)
    with pytest.raises(ConfigError, match="no room"):
        asyncio.run(servers.start_fleet(chosen, 1, Path("o/logs")))


def test_a_command_that_is_stopped_while_servers_start_ends_all_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waiting: list[int] = []

    class Slow(Group):
        async def start(self, index: int) -> Any:
            waiting.append(index)
            await asyncio.Event().wait()

    group = Slow()

    async def open_group(chosen: EvaluationSettings, server: Any, logs: Path) -> Group:
        return group

    monkeypatch.setattr(ray_fleet, "open_group", open_group)

    async def use() -> None:
        starting = asyncio.create_task(servers.start_fleet(settings("servers=ray", "replicas=2"), 1, tmp_path))
        while len(waiting) < 2:
            await asyncio.sleep(0)
        starting.cancel()  # as Ctrl-C does
        await starting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(use(), 60))
    assert group.closed


def test_one_server_that_does_not_come_up_ends_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Half(Group):
        async def start(self, index: int) -> Any:
            if index == 1:
                raise ConfigError("server.model", "/models/x, which is not a directory, on node n7", "a model directory", "Copy it.")
            await asyncio.Event().wait()

    group = Half()

    async def open_group(chosen: EvaluationSettings, server: Any, logs: Path) -> Group:
        return group

    monkeypatch.setattr(ray_fleet, "open_group", open_group)
    with pytest.raises(ConfigError, match="on node n7"):
        asyncio.run(servers.start_fleet(settings("servers=ray", "replicas=2"), 1, tmp_path))
    assert group.closed
