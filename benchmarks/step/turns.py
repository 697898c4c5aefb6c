"""Our step beside stock verl's while the machine's speed changes: both runs are alive at once and take turns, step by step.

    python -m benchmarks.step.turns [arms=instant,fgrpo] [steps=40] [warm_up=3] [prompts=16] [out=benchmarks/results/step_turns.json] [...]

Keys are those of `benchmarks.step`; every arm is paired with stock verl. While one run takes its step, all processes of the other are
stopped (SIGSTOP), so it costs nothing. A round is one step of each; two steps of a round are seconds apart, and their ratio does not
know whether the virtual machine was fast or slow that minute. Which of the two begins changes from round to round. A step is the time in
which a run was allowed to work from one row of its metrics to the next, logging included.

Needs the memory of two tiny runs, 18 GiB.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from scipy import stats

from benchmarks.step import __main__ as step
from benchmarks.step import processes
from benchmarks.step.processes import ChildFailedError
from faithful_rl.config import ConfigError
from faithful_rl.run_record import code_version, machine, versions

POLL_SECONDS = 0.01
END_SECONDS = 180.0  # for a run to end by itself after its last step
DEFAULTS = ("arms=instant,fgrpo", "steps=40", "warm_up=3", "out=benchmarks/results/step_turns.json", "work=outputs/benchmarks/step_turns")
PEER = "verl"
WHAT = "seconds per training step, ours and stock verl's in turns; overhead is ours over stock verl's step of the same round"
SAY_EVERY = 10  # rounds
FEWEST_ROUNDS = 2
Rows = dict[str, list[dict[str, float]]]  # by run, one for each step


class Runner:
    """A run that works only when it is its turn."""

    def __init__(self, name: str, command: Sequence[str], run_dir: Path, log: Path) -> None:
        self.name, self._rows, self._log = name, run_dir / "metrics.jsonl", log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command, cwd=step.PROJECT_ROOT, env=processes.child_environment(), stdout=output, stderr=output, start_new_session=True
            )
        self._tree = processes.ProcessTree(self._child.pid)
        self._owed = 0.0  # seconds that the next step had already worked when this run was stopped
        self._used: dict[str, float] = {}

    def take_turn(self, rows: int, deadline: float) -> dict[str, float]:
        """Work until `rows` steps are written; returns the step's seconds (`wall`) and processor seconds by role.

        Raises:
            ChildFailedError: the run ended before, or the deadline (of `time.monotonic`) has passed.
        """
        began = time.monotonic()
        self._signal("resume")
        while True:
            ended = self._child.poll() is not None  # asked before the rows: what it wrote last still counts
            if processes.count_lines(self._rows) >= rows:
                break
            if ended or time.monotonic() > deadline:
                state = f"exit code {self._child.returncode}" if ended else "no step in time"
                raise ChildFailedError(f"{self.name}: {state}, step {rows}\n{processes.tail(self._log)}")
            time.sleep(POLL_SECONDS)
        written = time.monotonic()
        self._signal("suspend")
        wall, self._owed = self._owed + written - began, time.monotonic() - written
        before, self._used = self._used, self._tree.sample()
        return {"wall": wall, **{f"cpu_{role}": seconds - before.get(role, 0.0) for role, seconds in self._used.items()}}

    def finish(self) -> None:
        """Let the run end by itself after its last step."""
        self._signal("resume")
        self._child.wait(timeout=END_SECONDS)

    def end(self) -> None:
        """End whatever is left of it."""
        self._signal("resume")
        self._tree.end()

    def _signal(self, action: str) -> None:
        """Stop or continue every process of the run; those that begin meanwhile are met at the second look."""
        stopped = action == "suspend"
        for _ in range(3):
            members = [one for one in self._members() if (_state(one) == psutil.STATUS_STOPPED) != stopped]
            if not members:
                return
            for one in members:
                try:
                    getattr(one, action)()
                except psutil.NoSuchProcess:
                    continue

    def _members(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._child.pid)
            return [one for one in (root, *root.children(recursive=True)) if _state(one) not in (psutil.STATUS_ZOMBIE, None)]
        except psutil.NoSuchProcess:
            return []


def _state(process: psutil.Process) -> str | None:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return None


def alternate(runners: Sequence[Runner], steps: int, seconds_per_step: float, say: Callable[[str], None]) -> Rows:
    """Each run's steps 2, 3, ... in turns, then the ends of the runs."""
    rows: Rows = {runner.name: [] for runner in runners}
    for number in range(2, steps + 1):
        for runner in runners if number % 2 else reversed(runners):
            rows[runner.name].append(runner.take_turn(number, time.monotonic() + seconds_per_step))
        if number % SAY_EVERY == 0:
            say(f"step {number} of {steps}")
    for runner in runners:
        runner.finish()
    return rows


