"""`python stock_verl_run.py RUN_DIRECTORY ADDRESS POOL override...`: verl's own trainer and naive reward manager with the tiny model.

The settings are those of the recipe `grpo_tiny`; what stays of our package is what lets verl run on a CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from faithful_rl import main as product
from faithful_rl import preflight


def main(run_dir: Path, address: str, pool: str, overrides: list[str]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    job = product.prepare(overrides)
    plain = product.resolved(job.composed)
    product.set_environment(job.typed, run_dir)
    preflight.check_static(plain, job.typed)  # makes the scenes as well
    plain.pop("faithful_rl")
    # One response each, compared with other prompts' of the batch. Preflight refuses it: our advantages compare rollouts of one prompt.
    plain["algorithm"]["adv_estimator"] = "reinforce_plus_plus"
    plain["actor_rollout_ref"]["rollout"]["n"] = 1
    plain["reward"]["custom_reward_function"]["reward_kwargs"] = {"pool": pool, "ask_masked": True}
    # A cluster that exists has its own processors and its own environment.
    runtime = {"env_vars": {"VERL_FILE_LOGGER_PATH": str(run_dir / "metrics.jsonl")}}
    plain["ray_kwargs"]["ray_init"] |= {"address": address, "num_cpus": None, "num_gpus": None, "runtime_env": runtime}
    plain["trainer"]["default_local_dir"] = str(run_dir / "checkpoints")
    run(OmegaConf.create(plain))


def run(config: Any) -> None:
    """What `verl.trainer.main_ppo` does with its configuration."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    try:
        run_ppo(config, task_runner_class=TaskRunnerV1)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
