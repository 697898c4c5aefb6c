"""What travels between client, replica and registry. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from faithful_rl.types import Reason, Score, SentenceVerdict

Verdicts = Score | list[SentenceVerdict]


class State(StrEnum):
    """What a replica does."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"  # its backend did not start or is not healthy; it tries again by itself
    DRAINING = "draining"
    UNREACHABLE = "unreachable"  # said by the registry about a replica that does not answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A replica's reply to one question: a verdict, a refusal (ask again; with a `failure` where not the replica but what stands behind it
    is busy), or a failure."""

    verdict: Verdicts | None = None
    retry_after: float | None = None  # seconds; the replica is full, starting or ending, or its endpoint is busy
    failure: Reason | None = None
    retryable: bool = True  # whether another replica, or this one later, may do better
    draining: bool = False  # beside `retry_after`: this replica will not come back
    load: int = 0  # rollouts running and queued in the replica when it replied, without this one
    version: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """A replica's report on itself, also the source of `status`."""

    name: str
    state: State
    message: str = ""  # why it is not ready
    version: str = ""
    pid: int = 0
    node: str = ""
    up_seconds: float = 0.0
    running: int = 0
    queued: int = 0
    waiting: dict[str, int] = field(default_factory=dict)  # queued per client
    counts: dict[str, Any] = field(default_factory=dict)  # `metrics.Tally.counts`


@dataclass(frozen=True, slots=True)
class Description:
    """What the registry tells a client: the settings as plain data, the replicas by judge, whether the pool still takes requests."""

    settings: dict[str, Any]
    replicas: dict[str, list[str]]
    serving: bool
    started_at: str  # UTC, ISO 8601
