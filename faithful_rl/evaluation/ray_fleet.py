"""The model's servers on a Ray cluster, seen from the evaluation: join, look for room, and a chat for each server that outlives it.

Ray is met by name only, in `judge_pool.server_group`: an evaluation without `servers=ray` works without it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.settings import EvaluationSettings
from faithful_rl.judge_pool.vllm_settings import VllmSettings, check_gpus, runs_on_cpu
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Chat, Completion
from faithful_rl.types import Reason

KEY = "ray"
PERHAPS_GONE = (Reason.JUDGE_UNAVAILABLE, Reason.JUDGE_TIMEOUT)  # failures after which a server is looked at


class Serving(Protocol):
    """Where a server answers and what requests call the model."""

    @property
    def url(self) -> str: ...

    @property
    def name(self) -> str: ...


class Group(Protocol):
    """`judge_pool.server_group.ServerGroup`."""

    secret: str

    async def reserve(self) -> None: ...

    async def start(self, index: int) -> Serving: ...

    async def look(self, index: int) -> str: ...

    async def close(self) -> None: ...


Connect = Callable[[Serving], Awaitable[Chat]]


class ClusterChat:
    """One server of a group as a `Chat`. A question that finds it gone starts it again, at most `restarts` times, and is then asked there;
    the other questions of this server wait meanwhile, those of others go on."""

    def __init__(self, group: Group, index: int, restarts: int, connect: Connect) -> None:
        self._group, self._index, self._left, self._connect = group, index, restarts, connect
        self._chat: Chat | None = None
        self._reviving = asyncio.Lock()
        self.model = ""
        self.gone = ""  # why, once it is given up

    async def start(self) -> None:
        """Raises ConfigError where the server does not come up."""
        serving = await self._group.start(self._index)
        self._chat, self.model = await self._connect(serving), serving.name

    async def close(self) -> None:
        """The chat alone; the group ends the server."""
        chat, self._chat = self._chat, None
        if chat is not None:
            await chat.close()

    async def healthy(self) -> bool:
        return self._chat is not None and await self._chat.healthy()

    async def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        choices: tuple[str, ...] | None,
        json_schema: dict[str, Any] | None,
        max_tokens: int,
        deadline: float,
    ) -> Completion:
        """As `Chat.complete`; `deadline` counts from when the server lives."""
        asked = self._chat
        try:
            return await self._running().complete(
                messages, choices=choices, json_schema=json_schema, max_tokens=max_tokens, deadline=deadline
            )  # fmt: skip
        except JudgeFailure as failure:
            if not failure.retryable or failure.reason not in PERHAPS_GONE or not await self._came_back(asked):
                raise
        return await self._running().complete(
            messages, choices=choices, json_schema=json_schema, max_tokens=max_tokens, deadline=deadline
        )  # fmt: skip

    def _running(self) -> Chat:
        if self._chat is None:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, self.gone or "the server was not started")
        return self._chat

    async def _came_back(self, failed: Chat | None) -> bool:
        """Whether another server stands where `failed` was asked; starts it where that one is gone."""
        async with self._reviving:
            if self._chat is not failed:
                return self._chat is not None  # another question has seen to it
            if self.gone or failed is None:
                return False
            why = await self._group.look(self._index)
            if not why:
                return False
            await self.close()
            if self._left < 1:
                self.gone = f"server {self._index} is gone: {why}"
                return False
            self._left -= 1
            try:
                await self.start()
            except ConfigError as error:
                self.gone = f"server {self._index} is gone ({why}) and did not come up again: {error}"
                return False
            return True


def wish(settings: EvaluationSettings) -> Any:
    """What each server is given (`server_group.Wish`).

    Raises:
        ConfigError: no Ray, or fewer GPUs than the model is sharded over.
    """
    own, each = settings.ray, gpus(settings)
    check_gpus(KEY, each, settings.server)
    return _home().Wish(settings.replicas, own.num_cpus, each, dict(own.resources), own.nodes_seconds)


def gpus(settings: EvaluationSettings) -> float:
    """Of each server: as the settings say, else one for each shard of the model, none where vLLM is its CPU build."""
    if settings.ray.num_gpus is not None:
        return settings.ray.num_gpus
    return 0.0 if _on_cpu() else float(settings.server.get("tensor_parallel_size", 1))


async def check(settings: EvaluationSettings) -> None:
    """Join the cluster and look for room, before anything is started.

    Raises:
        ConfigError: no cluster, or one that can never hold the servers.
    """
    home, wanted = _home(), wish(settings)
    await asyncio.to_thread(home.join, settings.ray.address)
    await asyncio.to_thread(home.check_room, wanted)


async def open_group(settings: EvaluationSettings, server: VllmSettings, logs: Path) -> Group:
    """A group with its reservation, none of its servers started. Raises ConfigError."""
    await check(settings)
    group: Group = _home().ServerGroup(wish(settings), server, logs)
    try:
        await group.reserve()
    except BaseException:
        await group.close()
        raise
    return group


def _on_cpu() -> bool:
    """Whether servers of this installation run on a CPU; one without vLLM only drives, and is taken for one of GPUs."""
    try:
        return runs_on_cpu()
    except ConfigError:
        return False


def _home() -> Any:
    try:
        return importlib.import_module("faithful_rl.judge_pool.server_group")
    except ImportError as error:
        raise ConfigError("servers", f"ray without Ray ({error})", "an installation with Ray", "Install the extra cpu or gpu.") from error
