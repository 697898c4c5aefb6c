"""A judge without a model, for benchmarks and for tests of what happens when judges are slow or fail.

Its verdicts are drawn from a hash of the seed and the question: the same question gets the same verdict in every process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from faithful_rl.judges import options
from faithful_rl.judges.backend import JudgeBackend, JudgeFailure, Usage
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.language_judge import LANGUAGE_KEYS, build_language_judge
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.verdicts import SENTENCE_CHOICES
from faithful_rl.rewards.sentences import non_trivial
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

FAILURE_CYCLE = (Reason.JUDGE_ERROR, Reason.JUDGE_UNAVAILABLE, Reason.JUDGE_TIMEOUT)
CHARACTERS_PER_TOKEN = 4


class Behaviour:
    """Waits, fails in turn and draws: what both fakes have in common."""

    def __init__(self, latency_seconds: float = 0.05, fail_every: int = 0, seed: int = 0) -> None:
        """
        Args:
            latency_seconds: of each answer, >= 0.
            fail_every: every so many calls one fails, in turn as error, unavailable and timed out; 0: never.
        """
        self._latency, self._fail_every, self._seed = latency_seconds, fail_every, seed
        self._calls = 0

    async def act(self, deadline: float) -> None:
        """Take the time of one call. Raises JudgeFailure when it is its turn to fail or the deadline is shorter than the latency."""
        self._calls += 1
        call = self._calls
        await asyncio.sleep(min(self._latency, max(deadline, 0.0)))
        if deadline < self._latency:
            raise JudgeFailure(Reason.JUDGE_TIMEOUT, "the fake judge is slower than the deadline")
        if self._fail_every and call % self._fail_every == 0:
            reason = FAILURE_CYCLE[(call // self._fail_every - 1) % len(FAILURE_CYCLE)]
            raise JudgeFailure(reason, f"the fake judge fails every {self._fail_every} calls")

    def draw(self, number: int, *content: Any) -> int:
        """One of 0 .. `number` - 1, the same for the same content."""
        text = json.dumps([self._seed, *content], sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % number


class FakeBackend:
    """Verdicts right away: no prompt, no image, no cache. One call answers a whole rollout."""

    def __init__(self, behaviour: Behaviour, version: str) -> None:
        self._behaviour, self._version, self._usage = behaviour, version, Usage()

    async def consistency(self, request: JudgeRequest, deadline: float) -> Score:
        self._usage.calls += 1
        await self._behaviour.act(deadline)
        return Score(float(self._behaviour.draw(4, "consistency", request.question, request.reasoning, request.answer) > 0))

    async def grounding(self, request: JudgeRequest, deadline: float) -> list[SentenceVerdict] | Score:
        self._usage.calls += 1
        await self._behaviour.act(deadline)
        return [
            SentenceVerdict(one.text, one.start, one.end, Verdict(self._behaviour.draw(3, "grounding", request.question, one.text)))
            for one in non_trivial(request.reasoning)
        ]

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to end."""

    async def healthy(self) -> bool:
        return True

    def version(self) -> str:
        return self._version

    def usage(self) -> Usage:
        return replace(self._usage)


class FakeChat:
    """A chat model that picks one of the allowed words, so that prompts, images, cache and parsing are the real ones."""

    model = "fake"

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        choices: tuple[str, ...] | None,
        json_schema: dict[str, Any] | None,
        max_tokens: int,
        deadline: float,
    ) -> Completion:
        await self._behaviour.act(deadline)
        content = messages[-1]["content"]
        text = content if isinstance(content, str) else str(content[-1]["text"])
        if json_schema is not None:
            words = {key: SENTENCE_CHOICES[self._behaviour.draw(3, text, key)] for key in json_schema["required"]}
            answer = json.dumps(words)
        else:
            answer = "" if not choices else choices[self._behaviour.draw(len(choices), text)]
        return Completion(answer, len(text) // CHARACTERS_PER_TOKEN, 1 + len(answer) // CHARACTERS_PER_TOKEN)

    async def healthy(self) -> bool:
        return True

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to end."""


def build_fake(settings: Mapping[str, Any]) -> JudgeBackend:
    """From `latency_seconds`, `fail_every`, `seed`; with `through_prompts: true` a `LanguageJudge` on a `FakeChat`, else a `FakeBackend`.

    Raises:
        ConfigError: a key is unknown or wrong.
    """
    options.refuse_unknown(settings, ("latency_seconds", "fail_every", "seed", "through_prompts", *LANGUAGE_KEYS), "fake")
    seed = options.whole(settings, "fake", "seed", 0, 0)
    behaviour = Behaviour(
        options.real(settings, "fake", "latency_seconds", 0.05, positive=False), options.whole(settings, "fake", "fail_every", 0, 0), seed
    )
    if options.flag(settings, "fake", "through_prompts", False):
        return build_language_judge(FakeChat(behaviour), settings, "fake", {"seed": seed})
    return FakeBackend(behaviour, hashlib.sha256(f"fake {seed}".encode()).hexdigest()[:16])
