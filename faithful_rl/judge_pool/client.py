"""Asks a pool from any process of the Ray cluster.

A rollout has one deadline. Within it a refused or failed question goes to another replica; what cannot be answered comes back as an
unscored `Score` with its reason. `ask` never raises for a judge's fault.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import ray
from ray.exceptions import RayActorError, RayError

from faithful_rl.judge_pool import JUDGES, NAMESPACE
from faithful_rl.judge_pool.choice import affinity_key, choose
from faithful_rl.judge_pool.failure_log import clean, log_failure
from faithful_rl.judge_pool.messages import Answer, Description, Verdicts
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score

DEFAULT_TIMEOUT_SECONDS = 60.0  # where neither client nor pool says otherwise
MAX_FAILURES = 4  # answered failures of one rollout before it is given up
ATTEMPT_SHARE = 0.6  # of the time left that one replica gets while another could be asked afterwards
GRACE_SECONDS = 0.5  # the replica's own deadline comes first: its answer says why
ABSENT_SECONDS = 5.0  # for which a pool that was not found is not looked for again
OTHERS_SECONDS = 5.0  # for which a replica's report on other clients' rollouts is believed
PAUSES = (0.25, 8.0)  # seconds, first and longest pause of a replica that was lost or fails every time
FAILURES_BEFORE_PAUSE = 3  # in a row; single failures may be the rollout's, not the replica's
WAIT_SECONDS = 0.25  # between two looks for a replica when none is left to ask


class _AbsentError(Exception):
    """There is no such pool, or it is being stopped."""


@dataclass
class _Replica:
    """What this client knows about one replica."""

    name: str
    handle: Any = None
    here: int = 0  # rollouts of this client that it has
    others: int = 0  # rollouts of others, as it said last
    others_until: float = 0.0
    paused_until: float = 0.0
    strikes: int = 0

    def load(self, now: float) -> float:
        return self.here + (self.others if now < self.others_until else 0)

    def answered(self, answer: Answer, now: float) -> None:
        self.others, self.others_until = max(0, answer.load - self.here + 1), now + OTHERS_SECONDS
        if answer.verdict is not None:
            self.strikes, self.paused_until = 0, 0.0

    def failed(self, now: float) -> None:
        self.strikes += 1
        if self.strikes >= FAILURES_BEFORE_PAUSE:
            self._pause(now, self.strikes - FAILURES_BEFORE_PAUSE)

    def lost(self, now: float) -> None:
        self.strikes += 1
        self._pause(now, self.strikes - 1)
        self.handle = None  # after a restart of the pool an actor of this name is another one

    def _pause(self, now: float, doublings: int) -> None:
        first, longest = PAUSES
        self.paused_until = now + min(longest, first * 2.0 ** min(doublings, 10))


@dataclass
class _Try:
    """One rollout on its way."""

    request: JudgeRequest
    key: str
    end: float  # of the deadline, on the monotonic clock
    failures: int = 0
    last: Reason | None = None
    tried: set[str] = field(default_factory=set)  # in this round over the replicas
    wait: float = WAIT_SECONDS

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def default_client_name() -> str:
    """Fair share is between these: `FAITHFUL_JUDGES_CLIENT`, else the Ray job, so that all processes of a run are one client."""
    return os.environ.get("FAITHFUL_JUDGES_CLIENT") or (
        f"job-{ray.get_runtime_context().get_job_id()}" if ray.is_initialized() else "local"
    )


class PoolClient:
    """Client of one judge ("consistency" or "grounding") of the pool `pool_name`.

    `timeout_seconds` None: as the pool's settings say. Ray must be initialised in this process; a client can be used from several
    event loops one after the other.
    """

    def __init__(self, pool_name: str, judge: str, timeout_seconds: float | None = None, client_name: str | None = None) -> None:
        if judge not in JUDGES:
            raise ValueError(f"judge {judge!r} is unknown, expected one of {', '.join(JUDGES)}")
        self._pool, self._judge, self._timeout, self._client = pool_name, judge, timeout_seconds, client_name
        self._replicas: dict[str, _Replica] = {}
        self._description: Description | None = None
        self._absent_until = 0.0
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._counts: Counter[str] = Counter()
        self.versions: set[str] = set()  # of the judges whose verdicts were returned

    def counts(self) -> dict[str, int]:
        """`asked`; ends by name (`scored`, `judge_timeout`, ...), which add up to it; and on the way `attempts`, `refused`, `failed`,
        `unreachable`."""
        return dict(self._counts)

    async def ask(self, request: JudgeRequest) -> Verdicts:
        """A verdict (`Score` of the consistency judge, sentence verdicts of the grounding judge), or an unscored `Score`:
        JUDGE_UNAVAILABLE without a pool or a replica that can be reached, JUDGE_TIMEOUT when the deadline passed, else what the last
        replica that failed said."""
        began = time.monotonic()
        self._counts["asked"] += 1
        try:
            verdict = await self._ask(request, began)
        except _AbsentError:
            verdict = Score(None, Reason.JUDGE_UNAVAILABLE)
        except Exception as error:  # noqa: BLE001  whatever goes wrong between here and a judge, the rollout's other rewards stand
            log_failure("client_error", pool=self._pool, judge=self._judge, uid=request.uid, message=f"{type(error).__name__}: {error}")
            verdict = Score(None, Reason.JUDGE_ERROR)
        unscored = isinstance(verdict, Score) and not verdict.scored
        end = verdict.reason.name.lower() if unscored and isinstance(verdict, Score) else "scored"
        self._counts[end] += 1
        if unscored:
            log_failure(
                "rollout_unscored", pool=self._pool, judge=self._judge, uid=request.uid, reason=end.upper(),
                seconds=round(time.monotonic() - began, 3), images=len(request.images), image_bytes=sum(map(len, request.images)),
                reasoning_characters=len(request.reasoning),
            )  # fmt: skip
        return verdict

    async def _ask(self, request: JudgeRequest, began: float) -> Verdicts:
        timeout = self._timeout or DEFAULT_TIMEOUT_SECONDS
        await self._find(timeout)
        if self._timeout is None and self._description is not None:
            timeout = float(self._description.settings[self._judge].get("timeout_seconds", timeout))
        trial = _Try(request, affinity_key(request), began + timeout)
        while trial.left > 0:
            await self._find(trial.left)  # another rollout may have found out meanwhile that the pool is gone
            replica = self._choose(trial)
            if replica is None:
                await asyncio.sleep(min(trial.wait, max(trial.left, 0.0)))
                trial.tried.clear()
                trial.wait = WAIT_SECONDS
                continue
            answer = await self._attempt(replica, trial)
            if answer is not None and answer.verdict is not None:
                self.versions.add(answer.version)
                return answer.verdict
            if trial.failures >= MAX_FAILURES or (answer is not None and not answer.retryable):
                break
        return Score(None, trial.last or Reason.JUDGE_TIMEOUT)

    def _choose(self, trial: _Try) -> _Replica | None:
        """The replica to ask now; None when all have been tried in this round or pause."""
        now = time.monotonic()
        open_now = [one for one in self._replicas.values() if one.name not in trial.tried and one.paused_until <= now]
        if not open_now:
            return None
        return self._replicas[choose(trial.key, {one.name: one.load(now) for one in open_now})]

    async def _attempt(self, replica: _Replica, trial: _Try) -> Answer | None:
        """Ask one replica. None: it could not be reached, or did not answer in time."""
        trial.tried.add(replica.name)
        more = any(name not in trial.tried for name in self._replicas)
        deadline = trial.left * ATTEMPT_SHARE if more else trial.left
        self._counts["attempts"] += 1
        replica.here += 1
        reference = None
        try:
            async with asyncio.timeout(deadline + GRACE_SECONDS):
                if replica.handle is None:
                    replica.handle = await asyncio.to_thread(ray.get_actor, replica.name, NAMESPACE)
                reference = replica.handle.ask.remote(trial.request, self._client_name(), deadline)
                answer: Answer = await reference
        except TimeoutError:
            self._lost(replica, trial, Reason.JUDGE_TIMEOUT, "no answer within its deadline")
            _cancel(reference)
            return None
        except (RayActorError, ValueError) as error:  # ValueError: no actor of that name
            self._lost(replica, trial, Reason.JUDGE_UNAVAILABLE, f"{type(error).__name__}: {error}")
            await self._find_again(trial.left)
            return None
        except RayError as error:  # its code raised, or the reply could not be read: as good as a failure of the judge
            self._lost(replica, trial, Reason.JUDGE_ERROR, f"{type(error).__name__}: {error}")
            trial.failures += 1
            return None
        except asyncio.CancelledError:
            _cancel(reference)
            raise
        finally:
            replica.here -= 1
        self._note(replica, answer, trial)
        if answer.draining:
            await self._find_again(trial.left)
        return answer

    def _note(self, replica: _Replica, answer: Answer, trial: _Try) -> None:
        now = time.monotonic()
        replica.answered(answer, now)
        if answer.retry_after is not None:
            self._counts["refused"] += 1
            trial.last = answer.failure or trial.last
            # Spread over half as much again by the rollout's own key, so that those refused together do not return together.
            trial.wait = max(trial.wait, answer.retry_after * (1.0 + int(trial.key[:4], 16) / 0x1FFFF))
        elif answer.failure is not None:
            self._counts["failed"] += 1
            trial.failures += 1
            trial.last = answer.failure
            replica.failed(now)

    def _lost(self, replica: _Replica, trial: _Try, reason: Reason, message: str) -> None:
        self._counts["unreachable"] += 1
        trial.last = reason
        replica.lost(time.monotonic())
        log_failure(
            "replica_lost", pool=self._pool, replica=replica.name, uid=trial.request.uid, reason=reason.name,
            message=clean(message.splitlines()[0]),
        )  # fmt: skip

    def _client_name(self) -> str:
        if self._client is None:
            self._client = default_client_name()
        return self._client

    async def _find(self, seconds: float) -> None:
        """Look the pool up unless it is known.

        Raises:
            _AbsentError: there is none, it is being stopped, it has no such judge, or it does not answer.
        """
        if self._replicas:
            return
        loop = asyncio.get_running_loop()
        async with self._locks.setdefault(loop, asyncio.Lock()):
            if self._replicas:
                return
            if time.monotonic() < self._absent_until:
                raise _AbsentError
            try:
                async with asyncio.timeout(seconds):
                    description = await describe(self._pool)
                if not description.serving or self._judge not in description.replicas:
                    raise ValueError(f"the pool is being stopped or has no {self._judge} judge")
            except (TimeoutError, RayError, ValueError) as error:
                self._absent_until = time.monotonic() + ABSENT_SECONDS
                log_failure("pool_not_found", pool=self._pool, judge=self._judge, message=clean(str(error) or "no answer"))
                raise _AbsentError from error
            self._description = description
            self._replicas = {name: _Replica(name) for name in description.replicas[self._judge]}

    async def _find_again(self, left: float) -> None:
        """After a replica was lost: is this still the same pool? One that is gone or being stopped ends the rollout at once."""
        try:
            async with asyncio.timeout(max(left, 0.0)):
                description = await describe(self._pool)
        except (TimeoutError, RayActorError):
            return  # the registry itself may be restarting
        except (RayError, ValueError):
            description = None
        if description is None or not description.serving:
            self._replicas = {}
            self._absent_until = time.monotonic() + ABSENT_SECONDS
            raise _AbsentError
        names: Iterable[str] = description.replicas.get(self._judge, [])
        self._description = description
        self._replicas = {name: self._replicas.get(name) or _Replica(name) for name in names}


def _cancel(reference: Any) -> None:
    if reference is not None:
        ray.cancel(reference, force=False)


async def describe(pool: str) -> Description:
    """What the pool's registry says.

    Raises:
        ValueError: no such pool, or Ray is not initialised in this process.
        RayError: its registry cannot be reached.
    """
    if not ray.is_initialized():  # otherwise Ray would quietly start a cluster of its own
        raise ValueError("Ray is not initialised in this process")
    handle = await asyncio.to_thread(ray.get_actor, pool, NAMESPACE)
    return await handle.describe.remote()  # type: ignore[no-any-return]
