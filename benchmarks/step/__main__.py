"""Time per step by phase: our FGRPO and stock verl's GRPO in turns, then TRL's GRPO, on one model, one data set and equal settings.

    python -m benchmarks.step [key=value ...]

    steps=6             steps of each run
    warm_up=2           first steps of each run that are left out (the first batch of vLLM costs seconds)
    repeats=2           runs of ours and of stock verl; their order alternates, so that a machine that gets slower harms both
    prompts=16          prompts per step, even; 5 rollouts each
    arms=fgrpo,instant,verl,trl     which to run; instant: as fgrpo, with verdicts that are there at once and no judge workers; also
                        seeded: the recipe as it is, with a sampling seed for each rollout
    out=benchmarks/results/step.json
    work=outputs/benchmarks/step    folder of the runs, made anew each time; refused where it holds anything else
    timeout_seconds=1800            longest time for one run

Held-out evaluation and checkpoints are off on all sides. Processor time is recorded beside wall time: it is what to compare where
other programs use the machine. Overhead is (ours - stock) / stock of the medians, with a bootstrap interval over steps; outside judges
it is that of `instant`, and without this arm that of `fgrpo` less the processor time of the judges' actors.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.step import processes, summary
from benchmarks.step.conditions import Conditions
from faithful_rl import main as command
from faithful_rl import preflight
from faithful_rl.config import ConfigError
from faithful_rl.run_record import code_version, machine, versions

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent
ARMS = {
    "seeded": "ours, seeded rollouts",
    "fgrpo": "ours, FGRPO",
    "instant": "ours, verdicts at once",
    "verl": "stock verl, GRPO",
    "trl": "TRL, GRPO",
}
INSTANT = ("reward.reward_manager.name=InstantRewardManager", "reward.reward_manager.module.path=pkg://benchmarks.step.instant_judges")
UNSEEDED = "faithful_rl.hardware.seeded_rollouts=false"  # as in stock verl and in our GPU recipes
OWN: dict[str, tuple[str, ...]] = {"seeded": (), "fgrpo": (UNSEEDED,), "instant": (UNSEEDED, *INSTANT)}  # our arms, and in what they differ
OVERHEAD_LIMIT = 0.05
GROUP_SIZE = 5
MICRO_BATCH = 20  # rollouts, as in the tiny recipes
OURS = ".made_by_benchmarks_step"  # marks a work folder that may be made anew


class UsageError(ValueError):
    """A word of the command line that is not right."""


@dataclass(frozen=True)
class Options:
    """The command line, typed; see the module's text."""

    steps: int = 6
    warm_up: int = 2
    repeats: int = 2
    prompts: int = 16
    arms: str = "fgrpo,instant,verl,trl"
    out: str = "benchmarks/results/step.json"
    work: str = "outputs/benchmarks/step"
    timeout_seconds: int = 1800

    def __post_init__(self) -> None:
        unknown = [arm for arm in self.chosen if arm not in ARMS]
        if unknown or not self.chosen:
            raise UsageError(f"arms={self.arms}: expected a list of {', '.join(ARMS)}")
        if not 0 <= self.warm_up < self.steps:
            raise UsageError(
                f"warm_up={self.warm_up} with steps={self.steps}: expected 0 <= warm_up < steps, so that steps are left to measure"
            )
        if self.prompts < 2 or self.prompts % 2:
            raise UsageError(f"prompts={self.prompts}: expected an even number, 2 or more (a step has two mini-batches)")
        if self.repeats < 1 or self.timeout_seconds < 1:
            raise UsageError(f"repeats={self.repeats} timeout_seconds={self.timeout_seconds}: expected 1 or more")

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(arm for arm in self.arms.split(",") if arm)


def parse(words: list[str]) -> Options:
    """`key=value` words as options.

    Raises:
        UsageError: an unknown key, a value that is no whole number, or one out of range.
    """
    types = {field.name: field.type for field in fields(Options)}
    given: dict[str, Any] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or key not in types:
            raise UsageError(f"{word!r}: expected key=value with one of {', '.join(types)}")
        if types[key] == "int" and not (value.isascii() and value.isdigit()):
            raise UsageError(f"{key}={value}: expected a whole number")
        given[key] = int(value) if types[key] == "int" else value
    return Options(**given)


