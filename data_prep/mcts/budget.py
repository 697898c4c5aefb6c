"""A budget of tokens that holds: a request is sent only when its most expensive outcome still fits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from data_prep.mcts.search import SearchSettings
from data_prep.mcts.step import Step
from data_prep.mcts.teacher import BudgetSpent, Reply, Teacher, TeacherFailure
from data_prep.record import Record
from data_prep.sampling import ATTEMPTS, FIRST_PAUSE_SECONDS

logger = logging.getLogger(__name__)

ASSUMED_STEP = 200  # bytes of a step's text in an estimate


@dataclass(slots=True)
class Budget:
    """Tokens, prompt and completion together. `limit` 0: none. `reserved` belongs to requests on their way."""

    limit: int = 0
    spent: int = 0
    reserved: int = 0

    def reserve(self, tokens: int) -> None:
        """Raises BudgetSpent when `tokens` more could exceed the limit."""
        if self.limit and self.spent + self.reserved + tokens > self.limit:
            raise BudgetSpent(f"{self.spent} of {self.limit} tokens are spent and the next request may take {tokens}")
        self.reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """A request is over: what it reserved is free again, what it used is spent."""
        self.reserved -= reserved
        self.spent += used


class Metered:
    """A teacher whose requests are paid from a budget, every attempt by itself.

    One that failed, or was cancelled, after it may have reached a server costs all that was reserved for it."""

    def __init__(self, teacher: Teacher, budget: Budget, attempts: int = ATTEMPTS, pause: float = FIRST_PAUSE_SECONDS) -> None:
        """`attempts` of one request; `pause`: seconds before the second one, doubled after every failure."""
        self._teacher, self.budget, self._attempts, self._pause = teacher, budget, attempts, pause

    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        return await self._paid(self.step_tokens(record, steps), lambda: self._teacher.next_step(record, steps, seed=seed))

    async def rest(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        return await self._paid(self.step_tokens(record, steps), lambda: self._teacher.rest(record, steps, seed=seed))

    def step_tokens(self, record: Record, steps: Sequence[Step]) -> int:
        return self._teacher.step_tokens(record, steps)

    async def start(self) -> None:
        await self._teacher.start()

    async def close(self) -> None:
        await self._teacher.close()

    async def _paid(self, price: int, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        for attempt in range(self._attempts):
            self.budget.reserve(price)
            used = price  # unless something better is known of it
            try:
                reply = await ask()
                used = reply.tokens
                return reply
            except TeacherFailure as failure:
                used = price if failure.sent else 0
                if not failure.retryable or attempt + 1 == self._attempts:
                    raise
                wait = max(self._pause * 2**attempt, failure.pause)
                logger.warning("attempt %d of %d failed: %s", attempt + 1, self._attempts, failure)
            finally:
                self.budget.settle(price, used)
            await asyncio.sleep(wait)
        raise TeacherFailure("no attempt was allowed", sent=False)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run asks for at most, with steps of a usual length."""

    questions: int
    requests: int
    tokens: int

    def lines(self, limit: int, spent: int) -> list[str]:
        """For a person, before the start."""
        per_question = self.tokens // max(self.questions, 1)
        most = f"at most {self.requests:,} requests and about {self.tokens:,} tokens"
        lines = [f"{most} for {self.questions:,} questions ({per_question:,} each)"]
        if limit:
            left = max(limit - spent, 0)
            enough = "enough" if left >= self.tokens else f"enough for about {left // max(per_question, 1):,} of them"
            lines.append(f"budget {limit:,} tokens, {spent:,} spent before: {enough}")
        return lines


def estimate(sample: Iterable[Record], questions: int, teacher: Teacher, settings: SearchSettings) -> Estimate:
    """From above, by the mean over `sample`: the search may meet ends of chains earlier and ask less.

    A step is taken to have `ASSUMED_STEP` bytes and a box; the budget itself reserves by the steps that there are.
    """
    totals = [_most(record, teacher, settings) for record in sample]
    return Estimate(questions, questions * settings.requests, round(questions * sum(totals) / len(totals)) if totals else 0)


def _most(record: Record, teacher: Teacher, settings: SearchSettings) -> int:
    """Tokens of one tree: the node of the n-th simulation lies n steps below the question at most, the first one at 0."""
    width, height = record.images[0].wh
    step = Step("x" * ASSUMED_STEP, (0.0, 0.0, float(width), float(height)))
    prices = [teacher.step_tokens(record, [step] * depth) for depth in range(min(settings.simulations, settings.depth) + 1)]
    deepest = len(prices) - 2  # the rollouts of a node's children have one step more before them
    return sum(
        settings.branching * (prices[min(number, deepest)] + settings.rollouts * prices[min(number, deepest) + 1])
        for number in range(settings.simulations)
    )
