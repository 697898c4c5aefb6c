"""A replica answers everything: verdicts, refusals, reasons. Without Ray: the class is plain."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from doubles import SENTENCES, Backend, request

from faithful_rl.judge_pool import replica as replica_module
from faithful_rl.judge_pool.messages import State
from faithful_rl.judge_pool.replica import Replica
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.types import Reason, Score

LONG = 1000.0  # seconds nobody waits for: a test that hangs is ended by its timeout


class Built:
    """A replica and the backends that it built."""

    def __init__(self, judge: str = "consistency", **settings: Any) -> None:
        self.backends: list[Backend] = []
        self.answer: Callable[[Any], Awaitable[Any]] | None = None
        self.moods: list[str] = []
        limits = settings.pop("limits", {})
        plain = {"health_seconds": settings.pop("health_seconds", LONG), judge: {"backend": "test", **settings}, "limits": limits}
        self.replica = Replica(judge, 0, plain, build=self.build, export_metrics=False)

    def build(self, settings: Any) -> Any:
        backend = Backend(settings, self.answer)
        if self.moods:
            backend.mood = self.moods.pop(0)
        self.backends.append(backend)
        return backend

    async def ready(self) -> Replica:
        await self.replica.health()
        for _ in range(5):
            await asyncio.sleep(0)
        return self.replica


def test_it_starts_by_itself_and_answers() -> None:
    async def run() -> None:
        built = Built()
        early = await built.replica.ask(request(), "a", LONG)
        assert early.retry_after == 0.5, "still starting: come back"
        replica = await built.ready()
        answer = await replica.ask(request(), "a", LONG)
        assert answer.verdict == Score(1.0)
        assert answer.version == "0123456789abcdef"
        health = await replica.health()
        assert (health.state, health.name) == (State.READY, "default-consistency-0")
        assert health.counts["requests"] == 2
        assert health.counts["refused"] == 1
        assert health.counts["verdicts"] == {"yes": 1}
        assert built.backends[0].settings["cache"]["memory_entries"] == 100_000

    asyncio.run(run())


def test_the_grounding_judge_gives_sentences() -> None:
    async def run() -> None:
        replica = await Built("grounding").ready()
        assert (await replica.ask(request(), "a", LONG)).verdict == SENTENCES

    asyncio.run(run())


@pytest.mark.parametrize(
    ("judge", "mood", "reason", "retryable"),
    [
        ("consistency", "broken", Reason.JUDGE_ERROR, True),
        ("consistency", "fails", Reason.JUDGE_ERROR, True),
        ("consistency", "refuses", Reason.JUDGE_ERROR, False),
        ("consistency", "nonsense", Reason.JUDGE_ERROR, True),
        ("grounding", "nonsense", Reason.JUDGE_ERROR, True),
        ("grounding", "slow", Reason.JUDGE_TIMEOUT, True),
    ],
)
def test_failures_have_a_reason_and_one_clean_line(
    judge: str, mood: str, reason: Reason, retryable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        replica = await Built(judge, mood=mood).ready()
        answer = await replica.ask(request(images=(b"\x89PNG secret pixels",)), "a", 0.02 if mood == "slow" else LONG)
        assert (answer.verdict, answer.failure, answer.retryable) == (None, reason, retryable)
        assert (await replica.health()).counts["unscored"] == {reason.name.lower(): 1}

    with caplog.at_level(logging.WARNING, logger="faithful_rl.judges"):
        asyncio.run(run())
    (line,) = caplog.messages
    told = json.loads(line)
    assert (told["event"], told["uid"], told["reason"], told["images"]) == ("judge_failed", "q1", reason.name, 1)
    assert "verysecret" not in line
    assert "pixels" not in line


def test_a_busy_endpoint_is_a_refusal_and_no_failure() -> None:
    async def run() -> None:
        replica = await Built("grounding", mood="busy").ready()
        answer = await replica.ask(request(), "a", LONG)
        assert (answer.verdict, answer.retry_after, answer.failure, answer.draining) == (None, 0.01, Reason.JUDGE_UNAVAILABLE, False)
        counts = (await replica.health()).counts
        assert (counts["refused"], counts["unscored"]) == (1, {})

    asyncio.run(run())


def test_an_endpoint_that_asks_for_a_rest_gets_it_from_every_rollout() -> None:
    async def run() -> None:
        built = Built()

        async def answer(one: Any) -> Score:
            if one.uid == "first":
                raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "answered 429", retry_after=30.0)
            return Score(1.0)

        built.answer = answer
        replica = await built.ready()
        assert (await replica.ask(request("first"), "a", LONG)).retry_after == 30.0
        second = await replica.ask(request("second"), "b", LONG)
        assert second.retry_after is not None
        assert 0.0 < second.retry_after <= 30.0
        assert built.backends[0].seen == ["first"]
        replica._busy_until = 0.0  # the rest is over
        assert (await replica.ask(request("second"), "b", LONG)).verdict == Score(1.0)

    asyncio.run(run())


def test_an_unscored_verdict_is_an_answer() -> None:
    async def run() -> None:
        replica = await Built("grounding", mood="unscored").ready()
        assert (await replica.ask(request(), "a", LONG)).verdict == Score(None, Reason.NOTHING_TO_JUDGE)

    asyncio.run(run())


def test_a_full_queue_refuses_and_says_when_to_return() -> None:
    async def run() -> None:
        built = Built(limits={"concurrency_per_replica": 1, "queue_per_replica": 2})
        go = asyncio.Event()

        async def answer(_: Any) -> Score:
            await go.wait()
            return Score(1.0)

        built.answer = answer
        replica = await built.ready()
        tasks = [asyncio.create_task(replica.ask(request(f"q{number}"), "a", LONG)) for number in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        refused = await replica.ask(request("q3"), "a", LONG)
        assert refused.retry_after is not None
        assert (refused.verdict, refused.failure, refused.load, refused.draining) == (None, None, 3, False)
        late = asyncio.create_task(replica.ask(request("q4"), "b", LONG))  # another client gets its share
        await asyncio.sleep(0)
        health = await replica.health()
        assert health.waiting == {"a": 1, "b": 1}
        go.set()
        ends = [await task for task in tasks] + [await late]
        assert [end.verdict for end in ends] == [Score(1.0), Score(1.0), None, Score(1.0)]
        assert ends[2].retry_after is not None

    asyncio.run(run())


def test_a_backend_that_does_not_start_is_told_and_tried_again() -> None:
    async def run() -> None:
        built = Built("grounding", health_seconds=0.001)
        built.moods = ["does not start", "fine"]
        await built.replica.health()
        await asyncio.sleep(0)
        health = await built.replica.health()
        assert health.state is State.FAILED
        assert health.message == "grounding.base_url: found no answer at http://127.0.0.1:1, expected a running endpoint. Start it."
        answer = await built.replica.ask(request(), "a", LONG)
        assert (answer.failure, answer.retryable) == (Reason.JUDGE_UNAVAILABLE, True)
        assert built.backends[0].closed, "what was half started is ended"
        while (await built.replica.health()).state is not State.READY:
            await asyncio.sleep(0.001)
        assert (await built.replica.ask(request(), "a", LONG)).verdict == SENTENCES

    asyncio.run(run())


def test_an_unhealthy_backend_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        built = Built(health_seconds=0.001)
        replica = await built.ready()
        built.backends[0].is_healthy = False
        while len(built.backends) < 2:
            await asyncio.sleep(0.001)
        assert built.backends[0].closed
        while (await replica.health()).state is not State.READY:
            await asyncio.sleep(0.001)
        assert (await replica.ask(request(), "a", LONG)).verdict == Score(1.0)
        await replica.drain(LONG)

    monkeypatch.setattr(replica_module, "UNHEALTHY_LOOKS", 2)
    asyncio.run(run())


def test_drain_finishes_and_reports_what_is_left() -> None:
    async def run(seconds: float) -> dict[str, int]:
        built = Built(limits={"concurrency_per_replica": 1})
        go = asyncio.Event()

        async def answer(_: Any) -> Score:
            await go.wait()
            return Score(1.0)

        built.answer = answer
        replica = await built.ready()
        tasks = [asyncio.create_task(replica.ask(request(f"q{number}"), "a", LONG)) for number in range(3)]
        await asyncio.sleep(0)
        draining = asyncio.create_task(replica.drain(seconds))
        await asyncio.sleep(0)
        late = await replica.ask(request("late"), "a", LONG)
        assert (late.draining, late.verdict) == (True, None)
        if seconds:
            go.set()
        report = await draining
        go.set()
        ends = [await task for task in tasks]
        assert [end.verdict is not None for end in ends] == ([True] * 3 if seconds else [True, False, False])
        assert built.backends[0].closed
        return report

    assert asyncio.run(run(LONG)) == {"left": 0}
    assert asyncio.run(run(0.0)) == {"left": 3}
