"""Workers that say when they are idle end the trainer's sleep. Real Ray actors; a wait that had to run out would take ten minutes."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
import ray

from faithful_rl.verl_plugin.finish_signal import FinishSignal, end_sleep_when_finished

CPUS = 4  # of the Ray that `cluster` starts
LONG = 600.0  # seconds that no test may wait
ANSWER = 120.0


def worker() -> Any:
    class Worker:  # inside, so that Ray ships the class itself: its workers cannot import this module
        def __init__(self) -> None:
            import asyncio

            self._free = asyncio.Event()
            self._questions = 0

        async def idle(self) -> None:
            self._questions += 1
            await self._free.wait()

        async def finish(self) -> None:
            self._free.set()

        async def questions(self) -> int:
            return self._questions

    handle = ray.remote(Worker).options(num_cpus=0).remote()
    assert ray.get(handle.questions.remote(), timeout=ANSWER) == 0
    return handle


def finish(*workers: Any) -> None:
    ray.get([one.finish.remote() for one in workers], timeout=ANSWER)


def test_the_wait_ends_when_the_last_worker_is_idle(cluster: None) -> None:
    first, second = worker(), worker()
    signal = FinishSignal([first, second])
    finish(first)
    assert signal.wait(0.01)  # one is busy: the time ran out
    finish(second)
    assert signal.wait(LONG)
    assert ray.get([first.questions.remote(), second.questions.remote()], timeout=ANSWER) == [1, 1]  # asked once for both waits


def test_idle_workers_end_every_second_wait_only(cluster: None) -> None:
    one = worker()
    finish(one)
    signal = FinishSignal([one])
    assert [signal.wait(LONG) for _ in range(5)] == [True, False, True, False, True]


def test_a_worker_that_has_died_is_not_waited_for(cluster: None) -> None:
    one = worker()
    signal = FinishSignal([one])
    assert signal.wait(0.01)
    ray.kill(one)
    assert signal.wait(LONG)


def test_nobody_to_ask_leaves_the_sleep_to_the_caller() -> None:
    assert not FinishSignal([]).wait(LONG)


class Buffer:
    """verl's replay buffer, as far as it sleeps."""

    def __init__(self) -> None:
        self.poll_interval = LONG
        self.slept: list[float] = []
        self.fails = False

    def _wait_for_next_poll(self, partition: str, last: float) -> float:
        self.slept.append(self.poll_interval)
        if self.fails:
            raise RuntimeError("interrupted")
        return last + 1.0


def test_a_buffer_sleeps_not_at_all_after_the_last_rollout_and_its_own_interval_otherwise(cluster: None) -> None:
    one = worker()
    finish(one)
    buffer = Buffer()
    end_sleep_when_finished(buffer, [one])
    assert [buffer._wait_for_next_poll("train", 1.0), buffer._wait_for_next_poll("train", 2.0)] == [2.0, 3.0]
    assert buffer.slept == [0.0, LONG]
    buffer.fails = True
    with pytest.raises(RuntimeError, match="interrupted"):
        buffer._wait_for_next_poll("train", 3.0)
    assert buffer.poll_interval == LONG


def test_without_workers_that_tell_the_buffer_sleeps_as_before() -> None:
    buffer = Buffer()
    end_sleep_when_finished(buffer, [])
    assert buffer._wait_for_next_poll("train", 1.0) == 2.0
    assert buffer.slept == [LONG]


def test_a_worker_is_idle_when_all_it_was_asked_for_has_ended() -> None:
    pytest.importorskip("verl")
    import asyncio

    from faithful_rl.verl_plugin.rollout_workers import FaithfulAgentLoopWorker

    async def scenario() -> list[str]:
        seen: list[str] = []
        host = SimpleNamespace(background_tasks=set[asyncio.Task[None]]())

        async def work(name: str, then: str | None = None) -> None:
            await asyncio.sleep(0)
            seen.append(name)
            if then:  # a prompt drawn anew while others end
                add(then)

        def add(name: str, then: str | None = None) -> None:
            task = asyncio.create_task(work(name, then))
            host.background_tasks.add(task)
            task.add_done_callback(host.background_tasks.discard)

        add("first", then="second")
        await asyncio.wait_for(FaithfulAgentLoopWorker.idle(host), ANSWER)
        return [*seen, "idle"]

    assert asyncio.run(scenario()) == ["first", "second", "idle"]
