"""Judges as separate named Ray actors, and the client that asks them.

An actor serves one judge (`judge-consistency-0`, `judge-grounding-1`, ...) through one interface, whatever stands behind it:
a backend is built by name from `BACKENDS`. Every question has a deadline, and what goes wrong comes back as a `Score` with a
reason: the reward of a finished rollout never fails for a judge's sake.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError

from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict

logger = logging.getLogger(__name__)

JUDGES = ("consistency", "grounding")
START_SECONDS = 600.0  # for one actor to come up; a busy machine takes minutes to start its workers
GRACE_SECONDS = 0.5  # the worker's own deadline comes first: its answer says which request was late
Sentences = list[SentenceVerdict] | Score  # verdicts, or an unscored Score that says why there are none


class JudgeBackend(Protocol):
    """What stands behind a judge actor. May raise: the actor turns that into JUDGE_ERROR."""

    async def consistency(self, request: JudgeRequest) -> Score: ...

    async def grounding(self, request: JudgeRequest) -> list[SentenceVerdict]: ...


class SceneBackend:
    """Exact verdicts from the known scene."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from faithful_rl.judges.scene import SceneJudge

        self._judge = SceneJudge()

    async def consistency(self, request: JudgeRequest) -> Score:
        return self._judge.consistency(request)

    async def grounding(self, request: JudgeRequest) -> list[SentenceVerdict]:
        return list(self._judge.grounding(request))


BACKENDS: dict[str, Callable[[dict[str, Any]], JudgeBackend]] = {"scene": SceneBackend}


def build_backend(settings: dict[str, Any]) -> JudgeBackend:
    """The backend named `settings["backend"]`.

    Raises:
        ValueError: the name is not in `BACKENDS`.
    """
    name = str(settings.get("backend", "scene"))
    if name not in BACKENDS:
        known = ", ".join(sorted(BACKENDS))
        raise ValueError(f"judge backend {name!r} is unknown, expected one of {known}: set faithful_rl.judges.<judge>.backend")
    return BACKENDS[name](settings)


def judge_name(judge: str, index: int) -> str:
    return f"judge-{judge}-{index}"


class JudgeWorker:
    """The actor. `deadline` is in seconds from the arrival of the call, for all requests of the call together."""

    def __init__(self, judge: str, index: int, settings: dict[str, Any]) -> None:
        self._judge, self._index, self._settings = judge, index, settings
        self._backend = build_backend(settings)
        self._answered = 0
        self._failed = 0

    async def judge_consistency(self, requests: Sequence[JudgeRequest], deadline: float) -> list[Score]:
        return list(await asyncio.gather(*(self._bounded(self._backend.consistency, request, deadline) for request in requests)))

    async def judge_grounding(self, requests: Sequence[JudgeRequest], deadline: float) -> list[Sentences]:
        return list(await asyncio.gather(*(self._bounded(self._backend.grounding, request, deadline) for request in requests)))

    async def health(self) -> dict[str, Any]:
        return {"name": judge_name(self._judge, self._index), "answered": self._answered, "failed": self._failed}

    async def describe(self) -> dict[str, Any]:
        return {"judge": self._judge, "index": self._index, "settings": self._settings}

    async def _bounded(self, ask: Callable[[JudgeRequest], Any], request: JudgeRequest, deadline: float) -> Any:
        try:
            verdict = await asyncio.wait_for(ask(request), timeout=deadline)
        except TimeoutError:
            self._failed += 1
            return Score(None, Reason.JUDGE_TIMEOUT)
        except Exception:  # a backend may raise anything, and a measurement that failed is a result here
            logger.exception("%s judge failed on rollout of question %s", self._judge, request.uid)
            self._failed += 1
            return Score(None, Reason.JUDGE_ERROR)
        self._answered += 1
        return verdict


def start_judges(settings: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Start the named actors of the run and wait until each answers.

    Args:
        settings: `{"consistency": {...}, "grounding": {...}}` with `backend`, `workers`, `timeout_seconds` of each judge.

    Raises:
        RuntimeError: an actor did not come up within `START_SECONDS`; the message names it.
    """
    handles: dict[str, list[Any]] = {}
    actor = ray.remote(JudgeWorker)
    for judge in JUDGES:
        own = settings.get(judge, {})
        handles[judge] = [
            actor.options(name=judge_name(judge, index), num_cpus=0, max_restarts=3, max_concurrency=256).remote(judge, index, own)
            for index in range(int(own.get("workers", 1)))
        ]
    for judge, workers in handles.items():
        for index, worker in enumerate(workers):
            try:
                ray.get(worker.health.remote(), timeout=START_SECONDS)
            except RayError as error:
                raise RuntimeError(f"{judge_name(judge, index)} did not start: {error}") from error
    return handles


class JudgeClient:
    """Asks the replicas of one judge in turn; one that is gone is passed over for the next.

    Handles are looked up by name on first use, so the client works in every process of the run.
    """

    def __init__(self, judge: str, workers: int, timeout_seconds: float, handles: Sequence[Any] | None = None) -> None:
        if judge not in JUDGES:
            raise ValueError(f"judge {judge!r} is unknown, expected one of {', '.join(JUDGES)}")
        self._judge = judge
        self._timeout = timeout_seconds
        self._handles: list[Any | None] = list(handles) if handles is not None else [None] * workers
        self._turn = itertools.count()

    async def ask(self, request: JudgeRequest) -> Any:
        """One verdict (`Score` or `list[SentenceVerdict]`), or an unscored `Score`: JUDGE_TIMEOUT when the deadline passed
        on every way tried, JUDGE_UNAVAILABLE when no replica could be reached. Never raises for a judge's fault."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        first = next(self._turn)
        for offset in range(len(self._handles)):
            left = end - loop.time()
            if left <= 0:
                return Score(None, Reason.JUDGE_TIMEOUT)
            try:
                worker = self._worker((first + offset) % len(self._handles))
                method = getattr(worker, f"judge_{self._judge}")
                (verdict,) = await asyncio.wait_for(_awaited(method.remote([request], left)), timeout=left + GRACE_SECONDS)
                return verdict
            except TimeoutError:
                return Score(None, Reason.JUDGE_TIMEOUT)
            except (RayActorError, ValueError) as error:  # ValueError: no actor of that name
                logger.warning("%s is unreachable (%s)", judge_name(self._judge, (first + offset) % len(self._handles)), error)
            except RayError:
                logger.exception("%s judge call failed on question %s", self._judge, request.uid)
                return Score(None, Reason.JUDGE_ERROR)
        return Score(None, Reason.JUDGE_UNAVAILABLE)

    def _worker(self, index: int) -> Any:
        handle = self._handles[index]
        if handle is None:
            handle = self._handles[index] = ray.get_actor(judge_name(self._judge, index))
        return handle


async def _awaited(reference: Any) -> Any:
    """`asyncio.wait_for` wants a coroutine; Ray hands out awaitable references."""
    return await reference
