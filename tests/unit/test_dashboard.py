"""The dashboard: every question ends, and a job that is followed is followed with a word now and then, or given back with a way to return."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.dashboard import LostJobError, Patience, ask, follow

AGAIN = "Follow it again: python -m faithful_rl.submit follow=mine-1."


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def answers(*states: str | Exception) -> Callable[[], str]:
    """A dashboard that gives these answers in turn, the last one for ever."""
    left: Iterator[str | Exception] = iter(states)
    last: list[str | Exception] = []

    def status() -> str:
        last[:] = [next(left, last[0] if last else "")]
        if isinstance(last[0], Exception):
            raise last[0]
        return last[0]

    return status


def followed(status: Callable[[], str], **patience: float) -> tuple[str | LostJobError, list[str], float]:
    clock, said = Clock(), list[str]()
    try:
        end: str | LostJobError = follow(status, "mine-1", AGAIN, said.append, Patience(**patience), clock, clock.wait)
    except LostJobError as error:
        end = error
    return end, said, clock.now


def test_the_end_of_a_job_is_its_state() -> None:
    assert followed(answers("PENDING", "RUNNING", "SUCCEEDED"), poll=2.0) == ("SUCCEEDED", [], 4.0)


def test_a_long_job_is_told_of_once_a_minute() -> None:
    end, said, _ = followed(answers(*["RUNNING"] * 150, "FAILED"), poll=1.0, tell=60.0)
    assert end == "FAILED"
    assert said == [f"job        mine-1 is RUNNING, followed for {minutes} min" for minutes in (1, 2)]


def test_a_dashboard_that_comes_back_costs_nothing() -> None:
    away = ConnectionError("refused")
    end, said, _ = followed(answers("RUNNING", away, away, "RUNNING", "SUCCEEDED"), poll=2.0, lost=10.0)
    assert end == "SUCCEEDED"
    assert said == [
        "waiting    the dashboard does not answer (refused); asked for 10 s more",
        "waiting    the dashboard answers again",
    ]


def test_a_lost_dashboard_ends_with_the_way_back() -> None:
    end, _, now = followed(answers("RUNNING", ConnectionError("refused")), poll=2.0, lost=10.0)
    assert now == 10.0
    assert str(end) == f"the dashboard has not answered for 10 s (refused); job mine-1 was RUNNING and may go on. {AGAIN}"


def test_following_has_an_end_of_its_own() -> None:
    end, _, now = followed(answers("PENDING"), poll=2.0, longest=6.0)
    assert now == 6.0
    assert str(end) == f"job mine-1 is PENDING after 6 s, the longest that it is followed. It goes on. {AGAIN}"


def test_a_dashboard_that_never_answered_is_a_wrong_address() -> None:
    with pytest.raises(ConfigError, match=r"found refused, expected a dashboard that takes the job\. Check address="):
        followed(answers(ConnectionError("refused")))


def test_a_question_without_an_answer_ends() -> None:
    released = threading.Event()
    try:
        with pytest.raises(ConfigError, match=r"no answer within 0\.01 s"):
            ask(released.wait, seconds=0.01)
    finally:
        released.set()


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Request failed with status code 500: Job with submission_id mine already exists", "A job with this id was submitted before"),
        ("Request failed with status code 404: Job mine does not exist", "Check the id: `ray job list`"),
        ("Request failed with status code 503", "Check address="),
    ],
)
def test_rays_errors_become_one_message(text: str, advice: str) -> None:
    def fail() -> Any:
        raise RuntimeError(text)

    with pytest.raises(ConfigError, match=advice):
        ask(fail)


def test_a_token_that_is_not_accepted_is_one_message() -> None:
    from ray.exceptions import AuthenticationError

    def fail() -> Any:
        raise AuthenticationError("Unauthorized: missing token")

    with pytest.raises(ConfigError, match="and RAY_AUTH_TOKEN"):
        ask(fail)


def test_a_fault_of_our_own_stays_one() -> None:
    with pytest.raises(KeyError):
        ask(lambda: {}["absent"])
