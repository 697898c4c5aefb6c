"""The small actor that gives a pool its name: what is served by whom, and how it is. Plain asyncio; `pool` makes a Ray actor of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayError

from faithful_rl.judge_pool import NAMESPACE
from faithful_rl.judge_pool.failure_log import clean
from faithful_rl.judge_pool.messages import Description, Health, State
from faithful_rl.judge_pool.settings import from_mapping

LOOK_SECONDS = 5.0  # for a replica to say how it is


class Registry:
    """Looks after the replicas of one pool. Its arguments are all that it must remember, so Ray can restart it at any time."""

    def __init__(self, plain: Mapping[str, Any], started_at: str = "") -> None:
        self._settings = from_mapping(plain)
        self._plain = dict(plain)
        self._names = {judge: self._settings.replica_names(judge) for judge in self._settings.judges}
        self._started_at = started_at or datetime.now(UTC).isoformat(timespec="seconds")
        self._serving = True
        self._last: dict[str, Health] = {}
        self._watch: asyncio.Task[None] | None = None

    async def describe(self) -> Description:
        """What a client needs to know."""
        self._keep_watch()
        return Description(self._plain, self._names, self._serving, self._started_at)

    async def look(self) -> list[Health]:
        """How every replica is now; one that does not answer within `LOOK_SECONDS` is UNREACHABLE, with its last counters."""
        self._keep_watch()
        names = [name for names in self._names.values() for name in names]
        found = await asyncio.gather(*(self._look_at(name) for name in names))
        self._last.update(zip(names, found, strict=True))
        return list(found)

    async def refuse(self) -> None:
        """The pool is being stopped: clients are told so from now on."""
        self._serving = False
        if self._watch is not None:
            self._watch.cancel()

    async def _look_at(self, name: str) -> Health:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                handle = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
                return await handle.health.remote()  # type: ignore[no-any-return]
        except TimeoutError:
            message = f"no answer within {LOOK_SECONDS:.0f} s"
        except (RayError, ValueError) as error:  # ValueError: no actor of that name
            message = clean(str(error).splitlines()[0] if str(error) else type(error).__name__)
        last = self._last.get(name)
        return Health(name, State.UNREACHABLE, message, last.version if last else "", counts=last.counts if last else {})

    def _keep_watch(self) -> None:
        """Looking now and then is what wakes a replica that Ray has restarted."""
        if self._serving and (self._watch is None or self._watch.done()):
            self._watch = asyncio.get_running_loop().create_task(self._look_now_and_then())

    async def _look_now_and_then(self) -> None:
        while self._serving:
            await asyncio.sleep(self._settings.health_seconds)
            await self.look()
