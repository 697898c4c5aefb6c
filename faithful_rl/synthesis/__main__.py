"""`python -m faithful_rl.synthesis shards=8 in=... out=... teacher=...`: `python -m data_prep mcts` on a Ray cluster.

    shards=8            processes; the questions are dealt out to them, and each keeps up to `concurrent` trees open
    address=auto        of a running cluster; local: start Ray here
    cpus=1              logical CPUs set aside for each process
    patience=3600       seconds in which no process saves a tree or ends, after which the run is given up
    every other key     as in `python -m data_prep mcts --help`; out must be on a disk that all nodes share

A budget is divided evenly. The same command continues a run that was interrupted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.mcts import command
from data_prep.mcts.run import TREES
from faithful_rl.cluster_token import make_token, show_token
from faithful_rl.config import ConfigError

Grow = Callable[[Sequence[list[str]]], list[int]]  # argument lists of all parts -> their exit codes
LOOK_SECONDS = 10.0  # between two looks at what the parts have saved
REPLY_SECONDS = 60.0  # for an exit code that is there


class ClusterProblem(RuntimeError):
    """The parts did not come to their end; what they saved is kept."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How the questions are spread.

    Raises:
        ConfigError: a value out of its range.
    """

    shards: int = 8  # >= 1
    address: str = "auto"
    cpus: float = 1.0  # >= 0
    patience: float = 3600.0  # seconds > 0

    def __post_init__(self) -> None:
        if self.shards < 1 or self.cpus < 0 or not 0 < self.patience < float("inf"):
            found = f"{self.shards}, {self.cpus}, {self.patience}"
            raise ConfigError("shards, cpus, patience", found, "shards >= 1, cpus >= 0 and patience > 0 seconds", "Correct them.")


def main(arguments: Sequence[str], grow: Grow | None = None) -> int:
    """Exit codes are those of `data_prep mcts`. `grow` stands in for Ray in tests."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return command.EXIT_FINISHED if arguments else command.EXIT_USAGE
    try:
        spread, rest = _own(arguments)
        parts = split(rest, spread.shards)
        trees = command.read(rest)["out"] / TREES
        codes = (grow or (lambda lists: _on_ray(lists, spread, trees)))(parts)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return command.EXIT_USAGE
    except ClusterProblem as problem:
        print(f"error: {problem} What is done is kept: the same command continues.", file=sys.stderr)
        return command.EXIT_UNFINISHED
    # A part ends as unfinished while others still grow their trees; anything else is told by the part itself, in Ray's log.
    bad = [code for code in codes if code not in (command.EXIT_FINISHED, command.EXIT_UNFINISHED)]
    if bad:
        print(f"{len(bad)} of {spread.shards} parts ended with exit code {bad[0]}; the same command continues.", file=sys.stderr)
        return bad[0]
    return command.main(rest)  # grows nothing that is there, and writes the data set


def split(arguments: Sequence[str], shards: int) -> list[list[str]]:
    """The arguments of each part: its share of the questions and of the budget, and no pages.

    Raises:
        ConfigError: what `data_prep mcts` would refuse.
    """
    values = command.read(list(arguments))
    kept = [argument for argument in arguments if argument.partition("=")[0] not in ("budget_tokens", "pages")]
    budget = values.get("budget_tokens", 0)
    if budget and budget < shards:
        raise ConfigError("budget_tokens", budget, f"at least one token for each of {shards} parts", "Raise it.")
    money = [f"budget_tokens={budget // shards}"] if budget else []
    return [[*kept, *money, "pages=0", f"shard={part}/{shards}"] for part in range(shards)]


def _own(arguments: Sequence[str]) -> tuple[Spread, list[str]]:
    """This command's own keys, and the other arguments; relative paths of these are made absolute, because the processes have other
    working directories."""
    readers: dict[str, Callable[[str], Any]] = {"shards": int, "address": str, "cpus": float, "patience": float}
    own: dict[str, Any] = {}
    rest = []
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key in readers:
            try:
                own[key] = readers[key](text)
            except ValueError as error:
                raise ConfigError(key, repr(text), "a number", f"Change {key}.") from error
        elif key == "shard":
            raise ConfigError("shard", repr(text), "shards=N: this command deals the questions out itself", "Remove it.")
        elif key in ("in", "out") and text and not Path(text).is_absolute():
            rest.append(f"{key}={Path(text).resolve()}")
        else:
            rest.append(argument)
    return Spread(**own), rest


def _on_ray(parts: Sequence[list[str]], spread: Spread, trees: Path) -> list[int]:
    if spread.address == "local":
        make_token()
    show_token()
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(address=spread.address, log_to_driver=True)
    except (ConnectionError, RayError) as error:
        fix = "Start one (`ray start --head`), correct address=, or set address=local."
        raise ConfigError("address", f"{spread.address} ({error})", "a Ray cluster that answers", fix) from error
    try:
        task = ray.remote(num_cpus=spread.cpus, max_retries=2)(command.main)
        asked = [task.remote(part) for part in parts]
        wait_for(asked, ray.wait, trees, spread.patience)
        codes: list[int] = ray.get(asked, timeout=REPLY_SECONDS)
        return codes
    except RayError as error:  # a process that was lost more often than Ray starts it again, or that raised
        raise ClusterProblem(f"a part was lost ({str(error).strip().splitlines()[-1]}).") from error
    finally:
        ray.shutdown()


def wait_for(asked: Sequence[Any], wait: Callable[..., tuple[list[Any], list[Any]]], trees: Path, patience: float) -> None:
    """Wait until all parts have ended.

    There is no telling how long thousands of trees take, but a part that lives saves one after every simulation.

    Args:
        wait: as `ray.wait`.
        trees: where they save.
        patience: seconds.

    Raises:
        ClusterProblem: no part saved anything or ended within `patience`.
    """
    left, saved, since = list(asked), _saved(trees), time.monotonic()
    while left:
        ended, left = wait(left, num_returns=len(left), timeout=min(LOOK_SECONDS, patience))
        now = _saved(trees)
        if ended or now != saved:
            saved, since = now, time.monotonic()
        elif time.monotonic() - since >= patience:
            raise ClusterProblem(f"{len(left)} parts saved no tree within {patience:g} s: is there room on the cluster, and a teacher?")


def _saved(trees: Path) -> int:
    """Changes with every tree that is written: each is renamed into its place."""
    return trees.stat().st_mtime_ns if trees.is_dir() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
