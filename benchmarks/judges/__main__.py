"""Cost of the judges around the model: throughput, added latency and memory of a pool, judge time that generation does not hide, calls
that are never made, and the two modes.

    python -m benchmarks.judges [--parts load memory exposed savings modes] [--run-dir DIR] [--model DIR] [--judge KEY=VALUE ...]
                                [--seconds 30] [--verdicts 50000] [--latency 0.05] [--replicas 1] [--generation-seconds S] [--repeats 5]
                                [--out benchmarks/results/judges.json]

A verdict is one judge's answer about one rollout. The judge behind the pool is a fake that answers after `--latency` seconds, so that
whatever comes on top is ours: client, Ray, queue, and in `memory` also prompts, image encoding, parsing and cache.

load     64 rollouts at the same time, each asking both judges and replaced when it is done: verdicts per second. Then rollouts that come
         at a fixed rate, 170 verdicts per second together: the time that an answer takes beyond the fake's.
memory   resident memory of the replicas and of the client while `--verdicts` different verdicts go through.
exposed  seconds from the last generated text of a step to its last verdict: each rollout sent as it ends (overlap), and all sent after the
         last. The texts of a run's kept rollouts end by their length within `--generation-seconds` (default: the run's own median, else
         6); without a run 80 rollouts end evenly. Asked of two fakes, the second one slow. What the run itself logged is put beside it.
savings  calls that are not made for the rollouts of a run (`--run-dir`, its `rollouts/*.jsonl`, which are only read): masked ones, those
         that a sibling of the same step asks anyway, and those whose answer is kept from an earlier step. Of a run that has kept a part
         of its rollouts only (`share_of_all_rollouts`) fewer are duplicates or known than in truth.
modes    `per_sentence` against `per_rollout` on the same rollouts: calls and characters sent. With `--model`, a vision-language model
         that vLLM serves here, also how often both give a sentence the same verdict. `--judge` are further settings of that judge
         (`max_model_len=16384`), or of another one (`backend=openai base_url=... model=...`).

`savings` and `modes` are skipped without `--run-dir`. A part that is measured replaces its entry in the file of results; others stay.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.judges import exposed, kept_rollouts, pool_load
from faithful_rl.config import ConfigError
from faithful_rl.run_directory import read_json, write_json
from faithful_rl.run_record import code_version, machine, versions

RESULTS = pool_load.ROOT / "benchmarks" / "results" / "judges.json"
WHAT = "the judges around their model, on fake judges of a fixed latency unless a model is named"
PARTS = ("load", "memory", "exposed", "savings", "modes")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.judges", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--judge", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--verdicts", type=int, default=50_000)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--generation-seconds", type=float)
    parser.add_argument("--repeats", type=int, default=exposed.REPEATS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    measured: dict[str, Any] = {}
    try:
        for part in arguments.parts:
            if part in ("savings", "modes") and arguments.run_dir is None:
                print(f"{part}: skipped, needs --run-dir")
                continue
            load_before = os.getloadavg()[0]
            measured[part] = measure(part, arguments)
            print(f"{part}: {json.dumps({name: one for name, one in measured[part].items() if name != 'resident_mib_each'})}")
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out, merged(read_json(arguments.out), {part: {**measured[part], **circumstances(load_before)}}))
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"written to {arguments.out}")
    problems = missed(measured)
    if problems:
        raise SystemExit("missed: " + "; ".join(problems))


def measure(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One part with the settings that it was measured with.

    Raises:
        ConfigError: the judge of `--model` and `--judge` cannot be built or does not start.
    """
    latency, replicas = arguments.latency, arguments.replicas
    fake = {"latency_seconds": latency, "replicas_per_judge": replicas}
    if part == "load":
        return {"settings": fake, **pool_load.load(latency, replicas, arguments.seconds)}
    if part == "memory":
        return {"settings": fake, **pool_load.memory(latency, replicas, arguments.verdicts)}
    steps = [] if arguments.run_dir is None else kept_rollouts.read_steps(arguments.run_dir)
    if part == "savings":
        return kept_rollouts.savings(steps, kept_rollouts.kept_share(arguments.run_dir, steps))
    if part == "modes":
        return kept_rollouts.modes(steps, judge_settings(arguments.model, arguments.judge))
    logged = {} if arguments.run_dir is None else exposed.in_run(arguments.run_dir)
    seconds = arguments.generation_seconds or logged.get("generation_seconds", exposed.GENERATION_SECONDS)
    phase = exposed.kept_phase(steps, seconds) if steps else exposed.even_phase(seconds)
    return {"settings": fake, **exposed.measure(phase, latency, replicas, arguments.repeats), "logged_by_the_run": logged or None}


def judge_settings(model: str | None, words: Sequence[str]) -> dict[str, Any]:
    """Settings of the judge whose two modes are compared: vLLM with `model`, unless the words say otherwise; {} where none is named.

    Raises:
        ConfigError: a word is not key=value.
    """
    if wrong := [word for word in words if "=" not in word]:
        raise ConfigError("--judge", repr(wrong[0]), "KEY=VALUE, such as max_model_len=16384", "Write it so.")
    given = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))
    assert isinstance(given, dict)  # from_dotlist makes nothing else
    named = {} if model is None else {"backend": "vllm", "model": model}
    return {**({"backend": "vllm"} if given else {}), **named, **{str(key): value for key, value in given.items()}}


def circumstances(load_before: float) -> dict[str, Any]:
    """What a part was measured on and with."""
    return {"machine": {**machine(), "load_average_1min_before": load_before}, "code_version": code_version(), "versions": versions()}


def merged(before: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The file of results with some parts measured anew, in the order of `PARTS`."""
    parts = {part: measured.get(part, before.get(part)) for part in PARTS}
    return {"what": WHAT, **{part: one for part, one in parts.items() if one is not None}}


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
    for name, one in (result.get("exposed") or {"judges": {}})["judges"].items():
        ratio = one["exposed_ratio"]
        if ratio is not None and ratio >= 1:
            problems.append(f"overlap hides nothing of the {name} judge's time (ratio {ratio:.2f}, expected below 1)")
    unscored = sum(result[part]["unscored"] for part in ("load", "memory", "exposed") if part in result)
    return [*problems, *([f"{unscored} answers were no verdict"] if unscored else [])]


if __name__ == "__main__":
    main()
