"""Small real runs (Ray, FSDP2 on gloo, vLLM on CPU) for the training tests, each in a process of its own.

`python training_harness.py <runner> <override>...` composes a recipe and trains it with one of the runners below. Ray's workers import
this module, so its folder must be on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

FOLDER = Path(__file__).parent
PROJECT = FOLDER.parent.parent
POISONED_UNTIL = 4  # steps in which the poisoned trainer looks whether weights change; later ones are as usual
SECONDS = 900  # for one run on a busy machine; an idle one needs about a minute

# The smallest run that still has groups, mini-batches, judges and a checkpoint.
SMALL = (
    "recipe=fgrpo_tiny",
    "data.train_batch_size=4",
    "data.max_response_length=64",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=10",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=20",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=20",
    "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
    "faithful_rl.data.scenes.train=48",
    "faithful_rl.data.scenes.val=8",
    "faithful_rl.data.scenes.test=8",
    "faithful_rl.evaluation.at_start=false",
    "faithful_rl.evaluation.at_end=false",
    "faithful_rl.constraints.consistency.multiplier.min_applicable=1",
    "faithful_rl.constraints.semantic_grounding.multiplier.min_applicable=1",
    "trainer.logger=[]",
)


def command_line(scenes: Path, run_dir: Path, *overrides: str) -> list[str]:
    """Arguments of the product's own command for a small run."""
    return [*SMALL, f"faithful_rl.data.scenes.directory={scenes}", f"faithful_rl.output_dir={run_dir}", *overrides]


def start(arguments: list[str], log: Path, runner: str = "") -> subprocess.Popen[bytes]:
    """Start a run; with `runner` by this module's `main`, else by the product's command."""
    program = [str(FOLDER / "training_harness.py"), runner] if runner else ["-m", "faithful_rl.main"]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{FOLDER}"}
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, *program, *arguments], cwd=PROJECT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for the end of a run and return its exit code; a run that does not end is killed and fails the test."""
    try:
        return process.wait(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        kill(process)
        raise AssertionError(f"no end after {SECONDS} s:\n{log.read_text(errors='replace')[-3000:]}") from None


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the run and of everything that it started, as a power cut would."""
    members = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    for pid in members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(timeout=60)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Watch a run until `condition` holds; fails when it ends or takes too long before."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the run ended (code {process.poll()}) too early:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a row being written right now is left out."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what depends on the clock or the machine."""
    clocks = ("timing_", "perf/", "actor/perf/", "time_s", "judge/seconds", "judge/exposed_seconds")
    return {name: value for name, value in row.items() if not name.startswith(clocks)}


def weights(checkpoint: Path) -> dict[str, Any]:
    """Tensors of the actor's only shard in a checkpoint."""
    import torch

    state = torch.load(checkpoint / "actor" / "model_world_size_1_rank_0.pt", weights_only=False)
    return {name: getattr(tensor, "_local_tensor", tensor) for name, tensor in state.items()}


def runners() -> dict[str, type]:
    """Task runners by name. Imported here, so that the tests can use this module without verl."""
    import torch

    from faithful_rl.verl_plugin.task_runner import FaithfulTaskRunner
    from faithful_rl.verl_plugin.trainer import FaithfulTrainerSync

    class PoisonedTrainer(FaithfulTrainerSync):
        """Step 2 meets a reward that is not a number, step 3 an advantage of infinity on its way to the actor."""

        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            from faithful_rl.verl_plugin import queue_io, trainer

            def poisoned(*arguments: Any) -> Any:
                batch = read_batch(*arguments)
                batch.columns["task"][0] = float("nan") if self.global_steps == 2 else batch.columns["task"][0]
                return batch

            read_batch, trainer.read_batch = trainer.read_batch, poisoned
            try:
                batch = super()._compute_advantage(batch, metrics=metrics)
            finally:
                trainer.read_batch = read_batch
            if self.global_steps == 3:
                import numpy as np

                batch = queue_io.write_advantages(batch, np.full(len(batch.keys), np.inf))
            return batch

        def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
            if self.global_steps > POISONED_UNTIL:
                return super()._update_actor(batch, metrics=metrics)
            before = self._weight_file("before")
            batch = super()._update_actor(batch, metrics=metrics)
            after = self._weight_file("after")
            same = all(torch.equal(before[name], after[name]) for name in before)
            metrics["test/weights_changed"] = float(not same)
            self._updates.append({"test/weights_changed": float(not same)})
            return batch

        def _weight_file(self, when: str) -> dict[str, Any]:
            folder = self.run_dir / f"weights-{self.global_steps}-{when}"
            self.actor_rollout_wg.save_checkpoint(str(folder / "actor"), None, self.global_steps, max_ckpt_to_keep=None)
            return weights(folder)

    class PoisonedRunner(FaithfulTaskRunner):
        def trainer_class(self, mode: str) -> Any:
            return PoisonedTrainer

    return {"plain": FaithfulTaskRunner, "poisoned": PoisonedRunner}


def main(runner: str, overrides: list[str]) -> None:
    from omegaconf import OmegaConf

    from faithful_rl import main as product
    from faithful_rl import preflight

    job = product.prepare(overrides)
    config = OmegaConf.create(product.resolved(job.composed))
    product.set_environment(job.typed, Path(job.typed.output_dir))
    from faithful_rl.verl_plugin import task_runner  # imports verl, which chooses its platform by the environment

    preflight.check_static(OmegaConf.to_container(config), job.typed)  # makes the scenes as well
    preflight.check_started(OmegaConf.to_container(config), job.typed)
    task_runner.run(config, runners()[runner])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
