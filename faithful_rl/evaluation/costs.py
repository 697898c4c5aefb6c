"""What an evaluation cost, over all of its starts: seconds and tokens of the responses, and what judges were asked.

Each start that asked somebody something adds an entry to `costs.json`, also one that was stopped; the sums stand in `evaluation.json`.
Tokens of responses are those of the responses that are kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.run_directory import read_json, write_json

COSTS = "costs.json"
SECONDS = ("serving_seconds", "generation_seconds", "judge_seconds", "gpu_seconds")
COUNTS = ("requests", "calls", "prompt_tokens", "completion_tokens", "cache_hits")


class Ledger:
    """Clocks and counters of this start, beside those of earlier ones.

    `serving_seconds`: the model's servers or endpoints were held, loading included; `generation_seconds`: questions were asked of them;
    `judge_seconds`: judges or the extracting model were; `gpu_seconds`: serving seconds times the GPUs of all servers.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where the file of earlier starts cannot be read."""
        self._path = folder / COSTS
        self._seconds: dict[str, float] = {}
        self._starts()

    @contextlib.contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the block's seconds towards `name`, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def keep(self, gpus: float | None, judges: Mapping[str, Mapping[str, int | None]]) -> None:
        """Write this start's entry, if anybody was asked anything; servers that did not come up were not.

        Args:
            gpus: of all servers; None where somebody else owns them.
            judges: what each was asked, by name, with keys of `COUNTS`; None for a count that nobody knows.
        """
        asked = {name: dict(counts) for name, counts in judges.items() if counts.get("requests")}
        if not asked and "generation_seconds" not in self._seconds:
            return
        entry: dict[str, Any] = {name: round(value, 3) for name, value in self._seconds.items() if name != "judge_seconds" or asked}
        if "serving_seconds" in entry:
            entry["gpu_seconds"] = None if gpus is None else round(gpus * entry["serving_seconds"], 3)
        if asked:
            entry["judges"] = asked
        write_json(self._path, {"format": 1, "starts": [*self._starts(), entry]})

    def totals(self, lines: Iterable[Mapping[str, Any]] | None) -> dict[str, Any]:
        """Sums over all starts. A number is None where one of its parts is unknown, or where there is nothing to count.

        Args:
            lines: the kept lines of responses; None where they were not generated here.
        """
        starts = self._starts()
        judges = {name: [start["judges"][name] for start in starts if name in start.get("judges", {})] for name in _judges(starts)}
        said = [line for line in lines or () if "failure" not in line]
        return {
            "starts": len(starts),
            **{name: _total([start[name] for start in starts if name in start]) for name in SECONDS},
            "responses": len(said),
            "prompt_tokens": _total([line.get("prompt_tokens") for line in said]),
            "response_tokens": _total([line.get("response_tokens") for line in said]),
            "judges": {name: {count: _total([one.get(count) for one in found]) for count in COUNTS} for name, found in judges.items()},
        }

    def _starts(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = read_json(self._path).get("starts", [])
        except ValueError as error:
            fix = "Delete that file; the costs of earlier starts go with it."
            raise ConfigError("out", str(error), f"a readable {COSTS}", fix) from error
        return found


def _judges(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({name for start in starts for name in start.get("judges", {})})


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known and len(known) == len(values) else None
