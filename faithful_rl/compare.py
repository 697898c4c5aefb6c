"""Train several recipes with several seeds from one warm start, and put the results beside each other.

    python -m faithful_rl.compare recipes=[grpo_tiny,additive_tiny,fgrpo_tiny] seeds=[0,1,2] out=DIR [key=value ...]

Every run is `python -m faithful_rl.main recipe=R faithful_rl.seed=S faithful_rl.output_dir=OUT/R-seedS` with the same further settings,
evaluated on the same held-out questions after training, and the first recipe's also before it. Finished runs are kept, unfinished ones
continue, so the same command after an interruption does only what is left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from faithful_rl import comparable, preflight, report
from faithful_rl.config import ConfigError
from faithful_rl.main import prepare, resolved
from faithful_rl.report import comparison, front
from faithful_rl.run_directory import RUN, read_json, write_json

DEFAULT_RECIPES = ("grpo_tiny", "fgrpo_fixed_tiny", "fgrpo_tiny")
LONGEST_RUN_SECONDS = 24 * 3600
EXIT_FAILED, EXIT_USAGE = 1, 2
OWN_KEYS = ("recipes", "seeds", "out", "jobs", "figure", "differences", "mode")
NOT_TOLD = ("faithful_rl.output_dir=", "faithful_rl.evaluation.at_start=")  # words that compare itself gives a run
HELP = """keys
  recipes=[A,B,...]   what to train (default: grpo_tiny, fgrpo_fixed_tiny, fgrpo_tiny); the first is also evaluated before training
  seeds=[0,1,2]       one run for each recipe and seed
  out=DIR             runs, logs and results (default: outputs/comparison)
  jobs=1              runs at a time; two tiny ones took 18 GiB of memory
  figure=FILE         also draw the picture there
  differences=refuse  recipes must share all that is not their method; allow: tell what differs, and compare them as they are
  mode=check          compose and check every recipe, and start nothing
  anything else       is handed on to every run, as for faithful_rl.main

