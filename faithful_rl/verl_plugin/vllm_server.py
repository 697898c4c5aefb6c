"""verl's vLLM rollout server on CPU: the same server and replica, with the CPU worker extension."""

from __future__ import annotations

from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

WORKER_EXTENSION = "faithful_rl.verl_plugin.vllm_worker.CpuColocateWorkerExtension"


class CpuVllmHttpServer(vLLMHttpServer):  # type: ignore[misc]
    """A vLLM server whose workers reload weights the way vLLM's CPU build needs it."""

    def _get_worker_extension_cls(self) -> str:
        return WORKER_EXTENSION


class CpuVllmReplica(vLLMReplica):  # type: ignore[misc]
    """A rollout replica that launches CPU servers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(CpuVllmHttpServer)


def load_replica() -> type[CpuVllmReplica]:
    """Loader in the form verl's `RolloutReplicaRegistry` wants."""
    return CpuVllmReplica