def overhead(ours: Sequence[Mapping[str, float]], peer: Sequence[Mapping[str, float]], key: str) -> dict[str, float]:
    """Mean of log(ours / peer) over rounds, as a share: 0.05 is 5% more; with a 95% bootstrap interval over rounds.

    The mean and not the median, so that what is done only now and then counts.

    Raises:
        ValueError: fewer than two rounds, or sides of unequal length.
    """
    if len(ours) != len(peer) or len(ours) < FEWEST_ROUNDS:
        raise ValueError(f"need as many steps of both, two or more, got {len(ours)} and {len(peer)}")
    logs = np.log([mine[key] / other[key] for mine, other in zip(ours, peer, strict=True)])
    found = stats.bootstrap((logs,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return {"value": float(np.expm1(logs.mean())), "low": float(np.expm1(found.low)), "high": float(np.expm1(found.high))}


def measure(arm: str, options: step.Options, shared: list[str], say: Callable[[str], None]) -> Rows:
    """One arm and stock verl in turns; rows after the warm-up, by name."""
    work = Path(options.work)
    runners: list[Runner] = []
    try:
        for name in (arm, PEER):
            run_dir = work / f"{arm}-{name}"
            runners.append(Runner(name, step.command_of(name, run_dir, shared), run_dir, work / f"{arm}-{name}.log"))
            runners[-1].take_turn(1, time.monotonic() + options.timeout_seconds)  # so that starts do not meet
        rows = alternate(runners, options.steps, options.timeout_seconds, say)
    finally:
        for runner in runners:
            runner.end()
    return {name: of_run[max(0, options.warm_up - 1) :] for name, of_run in rows.items()}  # they begin with step 2


def entry(arm: str, options: step.Options, rows: Rows) -> dict[str, Any]:
    """What the result file says of one pair."""
    wall = overhead(rows[arm], rows[PEER], "wall")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {**asdict(options), "arms": arm, "group_size": step.GROUP_SIZE},
        "machine": machine(),
        "code_version": code_version(),
        "versions": versions(),
        "rounds": len(rows[arm]),
        "mean_seconds": {name: float(np.mean([row["wall"] for row in of_run])) for name, of_run in rows.items()},
        "wall": wall,
        "processor": overhead(rows[arm], rows[PEER], "cpu_total"),
        "limit": step.OVERHEAD_LIMIT,
        "within_limit": step.summary.verdict(wall, step.OVERHEAD_LIMIT),
        "rows": rows,
    }


def add(out: Path, arm: str, found: Mapping[str, Any]) -> None:
    """Write one pair into the result file, which keeps the other pairs that it has."""
    pairs = json.loads(out.read_text(encoding="utf-8"))["pairs"] if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"what": WHAT, "pairs": {**pairs, arm: found}}
    out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sentence(arm: str, found: Mapping[str, Any]) -> str:
    seconds = found["mean_seconds"]
    return (
        f"{step.ARMS[arm]}: {seconds[arm]:.2f} s a step, {step.ARMS[PEER]} {seconds[PEER]:.2f} s; wall {step.percent(found['wall'])}, "
        f"processor {step.percent(found['processor'])} over {found['rounds']} rounds; at most {found['limit']:.0%}: {found['within_limit']}"
    )


def parse(words: list[str]) -> step.Options:
    """The command line over this benchmark's own defaults.

    Raises:
        UsageError: as `step.parse`; an arm that is not ours; or too few steps for an interval.
    """
    options = step.parse([*DEFAULTS, *words])
    if wrong := [arm for arm in options.chosen if arm not in step.OWN]:
        raise step.UsageError(f"arms={options.arms}: {wrong[0]} is no run of ours; expected some of {', '.join(step.OWN)}")
    if options.steps - max(1, options.warm_up) < FEWEST_ROUNDS:
        raise step.UsageError(f"steps={options.steps} with warm_up={options.warm_up}: expected {FEWEST_ROUNDS} or more rounds to measure")
    return options


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    console = Console()
    os.chdir(step.PROJECT_ROOT)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        options = parse(sys.argv[1:])
        shared = step.overrides(options)
        step.check(options, shared)
        step.prepare_work(Path(options.work))
        for arm in options.chosen:
            console.print(f"{step.ARMS[arm]} and {step.ARMS[PEER]} in turns, {options.steps} steps each", highlight=False)
            found = entry(arm, options, measure(arm, options, shared, console.print))
            add(Path(options.out), arm, found)
            console.print(sentence(arm, found), highlight=False)
    except (step.UsageError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ChildFailedError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(f"Written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
