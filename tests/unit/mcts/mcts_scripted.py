"""A teacher over a small, fully known tree of steps, and what exhaustive search says of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from random import Random

from PIL import Image as Pillow

from data_prep.mcts.step import Step
from data_prep.mcts.teacher import Reply
from data_prep.record import Image, Record

# Text of a step -> texts that may follow. A leaf is "!A" or "!B": a step that answers.
Game = Mapping[str, Sequence[str]]


def png(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (width, height), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def record(uid: str = "q", **changes: object) -> Record:
    fields: dict[str, object] = {
        "uid": uid,
        "dataset": "made",
        "split": "train",
        "question": "Which one?",
        "options": ("one", "two"),
        "gold_index": 0,
        "gold_text": "one",
        "images": (Image(png(), None, 64, 48),),
    }
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


def step(text: str) -> Step:
    return Step(f"So it is {text[1:]}.", answer=text[1]) if text.startswith("!") else Step(text)


class GameTeacher:
    """Draws what follows uniformly. Counts its requests; `fail_at` makes the request of that number fail."""

    def __init__(self, game: Game, fail_at: int = -1, failure: Exception | None = None) -> None:
        self.game, self.requests, self.fail_at, self.failure = game, 0, fail_at, failure

    def _following(self, steps: Sequence[Step]) -> Sequence[str]:
        return self.game[steps[-1].text if steps else ""]

    def _count(self) -> None:
        self.requests += 1
        if self.requests - 1 == self.fail_at and self.failure is not None:
            raise self.failure

    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        self._count()
        return Reply((step(Random(seed).choice(self._following(steps))),), 10)

    async def rest(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        self._count()
        rng, written = Random(seed), list(steps)
        while not written or written[-1].answer is None:
            written.append(step(rng.choice(self._following(written))))
        return Reply(tuple(written[len(steps) :]), 30)

    def step_tokens(self, record: Record, steps: Sequence[Step]) -> int:
        return 50

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def exact_value(game: Game, text: str) -> float:
    """Expected reward (gold answer A) of continuing uniformly from a step, by enumeration."""
    if text.startswith("!"):
        return float(text[1] == "A")
    return sum(exact_value(game, following) for following in game[text]) / len(game[text])