def overrides(options: Options) -> list[str]:
    """Settings that all sides share, on top of the tiny recipes."""
    half = options.prompts * GROUP_SIZE // 2  # rollouts of a mini-batch
    micro = MICRO_BATCH if half % MICRO_BATCH == 0 else half
    return [
        f"trainer.total_training_steps={options.steps}",
        "trainer.save_freq=-1",
        f"data.train_batch_size={options.prompts}",
        f"actor_rollout_ref.rollout.n={GROUP_SIZE}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={options.prompts // 2}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro}",
        f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={micro}",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={micro}",
        "faithful_rl.evaluation.at_start=false",
        "faithful_rl.evaluation.at_end=false",
        "++ray_kwargs.ray_init.address=local",  # never a cluster that happens to run on this machine
    ]


def schedule(options: Options) -> list[tuple[str, int]]:
    """(arm, repetition) in the order of the runs: ours and stock verl in turns, backwards every second time; TRL last."""
    turns = [arm for arm in ("seeded", "fgrpo", "instant", "verl") if arm in options.chosen]
    runs = [(arm, number) for number in range(1, options.repeats + 1) for arm in (turns if number % 2 else reversed(turns))]
    return runs + ([("trl", 1)] if "trl" in options.chosen else [])


def command_of(arm: str, run_dir: Path, shared: list[str]) -> list[str]:
    if arm in OWN:
        module = "benchmarks.step.instant_run" if arm == "instant" else "faithful_rl.main"
        return [sys.executable, "-m", module, "recipe=fgrpo_tiny", *shared, *OWN[arm], f"faithful_rl.output_dir={run_dir}"]
    module = {"verl": "benchmarks.step.stock_verl", "trl": "benchmarks.step.trl_grpo"}[arm]
    return [sys.executable, "-m", module, str(run_dir), "recipe=grpo_tiny", *shared]


def check(options: Options, shared: list[str]) -> dict[str, Any]:
    """Everything that can be known to fail before minutes are spent; makes the scenes. Returns the resolved configuration.

    Raises:
        ConfigError: as preflight's.
        UsageError: TRL is asked for and not installed; the work folder holds something that this benchmark did not make.
    """
    work = Path(options.work)
    if work.exists() and (not work.is_dir() or any(work.iterdir())) and not (work / OURS).exists():
        raise UsageError(f"work={options.work}: found files there that this benchmark did not make; expected a new or an empty folder")
    if "trl" in options.chosen:
        try:
            version("trl")
        except PackageNotFoundError:
            raise UsageError("TRL is not installed: pip install -e '.[cpu,dev]', or leave it out with arms=fgrpo,instant,verl") from None
    for arm in sorted(OWN.keys() & set(options.chosen), reverse=True) or ["fgrpo"]:
        job = command.prepare(["recipe=fgrpo_tiny", *shared, *OWN[arm], f"faithful_rl.output_dir={options.work}/{arm}-1"])
        config = command.resolved(job.composed)
        preflight.check_static(config, job.typed)
    return config


def report(options: Options, config: dict[str, Any], runs: dict[str, list[Any]], conditions: Conditions) -> dict[str, Any]:
    """The result file's content."""
    model, data = config["actor_rollout_ref"], config["data"]
    found: dict[str, Any] = {
        "what": "seconds per training step by phase, medians over steps after the warm-up",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {
            **asdict(options),
            "group_size": GROUP_SIZE,
            "model": Path(model["model"]["path"]).name,
            "max_prompt_length": data["max_prompt_length"],
            "max_response_length": data["max_response_length"],
            "lr": model["actor"]["optim"]["lr"],
            "seed": data["seed"],
            "poll_seconds": "0.2 in stock verl, whose own default is 2; ours is told when rollouts have ended",
        },
        "machine": {**machine(), **conditions.plain()},
        "code_version": code_version(),
        "versions": {**versions(), **({"trl": version("trl")} if "trl" in runs else {})},
        "arms": {arm: summary.summarise(of_arm, options.warm_up) for arm, of_arm in runs.items()},
    }
    ours = runs.get("fgrpo") or runs.get("seeded")
    if ours and "verl" in runs:
        found["overhead"] = summary.compare(ours, runs["verl"], options.warm_up, OVERHEAD_LIMIT, runs.get("instant"))
    if "trl" in runs:
        found["trl_over"] = {
            arm: {
                name: summary.ratio(steps_of(runs["trl"], options, key), steps_of(runs[arm], options, key))
                for name, key in (("wall", summary.STEP), ("processor", summary.PROCESSOR))
                if steps_of(runs["trl"], options, key) and steps_of(runs[arm], options, key)
            }
            for arm in ("fgrpo", "verl")
            if arm in runs
        }
    return {**found, "rows": runs}


def steps_of(runs: list[Any], options: Options, key: str) -> list[float]:
    return summary.values(summary.measured(runs, options.warm_up), key)


