"""A benchmark's child process with everything it starts: processor time by role, a deadline, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.1
END_SECONDS = 30.0  # for processes that were asked to end
LOG_LINES = 25

# What a process does, by the beginning of its command line; Ray and vLLM set these titles.
ROLES = (
    ("ray::Replica", "judges"),
    ("ray::Registry", "judges"),
    ("ray::RewardLoopWorker", "rewards"),
    ("ray::WorkerDict", "training"),
    ("ray::vLLM", "rollout"),
    ("ray::CpuVllm", "rollout"),
    ("VLLM::", "rollout"),
    ("ray::AgentLoopWorker", "agent_loop"),
    ("ray::FaithfulAgentLoopWorker", "agent_loop"),
    ("ray::SimpleStorage", "queue"),
    ("ray::TransferQueue", "queue"),
    ("ray::StockTaskRunner", "trainer"),
    ("ray::TaskRunner", "trainer"),
    ("ray::FaithfulTaskRunner", "trainer"),
    ("ray::InstantTaskRunner", "trainer"),
)


class ChildFailedError(RuntimeError):
    """A measured run ended badly, too late or with too few steps; the message has the end of its log."""


def role_of(command_line: str) -> str:
    """The role of a process, "other" where its title is none of `ROLES`."""
    return next((role for beginning, role in ROLES if command_line.startswith(beginning)), "other")


@dataclass
class _Seen:
    process: psutil.Process
    role: str
    seconds: float


class ProcessTree:
    """All processes that descend from one, also those that have ended since they were first seen."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: dict[tuple[int, float], _Seen] = {}

    def sample(self) -> dict[str, float]:
        """Processor seconds (user and system) since their start, by role, and `total`."""
        try:
            members = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            members = []
        for process in members:
            try:
                times, role = process.cpu_times(), role_of(" ".join(process.cmdline()))
                self._seen[process.pid, process.create_time()] = _Seen(process, role, times.user + times.system)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue  # it ended just now; what it had used when last seen still counts
        by_role: dict[str, float] = defaultdict(float)
        for seen in self._seen.values():
            by_role[seen.role] += seen.seconds
            by_role["total"] += seen.seconds
        return dict(by_role)

    def end(self) -> None:
        """End every member that still lives: first asked, then killed."""
        self.sample()
        alive = [seen.process for seen in self._seen.values() if seen.process.is_running()]
        for action in ("terminate", "kill"):
            for process in alive:
                try:
                    getattr(process, action)()
                except psutil.NoSuchProcess:
                    continue
            _, alive = psutil.wait_procs(alive, timeout=END_SECONDS)


def run_measured(
    command: Sequence[str], rows_file: Path, log: Path, steps: int, timeout_seconds: float, environment: Mapping[str, str], folder: Path
) -> list[dict[str, float]]:
    """Run `command` in `folder` and return one row per training step, with `cycle_s` (from the second on) and `cpu_s/*` added.

    The child appends one JSON object per step to `rows_file`; objects as verl's file logger writes them ({"step", "data"}) are
    flattened.

    Raises:
        ChildFailedError: exit code not 0, no end within `timeout_seconds`, or not `steps` rows.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=output, stderr=output, start_new_session=True)
    tree, marks = ProcessTree(child.pid), []
    deadline = time.monotonic() + timeout_seconds
    try:
        while child.poll() is None:
            if time.monotonic() > deadline:
                raise ChildFailedError(
                    f"{_name(command)}: no end within {timeout_seconds:.0f} s, step {len(marks)} of {steps}\n{tail(log)}"
                )
            if count_lines(rows_file) > len(marks):
                marks.append((time.monotonic(), tree.sample()))
            time.sleep(POLL_SECONDS)
    finally:
        tree.end()
    if child.returncode != 0:
        raise ChildFailedError(f"{_name(command)}: exit code {child.returncode}\n{tail(log)}")
    rows = read_rows(rows_file)
    if len(rows) != steps:
        raise ChildFailedError(f"{_name(command)}: {len(rows)} steps in {rows_file}, expected {steps}\n{tail(log)}")
    return with_marks(rows, marks)


def with_marks(rows: Sequence[Mapping[str, float]], marks: Sequence[tuple[float, Mapping[str, float]]]) -> list[dict[str, float]]:
    """Rows with the differences between the marks (time, processor seconds by role) that were taken when each appeared.

    The first row has none; nor has a row whose mark, or the one before, is missing because two rows appeared between two looks.
    """
    found = [dict(row) for row in rows]
    if len(marks) != len(rows):
        return found
    for row, (time_before, used_before), (time_after, used_after) in zip(found[1:], marks, marks[1:], strict=False):
        row["cycle_s"] = time_after - time_before
        for role, seconds in used_after.items():
            row[f"cpu_s/{role}"] = seconds - used_before.get(role, 0.0)
    return found


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def read_rows(path: Path) -> list[dict[str, float]]:
    """Numbers of each line; text and null are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        found = json.loads(line)
        flat = {"step": found["step"], **found["data"]} if isinstance(found.get("data"), dict) else found
        rows.append({key: float(value) for key, value in flat.items() if isinstance(value, int | float)})
    return rows


def tail(log: Path) -> str:
    """The last lines of a log, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"end of {log}:", *lines[-LOG_LINES:]])


def child_environment() -> dict[str, str]:
    """This process's environment without what would decide a framework's number of threads or let it join a running Ray."""
    left_out = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_ADDRESS"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _name(command: Sequence[str]) -> str:
    return command[command.index("-m") + 1] if "-m" in command else command[0]
