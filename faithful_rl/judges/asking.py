"""One question to a chat model, asked once: verdicts kept before are found, and equal questions on their way are shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from faithful_rl.judges.backend import JudgeFailure, Usage
from faithful_rl.judges.cache import VerdictCache, content_key
from faithful_rl.judges.chat import Chat
from faithful_rl.judges.prompts import Messages
from faithful_rl.types import Reason

QUOTED_CHARACTERS = 60  # of an answer that is no verdict, in messages


@dataclass(frozen=True)
class Question:
    """What to ask and what counts as an answer. `valid` says whether a text is a verdict; `digests`: image digest by URL."""

    kind: str
    messages: Messages
    valid: Callable[[str], bool]
    max_tokens: int
    choices: tuple[str, ...] | None = None
    json_schema: dict[str, Any] | None = None
    digests: Mapping[str, str] | None = None


class Asker:
    """Asks `Question`s of one chat. An answer that is no verdict is a failure and is not kept.

    An equal question that comes while the first is on its way waits for the same answer. The call goes on when those who wait have
    gone, within the first one's deadline: its answer is kept.
    """

    def __init__(self, chat: Chat, cache: VerdictCache, version: str, decoding: Mapping[str, Any]) -> None:
        self._chat, self._cache, self._version, self._decoding = chat, cache, version, dict(decoding)
        self._flights: dict[str, asyncio.Task[str]] = {}
        self.usage = Usage()

    async def ask(self, question: Question, deadline: float) -> str:
        """The verdict's text, for which `question.valid` holds, within `deadline` seconds.

        Raises:
            JudgeFailure: no verdict.
        """
        end = asyncio.get_running_loop().time() + deadline
        key = self._key(question)
        kept = await self._cache.lookup(key)
        if kept is None:
            kept = self._cache.peek(key)  # a flight may have landed while the disk was read
        if kept is not None and question.valid(kept):
            self.usage.cache_hits += 1
            return kept
        while True:
            flight, mine = self._flights.get(key), False
            if flight is None:
                flight, mine = self._take_off(key, question, end - asyncio.get_running_loop().time()), True
            else:
                self.usage.shared += 1
            try:
                return await self._landed(flight, end)
            except JudgeFailure as failure:
                # Whoever asked first may have had less time than we have.
                late = failure.reason is Reason.JUDGE_TIMEOUT and not mine and asyncio.get_running_loop().time() < end
                if not late:
                    raise

    async def close(self) -> None:
        """Give up what is on its way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _take_off(self, key: str, question: Question, left: float) -> asyncio.Task[str]:
        flight = asyncio.get_running_loop().create_task(self._fly(key, question, left))
        self._flights[key] = flight

        def landed(done: asyncio.Task[str]) -> None:
            self._flights.pop(key, None)
            if not done.cancelled():
                done.exception()  # those who waited may be gone; asyncio complains about exceptions that nobody read

        flight.add_done_callback(landed)
        return flight

    async def _landed(self, flight: asyncio.Task[str], end: float) -> str:
        left = end - asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(asyncio.shield(flight), left)
        except TimeoutError:
            raise JudgeFailure(Reason.JUDGE_TIMEOUT, "no answer before the deadline") from None
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "the judge was closed") from None

    async def _fly(self, key: str, question: Question, left: float) -> str:
        if left <= 0:
            raise JudgeFailure(Reason.JUDGE_TIMEOUT, "no time left to ask")
        self.usage.calls += 1
        completion = await self._chat.complete(
            question.messages,
            choices=question.choices,
            json_schema=question.json_schema,
            max_tokens=question.max_tokens,
            deadline=left,
        )
        self.usage.prompt_tokens += completion.prompt_tokens
        self.usage.completion_tokens += completion.completion_tokens
        if not question.valid(completion.text):
            shown = completion.text[:QUOTED_CHARACTERS]
            raise JudgeFailure(Reason.JUDGE_ERROR, f"the model answered {shown!r}, which is no verdict")
        self._cache.store(key, completion.text)
        return completion.text

    def _key(self, question: Question) -> str:
        decoding = {
            **self._decoding,
            "choices": question.choices,
            "json_schema": question.json_schema is not None,
            "max_tokens": question.max_tokens,
        }
        return content_key(self._version, self._chat.model, question.kind, question.messages, decoding, question.digests)
