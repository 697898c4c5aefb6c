"""Fair turns, bounded room and the rate limit, without Ray and without waiting for clocks."""

import asyncio
from collections import Counter

import pytest

from faithful_rl.judge_pool.queue import Busy, Draining, FairQueue, RateLimit, Turns


def test_turns_go_round_the_clients() -> None:
    queue: FairQueue[int] = FairQueue(10)
    for entry in range(6):
        queue.put("greedy", entry)
    queue.put("late", 100)
    queue.put("late", 101)
    queue.put("last", 200)
    assert [queue.pop() for _ in range(9)] == [0, 100, 200, 1, 101, 2, 3, 4, 5]
    assert len(queue) == 0
    with pytest.raises(asyncio.QueueEmpty):
        queue.pop()


def test_a_full_queue_makes_room_for_those_with_less() -> None:
    queue: FairQueue[int] = FairQueue(4)
    for entry in range(4):
        assert queue.put("greedy", entry) is None
    with pytest.raises(asyncio.QueueFull):
        queue.put("greedy", 4)
    assert queue.put("late", 100) == 3, "the newest of the largest client loses its place"
    assert queue.put("late", 101) == 2
    assert queue.depths() == {"greedy": 2, "late": 2}
    with pytest.raises(asyncio.QueueFull):
        queue.put("late", 102)  # both have their share
    with pytest.raises(asyncio.QueueFull):
        queue.put("greedy", 103)
    assert queue.put("third", 300) in (1, 101)
    assert len(queue) == 4


def test_an_entry_can_be_taken_out() -> None:
    queue: FairQueue[int] = FairQueue(4)
    queue.put("a", 1)
    queue.put("b", 2)
    assert queue.remove("a", 1)
    assert not queue.remove("a", 1)
    assert not queue.remove("b", 1)
    assert queue.pop() == 2


def test_rate_limit_is_a_bucket_of_one_second() -> None:
    now = 0.0
    limit = RateLimit(2.0, lambda: now)
    taken = 0
    while limit.delay() == 0.0:
        limit.take()
        taken += 1
    assert taken == 2
    assert limit.delay() == pytest.approx(0.5)
    now = 0.5
    assert limit.delay() == 0.0
    now = 100.0
    taken = 0
    while limit.delay() == 0.0:
        limit.take()
        taken += 1
    assert taken == 2, "a pause saves up one second's worth, not more"
    slow = RateLimit(0.1, lambda: now)
    assert slow.delay() == 0.0
    slow.take()
    assert slow.delay() == pytest.approx(10.0)
    assert RateLimit(None).delay() == 0.0


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Holder:
    """Tasks that hold turns until told."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.release = asyncio.Event()
        self.order: list[str] = []
        self.ends: Counter[str] = Counter()

    async def hold(self, client: str, deadline: float = 60.0) -> None:
        try:
            async with self.turns.turn(client, deadline):
                self.order.append(client)
                await self.release.wait()
            self.ends["done"] += 1
        except (Busy, Draining, TimeoutError, asyncio.CancelledError) as error:
            self.ends[type(error).__name__] += 1

    def start(self, client: str, number: int = 1, deadline: float = 60.0) -> list["asyncio.Task[None]"]:
        return [asyncio.get_running_loop().create_task(self.hold(client, deadline)) for _ in range(number)]


def test_limits_hold_and_a_newcomer_is_not_locked_out() -> None:
    async def run() -> None:
        turns = Turns(2, 4)
        holder = Holder(turns)
        tasks = holder.start("greedy", 7)
        await _settle()
        assert (turns.running, turns.queued) == (2, 4)
        assert holder.ends == {"Busy": 1}
        tasks += holder.start("late", 2)
        await _settle()
        assert turns.waiting() == {"greedy": 2, "late": 2}
        assert holder.ends == {"Busy": 3}
        holder.release.set()
        await asyncio.gather(*tasks)
        assert holder.order == ["greedy", "greedy", "greedy", "late", "greedy", "late"]
        assert holder.ends == {"Busy": 3, "done": 6}
        assert (turns.running, turns.queued) == (0, 0)

    asyncio.run(run())


def test_a_turn_that_is_given_up_is_given_on() -> None:
    async def run() -> None:
        turns = Turns(1, 4)
        holder = Holder(turns)
        first, second, third = holder.start("a") + holder.start("b") + holder.start("c")
        await _settle()
        second.cancel()
        holder.release.set()
        await asyncio.gather(first, second, third)
        assert holder.order == ["a", "c"]
        # Cancelled in the very moment in which its turn has been granted: the turn is not lost.
        holder.release.clear()
        one, two, three = holder.start("a") + holder.start("b") + holder.start("c")
        await _settle()
        one.cancel()
        await asyncio.sleep(0)
        two.cancel()
        holder.release.set()
        await asyncio.gather(one, two, three)
        assert holder.order[-1] == "c"
        assert (turns.running, turns.queued) == (0, 0)

    asyncio.run(run())


def test_waiting_ends_with_the_deadline() -> None:
    async def run() -> None:
        turns = Turns(1, 4)
        holder = Holder(turns)
        tasks = holder.start("a") + holder.start("b", deadline=0.01)
        await tasks[1]
        assert holder.ends == {"TimeoutError": 1}
        assert turns.queued == 0
        holder.release.set()
        await tasks[0]

    asyncio.run(run())


def test_draining_finishes_what_is_queued_and_refuses_the_rest() -> None:
    async def run() -> None:
        turns = Turns(1, 4)
        holder = Holder(turns)
        tasks = holder.start("a", 3)
        await _settle()
        turns.close()
        tasks += holder.start("b")
        await _settle()
        assert holder.ends == {"Draining": 1}
        assert not await turns.idle(0.0)
        holder.release.set()
        assert await turns.idle(60.0)
        await asyncio.gather(*tasks)
        assert holder.ends == {"Draining": 1, "done": 3}

    asyncio.run(run())


def test_what_is_given_up_is_told() -> None:
    async def run() -> None:
        turns = Turns(1, 4)
        holder = Holder(turns)
        tasks = holder.start("a", 3)
        await _settle()
        turns.close()
        assert turns.give_up() == 2
        holder.release.set()
        await asyncio.gather(*tasks)
        assert holder.ends == {"Draining": 2, "done": 1}

    asyncio.run(run())


def test_retry_after_follows_service_time_and_rate() -> None:
    async def run() -> None:
        now = 0.0
        turns = Turns(2, 8, clock=lambda: now)
        assert turns.retry_after() == 0.05
        async with turns.turn("a", 1.0):
            now = 3.0
        assert turns.retry_after() == pytest.approx(1.5)
        async with turns.turn("a", 1.0):
            now = 1000.0
        assert turns.retry_after() == 5.0
        assert Turns(2, 8, per_second=0.5).retry_after() == pytest.approx(2.0)

    asyncio.run(run())


def test_the_rate_limit_holds_turns_back() -> None:
    async def run() -> None:
        now = 0.0
        turns = Turns(8, 8, per_second=1.0, clock=lambda: now)
        holder = Holder(turns)
        tasks = holder.start("a", 3)
        await _settle()
        assert (turns.running, turns.queued) == (1, 2)
        now = 1.0
        turns._grant()
        await _settle()
        assert (turns.running, turns.queued) == (2, 1)
        now = 2.0
        turns._grant()
        holder.release.set()
        await asyncio.gather(*tasks)
        assert holder.ends == {"done": 3}

    asyncio.run(run())
