"""An evaluation whose servers are actors of a Ray cluster: the shipped tiny model on the CPU, two replicas, a lost one, a second start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")
pytest.importorskip("vllm")
pytest.importorskip("openai")
pytest.importorskip("statsmodels")
import ray
from judge_pool_cluster import cluster
from ray.util import list_named_actors

from faithful_rl import evaluate
from faithful_rl.evaluation import servers
from faithful_rl.judge_pool.server_group import NAMESPACE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "tiny_warm_start"
SECONDS = 120.0  # for something that has been ended to be gone


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster(num_cpus=4) as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy at a place of its own, by which its servers are told from those of tests that run at the same time."""
    return Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("model") / SHIPPED.name)).resolve()


def words(model: Path, out: Path, *more: str) -> list[str]:
    return [
        f"model={model}", "benchmarks=[scenes]", f"out={out}", "judges=scene", "prompt=none", "scenes.questions=12", "max_new_tokens=96",
        "context=1024", "progress=false", "concurrency=4", "server.dtype=float32", "server.cpu_kv_cache_gib=0.25",
        "server.start_timeout_seconds=600", "servers=ray", "ray.num_gpus=0", "replicas=2", *more,
    ]  # fmt: skip


def held() -> list[str]:
    """Actors of evaluations that live."""
    return [one["name"] for one in list_named_actors(all_namespaces=True) if one["namespace"] == NAMESPACE]


def vllm_servers(model: Path) -> list[psutil.Process]:
    """Servers of this test's model on this machine, without their keepers and zombies."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if (
            line[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
            and str(model) in line
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ):
            found.append(process)
    return found


def wait_until(what: Any) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def test_two_replicas_on_a_cluster_and_a_second_start(
    address: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert evaluate.main(words(model, out)) == 0, capsys.readouterr().err
    wait_until(lambda: not held())
    wait_until(lambda: not vllm_servers(model))
    wait_until(lambda: ray.available_resources().get("CPU") == 4.0)  # the reservation is given back
    summary = json.loads((out / "evaluation.json").read_text())
    scenes, cost = summary["benchmarks"]["scenes"], summary["costs"]
    assert (scenes["questions"], scenes["coverage"]) == (12, 1.0)
    assert scenes["metrics"]["accuracy"]["value"] > 0.5, "the shipped model reaches 0.95 on 400 questions"
    assert (cost["starts"], cost["responses"], cost["gpu_seconds"]) == (1, 12, 0.0)
    assert cost["serving_seconds"] > cost["generation_seconds"] > 0
    assert min(cost["prompt_tokens"], cost["response_tokens"]) > 12 * 10
    assert sorted(file.name for file in (out / "logs").glob("server-*.log")) == ["server-0.log", "server-1.log"]
    for file in (out / "logs").glob("server-*.log"):
        assert "vllm" in file.read_text(errors="replace").lower()

    # A start that was stopped after half of the questions: the other half is asked, on one replica.
    responses = out / "state" / "scenes.responses.jsonl"
    kept = responses.read_text().splitlines()
    responses.write_text("\n".join(kept[:6]) + "\n")
    assert evaluate.main([*words(model, out), "replicas=1"]) == 0, capsys.readouterr().err
    assert responses.read_text().splitlines()[:6] == kept[:6]
    again = json.loads((out / "evaluation.json").read_text())
    assert (again["benchmarks"]["scenes"]["coverage"], again["costs"]["starts"]) == (1.0, 2)

    def no_server(*_: Any) -> Any:
        raise AssertionError("everything was generated: no server is needed")

    monkeypatch.setattr(servers, "start_fleet", no_server)
    assert evaluate.main(words(model, out)) == 0
    assert json.loads((out / "evaluation.json").read_text()) == again


def test_a_server_that_is_killed_is_started_again(address: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    out, killed = tmp_path / "out", []

    def kill_one() -> None:
        """As soon as the first response is there, end one server as the system would for want of memory."""
        responses, end = out / "state" / "scenes.responses.jsonl", time.monotonic() + 900.0
        while time.monotonic() < end:
            if responses.exists() and responses.stat().st_size:
                for process in vllm_servers(model)[:1]:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=kill_one, daemon=True)
    watcher.start()
    # one question at a time, so that most of them come after the end of their server
    assert evaluate.main(words(model, out, "replicas=1", "concurrency=1", "scenes.questions=24")) == 0, capsys.readouterr().err
    watcher.join(SECONDS)
    assert len(killed) == 1
    summary = json.loads((out / "evaluation.json").read_text())
    assert (summary["benchmarks"]["scenes"]["coverage"], summary["costs"]["responses"]) == (1.0, 24)
    assert sorted(file.name for file in (out / "logs").glob("server-*.log")) == ["server-0-restart-1.log", "server-0.log"]
    wait_until(lambda: not held())


def test_what_the_cluster_cannot_hold_is_refused_at_once(address: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    began = time.monotonic()
    assert evaluate.main(words(model, tmp_path / "out", "ray.num_cpus=3")) == 2
    said = capsys.readouterr().err
    assert "room for 1 of 2 servers" in said
    assert "asked for each" in said
    assert evaluate.main(words(model, tmp_path / "out", "ray.num_gpus=1")) == 2
    assert "room for 0 of 2 servers" in capsys.readouterr().err
    assert time.monotonic() - began < 600, "nobody waited for a server"
    assert held() == []
