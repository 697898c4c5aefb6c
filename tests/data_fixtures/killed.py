"""A data_prep run that dies: raised where a kill would come, and caught by nothing in between."""

from __future__ import annotations

from collections.abc import Callable


class Killed(BaseException):
    pass


def after(stop: int, calls: list[int] | None = None) -> Callable[[int, int | None], None]:
    """A `progress` of `prepare` that dies at its call number `stop` + 1; rows done at each call go into `calls`."""
    seen = [] if calls is None else calls

    def progress(done: int, total: int | None) -> None:
        seen.append(done)
        if len(seen) > stop:
            raise Killed

    return progress
