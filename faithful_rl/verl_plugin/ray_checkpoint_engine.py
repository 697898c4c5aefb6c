"""Weights from the trainer to rollout servers elsewhere, through Ray's object store: the backend `ray` of verl's checkpoint engines.

verl's own backends need NCCL, NIXL or an NPU. This one needs nothing but the cluster, so that `trainer_mode=separate_async` runs on
CPUs too; on a GPU cluster verl's `nccl` is the fast one. Chosen by

actor_rollout_ref.rollout.checkpoint_engine.{backend: ray, custom_backend_module: faithful_rl.verl_plugin.ray_checkpoint_engine}

The first trainer rank puts buckets of named tensors into the object store and posts their references to a mailbox actor; every server
worker takes all of them in order. Nobody waits without limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import ray
import torch
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

BACKEND = "ray"
WAIT_SECONDS = 600.0  # for the next bucket

Bucket = list[tuple[str, torch.Tensor]]


class Mailbox:
    """Buckets of one weight update in order; `take` waits for the bucket asked for. An async actor."""

    def __init__(self) -> None:
        self._references: list[Any] = []
        self._closed = False
        self._changed = asyncio.Condition()

    async def post(self, reference: list[Any]) -> None:
        """Add a bucket; the reference comes inside a list, so that Ray hands it over instead of the tensors."""
        async with self._changed:
            self._references.append(reference[0])
            self._changed.notify_all()

    async def close(self) -> None:
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def take(self, index: int) -> list[Any]:
        """`[reference]` of bucket `index`, or `[]` after the last one.

        Raises:
            TimeoutError: the sender was silent for `WAIT_SECONDS`.
        """
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: self._closed or index < len(self._references)), WAIT_SECONDS)
        return [self._references[index]] if index < len(self._references) else []


def buckets(weights: Iterable[tuple[str, torch.Tensor]], size: int) -> Iterable[Bucket]:
    """Named tensors in buckets of at most `size` bytes; a larger tensor has a bucket of its own. Tensors are copied to the CPU."""
    bucket: Bucket = []
    filled = 0
    for name, tensor in weights:
        if bucket and filled + tensor.nbytes > size:
            yield bucket
            bucket, filled = [], 0
        bucket.append((name, tensor.detach().to("cpu", copy=True)))
        filled += tensor.nbytes
    if bucket:
        yield bucket


@CheckpointEngineRegistry.register(BACKEND)
class RayCheckpointEngine(CheckpointEngine):  # type: ignore[misc]
    """One end of the transfer: in each trainer worker (`is_master` in the first) and beside each server worker.

    Args:
        bucket_size: bytes of one bucket.
    """

    def __init__(self, bucket_size: int, is_master: bool = False, **unused: Any) -> None:
        self._bucket_size, self._is_master = bucket_size, is_master
        self._mailbox: Any = None
        self._rank = 0

    def prepare(self) -> Any:
        """The mailbox of this update, from the first trainer rank; None from everybody else."""
        return ray.remote(Mailbox).options(num_cpus=0, max_concurrency=1024).remote() if self._is_master else None

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        mailbox = next((one for one in metadata if one is not None), None)
        if mailbox is None:
            raise RuntimeError("no trainer worker says that it is the master of the weight update: verl's is_master has changed")
        return (
            {"rank": list(range(actor_wg_world_size)), "mailbox": [mailbox] * actor_wg_world_size},
            {"rank": [-1] * rollout_world_size, "mailbox": [mailbox] * rollout_world_size},
        )

    def init_process_group(self, rank: int, mailbox: Any) -> None:
        self._rank, self._mailbox = rank, mailbox

    def finalize(self) -> None:
        self._mailbox = None  # the actor and its buckets go with the last handle

    @torch.no_grad()
    async def send_weights(self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None) -> dict[str, float]:
        """Post all weights. Every rank walks the generator, because making a full tensor is collective; the first one sends."""
        for bucket in buckets(weights, self._bucket_size):
            if self._rank == 0:
                await asyncio.wait_for(_awaited(self._mailbox.post.remote([ray.put(bucket)])), WAIT_SECONDS)
        if self._rank == 0:
            await asyncio.wait_for(_awaited(self._mailbox.close.remote()), WAIT_SECONDS)
        return {}

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        index = 0
        while reference := await asyncio.wait_for(_awaited(self._mailbox.take.remote(index)), WAIT_SECONDS + 10.0):
            for name, tensor in await asyncio.wait_for(_awaited(reference[0]), WAIT_SECONDS):
                yield name, tensor
            index += 1


async def _awaited(reference: Any) -> Any:
    return await reference
