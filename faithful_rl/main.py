"""`python -m faithful_rl.main recipe=NAME [key=value ...]`: compose a recipe, check it, run it, show the result."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from faithful_rl import __version__, run_lock, run_record
from faithful_rl.cluster_token import show_token
from faithful_rl.compose import compose_recipe, list_recipes
from faithful_rl.config import ConfigError, FaithfulRLConfig, from_node

PROJECT_ROOT = Path(__file__).resolve().parent.parent
EXIT_CODES = (
    "exit codes: 0 finished or check passed, 1 the run failed, 2 command, recipe, data or machine is not right, 143 stopped by SIGTERM"
)
EXIT_FAILED, EXIT_USAGE, EXIT_TERMINATED = 1, 2, 143
MESSAGE_LIMIT = 400  # characters on the terminal; some of Ray's messages are pages long

KEYS = """
  trainer.total_training_steps=60                        optimiser steps of the whole run
  faithful_rl.seed=0                                     data order, sampling, initialisation
  faithful_rl.output_dir=outputs/mine                    where everything goes; an unfinished run of the same recipe there resumes
  faithful_rl.constraints.consistency.threshold=0.95     tau of one constraint, in [0, 1]
  faithful_rl.constraints.consistency.multiplier.kind=fixed
  data.train_batch_size=32                               prompts per step
  actor_rollout_ref.rollout.n=5                          rollouts per prompt (the group)
  actor_rollout_ref.actor.optim.lr=6e-4
  trainer.save_freq=20                                   steps between checkpoints
  constraints=none|consistency|fixed|fgrpo   hardware=cpu|h100x1|h100x4|h100x8|h100x64   model=...   dataset=...   judges=...   (groups)
"""
EXAMPLES = """
  python -m faithful_rl.main recipe=fgrpo_tiny
  python -m faithful_rl.main recipe=fgrpo_tiny trainer.total_training_steps=5 faithful_rl.output_dir=outputs/mine
  python -m faithful_rl.main recipe=fgrpo_7b mode=check         only the checks, nothing is started or written
  python -m faithful_rl.main recipe=fgrpo_tiny --cfg job        print the whole composed configuration
"""


class RunFailedError(RuntimeError):
    """A run that had started ended with `cause`; its traceback is in `log`."""

    def __init__(self, cause: Exception, log: Path) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.log = log


@dataclass(frozen=True)
class Job:
    """A composed and validated command."""

    composed: DictConfig
    typed: FaithfulRLConfig
    argv: tuple[str, ...]
    resume: bool = True  # continue an unfinished run of this configuration where there is one


def help_text() -> str:
    """Help of the command: recipes with one line each, main keys, examples, exit codes."""
    width = max(len(recipe.name) for recipe in list_recipes())
    recipes = "\n".join(f"  {recipe.name:<{width}}  {recipe.description}" for recipe in list_recipes())
    usage = (
        "usage: python -m faithful_rl.main recipe=NAME [mode=train|check] [resume=auto|never] [key=value ...] [--cfg job] [--help] "
        "[--version]"
    )
    title = f"faithful_rl {__version__}: constrained GRPO for vision-language models whose reasoning is faithful"
    keys = f"main keys (every key of verl's ppo_trainer works too; --cfg job prints all)\n{KEYS}"
    return f"{title}\n\n{usage}\n\nrecipes\n{recipes}\n\n{keys}\nexamples\n{EXAMPLES}\n{EXIT_CODES}"


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, str, list[str]]:
    """Options, mode and the `key=value` overrides that are left for Hydra.

    Raises:
        ConfigError: for an unknown option or mode.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    try:
        options, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ConfigError("command line", str(error), "--help, --version, --cfg job and key=value", "See --help.") from error
    unknown = [word for word in rest if word.startswith("-")]
    if unknown and unknown[0] in ("--multirun", "-m"):
        fix = "Several recipes and seeds: python -m faithful_rl.compare recipes=[A,B] seeds=[0,1,2]."
        raise ConfigError("command line", unknown[0], "one recipe", fix)
    if unknown:
        raise ConfigError("command line", unknown[0], "--help, --version, --cfg job and key=value", "See --help.")
    mode, options.resume = "train", "auto"
    overrides = []
    for word in rest:
        if word.startswith("mode="):
            mode = word.removeprefix("mode=")
        elif word.startswith("resume="):
            options.resume = word.removeprefix("resume=")
        else:
            overrides.append(word)
    if mode not in ("train", "check"):
        raise ConfigError("mode", repr(mode), "train or check", "Leave it out to train.")
    if options.resume not in ("auto", "never"):
        raise ConfigError("resume", repr(options.resume), "auto or never", "Leave it out to continue an unfinished run where there is one.")
    return options, mode, overrides


