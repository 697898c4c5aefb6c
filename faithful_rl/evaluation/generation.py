"""Responses of the model, one line each on the disk as soon as it is there; what a crash left undone is asked on the next start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.append_log import AppendLog
from faithful_rl.evaluation.questions import Question, messages
from faithful_rl.evaluation.settings import EvaluationSettings
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Chat
from faithful_rl.judges.images import ImageError
from faithful_rl.types import Reason

TRIES = 3  # for one question, each at the next replica
LOST_IN_A_ROW = 8  # questions that no replica answered, after which the replicas are looked at
UNREADABLE, REFUSED, NO_ANSWER = "unreadable image", "the model refused the prompt", "no answer"


class GenerationError(RuntimeError):
    """No replica answers any more. What was generated is kept."""


async def probe(question: Question, chats: Sequence[Chat], settings: EvaluationSettings) -> None:
    """Ask one question for one token at each replica: its template must take a system prompt, images and a user's turn.

    Raises:
        ConfigError: it does not; the endpoint's own words are in the message.
    """
    asked = await asyncio.to_thread(messages, question, settings.mode, settings.prompt)
    for chat in chats:
        try:
            await chat.complete(asked, choices=None, json_schema=None, max_tokens=1, deadline=settings.request_seconds)
        except JudgeFailure as failure:
            found = f"{settings.model}, which did not take the first question ({failure})"
            fix = "Correct its chat template, prompt= or context=; prompt=none sends no system turn."
            raise ConfigError("model", found, "a model whose template can be applied to the benchmark", fix) from failure


async def generate(
    questions: Iterator[Question],
    chats: Sequence[Chat],
    log: AppendLog,
    settings: EvaluationSettings,
    done: Callable[[], None],
    why_gone: Callable[[], str] = lambda: "",
) -> None:
    """Ask every question that `log` holds no response of; failures are written too, and asked again on the next start.

    Args:
        done: called after each question.
        why_gone: what ended the servers, where somebody knows.

    Raises:
        GenerationError: replicas are gone.
    """
    lock, lost = asyncio.Lock(), 0

    async def work(number: int) -> None:
        nonlocal lost
        while True:
            async with lock:  # the stream reads files: one at a time, and off the loop
                question = await asyncio.to_thread(next, questions, None)
            if question is None:
                return
            line = await ask(question, chats, settings, number)
            log.append(line)
            done()
            lost = lost + 1 if str(line.get("failure", "")).startswith(NO_ANSWER) else 0
            if lost >= LOST_IN_A_ROW and not any(await asyncio.gather(*(chat.healthy() for chat in chats))):
                raise GenerationError(f"no replica of the model answers: {why_gone() or line['failure']}")

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(settings.concurrency * len(chats)):
                group.create_task(work(number))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def ask(question: Question, chats: Sequence[Chat], settings: EvaluationSettings, number: int = 0) -> dict[str, Any]:
    """One line for the log: `response`, `finish_reason` and tokens, or `failure`. Never raises for what a model or an image does."""
    try:
        asked = await asyncio.to_thread(messages, question, settings.mode, settings.prompt)
    except (ImageError, OSError, ValueError) as error:
        return {"uid": question.uid, "failure": f"{UNREADABLE}: {error}"}
    failure = ""
    for attempt in range(TRIES):
        chat = chats[(number + attempt) % len(chats)]
        try:
            said = await chat.complete(
                asked, choices=None, json_schema=None, max_tokens=settings.max_new_tokens, deadline=settings.request_seconds
            )
        except JudgeFailure as error:
            kind = REFUSED if error.reason is Reason.JUDGE_ERROR and not error.retryable else NO_ANSWER
            failure = f"{kind}: {error}"
            if not error.retryable:
                break
            continue
        return {
            "uid": question.uid,
            "response": said.text,
            "truncated": said.finish_reason == "length" if said.finish_reason else None,
            "response_tokens": said.completion_tokens or None,
            "prompt_tokens": said.prompt_tokens or None,
        }
    return {"uid": question.uid, "failure": failure}
