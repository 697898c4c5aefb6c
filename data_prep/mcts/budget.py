"""A budget of tokens that holds: a request is sent only when its most expensive outcome still fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.mcts.search import SearchSettings
from data_prep.mcts.step import Step
from data_prep.mcts.teacher import BudgetSpent, Reply, Teacher
from data_prep.record import Record


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
    """A teacher whose requests are paid from a budget."""

    def __init__(self, teacher: Teacher, budget: Budget) -> None:
        self._teacher, self.budget = teacher, budget

    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        price = self._reserve(record)
        used = 0
        try:
            reply = await self._teacher.next_step(record, steps, seed=seed)
            used = reply.tokens
        finally:
            self.budget.settle(price, used)
        return reply

    async def rest(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        price = self._reserve(record)
        used = 0
        try:
            reply = await self._teacher.rest(record, steps, seed=seed)
            used = reply.tokens
        finally:
            self.budget.settle(price, used)
        return reply

    def step_tokens(self, record: Record) -> int:
        return self._teacher.step_tokens(record)

    async def start(self) -> None:
        await self._teacher.start()

    async def close(self) -> None:
        await self._teacher.close()

    def _reserve(self, record: Record) -> int:
        price = self._teacher.step_tokens(record)
        self.budget.reserve(price)
        return price


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run asks for at most."""

    questions: int
    requests: int
    tokens: int

    def lines(self, limit: int, spent: int) -> list[str]:
        """For a person, before the start."""
        per_question = self.tokens // max(self.questions, 1)
        lines = [f"at most {self.requests:,} requests and {self.tokens:,} tokens for {self.questions:,} questions ({per_question:,} each)"]
        if limit:
            left = max(limit - spent, 0)
            enough = "enough" if left >= self.tokens else f"enough for about {left // max(per_question, 1):,} of them"
            lines.append(f"budget {limit:,} tokens, {spent:,} spent before: {enough}")
        return lines


def estimate(sample: Iterable[Record], questions: int, teacher: Teacher, settings: SearchSettings) -> Estimate:
    """From above, by the mean over `sample`: the search may meet ends of chains earlier and ask less."""
    prices = [teacher.step_tokens(record) for record in sample]
    requests = questions * settings.requests
    return Estimate(questions, requests, round(requests * sum(prices) / len(prices)) if prices else 0)
