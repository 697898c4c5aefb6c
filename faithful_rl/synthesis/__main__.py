"""`python -m faithful_rl.synthesis shards=8 in=... out=... teacher=...`: `python -m data_prep mcts` on a Ray cluster.

    shards=8            processes; the questions are dealt out to them, and each keeps up to `concurrent` trees open
    address=auto        of a running cluster; local: start Ray here
    cpus=1              logical CPUs set aside for each process
    every other key     as in `python -m data_prep mcts --help`; out must be on a disk that all nodes share

A budget is divided evenly. The same command continues a run that was interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from data_prep.mcts import command
from faithful_rl.cluster_token import make_token, show_token
from faithful_rl.config import ConfigError

Grow = Callable[[Sequence[list[str]]], list[int]]  # argument lists of all parts -> their exit codes


def main(arguments: Sequence[str], grow: Grow | None = None) -> int:
    """Exit codes are those of `data_prep mcts`. `grow` stands in for Ray in tests."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return command.EXIT_FINISHED if arguments else command.EXIT_USAGE
    try:
        shards, address, cpus, rest = _own(arguments)
        parts = split(rest, shards)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return command.EXIT_USAGE
    codes = (grow or (lambda lists: _on_ray(lists, address, cpus)))(parts)
    # A part ends as unfinished while others still grow their trees; anything else is told by the part itself, in Ray's log.
    bad = [code for code in codes if code not in (command.EXIT_FINISHED, command.EXIT_UNFINISHED)]
    if bad:
        print(f"{len(bad)} of {shards} parts ended with exit code {bad[0]}; the same command continues.", file=sys.stderr)
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


def _own(arguments: Sequence[str]) -> tuple[int, str, float, list[str]]:
    own = {"shards": "8", "address": "auto", "cpus": "1"}
    rest = []
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key in own:
            own[key] = text
        elif key == "shard":
            raise ConfigError("shard", repr(text), "shards=N: this command deals the questions out itself", "Remove it.")
        else:
            rest.append(argument)
    try:
        shards, cpus = int(own["shards"]), float(own["cpus"])
    except ValueError as error:
        raise ConfigError("shards, cpus", str(error), "numbers", "Correct them.") from error
    if shards < 1 or cpus < 0:
        raise ConfigError("shards, cpus", f"{shards}, {cpus}", "shards >= 1 and cpus >= 0", "Correct them.")
    return shards, own["address"], cpus, rest


def _on_ray(parts: Sequence[list[str]], address: str, cpus: float) -> list[int]:
    if address == "local":
        make_token()
    show_token()
    import ray

    ray.init(address=None if address == "local" else address, log_to_driver=True)
    try:
        task = ray.remote(num_cpus=cpus, max_retries=2)(command.main)
        codes: list[int] = ray.get([task.remote(part) for part in parts])  # each part has deadlines for all that it waits for
        return codes
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
