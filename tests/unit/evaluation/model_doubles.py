"""Stand-ins for the model's replicas, and a fleet of them for the whole command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.evaluation import known_box, servers
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Completion
from faithful_rl.types import Reason

Say = Callable[[list[dict[str, Any]], int], Completion | JudgeFailure]


def text_of(messages: Sequence[dict[str, Any]]) -> str:
    """All text of a chat, images as <image>."""
    parts = []
    for message in messages:
        content = message["content"]
        parts += [content] if isinstance(content, str) else [part.get("text", "<image>") for part in content]
    return "\n".join(parts)


class ModelDouble:
    """Answers by `say`; keeps what it was asked. One-token questions, which only probe, get an empty answer."""

    model = "double"

    def __init__(self, say: Say | None = None, healthy: bool = True) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self._say = say or (lambda messages, tokens: Completion("<think>x</think><answer>A</answer>", 5, 9, "stop"))
        self._healthy = healthy

    async def complete(
        self, messages: list[dict[str, Any]], *, choices: Any, json_schema: Any, max_tokens: int, deadline: float
    ) -> Completion:
        await asyncio.sleep(0)
        if max_tokens > 1:
            self.asked.append(messages)
        answer = self._say(messages, max_tokens)
        if isinstance(answer, JudgeFailure):
            raise answer
        return answer

    async def healthy(self) -> bool:
        return self._healthy

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""


def lost() -> JudgeFailure:
    return JudgeFailure(Reason.JUDGE_UNAVAILABLE, "no connection")


def refused(words: str = "answered 400: prompt is too long") -> JudgeFailure:
    return JudgeFailure(Reason.JUDGE_ERROR, words, retryable=False)


def use_fleet(monkeypatch: pytest.MonkeyPatch, *chats: ModelDouble) -> None:
    """`start_fleet` gives these replicas, whatever the settings say; no processor is loaded for them (tests/unit/test_known_box.py)."""

    async def start(settings: Any, images: int, logs: Path) -> servers.Fleet:
        return servers.Fleet("double", list(chats))

    async def unchecked(settings: Any) -> None: ...

    monkeypatch.setattr(servers, "start_fleet", start)
    monkeypatch.setattr(known_box, "check", unchecked)
