"""Stage one: start verl's SFT trainer on every GPU (or one CPU rank), watch it, and publish the model that it ends with.

The trainer runs in processes of their own (torchrun), as verl intends; this module only reads the file that they log to. A run that
was stopped continues from its latest checkpoint. The finished model appears under its final name in one step, with a manifest that
names its data, so that the next stage can tell what it begins from.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from faithful_rl import run_directory
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.provenance import describe, sha256, write_manifest
from faithful_rl.run_record import code_version, versions
from faithful_rl.supervised import model_dir, total_steps, train_files

Progress = Callable[[str, int, int, float], None]  # stage, step from 1, steps, loss

CONFIG = "sft.yaml"
LOGS = "logs"
TRACKER = "latest_checkpointed_iteration.txt"
PAUSE_SECONDS = 0.5  # between two looks at the log
GRACE_SECONDS = 20.0  # for ranks to end after SIGTERM


class TrainingError(RuntimeError):
    """The trainer's processes ended without the model, or were ended; the message says why and where to read on."""


def run(config: Mapping[str, Any], typed: FaithfulRLConfig, run_dir: Path, progress: Progress) -> Path:
    """Train, and return the directory of the finished model.

    Args:
        config: the whole resolved configuration of a recipe on verl's SFT tree.
        progress: called with ("sft", step, steps, loss) after each step.

    Raises:
        TrainingError: a rank failed, no step within `faithful_rl.step_timeout_seconds`, or a loss that stays non-finite.
        ConfigError: the model's final directory was filled meanwhile.
    """
    target = model_dir(typed, run_dir)
    steps = total_steps(config)
    (run_dir / LOGS).mkdir(parents=True, exist_ok=True)
    tree = {key: value for key, value in config.items() if key != "faithful_rl"}
    (run_dir / CONFIG).write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    metrics = _free_name(run_dir / LOGS)
    log = run_dir / LOGS / "sft.log"
    try:
        with _ranks(config, run_dir, metrics, log) as process:
            _watch(process, metrics, log, steps, typed, progress)
    finally:
        _merge_metrics(run_dir)
    checkpoint = _finished(Path(config["trainer"]["default_local_dir"]), steps, log)
    return _publish(checkpoint / "huggingface", target, config, typed, steps)


@contextlib.contextmanager
def _ranks(config: Mapping[str, Any], run_dir: Path, metrics: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with one process for every GPU of this machine; however this block is left, they end with it."""
    workers = str(config["trainer"]["n_gpus_per_node"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc-per-node={workers}"]
    command += ["-m", "faithful_rl.verl_plugin.sft_rank", str(run_dir / CONFIG)]
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(metrics), "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as output, _sigterm_raises():
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            yield process
        finally:
            _end(process)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the ranks too, which have a session of their own; left alone outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to the whole process group; nothing where it has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_SECONDS)


def _watch(process: subprocess.Popen[bytes], metrics: Path, log: Path, steps: int, typed: FaithfulRLConfig, progress: Progress) -> None:
    """Follow the trainer's log until its processes end."""
    seen, heard, nonfinite = 0, time.monotonic(), 0
    while True:
        code = process.poll()
        rows = [row for row in read_metrics(metrics) if "train/loss" in row]
        for row in rows[seen:]:
            loss = float(row["train/loss"])
            nonfinite = 0 if math.isfinite(loss) else nonfinite + 1
            progress("sft", int(row["step"]), steps, loss)
        if len(rows) > seen:
            seen, heard = len(rows), time.monotonic()
        if nonfinite >= typed.stop_after_nonfinite_steps:
            raise TrainingError(f"the loss was not finite in {nonfinite} steps in a row, up to step {rows[-1]['step']}")
        if code == 0:
            return
        if code is not None:
            raise TrainingError(f"verl's SFT trainer ended with code {code} ({_last_error(log)}); its output is in {log}")
        if time.monotonic() - heard > typed.step_timeout_seconds:
            raise TrainingError(f"no step within {typed.step_timeout_seconds:g} s (faithful_rl.step_timeout_seconds); see {log}")
        time.sleep(PAUSE_SECONDS)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of verl's file logger, flat, with their step; a line that is being written is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            rows.append({"step": row["step"], **{key: math.nan if value is None else value for key, value in row["data"].items()}})
    return rows


def _free_name(folder: Path) -> Path:
    """A new file for each start: verl's logger empties the file that it is given."""
    number = 1
    while (folder / f"sft_metrics_{number}.jsonl").exists():
        number += 1
    return folder / f"sft_metrics_{number}.jsonl"


def _merge_metrics(run_dir: Path) -> None:
    """`metrics.jsonl` with one row a step: a later start's word on a step replaces an earlier one's."""
    merged: dict[int, dict[str, Any]] = {}
    files = sorted((run_dir / LOGS).glob("sft_metrics_*.jsonl"), key=lambda path: int(path.stem.rpartition("_")[2]))
    for path in files:
        for row in read_metrics(path):
            merged[row["step"]] = {**merged.get(row["step"], {}), **row}
    text = "".join(json.dumps(merged[step]) + "\n" for step in sorted(merged))
    (run_dir / run_directory.METRICS).write_text(text, encoding="utf-8")


def _last_error(log: Path) -> str:
    """The last line that looks like an exception, for a one-line message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    for line in reversed(lines[-400:]):
        text = line.rpartition("]: ")[2].strip()  # torchrun may put the rank in front
        name = text.partition(":")[0]
        if name and name.rpartition(".")[2].endswith(("Error", "Exception", "Interrupt")) and " " not in name and "ChildFailed" not in name:
            return text[:300]
    return "no exception in its output"


def _finished(checkpoints: Path, steps: int, log: Path) -> Path:
    try:
        found = int((checkpoints / TRACKER).read_text())
    except (OSError, ValueError):
        found = 0
    folder = checkpoints / f"global_step_{found}"
    if found < steps or not (folder / "huggingface" / "config.json").is_file():
        raise TrainingError(f"the trainer ended after step {found} of {steps}; its output is in {log}")
    return folder


def _publish(made: Path, target: Path, config: Mapping[str, Any], typed: FaithfulRLConfig, steps: int) -> Path:
    """Move a copy (hard links where the disk allows it) of the model to its final name, the manifest in it."""
    if target.exists():
        raise ConfigError("faithful_rl.sft.model_dir", f"{target}, which exists", "a new directory", "Remove it, or choose another one.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, temporary, copy_function=_link)
    write_manifest(
        temporary,
        {
            "stage": "sft",
            "recipe": typed.recipe,
            "base_model": describe(Path(config["model"]["path"])),
            "data": [describe(path) for path in train_files(config)],
            "steps": steps,
            "settings": {key: config[key] for key in ("optim", "data")},
            "trained": {name: config["model"]["override_config"].get(name, False) for name in ("freeze_vision_tower", "train_projector")},
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(temporary.glob("*.safetensors"))
            },
            "code_version": code_version(),
            "versions": versions(),
        },
    )
    os.replace(temporary, target)
    return target


def _link(source: str, destination: str) -> str:
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)
    return destination