def prepare(overrides: Sequence[str], resume: bool = True) -> Job:
    """Compose, type and validate; model directories that ship with the checkout are found from any folder."""
    composed = compose_recipe(overrides)
    typed = from_node(composed.faithful_rl)
    policy = composed.get("actor_rollout_ref", composed)
    model = Path(policy.model.path)
    if not model.exists() and (PROJECT_ROOT / model).exists():
        policy.model.path = str(PROJECT_ROOT / model)
    return Job(composed, typed, tuple(overrides), resume)


def resolved(composed: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, every interpolation carried out (verl's unused `???` entries stay)."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        key = error.full_key or "configuration"
        raise ConfigError(key, str(error.msg).splitlines()[0], "an interpolation that resolves", "Check the key that it names.") from error
    if not isinstance(plain, dict):
        raise TypeError("a composed configuration is a mapping")
    return {str(name): value for name, value in plain.items()}


def set_environment(typed: FaithfulRLConfig, run_dir: Path) -> None:
    """Variables that verl, Ray and vLLM read at import. What the shell sets is left alone."""
    for name, value in typed.hardware.environment.items():
        os.environ.setdefault(name, value)
    show_token()
    # By this way a plugin that fails to load is an error; by its entry point alone verl only logs it at DEBUG.
    os.environ.setdefault("VERL_USE_EXTERNAL_MODULES", "faithful_rl.verl_plugin.plugin")
    os.environ.setdefault("TENSORBOARD_DIR", str((run_dir / "tensorboard").resolve()))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Send this process's and its children's standard output and error to `log`; yields the real terminal for our own lines."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    with open(log, "a", buffering=1, encoding="utf-8") as file, os.fdopen(os.dup(saved_out), "w", encoding="utf-8") as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield terminal
        finally:
            os.dup2(saved_out, 1)
            os.dup2(saved_err, 2)
            os.close(saved_out)
            os.close(saved_err)


def train(job: Job) -> int:
    """Run the recipe in its output directory. Returns the exit code."""
    from faithful_rl import preflight

    config = resolved(job.composed)
    run = run_record.choose(job.typed.recipe, job.typed.output_dir, run_record.fingerprint(config), resume=job.resume, config=config)
    config = _settle(job, run.path)
    set_environment(job.typed, run.path)
    preflight.check_static(config, job.typed)
    with run_lock.locked(run.path), quiet(run.path / "logs" / "driver.log") as terminal:
        print(
            f"{'Resuming' if run.resumes else 'Starting'} {job.typed.recipe} in {run.path} (chatter: {run.path / 'logs'})",
            file=terminal,
            flush=True,
        )
        for warning in preflight.warnings(config, job.typed):
            print(f"warning: {warning}", file=terminal, flush=True)
        preflight.check_started(config, job.typed)
        preflight.check_cluster(config, job.typed)
        run_record.start_run(run, config, job.argv)
        try:
            status = _dispatch(config, job.typed, run.path, terminal)
        except BaseException as error:
            run_record.end_run(run.path, "stopped" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed")
            traceback.print_exc()
            if isinstance(error, ConfigError) or not isinstance(error, Exception):
                raise
            raise RunFailedError(error, run.path / "logs" / "driver.log") from error
        run_record.end_run(run.path, status)
        if status != "finished":
            print(f"Stopped after a checkpoint. The same command continues in {run.path}.", file=terminal)
            return EXIT_TERMINATED
    return _show(job.typed, run.path)


def _dispatch(config: dict[str, Any], typed: FaithfulRLConfig, run_dir: Path, terminal: TextIO) -> str:
    if typed.method == "sft":
        from faithful_rl.tiny import warm_start

        settings = warm_start.WarmStartSettings(seed=typed.seed, **asdict(typed.warm_start))
        warm_start.run(settings, run_dir / "model", _stage_printer(terminal))
        return "finished"
    if typed.method == "sft_verl":
        from faithful_rl.verl_plugin import sft

        sft.run(config, typed, run_dir, _stage_printer(terminal))
        return "finished"
    if typed.method == "crm":
        from faithful_rl.crm import training

        training.run(typed.crm, typed.seed, typed.recipe, run_dir / "model", _stage_printer(terminal))
        return "finished"
    from faithful_rl import console
    from faithful_rl.verl_plugin import task_runner

    with console.progress(run_dir, config["trainer"]["total_training_steps"], terminal, enabled=typed.ui.progress):
        status = task_runner.run(OmegaConf.create(config))
    return status or "finished"


def _stage_printer(terminal: TextIO) -> Callable[[str, int, int, float], None]:
    """Say a warm start's stage, step and loss now and then."""

    def say(stage: str, step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps:
            print(f"{stage}: step {step} of {steps}, loss {loss:.3f}", file=terminal, flush=True)

    return say


def _show(typed: FaithfulRLConfig, run_dir: Path) -> int:
    if typed.method == "sft":
        print(f"Model: {run_dir / 'model'}")
        return 0
    if typed.method == "sft_verl":
        print(f"Model: {typed.sft.model_dir or run_dir / 'model'}")
        return 0
    if typed.method == "crm":
        from faithful_rl.crm import summary

        print(summary.table(run_dir / "model"))
        return 0
    from faithful_rl import console, report

    report.build([run_dir], run_dir / "report.html")
    console.print_result_table(run_dir)
    print(f"Report: {run_dir / 'report.html'}")
    return 0


def check(job: Job) -> int:
    """`mode=check`: every check that starts no worker; writes nothing but the data that a first run would make.

    Where a recipe is for another machine than this one (its world is not what is installed here), its settings, and what of its files is
    here, are checked and the plan is printed before the difference is told.
    """
    from faithful_rl import preflight

    config = resolved(job.composed)
    run = run_record.choose(job.typed.recipe, job.typed.output_dir, run_record.fingerprint(config), resume=job.resume, config=config)
    set_environment(job.typed, run.path)
    preflight.check_settings(config, job.typed)
    config = _settle(job, run.path)
    try:
        preflight.check_installation(config, job.typed)
    except ConfigError:
        preflight.check_present(config, job.typed)
        print(preflight.plan(config, job.typed, run, verdict=preflight.SETTINGS_ONLY))
        raise
    preflight.check_here(config, job.typed)
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "chatter.log"):
        notes = preflight.check_started(config, job.typed)
        preflight.check_cluster(config, job.typed)
    print(preflight.plan(config, job.typed, run, notes))
    return 0


def _settle(job: Job, run_dir: Path) -> dict[str, Any]:
    """The configuration with its output directory, on which other paths depend."""
    job.composed.faithful_rl.output_dir = job.typed.output_dir = str(run_dir)
    return resolved(job.composed)


def _failure(error: Exception) -> str:
    last = (str(error).strip().splitlines() or ["no message"])[-1]
    return f"{type(error).__name__}: {last if len(last) <= MESSAGE_LIMIT else last[:MESSAGE_LIMIT] + ' ...'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    try:
        options, mode, overrides = parse(sys.argv[1:] if argv is None else argv)
        if options.help:
            print(help_text())
            return 0
        if options.version:
            print(__version__)
            return 0
        job = prepare(overrides, options.resume == "auto")
        if options.cfg:
            print(OmegaConf.to_yaml(job.composed, resolve=False))
            return 0
        return check(job) if mode == "check" else train(job)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("Stopped. The same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    except RunFailedError as error:
        print(f"error: the run failed with {_failure(error.cause)}", file=sys.stderr)
        print(f"The traceback is at the end of {error.log}. The same command continues from the last checkpoint.", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
