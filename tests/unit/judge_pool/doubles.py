"""A backend and a cluster that do as they are told, in one process and one event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

SENTENCES = [SentenceVerdict("The circle is red.", 0, 18, Verdict.CORRECT), SentenceVerdict("It is big.", 19, 29, Verdict.SKIP)]


def request(uid: str = "q1", **fields: Any) -> JudgeRequest:
    return JudgeRequest(uid=uid, **{"question": f"What of {uid}?", "options": ("yes", "no"), "reasoning": "r", "answer": "A", **fields})


class Backend:
    """Answers by `settings["mood"]`, or by the coroutine function `answer` of a test."""

    def __init__(self, settings: dict[str, Any], answer: Callable[[JudgeRequest], Awaitable[Any]] | None = None) -> None:
        self.settings = settings
        self.mood = settings.get("mood", "fine")
        self.answer = answer
        self.seen: list[str] = []
        self.started = self.closed = False
        self.is_healthy = True

    async def start(self) -> None:
        if self.mood == "does not start":
            raise ConfigError("grounding.base_url", "no answer at http://127.0.0.1:1", "a running endpoint", "Start it.")
        self.started = True

    async def close(self) -> None:
        self.closed = True

    async def healthy(self) -> bool:
        return self.is_healthy

    def version(self) -> str:
        return "0123456789abcdef"

    def usage(self) -> Any:
        return SimpleNamespace(calls=len(self.seen), prompt_tokens=10 * len(self.seen), completion_tokens=len(self.seen), cache_hits=0)

    async def consistency(self, request: JudgeRequest, deadline: float) -> Any:
        return await self._do(request, Score(1.0))

    async def grounding(self, request: JudgeRequest, deadline: float) -> Any:
        return await self._do(request, SENTENCES)

    async def _do(self, request: JudgeRequest, verdict: Any) -> Any:
        from faithful_rl.judges.backend import JudgeFailure

        self.seen.append(request.uid)
        if self.answer is not None:
            return await self.answer(request)
        match self.mood:
            case "slow":
                await asyncio.Event().wait()
            case "broken":
                raise RuntimeError("no such scene, key Bearer sk-verysecret1")
            case "fails":
                raise JudgeFailure(Reason.JUDGE_ERROR, "garbage", retryable=True)
            case "busy":
                raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "answered 429", retry_after=0.01)
            case "refuses":
                raise JudgeFailure(Reason.JUDGE_ERROR, "cannot be judged", retryable=False)
            case "nonsense":
                return "YES"
            case "unscored":
                return Score(None, Reason.NOTHING_TO_JUDGE)
        return verdict


class Remote:
    """`handle.method.remote(...)` on a plain object; a lost actor raises what Ray raises."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.lost: Exception | None = None
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            if self.lost is not None:
                raise self.lost
            return await getattr(self._actor, name)(*arguments)

        return SimpleNamespace(remote=call)


class Cluster:
    """Stands in for `ray` in the client: named actors of one process."""

    def __init__(self) -> None:
        self.actors: dict[str, Remote] = {}
        self.initialised = True
        self.lookups = 0

    def is_initialized(self) -> bool:
        return self.initialised

    def get_actor(self, name: str, namespace: str) -> Remote:
        assert namespace == "faithful-judges"
        self.lookups += 1
        if name not in self.actors:
            raise ValueError(f"Failed to look up actor with name '{name}'")
        return self.actors[name]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_job_id=lambda: "01000000")

    def cancel(self, reference: Any, force: bool) -> None:
        pass
