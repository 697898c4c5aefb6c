"""Who writes the steps: one small protocol, and what a search knows of the question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data_prep.mcts.step import Step
from data_prep.record import Record
from faithful_rl.rewards.accuracy import accuracy_score


class TeacherFailure(RuntimeError):
    """The teacher gave nothing: where asking again does not help either, the tree is left as it was saved and a later run continues it.

    Attributes:
        sent: the request may have reached a server, which then charges for it.
        retryable: the same request may do better later, after `pause` seconds where the server names them.
    """

    def __init__(self, message: str, sent: bool = True, retryable: bool = False, pause: float = 0.0) -> None:
        super().__init__(message)
        self.sent, self.retryable, self.pause = sent, retryable, pause


class BudgetSpent(RuntimeError):
    """The next request could exceed the budget of tokens, so it was not sent."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request gave.

    Attributes:
        steps: empty where the answer could not be used; one for `next_step`; up to the answer for `rest`.
        tokens: prompt and completion tokens together.
    """

    steps: tuple[Step, ...]
    tokens: int


class Teacher(Protocol):
    """Writes steps at temperature 1. With the same arguments, `seed` among them, a scripted one gives the same reply; a server may."""

    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        """One step after `steps`, perhaps with the answer. Raises TeacherFailure or BudgetSpent."""
        ...

    async def rest(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        """All steps after `steps`, the last of them with the answer. Raises TeacherFailure or BudgetSpent."""
        ...

    def step_tokens(self, record: Record, steps: Sequence[Step]) -> int:
        """A bound, from above, of the tokens of either request after `steps`: prompt and completion of one attempt."""
        ...

    async def start(self) -> None:
        """Raises ConfigError for what a user can correct."""
        ...

    async def close(self) -> None: ...


def reward(record: Record, steps: Sequence[Step]) -> float:
    """1.0 where the last step's answer is the gold one (the paper's exact match; `faithful_rl.rewards.accuracy`), else 0.0."""
    answer = steps[-1].answer if steps else None
    score = accuracy_score(answer, record.gold_text, record.options, record.gold_index)
    return score.value or 0.0


def request_seed(base: int, uid: str, *place: object) -> int:
    """A seed in [0, 2**31) for one request, by what it is for: the same request of a continued run has the same one."""
    text = "/".join([str(base), uid, *(str(part) for part in place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
