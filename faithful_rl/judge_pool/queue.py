"""Whose turn it is in a replica: a bounded queue shared fairly by clients, a concurrency limit and a rate limit. Plain asyncio.

Fairness has two halves. Turns go round the clients that wait, one each. And room is shared: when the queue is full, a client that has
less in it than the largest one takes the place of that client's newest entry, so that one run cannot lock out another.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

RETRY_BOUNDS = (0.05, 5.0)  # seconds, least and most that a refused caller is asked to wait
SERVICE_SMOOTHING = 0.1  # weight of the newest service time in the running mean


class Busy(Exception):
    """No room. `retry_after`: seconds until there may be."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"full, come back in {retry_after:.2f} s")


class Draining(Exception):
    """The replica takes nothing new and ends."""


class FairQueue(Generic[T]):
    """Bounded first-in-first-out queues, one per client, served in turn. Entries are hashable and distinct. Every step is O(1),
    but finding the largest client when the queue is full."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._capacity = capacity
        self._clients: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def depths(self) -> dict[str, int]:
        """Entries per waiting client."""
        return {client: len(entries) for client, entries in self._clients.items()}

    def put(self, client: str, entry: T) -> T | None:
        """Add an entry. Returns the entry of another client that lost its place to it, else None.

        Raises:
            asyncio.QueueFull: no room, and this client has its share.
        """
        displaced = None
        if self._size >= self._capacity:
            largest = max(self._clients, key=lambda name: len(self._clients[name]))
            if len(self._clients.get(client, ())) + 1 >= len(self._clients[largest]):
                raise asyncio.QueueFull
            displaced, _ = self._clients[largest].popitem(last=True)
            self._size -= 1
        self._clients.setdefault(client, OrderedDict())[entry] = None
        self._size += 1
        return displaced

    def pop(self) -> T:
        """The oldest entry of the client whose turn it is.

        Raises:
            asyncio.QueueEmpty: nothing waits.
        """
        if not self._size:
            raise asyncio.QueueEmpty
        client = next(iter(self._clients))
        entry, _ = self._clients[client].popitem(last=False)
        self._size -= 1
        if self._clients[client]:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]
        return entry

    def remove(self, client: str, entry: T) -> bool:
        """Take an entry out wherever it stands; False when it is not there."""
        entries = self._clients.get(client)
        if entries is None or entry not in entries:
            return False
        del entries[entry]
        self._size -= 1
        if not entries:
            del self._clients[client]
        return True


class RateLimit:
    """Token bucket: `per_second` starts on average, at most a second's worth (at least one) at once. None: no limit."""

    def __init__(self, per_second: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._clock = clock
        self._burst = max(1.0, per_second or 1.0)
        self._tokens = self._burst
        self._at = clock()

    def delay(self) -> float:
        """Seconds until the next start is allowed; 0 when it is now."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        missing = 1.0 - self._tokens
        return 0.0 if missing <= 1e-9 else missing / self._rate

    def take(self) -> None:
        """Spend one start; only after `delay` said 0."""
        self._tokens -= 1.0


class Turns:
    """Grants turns under the limits. All calls come from one event loop."""

    def __init__(
        self, concurrency: int, capacity: int, per_second: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._concurrency = concurrency
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(capacity)
        self._rate = RateLimit(per_second, clock)
        self._per_second = per_second
        self._clock = clock
        self._service_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.running = 0

    @property
    def queued(self) -> int:
        return len(self._queue)

    def waiting(self) -> dict[str, int]:
        """Queued turns per client."""
        return self._queue.depths()

    def retry_after(self) -> float:
        """Seconds until what is queued now will have been started, by the recent service time and the rate limit."""
        estimate = (self.queued + 1) * self._service_seconds / self._concurrency
        if self._per_second:
            estimate = max(estimate, (self.queued + 1) / self._per_second)
        low, high = RETRY_BOUNDS
        return min(max(estimate, low), high)

    @asynccontextmanager
    async def turn(self, client: str, deadline: float) -> AsyncIterator[None]:
        """Wait for a turn at most `deadline` seconds, hold it for the block.

        Raises:
            Busy: no room in the queue, now or because a client with less in it came.
            Draining: `close` was called.
            TimeoutError: the turn did not come in time.
        """
        await self._acquire(client, deadline)
        started = self._clock()
        try:
            yield
        finally:
            took = self._clock() - started
            first = self._service_seconds == 0.0
            self._service_seconds = took if first else self._service_seconds + SERVICE_SMOOTHING * (took - self._service_seconds)
            self._release()

    async def _acquire(self, client: str, deadline: float) -> None:
        if self._closed:
            raise Draining
        if not self.queued and self.running < self._concurrency and self._rate.delay() == 0.0:
            self._rate.take()
            self.running += 1
            return
        ticket = asyncio.get_running_loop().create_future()
        try:
            displaced = self._queue.put(client, ticket)
        except asyncio.QueueFull:
            raise Busy(self.retry_after()) from None
        if displaced is not None and not displaced.done():
            displaced.set_exception(Busy(self.retry_after()))
        self._grant()
        try:
            async with asyncio.timeout(deadline):
                await ticket
        except BaseException:
            if not self._queue.remove(client, ticket) and ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                self._release()  # the turn came in the moment in which the caller gave up
            raise

    def _release(self) -> None:
        self.running -= 1
        self._grant()

    def _grant(self) -> None:
        while self.queued and self.running < self._concurrency:
            delay = self._rate.delay()
            if delay > 0.0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(delay, self._grant_later)
                return
            ticket = self._queue.pop()
            if ticket.done():
                continue  # its caller has just given up and has not yet taken it out
            self._rate.take()
            self.running += 1
            ticket.set_result(None)

    def _grant_later(self) -> None:
        self._timer = None
        self._grant()

    def close(self) -> None:
        """Refuse every new turn from now on; what is queued still gets its turn."""
        self._closed = True

    async def idle(self, seconds: float, poll_seconds: float = 0.02) -> bool:
        """Wait until nothing runs or waits; False when that took longer than `seconds`."""
        end = self._clock() + seconds
        while self.running or self.queued:
            if self._clock() >= end:
                return False
            await asyncio.sleep(poll_seconds)
        return True

    def give_up(self) -> int:
        """Refuse everything that still waits; returns how much that was."""
        left = 0
        while self.queued:
            ticket = self._queue.pop()
            if not ticket.done():
                ticket.set_exception(Draining())
                left += 1
        return left