Writes OUT/comparison.md (tables), comparison.json and comparison.html.  --only-report trains nothing: what has finished is compared.
exit codes: 0 done, 1 a run failed (the same command continues it), 2 the command is not right
"""


@dataclass(frozen=True)
class Plan:
    """What to run. `settings` are handed on to every run."""

    recipes: tuple[str, ...] = DEFAULT_RECIPES
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("outputs/comparison")
    jobs: int = 1
    figure: Path | None = None
    settings: tuple[str, ...] = field(default_factory=tuple)
    allow_differences: bool = False
    only_check: bool = False

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """(recipe, seed) in the order of training: seed by seed, so that a first table comes early."""
        return [(recipe, seed) for seed in self.seeds for recipe in self.recipes]


def run_dir_of(out: Path, recipe: str, seed: int) -> Path:
    """Where the run of one recipe and seed goes."""
    return out / f"{recipe}-seed{seed}"


def parse(words: Sequence[str]) -> Plan:
    """`key=value` words as a plan; keys that are not ours become settings of every run.

    Raises:
        ConfigError: a word without `=`, or a value of the wrong form.
    """
    own: dict[str, Any] = {}
    settings = []
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise ConfigError("command line", repr(word), "key=value", "See --help.")
        if key in OWN_KEYS:
            own[key] = value
        elif key in ("recipe", "faithful_rl.seed", "faithful_rl.output_dir"):
            raise ConfigError(key, repr(value), "recipes, seeds and out, from which it follows for each run", "Leave it out.")
        else:
            settings.append(word)
    recipes, seeds = _listed("recipes", own.get("recipes"), str), _listed("seeds", own.get("seeds"), int)
    jobs = own.get("jobs", "1")
    if not jobs.isdigit() or int(jobs) < 1:
        raise ConfigError("jobs", repr(jobs), "a whole number >= 1", "Change it.")
    return Plan(
        recipes or DEFAULT_RECIPES,
        seeds or (0, 1, 2),
        Path(own.get("out", "outputs/comparison")),
        int(jobs),
        Path(own["figure"]) if "figure" in own else None,
        tuple(settings),
        _chosen("differences", own.get("differences"), ("refuse", "allow")) == "allow",
        _chosen("mode", own.get("mode"), ("train", "check")) == "check",
    )


def _chosen(key: str, found: str | None, known: tuple[str, ...]) -> str:
    """One of `known`, of which the first is the default."""
    if found is not None and found not in known:
        raise ConfigError(key, repr(found), " or ".join(known), f"Leave it out for {known[0]}.")
    return found or known[0]


def check(plan: Plan) -> list[str]:
    """Compose and validate every recipe before anything is trained. Returns a line for each allowed difference that is none of the method.

    Raises:
        ConfigError: a recipe that does not compose, one that trains no policy, or recipes that differ in what methods must share.
    """
    jobs = {recipe: prepare([f"recipe={recipe}", *plan.settings]) for recipe in plan.recipes}
    for recipe, job in jobs.items():
        if job.typed.method not in ("grpo", "fgrpo"):
            raise ConfigError(
                "recipes", recipe, "recipes that train a policy by rollouts", f"Run it by itself: faithful_rl.main recipe={recipe}."
            )
    shared = {recipe: (resolved(job.composed), job.typed) for recipe, job in jobs.items()}
    base, *others = plan.recipes
    for recipe in others:
        one, other = comparable.start(*shared[base]), comparable.start(*shared[recipe])
        for key in comparable.differences(one, other):
            expected = f"{one.get(key)!r} as in {base}: methods are compared from one start, on the same data, over as many steps"
            raise ConfigError(key, f"{other.get(key)!r} in {recipe}", expected, f"Give {key}=... to all, or compare recipes of one size.")
    told = []
    for recipe in others:
        one, other = comparable.learning(*shared[base]), comparable.learning(*shared[recipe])
        told += [f"{key}: {other.get(key)} in {recipe}, {one.get(key)} in {base}" for key in comparable.differences(one, other)]
    if told and not plan.allow_differences:
        found = f"recipes that differ in more than their method ({'; '.join(told)})"
        fix = "Give each key one value for all, as a further word key=value, or compare them as they are with differences=allow."
        raise ConfigError("recipes", found, "recipes whose difference is the method", fix)
    return told


def check_runs(plan: Plan) -> int:
    """`mode=check`: every check of each recipe that starts no process. Writes nothing but the data that a first run would make.

    Raises:
        ConfigError: what a run of this comparison would be refused for.
    """
    for recipe in plan.recipes:
        run_dir = run_dir_of(plan.out, recipe, plan.seeds[0])
        job = prepare([*_words(plan, recipe, plan.seeds[0]), f"faithful_rl.output_dir={run_dir}"])
        config = resolved(job.composed)
        preflight.check_static(config, job.typed)
        print(f"{recipe}: checked")
        for warning in preflight.warnings(config, job.typed):
            print(f"{recipe}: warning: {warning}")
    print(f"{len(plan.pairs)} runs would go into {plan.out}; nothing was started.")
    return 0


def train(plan: Plan, recipe: str, seed: int) -> int:
    """Train one run unless it has finished before; returns the exit code of the training command.

    All recipes start from the same weights and ask with the same random numbers, so only the first answers the held-out questions before
    its first step too.
    """
    run_dir = run_dir_of(plan.out, recipe, seed)
    if read_json(run_dir / RUN).get("status") == "finished":
        print(f"{recipe}, seed {seed}: finished before, kept", flush=True)
        return 0
    command = [sys.executable, "-m", "faithful_rl.main", *_words(plan, recipe, seed), f"faithful_rl.output_dir={run_dir}"]
    if recipe != plan.recipes[0]:
        command.append("faithful_rl.evaluation.at_start=false")
    log = plan.out / f"{recipe}-seed{seed}.log"
    started = time.monotonic()
    print(f"{recipe}, seed {seed}: training, log in {log}", flush=True)
    with log.open("a", encoding="utf-8") as stream:
        try:
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, timeout=LONGEST_RUN_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:  # it was killed, and continues from its last checkpoint
            stream.write(f"error: no end after {LONGEST_RUN_SECONDS} s\n")
            code = EXIT_FAILED
    print(f"{recipe}, seed {seed}: exit code {code} after {time.monotonic() - started:.0f} s{_last_error(log) if code else ''}", flush=True)
    return code


def _words(plan: Plan, recipe: str, seed: int) -> list[str]:
    """What one run is told, but for its place and whether it answers the held-out questions before its first step."""
    return [f"recipe={recipe}", f"faithful_rl.seed={seed}", *plan.settings]


def _last_error(log: Path) -> str:
    errors = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("error:")]
    return f"; {errors[-1]}" if errors else ""


def _check_finished(plan: Plan) -> None:
    """A finished run is kept where it was told the same.

    Raises:
        ConfigError: one was told something else, so that it would stand in the table for what it is not.
    """
    for recipe, seed in plan.pairs:
        run_dir = run_dir_of(plan.out, recipe, seed)
        run = read_json(run_dir / RUN)
        if run.get("status") != "finished":
            continue
        told = {word for word in run.get("command", [])[3:] if not word.startswith(NOT_TOLD)}
        different = told ^ set(_words(plan, recipe, seed))
        if told and different:
            raise ConfigError(
                "out",
                f"a finished run in {run_dir} that was told otherwise: {', '.join(sorted(different))}",
                "runs of this comparison",
                "Choose another out=DIR, repeat those settings, or add --only-report to compare what is there.",
            )


def write_results(run_dirs: Sequence[Path], out: Path, figure: Path | None) -> comparison.Comparison:
    """Tables, JSON, page and picture of finished runs."""
    found = comparison.compare(run_dirs)
    (out / "comparison.md").write_text(comparison.markdown(found), encoding="utf-8")
    write_json(out / "comparison.json", comparison.as_json(found))
    report.build(run_dirs, out / "comparison.html")
    if figure:
        front.save(front.draw(found, run_dirs), figure)
    return found


def run(plan: Plan, only_report: bool = False, differences: Sequence[str] = ()) -> int:
    """Train what is left, write the results, print the tables; returns the exit code. `differences` that are none of the method go below
    the tables."""
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{plan.out}, which cannot be made ({error.strerror})"
        raise ConfigError("out", problem, "a writable directory", "Choose another one.") from error
    if not only_report:
        _check_finished(plan)
        with ThreadPoolExecutor(max_workers=plan.jobs) as pool:
            codes = list(pool.map(lambda pair: train(plan, *pair), plan.pairs))
        if any(codes):
            print("some runs failed; the same command continues them", file=sys.stderr)
            return EXIT_FAILED
    run_dirs = [run_dir_of(plan.out, recipe, seed) for recipe, seed in plan.pairs]
    if only_report:
        run_dirs = [run_dir for run_dir in run_dirs if read_json(run_dir / RUN).get("status") == "finished"]
        if not run_dirs:
            raise ConfigError(
                "out", f"{plan.out} without a finished run of these recipes", "at least one", "Leave out --only-report to train."
            )
    found = write_results(run_dirs, plan.out, plan.figure)
    print(comparison.markdown(found))
    if differences:
        note = "\nThese runs differ in more than their method:\n\n" + "".join(f"- {line}\n" for line in differences)
        with (plan.out / "comparison.md").open("a", encoding="utf-8") as file:
            file.write(note)
        print(note)
    print(f"Tables: {plan.out / 'comparison.md'}  Page: {plan.out / 'comparison.html'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m faithful_rl.compare", usage="%(prog)s [--only-report] [key=value ...]", description=__doc__, epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only-report", action="store_true")
    parser.add_argument("words", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(argv)
    try:
        plan = parse(options.words)
        if options.only_report:
            return run(plan, only_report=True)
        told = check(plan)
        for line in told:
            print(f"warning: {line}", file=sys.stderr)
        return check_runs(plan) if plan.only_check else run(plan, differences=told)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        return 130


def _listed(key: str, text: str | None, kind: type) -> tuple[Any, ...]:
    """`[a,b]` or `a` as a tuple of distinct values; () where the key is absent."""
    if text is None:
        return ()
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, kind) and not isinstance(one, bool) for one in values) or len(set(values)) != len(values):
        raise ConfigError(key, repr(text), f"a list of distinct {'names' if kind is str else 'whole numbers'}, such as [a,b]", "Change it.")
    return tuple(values)


if __name__ == "__main__":
    sys.exit(main())
