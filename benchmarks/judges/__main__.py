"""Cost of the judges around the model: throughput, added latency and memory of a pool, calls that are never made, and the two modes.

    python -m benchmarks.judges [--parts load memory savings modes] [--run-dir DIR] [--model DIR] [--seconds 30] [--verdicts 50000]
                                [--latency 0.05] [--replicas 1] [--out benchmarks/results/judges.json]

A verdict is one judge's answer about one rollout. The judge behind the pool is a fake that answers after `--latency` seconds, so that
whatever comes on top is ours: client, Ray, queue, and in `memory` also prompts, image encoding, parsing and cache.

load     64 rollouts at the same time, each asking both judges and replaced when it is done: verdicts per second. Then rollouts that come
         at a fixed rate, 170 verdicts per second together: the time that an answer takes beyond the fake's.
memory   resident memory of the replicas and of the client while `--verdicts` different verdicts go through.
savings  calls that are not made for the rollouts of a run (`--run-dir`, its `rollouts/*.jsonl`, which are only read): masked ones, those
         that a sibling of the same step asks anyway, and those whose answer is kept from an earlier step.
modes    `per_sentence` against `per_rollout` on the same rollouts: calls and characters sent. With `--model`, a vision-language model
         that vLLM serves here, also how often both give a sentence the same verdict.

`savings` and `modes` are skipped without `--run-dir`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.judges import kept_rollouts, pool_load
from faithful_rl.run_directory import write_json
from faithful_rl.run_record import code_version, machine, versions

RESULTS = pool_load.ROOT / "benchmarks" / "results" / "judges.json"
PARTS = ("load", "memory", "savings", "modes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--verdicts", type=int, default=50_000)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    load_before = os.getloadavg()[0]
    result: dict[str, Any] = {"what": "the judges around their model, on fake judges of a fixed latency unless a model is named"}
    result["settings"] = {"latency_seconds": arguments.latency, "replicas_per_judge": arguments.replicas}
    for part in arguments.parts:
        if part in ("savings", "modes") and arguments.run_dir is None:
            print(f"{part}: skipped, needs --run-dir")
            continue
        if part == "load":
            result[part] = pool_load.load(arguments.latency, arguments.replicas, arguments.seconds)
        elif part == "memory":
            result[part] = pool_load.memory(arguments.latency, arguments.replicas, arguments.verdicts)
        else:
            steps = kept_rollouts.read_steps(arguments.run_dir)
            result[part] = kept_rollouts.savings(steps) if part == "savings" else kept_rollouts.modes(steps, arguments.model)
        print(f"{part}: {json.dumps({name: one for name, one in result[part].items() if name != 'resident_mib_each'})}")
    result["machine"] = {**machine(), "load_average_1min_before": load_before}
    result["code_version"], result["versions"] = code_version(), versions()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, result)
    print(f"written to {arguments.out}")
    problems = missed(result)
    if problems:
        raise SystemExit("missed: " + "; ".join(problems))


def missed(result: dict[str, Any]) -> list[str]:
    """Targets that the measured parts do not reach."""
    problems = []
    if found := result.get("load"):
        if found["verdicts_per_second"] < pool_load.TARGET_RATE:
            problems.append(f"{found['verdicts_per_second']:.0f} verdicts/s, expected at least {pool_load.TARGET_RATE:.0f}")
        if found["added_milliseconds"]["p99"] >= pool_load.TARGET_ADDED_MS:
            problems.append(f"{found['added_milliseconds']['p99']:.1f} ms added at p99, expected less than {pool_load.TARGET_ADDED_MS:.0f}")
    if found := result.get("memory"):
        grown = {name: one for name, one in found["growth_mib_after_a_fifth"].items() if one > pool_load.TARGET_GROWTH_MIB}
        problems += [f"{name} grew by {one:.1f} MiB, expected at most {pool_load.TARGET_GROWTH_MIB:.0f}" for name, one in grown.items()]
    unscored = sum(result[part]["unscored"] for part in ("load", "memory") if part in result)
    return [*problems, *([f"{unscored} answers were no verdict"] if unscored else [])]


if __name__ == "__main__":
    main()
