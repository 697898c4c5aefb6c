"""Micro-batching: company is waited for, but not long; order holds; failures reach those whom they concern."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from faithful_rl.crm.batcher import MicroBatcher

LONG = 600.0  # seconds nobody waits for: a test that hangs is ended by its timeout


class Doubler:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.hold.wait(60)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


async def ask_all(batcher: MicroBatcher[int, int], items: Sequence[int]) -> list[object]:
    return list(await asyncio.gather(*(batcher.ask(item) for item in items), return_exceptions=True))


def test_a_full_batch_goes_at_once_and_each_gets_its_own_result() -> None:
    work = Doubler()

    async def run() -> list[object]:
        batcher = MicroBatcher(work, 4, LONG)
        try:
            return await ask_all(batcher, range(8))
        finally:
            await batcher.close()

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert work.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_lonely_question_goes_when_its_wait_is_over() -> None:
    work = Doubler()

    async def run() -> list[object]:
        batcher = MicroBatcher(work, 100, 0.01)
        try:
            return await ask_all(batcher, [1, 2])
        finally:
            await batcher.close()

    assert asyncio.run(run()) == [2, 4]
    assert work.batches == [[1, 2]]


def test_while_one_batch_runs_the_next_gathers() -> None:
    work = Doubler()

    async def run() -> None:
        batcher = MicroBatcher(work, 3, 0.0)
        work.hold.clear()
        first = asyncio.create_task(batcher.ask(0))
        while batcher.batches == 0:
            await asyncio.sleep(0)
        rest = [asyncio.create_task(batcher.ask(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        work.hold.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6]
        await batcher.close()

    asyncio.run(run())
    assert work.batches == [[0], [1, 2, 3]]


def test_a_failure_reaches_its_batch_only() -> None:
    work = Doubler()

    async def run() -> list[object]:
        batcher = MicroBatcher(work, 2, LONG)
        try:
            return await ask_all(batcher, [13, 1, 2, 3])
        finally:
            await batcher.close()

    first, second, *others = asyncio.run(run())
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert others == [4, 6]


def test_whoever_has_gone_is_left_out() -> None:
    work = Doubler()

    async def run() -> None:
        batcher = MicroBatcher(work, 2, LONG)
        gone = asyncio.create_task(batcher.ask(1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert await batcher.ask(2) == 4
        await batcher.close()

    asyncio.run(run())
    assert work.batches == [[2]]


def test_closing_ends_those_who_wait_and_refuses_new_ones() -> None:
    async def run() -> None:
        batcher = MicroBatcher(Doubler(), 10, LONG)
        waiting = asyncio.create_task(batcher.ask(1))
        await asyncio.sleep(0)
        await batcher.close()
        await batcher.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.ask(2)

    asyncio.run(run())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be >= 1"):
        MicroBatcher(Doubler(), 0, 0.0)
