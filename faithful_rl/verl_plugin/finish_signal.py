"""The trainer is told when the rollouts it waits for have ended, instead of finding out at its next look into the queue.

verl's replay buffer sleeps between two looks, 2 s unless told otherwise. A short sleep costs a look into the queue each time, a long one
the rest of it after the last rollout. Our agent loop workers know when nothing is left to do (`FaithfulAgentLoopWorker.idle`); asked
while the trainer waits, they end the sleep. In the asynchronous modes workers are hardly ever idle, and the sleep is what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray


class FinishSignal:
    """Waits for workers to be idle.

    Idle workers can leave the buffer unsatisfied (a prompt that failed and is drawn anew, a worker that has died). So that waiting never
    becomes a busy loop, an answer ends one wait only: the next one is a sleep.
    """

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = tuple(workers)
        self._asked: list[Any] = []
        self._told = False

    def wait(self, seconds: float) -> bool:
        """Wait until all workers are idle, at most `seconds`; False, and at once, where the caller has to sleep by itself."""
        if self._told or not self._workers:
            self._told = False
            return False
        if not self._asked:
            self._asked = [worker.idle.remote() for worker in self._workers]
        _, busy = ray.wait(self._asked, num_returns=len(self._asked), timeout=seconds)
        if not busy:  # a worker that has died counts as idle here; `liveness` gives it its name
            self._told, self._asked = True, []
        return True


def end_sleep_when_finished(replay_buffer: Any, workers: Sequence[Any]) -> None:
    """Let `replay_buffer` look into the queue as soon as `workers` are idle; its `poll_interval` stays the longest time between looks."""
    host_wait, signal = replay_buffer._wait_for_next_poll, FinishSignal(workers)

    def wait(*arguments: Any, **named: Any) -> Any:
        interval = replay_buffer.poll_interval
        if not signal.wait(interval):
            return host_wait(*arguments, **named)
        replay_buffer.poll_interval = 0.0  # verl's own wait also says now and then how far the rollouts are
        try:
            return host_wait(*arguments, **named)
        finally:
            replay_buffer.poll_interval = interval

    replay_buffer._wait_for_next_poll = wait
