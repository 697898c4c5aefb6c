"""Talking to a Ray cluster's dashboard without waiting for ever: one question, and a job followed to its end.

Ray's job client has no time limit of its own, so each question runs in a thread that may be left behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faithful_rl.config import ConfigError

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
MESSAGE_LIMIT = 400  # characters; some of Ray's messages are pages long


class LostJobError(RuntimeError):
    """Following ended before the job did. The message says how to take it up again."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds, all above 0."""

    poll: float = 2.0  # between two questions
    tell: float = 60.0  # between two lines
    answer: float = 30.0  # for one answer
    lost: float = 300.0  # without any answer: a head that is started again takes minutes
    longest: float = 30 * 24 * 3600.0  # in all; the run bounds each of its own steps


def ask(call: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The answer of a call to the dashboard.

    Raises:
        ConfigError: it fails, or has not answered after `seconds`.
    """
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001  handed on to the caller below
            failure.append(error)

    thread = threading.Thread(target=run, name="dashboard", daemon=True)
    thread.start()
    thread.join(seconds)
    if outcome:
        return outcome[0]
    error = failure[0] if failure else TimeoutError(f"no answer within {seconds:g} s")
    rays_own = type(error).__module__.startswith("ray.")  # a token that is not accepted, for one; by name, so that Ray need not be there
    if isinstance(error, ConfigError) or not (rays_own or isinstance(error, RuntimeError | OSError | ValueError)):
        raise error
    text = " ".join(str(error).split())[:MESSAGE_LIMIT] or type(error).__name__
    advice = "Check address=, whether the port is forwarded, and RAY_AUTH_TOKEN (see docs/when_it_fails.md)."
    if "already exists" in text:
        advice = "A job with this id was submitted before: choose another id, or leave it out."
    if "does not exist" in text:
        advice = "Check the id: `ray job list` names the cluster's jobs."
    raise ConfigError("Ray cluster", text, "a dashboard that takes the job", advice) from error


def follow(
    status: Callable[[], str],
    job: str,
    again: str,
    say: Callable[[str], None],
    patience: Patience | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """Wait for the job's end, with a line now and then; returns one of `ENDED`.

    Args:
        status: asks the dashboard for the job's state.
        again: what to do to follow the job once more, for the message where following ends early.

    Raises:
        ConfigError: the dashboard does not answer the first question.
        LostJobError: it has not answered for `patience.lost` seconds, or the job takes longer than `patience.longest`.
    """
    patience = patience or Patience()
    began = answered = told = clock()
    state, silent = str(ask(status, patience.answer)), False
    while state not in ENDED:
        if clock() - began >= patience.longest:
            raise LostJobError(f"job {job} is {state} after {patience.longest:g} s, the longest that it is followed. It goes on. {again}")
        wait(patience.poll)
        try:
            state = str(ask(status, patience.answer))
        except ConfigError as error:
            gone = clock() - answered
            if gone >= patience.lost:
                raise LostJobError(
                    f"the dashboard has not answered for {gone:.0f} s ({error.found}); job {job} was {state} and may go on. {again}"
                ) from error
            if not silent:
                say(f"waiting    the dashboard does not answer ({error.found}); asked for {patience.lost:g} s more")
            silent = True
            continue
        if silent:
            say("waiting    the dashboard answers again")
        silent, answered = False, clock()
        if answered - told >= patience.tell and state not in ENDED:
            told = answered
            say(f"job        {job} is {state}, followed for {(answered - began) / 60:.0f} min")
    return state
