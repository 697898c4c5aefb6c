"""One run of stock verl: its own task runner, trainer, agent loop, naive reward manager; the task reward as custom function.

    python -m benchmarks.step.stock_verl RUN_DIRECTORY recipe=grpo_tiny [key=value ...]

The recipe's settings are ours, so both sides train alike. What stays of our package is what lets verl run on a CPU at all: platform,
engine on gloo, vLLM's weight reload, guards. verl looks every 2 s whether rollouts are finished, which alone is a good part of a step
of this model; it gets our interval here, so that the comparison is about work and not about waiting.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from faithful_rl import main as command

METRICS = "metrics.jsonl"


def overrides(task_reward: Path) -> list[str]:
    """What makes a recipe stock."""
    return [
        "reward.reward_manager.source=register",
        "reward.reward_manager.name=naive",
        "reward.reward_manager.module.path=null",
        f"reward.custom_reward_function.path={task_reward}",
        "trainer.logger=[tensorboard,file]",
    ]


def main(run_dir: Path, arguments: list[str]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    job = command.prepare([*arguments, *overrides(Path(__file__).with_name("task_reward.py"))])
    plain = command.resolved(job.composed)
    command.set_environment(job.typed, run_dir)  # before verl is imported
    os.environ["VERL_FILE_LOGGER_PATH"] = str((run_dir / METRICS).resolve())
    plain.pop("faithful_rl")
    plain["trainer"]["default_local_dir"] = str(run_dir / "checkpoints")
    run(OmegaConf.create(plain))


def run(config: Any) -> None:
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from faithful_rl.verl_plugin.trainer import POLL_SECONDS

    host: Any = TaskRunnerV1.__ray_metadata__.modified_class

    class StockTaskRunner(host):
        """verl's, with the interval at which it looks for finished rollouts."""

        def init_agent_loop_manager(self) -> None:
            super().init_agent_loop_manager()
            self.trainer.replay_buffer.poll_interval = POLL_SECONDS

    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    try:
        run_ppo(config, task_runner_class=ray.remote(num_cpus=1)(StockTaskRunner))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
