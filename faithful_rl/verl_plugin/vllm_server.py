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
    """A rollout replica that launches CPU servers.

    Raises:
        ValueError: settings with which the server would be wrong or fail, named with the value that works.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.config.load_format == "dummy":
            # Dummy weights overwrite buffers too (image mean and std), and no weight update brings those back.
            raise ValueError(
                "actor_rollout_ref.rollout.load_format is 'dummy' (verl's default): vLLM would normalise images with random "
                "numbers for the whole run. Set it to safetensors"
            )
        if self.config.free_cache_engine or self.config.enable_sleep_mode:
            raise ValueError(
                "vLLM has no sleep mode on CPU: set actor_rollout_ref.rollout.free_cache_engine=False and "
                "+actor_rollout_ref.rollout.enable_sleep_mode=False"
            )
        self.server_class = ray.remote(CpuVllmHttpServer)


def load_replica() -> type[CpuVllmReplica]:
    """Loader in the form verl's `RolloutReplicaRegistry` wants."""
    return CpuVllmReplica
