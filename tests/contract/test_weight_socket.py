"""Two runs on one machine, each with its own local Ray: their weights must not meet in one socket."""

from __future__ import annotations

import inspect
import os
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from faithful_rl.verl_plugin.guards import weight_socket

pytest.importorskip("verl")
pytest.importorskip("vllm")

JOB = "01000000"  # what every local Ray calls its first job
NODES = ("a" * 56, "b" * 56)


def in_ray(patch: pytest.MonkeyPatch, node: str) -> None:
    context = SimpleNamespace(get_job_id=lambda: JOB, get_node_id=lambda: node)
    patch.setattr(ray, "get_runtime_context", lambda: context)


def adapter() -> Any:
    """verl's own adapter, as the first rank of a run makes it."""
    import verl.workers.rollout.vllm_rollout.vllm_rollout as module
    from verl.workers.config import HFModelConfig, RolloutConfig

    weight_socket.apply_to_sender(module)
    weight_socket.apply_to_sender(module)  # a second time changes nothing
    rollout = RolloutConfig(name="vllm", tensor_model_parallel_size=1)
    return module.ServerAdapter(rollout, object.__new__(HFModelConfig), None)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("RAY_LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("VERL_REPLICA_RANK", "0")
    monkeypatch.setenv(weight_socket.JOB_VARIABLE, "unset")
    return monkeypatch


def handle_of_a_worker(patch: pytest.MonkeyPatch) -> str:
    """Where a vLLM worker of the server in this process looks, by verl's own rule."""
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

    class Server:  # verl's sets the variable and much else
        def __init__(self) -> None:
            os.environ[weight_socket.JOB_VARIABLE] = JOB

    module = SimpleNamespace(vLLMHttpServer=Server)
    weight_socket.apply_to_receiver(module)  # type: ignore[arg-type]
    weight_socket.apply_to_receiver(module)  # type: ignore[arg-type]
    Server()
    worker = SimpleNamespace(model_runner=None, local_rank=0)
    return str(vLLMColocateWorkerExtension._get_zmq_handle(worker))


def test_two_runs_with_equal_job_ids_use_two_sockets_and_each_finds_its_own(ranks: pytest.MonkeyPatch) -> None:
    handles = []
    for node in NODES:
        in_ray(ranks, node)
        sender = adapter().zmq_handle
        assert handle_of_a_worker(ranks) == sender
        handles.append(sender)
    assert handles[0] != handles[1]
    assert all(len(handle.removeprefix("ipc://")) < 100 for handle in handles), "a socket's path may have 107 characters"
    assert handles[0] == f"ipc:///tmp/rl-colocate-zmq-{'a' * 12}-{JOB}-replica-0-rank-0.sock"


def test_seam_a_socket_that_does_not_name_the_job_is_refused(ranks: pytest.MonkeyPatch) -> None:
    class ServerAdapter:
        def __init__(self) -> None:
            self.zmq_handle = "ipc:///tmp/something-else.sock"

    in_ray(ranks, NODES[0])
    module = SimpleNamespace(ServerAdapter=ServerAdapter)
    weight_socket.apply_to_sender(module)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="does not name the job 01000000"):
        module.ServerAdapter()


def test_ray_sends_the_wrapped_constructor_by_name() -> None:
    """Sent by value it would be verl's own again in the actor, and the server would look for a socket that nobody made."""
    import verl.workers.rollout.vllm_rollout.vllm_async_server as module
    from ray import cloudpickle

    weight_socket.apply_to_receiver(module)
    assert cloudpickle.loads(cloudpickle.dumps(module.vLLMHttpServer.__init__)) is module.vLLMHttpServer.__init__


def test_seam_verls_server_sets_the_variable_before_its_workers_start() -> None:
    import verl.workers.rollout.vllm_rollout.vllm_async_server as module

    source = inspect.getsource(getattr(module.vLLMHttpServer.__init__, "__wrapped__", module.vLLMHttpServer.__init__))
    assert f'os.environ["{weight_socket.JOB_VARIABLE}"] = ray.get_runtime_context().get_job_id()' in source
