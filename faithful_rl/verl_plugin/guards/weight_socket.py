"""The socket through which a trainer's weights reach the vLLM server beside it.

verl names it after Ray's job id, so that two jobs on one machine do not meet. Every local Ray numbers its jobs from 01000000,
so two runs that each start their own Ray do meet: one run removes the file of the other's socket at the end of its own update,
the other's server finds nothing to connect to, and that run waits in `update_weights` for ever.

Sender and receiver are always on one Ray node, and a node's id is random: it goes into the name beside the job's.

Can go when verl's `ServerAdapter.zmq_handle` and `VERL_RAY_JOB_ID` tell apart jobs of equal ids in two Ray clusters.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import ray

JOB_VARIABLE = "VERL_RAY_JOB_ID"
NODE_CHARACTERS = 12
"""Of a node's id, which has 56: a socket's path may hold about a hundred characters."""


def own_job() -> str:
    """What names this job on this machine: the head of the Ray node's id, and the job's id."""
    context = ray.get_runtime_context()
    return f"{context.get_node_id()[:NODE_CHARACTERS]}-{context.get_job_id()}"


def apply_to_sender(module: ModuleType) -> None:
    """Let `ServerAdapter` of verl's `vllm_rollout` send through a socket of its own.

    Raises (when an adapter is made):
        RuntimeError: verl's socket does not carry the job's id any more.
    """

    def rename(adapter: Any) -> None:
        job = ray.get_runtime_context().get_job_id()
        if f"-{job}-" not in adapter.zmq_handle:
            raise RuntimeError(f"verl's weight socket {adapter.zmq_handle} does not name the job {job}: see {__name__}")
        adapter.zmq_handle = adapter.zmq_handle.replace(f"-{job}-", f"-{own_job()}-", 1)

    _after_init(module.ServerAdapter, rename)


def apply_to_receiver(module: ModuleType) -> None:
    """Let the vLLM workers below `vLLMHttpServer` of verl's `vllm_async_server` look for that socket: they read the variable."""

    def rename(server: Any) -> None:
        os.environ[JOB_VARIABLE] = own_job()

    _after_init(module.vLLMHttpServer, rename)


def _after_init(cls: type, then: Callable[[Any], None]) -> None:
    """Call `then` with each new object of the class.

    The wrapper is a plain function under the old one's name. Ray sends an actor's methods by name then, and the worker finds
    its own wrapped one; anything else (a `wrapt` proxy) it sends by value, as the function below.
    """
    original = vars(cls)["__init__"]
    if getattr(original, "faithful_rl_guard", False):
        return

    @functools.wraps(original)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        then(self)

    initialise.faithful_rl_guard = True  # type: ignore[attr-defined]
    cls.__init__ = initialise  # type: ignore[misc]