def show(result: dict[str, Any], console: Console) -> None:
    """The table and the statements."""
    arms = result["arms"]
    table = Table(title="seconds per step, median (quartiles)")
    table.add_column("phase")
    for arm in arms:
        table.add_column(ARMS[arm], justify="right")
    lines = [(phase, ("phase_seconds", phase)) for phase in summary.PHASES]
    lines += [("step and logging", ("cycle_seconds",)), ("processor time, all", ("processor_seconds", "total"))]
    lines += [("processor time, judges", ("processor_seconds", "judges")), ("tokens per response", ("response_tokens",))]
    for label, path in lines:
        cells = [_cell(_at(arms[arm], path)) for arm in arms]
        if any(cells):
            table.add_row(label, *cells)
    console.print(table)
    for line in statements(result):
        console.print(line, highlight=False)


def _at(node: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        node = node.get(name, {})
    return node


def _cell(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['quartile_1']:.2f}-{found['quartile_3']:.2f})" if found else ""


def statements(result: dict[str, Any]) -> list[str]:
    """What the numbers say, one sentence each."""
    lines = []
    names = {"wall": "wall time of a step", "wall_with_logging": "wall time with logging", "processor": "processor time"}
    overhead = result.get("overhead", {})
    for key, name in names.items():
        if key in overhead:
            outside = overhead[key]["outside_judges"]
            lines.append(
                f"Overhead of ours outside judges, {name}: {percent(outside)}; with judges {percent(overhead[key]['with_judges'])}; "
                f"at most {overhead['limit']:.0%}: {overhead[key]['within_limit']}"
            )
    for arm, found in result.get("trl_over", {}).items():
        wall, used = found["wall"], found.get("processor", {}).get("value", float("nan"))
        lines.append(
            f"A step of TRL takes {wall['value']:.2f} ({wall['low']:.2f} to {wall['high']:.2f}) times as long as {ARMS[arm]} "
            f"in wall time; {used:.2f} in processor time"
        )
    if not result["machine"]["quiet"]:
        busy = ", ".join(f"{share:.0%}" for share in result["machine"]["busy_share_before_each_run"])
        lines.append(f"The machine was busy (with others, before each run: {busy}): do not trust wall times, measure again on a quiet one")
    if not result["machine"]["steady"]:
        lines.append(
            f"The machine itself was up to {result['machine']['drift']:.2f} times slower before one run than before another: compare runs "
            "that stand beside each other (median_step_seconds_by_run), or measure again"
        )
    return lines


def percent(found: dict[str, float]) -> str:
    """A share with its interval, in percent."""
    return f"{found['value']:+.1%} ({found['low']:+.1%} to {found['high']:+.1%})"


def prepare_work(work: Path) -> None:
    """An empty folder with the mark that it may be made anew."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / OURS).touch()


def measure(options: Options, shared: list[str], console: Console) -> tuple[dict[str, list[Any]], Conditions]:
    """All runs one after the other, each in a process of its own; rows by arm, and what the machine was like before each."""
    work = Path(options.work)
    prepare_work(work)
    runs: dict[str, list[Any]] = {arm: [] for arm in options.chosen}
    conditions = Conditions()
    for arm, number in schedule(options):
        conditions.look()
        busy, piece = conditions.busy[-1], conditions.piece_seconds[-1]
        console.print(
            f"{ARMS[arm]}, run {number}: {options.steps} steps (others use {busy:.0%} of the machine, a piece of work takes {piece:.3f} s)",
            highlight=False,
        )
        run_dir = work / f"{arm}-{number}"
        rows = processes.run_measured(
            command_of(arm, run_dir, shared),
            run_dir / "metrics.jsonl",
            work / f"{arm}-{number}.log",
            options.steps,
            options.timeout_seconds,
            processes.child_environment(),
            PROJECT_ROOT,
        )
        runs[arm].append(rows)
        (work / "rows.json").write_text(
            json.dumps({"runs": runs, "machine": conditions.plain()}), encoding="utf-8"
        )  # should a later run fail
    return runs, conditions


def _stop(number: int, frame: Any) -> None:
    """SIGTERM unwinds like an exception, so that the run in progress is ended with everything it started."""
    sys.exit(128 + number)


def main() -> int:
    console = Console()
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    os.chdir(PROJECT_ROOT)
    signal.signal(signal.SIGTERM, _stop)
    try:
        options = parse(words)
        shared = overrides(options)
        config = check(options, shared)
        runs, conditions = measure(options, shared, console)
    except (UsageError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except processes.ChildFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    result = report(options, config, runs, conditions)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result, console)
    console.print(f"Written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
