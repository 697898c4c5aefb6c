"""What a judge actor and its client do when judges are slow, broken or gone. Without Ray: the classes are plain."""

import asyncio
from typing import Any

import pytest

ray = pytest.importorskip("ray")
from ray.exceptions import RayActorError  # noqa: E402

from faithful_rl.judges.request import JudgeRequest  # noqa: E402
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict  # noqa: E402
from faithful_rl.verl_plugin import judge_workers  # noqa: E402
from faithful_rl.verl_plugin.judge_workers import JudgeClient, JudgeWorker, build_backend  # noqa: E402

REQUEST = JudgeRequest(uid="q1", question="?", options=(), reasoning="r", answer="A")
VERDICTS = [SentenceVerdict("The circle is red.", 0, 18, Verdict.CORRECT)]


class Backend:
    """Behaves as `settings["mood"]` says."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._mood = settings.get("mood", "fine")

    async def _answer(self, verdict: Any) -> Any:
        if self._mood == "broken":
            raise RuntimeError("no such scene")
        if self._mood == "slow":
            await asyncio.Event().wait()
        return verdict

    async def consistency(self, request: JudgeRequest) -> Score:
        return await self._answer(Score(1.0))

    async def grounding(self, request: JudgeRequest) -> list[SentenceVerdict]:
        return await self._answer(VERDICTS)


@pytest.fixture(autouse=True)
def _own_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judge_workers.BACKENDS, "test", Backend)


def worker(mood: str = "fine") -> JudgeWorker:
    return JudgeWorker("consistency", 0, {"backend": "test", "mood": mood})


class Handle:
    """What an actor handle looks like to the client: `.judge_x.remote()` gives something to await."""

    def __init__(self, inner: JudgeWorker | None) -> None:
        self.inner, self.calls = inner, 0

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            self.calls += 1
            if self.inner is None:
                raise RayActorError
            return await getattr(self.inner, name)(*args)

        return type("Method", (), {"remote": staticmethod(call)})


def ask(client: JudgeClient) -> Any:
    return asyncio.run(client.ask(REQUEST))


def test_verdicts_come_back_as_they_are() -> None:
    assert asyncio.run(worker().judge_consistency([REQUEST, REQUEST], 5.0)) == [Score(1.0)] * 2
    assert asyncio.run(worker().judge_grounding([REQUEST], 5.0)) == [VERDICTS]


def test_a_backend_that_raises_is_a_judge_error_and_not_an_exception() -> None:
    broken = worker("broken")
    assert asyncio.run(broken.judge_consistency([REQUEST], 5.0)) == [Score(None, Reason.JUDGE_ERROR)]
    assert asyncio.run(broken.health())["failed"] == 1


def test_a_backend_that_hangs_is_a_timeout() -> None:
    assert asyncio.run(worker("slow").judge_grounding([REQUEST], 0.01)) == [Score(None, Reason.JUDGE_TIMEOUT)]


def test_requests_are_spread_over_the_replicas() -> None:
    handles = [Handle(worker()), Handle(worker())]
    client = JudgeClient("consistency", 2, 5.0, handles)
    assert [ask(client) for _ in range(4)] == [Score(1.0)] * 4
    assert [handle.calls for handle in handles] == [2, 2]


def test_a_replica_that_is_gone_is_passed_over() -> None:
    client = JudgeClient("grounding", 2, 5.0, [Handle(None), Handle(worker())])
    assert [ask(client) for _ in range(3)] == [VERDICTS] * 3


def test_no_replica_at_all_is_unavailable() -> None:
    assert ask(JudgeClient("grounding", 2, 5.0, [Handle(None), Handle(None)])) == Score(None, Reason.JUDGE_UNAVAILABLE)


def test_a_replica_that_never_answers_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def judge_consistency(self, *args: Any) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(judge_workers, "GRACE_SECONDS", 0.01)
    assert ask(JudgeClient("consistency", 1, 0.01, [Handle(Silent())])) == Score(None, Reason.JUDGE_TIMEOUT)  # type: ignore[arg-type]


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"judge backend 'gpt' is unknown, expected one of scene, test"):
        build_backend({"backend": "gpt"})


def test_an_unknown_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="judge 'style' is unknown"):
        JudgeClient("style", 1, 1.0)
