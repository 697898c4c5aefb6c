"""While verl waits for rollouts: has one of the actors died that they depend on?

verl's replay buffer asks the queue until enough prompts are done. When a worker that drives them dies (out of memory, a lost
machine), its prompts stay "running" and nobody is told. Asking the actors themselves turns that silence into an error with a name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError

INTERVAL_SECONDS = 30.0
ANSWER_SECONDS = 1.0  # for all together; a busy actor may be slow, which is no fault, and a dead one answers at once


class DeadActorError(RuntimeError):
    """An actor that rollouts depend on has died; the message names it."""


def dead_actors(actors: Mapping[str, Any]) -> dict[str, str]:
    """Name -> reason of those that have died; slow ones count as alive."""
    asked = {handle.__ray_ready__.remote(): name for name, handle in actors.items()}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
    dead = {}
    for reference in answered:
        try:
            ray.get(reference)
        except RayActorError as error:
            dead[asked[reference]] = str(error).strip().splitlines()[0]
    return dead


def guard_polling(replay_buffer: Any, actors: Mapping[str, Any]) -> None:
    """Let `replay_buffer` check on `actors` between two looks into the queue, at most every `INTERVAL_SECONDS`."""
    host_wait, last = replay_buffer._wait_for_next_poll, time.monotonic()

    def wait(*arguments: Any, **named: Any) -> Any:
        nonlocal last
        result = host_wait(*arguments, **named)
        if time.monotonic() - last >= INTERVAL_SECONDS:
            dead = dead_actors(actors)
            if dead:
                described = "; ".join(f"{name}: {why}" for name, why in dead.items())
                raise DeadActorError(
                    f"rollouts cannot be finished, an actor they depend on has died ({described}). The same command resumes"
                )
            last = time.monotonic()
        return result

    replay_buffer._wait_for_next_poll = wait
