"""One run of ours as `faithful_rl.main` makes it, without judge workers: what is left of a step when judges are taken away.

    python -m benchmarks.step.instant_run recipe=fgrpo_tiny reward.reward_manager.name=InstantRewardManager [key=value ...]

The exact judges answer inside the reward worker (`instant_judges`), so verdicts, advantages and multipliers are those of a full run.
Workers that nobody asks would still cost a Ray actor's upkeep each, which is the judges' cost and not the driver's.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from faithful_rl import main as command


def main(words: list[str]) -> int:
    job = command.prepare(words)
    command.set_environment(job.typed, Path(job.typed.output_dir))  # before verl is imported
    from faithful_rl.verl_plugin import judge_workers, task_runner

    class InstantTaskRunner(task_runner.FaithfulTaskRunner):
        """Ours, with nobody to start."""

        def start_judges(self, config: object) -> judge_workers.RunningJudges:
            return judge_workers.RunningJudges("none")

    task_runner.run = functools.partial(task_runner.run, runner_class=InstantTaskRunner)  # what `train` calls
    return command.train(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
