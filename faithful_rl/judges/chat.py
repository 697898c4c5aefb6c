"""What a language judge needs of a chat model. Plain data, no client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer, as it came, and what it cost in tokens (0 where the endpoint does not say)."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = field(default="", compare=False)  # "stop", "length" (cut at max_tokens), ...; "" where it is not said


class Chat(Protocol):
    """One chat model. `messages` are OpenAI chat messages; images are `image_url` parts with data URLs."""

    model: str

    async def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        choices: tuple[str, ...] | None,
        json_schema: dict[str, Any] | None,
        max_tokens: int,
        deadline: float,
    ) -> Completion:
        """Answer at temperature 0 within `deadline` seconds, with one of `choices`, or JSON after the schema, or free text.

        Where the endpoint cannot be bound to them, the answer may be anything: callers parse strictly.

        Raises:
            JudgeFailure: there is no answer.
        """
        ...

    async def healthy(self) -> bool: ...

    async def start(self) -> None:
        """Raises ConfigError for what a user can correct."""
        ...

    async def close(self) -> None: ...
