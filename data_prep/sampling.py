"""Drawing answers from a model at temperature 1: rollouts of a base model, steps of a teacher.

Any OpenAI-compatible endpoint will do (`vllm serve MODEL`); a scripted sampler stands in for it in tests.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.images import ImageError, encode_image
from faithful_rl.judges.openai_chat import GUIDED, OpenAIChat
from faithful_rl.types import Reason

logger = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 1.0  # doubled after every failure


class Sampler(Protocol):
    """One model. `messages` are OpenAI chat messages; images are `image_url` parts with data URLs."""

    model: str

    async def sample(
        self, messages: list[dict[str, Any]], *, max_tokens: int, seed: int, json_schema: dict[str, Any] | None = None
    ) -> Completion:
        """One draw. Raises JudgeFailure when there is none, also after retries."""
        ...

    async def start(self) -> None:
        """Raises ConfigError for what a user can correct."""
        ...

    async def close(self) -> None: ...


class EndpointSampler:
    """A `Sampler` on an OpenAI-compatible endpoint, with retries for what passes (a busy server, a lost connection)."""

    def __init__(self, chat: OpenAIChat, deadline: float = 300.0, attempts: int = ATTEMPTS, pause: float = FIRST_PAUSE_SECONDS) -> None:
        """`deadline`: seconds for one attempt, waiting for a free slot included. `pause`: seconds before the second attempt."""
        self._chat, self._deadline, self._attempts, self._pause = chat, deadline, attempts, pause
        self.model = chat.model

    async def sample(
        self, messages: list[dict[str, Any]], *, max_tokens: int, seed: int, json_schema: dict[str, Any] | None = None
    ) -> Completion:
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._chat.complete(
                    messages, choices=None, json_schema=json_schema, max_tokens=max_tokens, deadline=self._deadline, seed=seed
                )
            except JudgeFailure as failure:
                if not failure.retryable or attempt == self._attempts:
                    raise
                logger.warning("attempt %d of %d failed: %s", attempt, self._attempts, failure)
                await asyncio.sleep(self._pause * 2 ** (attempt - 1))
        raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "no attempt was allowed")

    async def start(self) -> None:
        await self._chat.start()

    async def close(self) -> None:
        await self._chat.close()


def may_have_cost(failure: JudgeFailure) -> bool:
    """Whether a server may have worked on a request that failed. It did not where it was too busy, refused the key or the question, or was
    never connected to."""
    if not failure.retryable or failure.retry_after is not None:
        return False
    cause = getattr(failure.__context__, "__cause__", None)  # of the client's own error, hidden because it holds the request
    return type(cause).__name__ not in ("ConnectError", "ConnectTimeout")


def endpoint_sampler(
    base_url: str,
    model: str,
    api_key_env: str = "",
    temperature: float = 1.0,
    concurrency: int = 64,
    guided: str = "structured_outputs",
    attempts: int = ATTEMPTS,
) -> EndpointSampler:
    """A sampler from a command's keys. `api_key_env` "": the endpoint wants no key. `attempts` 1: whoever asks tries again.

    Raises:
        ConfigError: a key is missing or of no use.
    """
    for name, value, example in (("base_url", base_url, "http://127.0.0.1:8000/v1"), ("model", model, "Qwen/Qwen2.5-VL-72B-Instruct")):
        if not value:
            raise ConfigError(name, "nothing", f"text such as {example}", f"Add {name}=...")
    if not 0 < temperature <= 2:
        raise ConfigError("temperature", temperature, "a number in (0, 2]", "The paper draws at 1.0.")
    if guided not in GUIDED:
        raise ConfigError("guided", repr(guided), f"one of {', '.join(GUIDED)}", "Change guided.")
    if concurrency < 1:
        raise ConfigError("concurrency", concurrency, "a whole number >= 1", "Change concurrency.")
    chat = OpenAIChat(
        base_url, model, api_key_env or None, guided=guided, concurrency=concurrency, probe=False, key="sampler", temperature=temperature
    )
    return EndpointSampler(chat, attempts=attempts)


def image_part(data: bytes) -> dict[str, Any]:
    """A message part with an encoded image. Raises JudgeFailure (not retryable) for bytes that are no image."""
    try:
        return {"type": "image_url", "image_url": {"url": encode_image(data).url}}
    except ImageError as error:
        raise JudgeFailure(Reason.JUDGE_ERROR, str(error), retryable=False) from error


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
