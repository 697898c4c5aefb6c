"""One judge behind its queue: what a pool's actor runs. Plain asyncio; `pool` makes a Ray actor of it.

A replica never raises for a judge's fault. It answers with a verdict, with a refusal that says when to come back, or with a reason.
It starts its backend by itself, also after Ray has restarted its process, looks after it and builds it anew when it stays unhealthy.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.failure_log import START_MESSAGE_LIMIT, clean, log_failure
from faithful_rl.judge_pool.messages import Answer, Health, State, Verdicts
from faithful_rl.judge_pool.metrics import Tally, size_class
from faithful_rl.judge_pool.queue import Busy, Draining, Turns
from faithful_rl.judge_pool.settings import PoolSettings, from_mapping, replica_name
from faithful_rl.judges.backend import JudgeBackend, JudgeFailure, build_backend
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict

HEALTH_CHECK_SECONDS = 5.0  # for a backend to say how it is
UNHEALTHY_LOOKS = 3  # in a row, before the backend is built anew
CLOSE_SECONDS = 20.0  # for a backend to end its servers
PUBLISH_SECONDS = 0.5  # between two looks at the backend's counters and the queue while questions come in
STARTING_RETRY_SECONDS = 0.5  # what a caller is asked to wait while the backend starts


class Replica:
    """Replica `index` of `judge` in the pool whose plain settings (`settings.to_mapping`) are given."""

    def __init__(
        self,
        judge: str,
        index: int,
        plain: Mapping[str, Any],
        build: Callable[[Mapping[str, Any]], JudgeBackend] = build_backend,
        export_metrics: bool = True,
    ) -> None:
        settings: PoolSettings = from_mapping(plain)
        own = settings.judges[judge]
        self._settings, self._judge, self._build = settings, judge, build
        self.name = replica_name(settings.name, judge, index)
        rate = own.limits.requests_per_second
        self._turns = Turns(own.limits.concurrency_per_replica, own.limits.queue_per_replica, None if rate is None else rate / own.replicas)
        self._tally = Tally(settings.name, judge, self.name, export_metrics)
        self._backend: JudgeBackend | None = None
        self._state, self._message, self._version = State.STARTING, "", ""
        self._unhealthy = 0
        self._keeper: asyncio.Task[None] | None = None
        self._born = time.monotonic()
        self._published = 0.0
        self._busy_until = 0.0  # on the monotonic clock: until when the endpoint wants no question

    async def ask(self, request: JudgeRequest, client: str, deadline: float) -> Answer:
        """Judge one rollout within `deadline` seconds from now, waiting for a turn included."""
        self._keep()
        self._tally.request(client)
        arrived = time.monotonic()
        if self._state is not State.READY or self._backend is None:
            return self._not_ready(request)
        try:
            self._leave_alone()
            async with self._turns.turn(client, deadline):
                self._leave_alone()
                left = deadline - (time.monotonic() - arrived)
                verdict = await asyncio.wait_for(self._ask_backend(self._backend, request, left), timeout=max(left, 0.0))
        except (Busy, Draining) as refusal:
            self._tally.refusal()
            if isinstance(refusal, Busy):
                return Answer(retry_after=refusal.retry_after, load=self._load())
            return Answer(retry_after=STARTING_RETRY_SECONDS, draining=True)
        except TimeoutError:
            return self._failed(request, Reason.JUDGE_TIMEOUT, True, "the deadline passed", arrived)
        except JudgeFailure as failure:
            if failure.retry_after is not None:
                self._busy_until = max(self._busy_until, time.monotonic() + failure.retry_after)
                self._tally.refusal()
                return Answer(retry_after=failure.retry_after, failure=failure.reason, load=self._load())
            return self._failed(request, failure.reason, failure.retryable, str(failure), arrived)
        except Exception as error:  # noqa: BLE001  a backend may raise anything; a measurement that failed is a result here
            return self._failed(request, Reason.JUDGE_ERROR, True, f"{type(error).__name__}: {error}", arrived)
        self._tally.answer(verdict, time.monotonic() - arrived, size_class(request))
        self._publish_now_and_then()
        return Answer(verdict=verdict, load=self._load(), version=self._version)

    async def health(self) -> Health:
        """State, load and counters; also wakes a replica that Ray has restarted."""
        self._keep()
        self._publish()
        return Health(
            name=self.name,
            state=self._state,
            message=self._message,
            version=self._version,
            pid=os.getpid(),
            node=platform.node(),
            up_seconds=time.monotonic() - self._born,
            running=self._turns.running,
            queued=self._turns.queued,
            waiting=self._turns.waiting(),
            counts=self._tally.counts(),
        )

    async def drain(self, seconds: float) -> dict[str, int]:
        """Take nothing new, finish what is here for at most `seconds`, end the backend.

        Returns `{"left": rollouts given up}`.
        """
        self._state, self._message = State.DRAINING, "stopping"
        self._turns.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        left = 0 if await self._turns.idle(seconds) else self._turns.running + self._turns.give_up()
        self._publish()
        await self._close_backend()
        return {"left": left}

    async def _ask_backend(self, backend: JudgeBackend, request: JudgeRequest, left: float) -> Verdicts:
        verdict: Any = await (backend.consistency(request, left) if self._judge == "consistency" else backend.grounding(request, left))
        scored_grounding = isinstance(verdict, Score) and self._judge == "grounding" and verdict.scored
        sentences = isinstance(verdict, list) and all(isinstance(one, SentenceVerdict) for one in verdict)
        if scored_grounding or not (isinstance(verdict, Score) or (sentences and self._judge == "grounding")):
            raise TypeError(f"the {self._settings.judges[self._judge].backend} backend returned a {type(verdict).__name__}")
        return verdict  # type: ignore[no-any-return]

    def _leave_alone(self) -> None:
        """An endpoint that has asked for a rest gets it from all rollouts, not only from the one that it has told so.

        Raises:
            JudgeFailure: it still rests.
        """
        left = self._busy_until - time.monotonic()
        if left > 0:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "the endpoint has asked for a rest", retry_after=left)

    def _not_ready(self, request: JudgeRequest) -> Answer:
        if self._state is State.FAILED:
            return self._failed(request, Reason.JUDGE_UNAVAILABLE, True, self._message, time.monotonic())
        self._tally.refusal()
        return Answer(retry_after=STARTING_RETRY_SECONDS, draining=self._state is State.DRAINING, load=self._load())

    def _failed(self, request: JudgeRequest, reason: Reason, retryable: bool, message: str, arrived: float) -> Answer:
        seconds = time.monotonic() - arrived
        self._tally.failure(reason, seconds, size_class(request))
        self._publish_now_and_then()
        log_failure(
            "judge_failed", replica=self.name, uid=request.uid, reason=reason.name, retryable=retryable, seconds=round(seconds, 3),
            message=message, images=len(request.images), image_bytes=sum(map(len, request.images)),
            reasoning_characters=len(request.reasoning),
        )  # fmt: skip
        return Answer(failure=reason, retryable=retryable, load=self._load(), version=self._version)

    def _load(self) -> int:
        return self._turns.running + self._turns.queued

    def _publish_now_and_then(self) -> None:
        if time.monotonic() - self._published >= PUBLISH_SECONDS:
            self._publish()

    def _publish(self) -> None:
        self._published = time.monotonic()
        if self._backend is not None:
            self._tally.used(self._backend.usage())
        self._tally.gauges(self._turns.queued, self._turns.running)

    def _keep(self) -> None:
        """The backend's keeper runs; an actor has no event loop before its first call."""
        if self._keeper is None and self._state is not State.DRAINING:
            self._keeper = asyncio.get_running_loop().create_task(self._look_after_backend())

    async def _look_after_backend(self) -> None:
        while self._state is not State.DRAINING:
            if self._backend is None:
                await self._start_backend()
            else:
                await self._check_backend(self._backend)
            await asyncio.sleep(self._settings.health_seconds)

    async def _start_backend(self) -> None:
        self._state = State.STARTING
        backend = None
        try:
            backend = self._build(self._settings.backend_settings(self._judge))
            async with asyncio.timeout(self._settings.start_seconds):
                await backend.start()
            self._version = backend.version()
        except asyncio.CancelledError:
            self._backend = backend  # `drain` ends it
            raise
        except Exception as error:  # noqa: BLE001  whatever keeps a backend from starting is told to callers and in `status`
            known = isinstance(error, ConfigError | JudgeFailure)
            self._message = clean(error if known else f"{type(error).__name__}: {error}", START_MESSAGE_LIMIT)
            self._state = State.FAILED
            log_failure("backend_not_started", replica=self.name, message=self._message)
            self._backend = backend  # so that what was half started is ended
            await self._close_backend()
            return
        self._backend, self._unhealthy, self._message, self._state = backend, 0, "", State.READY

    async def _check_backend(self, backend: JudgeBackend) -> None:
        try:
            async with asyncio.timeout(HEALTH_CHECK_SECONDS):
                healthy, message = await backend.healthy(), "its backend is not healthy"
        except Exception as error:  # noqa: BLE001  a health check may raise anything; it means "not healthy"
            healthy, message = False, f"health check: {type(error).__name__}: {error}"
        if healthy:
            self._unhealthy, self._message, self._state = 0, "", State.READY
            return
        self._unhealthy += 1
        self._message = clean(f"{message} (look {self._unhealthy} of {UNHEALTHY_LOOKS})")
        log_failure("backend_unhealthy", replica=self.name, message=self._message)
        if self._unhealthy >= UNHEALTHY_LOOKS:  # before that a busy server may only have been slow to say how it is
            self._state = State.FAILED
            await self._close_backend()

    async def _close_backend(self) -> None:
        backend, self._backend = self._backend, None
        if backend is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await backend.close()
        except Exception as error:  # noqa: BLE001  a backend that cannot end must not keep its replica from ending or starting anew
            log_failure("backend_not_closed", replica=self.name, message=f"{type(error).__name__}: {error}")
