"""Questions that come one by one, answered many at a time: a bounded wait for company, then one call in a thread of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(slots=True)
class _Waiting(Generic[In, Out]):
    item: In
    arrived: float  # seconds of the event loop's clock
    result: asyncio.Future[Out]


class MicroBatcher(Generic[In, Out]):
    """Calls `work` with at most `size` items, in order of arrival, as soon as `size` wait or the first has waited `wait_seconds`.

    While one call runs the next batch gathers. Items whose asker has gone are left out. An exception of `work` reaches every asker
    of its batch.
    """

    def __init__(self, work: Callable[[Sequence[In]], Sequence[Out]], size: int, wait_seconds: float) -> None:
        if size < 1 or wait_seconds < 0:
            raise ValueError(f"size must be >= 1 and wait_seconds >= 0, got {size} and {wait_seconds}")
        self._work, self._size, self._wait = work, size, wait_seconds
        self._waiting: deque[_Waiting[In, Out]] = deque()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")
        self._task: asyncio.Task[None] | None = None
        self.batches = 0  # calls of `work`
        self.items = 0  # items in them

    async def ask(self, item: In) -> Out:
        """The result for one item.

        Raises:
            RuntimeError: after `close`; otherwise whatever `work` raised.
        """
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run())
        elif self._task.done():
            raise RuntimeError("the batcher is closed")
        one = _Waiting[In, Out](item, loop.time(), loop.create_future())
        self._waiting.append(one)
        self._arrived.set()
        if len(self._waiting) >= self._size:
            self._full.set()
        return await one.result

    async def close(self) -> None:
        """End the thread after the call that it is in; whoever waits is cancelled. Safe to call again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            self._waiting.popleft().result.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await self._company()
            taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            if len(self._waiting) < self._size:
                self._full.clear()
            batch = [one for one in taken if not one.result.done()]
            if batch:
                await self._answer(batch)

    async def _company(self) -> None:
        left = self._waiting[0].arrived + self._wait - asyncio.get_running_loop().time()
        if left <= 0 or len(self._waiting) >= self._size:
            return
        try:
            async with asyncio.timeout(left):
                await self._full.wait()
        except TimeoutError:
            return

    async def _answer(self, batch: list[_Waiting[In, Out]]) -> None:
        self.batches += 1
        self.items += len(batch)
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, [one.item for one in batch])
            for one, result in zip(batch, results, strict=True):
                if not one.result.done():
                    one.result.set_result(result)
        except asyncio.CancelledError:
            for one in batch:
                one.result.cancel()
            raise
        except Exception as error:  # noqa: BLE001  whatever the model raises belongs to those who asked, and the next batch goes on
            for one in batch:
                if not one.result.done():
                    one.result.set_exception(error)
