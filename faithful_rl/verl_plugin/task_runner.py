"""`run(config)`: start verl's `run_ppo` with our task runner, and end it well whatever happens.

The task runner is the Ray actor that drives the run. It differs from verl's in the trainer class it takes for the configured mode,
and in what it starts around it: judges, multiplier store, watchdog.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf, open_dict
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.config import validate_config

from faithful_rl.cluster_token import make_token
from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.pool import PoolError
from faithful_rl.stop_request import clear_stop, request_stop
from faithful_rl.verl_plugin import judge_usage, judge_workers, multiplier_store, plugin, reference_policy, worker_logs
from faithful_rl.verl_plugin.checkpoint import CheckpointError
from faithful_rl.verl_plugin.run_control import RunControl, settings_of
from faithful_rl.verl_plugin.trainer import trainer_for
from faithful_rl.verl_plugin.watchdog import REPORT_FILE, Watchdog, describe_hang

logger = logging.getLogger(__name__)

AGENT_LOOP_MANAGER = "faithful_rl.verl_plugin.rollout_workers.FaithfulAgentLoopManager"
STEP_TIMEOUT_SECONDS = 1800.0
RUNNER_CPUS = 1
LOCAL_CLUSTER_KEYS = ("num_cpus", "num_gpus", "resources", "object_store_memory", "include_dashboard")  # refused where Ray only joins
NODE_TIMED_OUT = "The current node timed out during startup"  # Ray raises a bare Exception with these words after its fixed 30 s
DRIVER_VARIABLES = ("VERL_USE_EXTERNAL_MODULES", "TENSORBOARD_DIR", "HF_HUB_DISABLE_TELEMETRY", "TOKENIZERS_PARALLELISM")
_HostRunner: Any = TaskRunnerV1.__ray_metadata__.modified_class


class NonFiniteRunError(RuntimeError):
    """Too many steps in a row had a loss, gradient or advantage that is not finite; a checkpoint was written."""


class HungRunError(RuntimeError):
    """A phase of the run took longer than its limit; the message names the phase and where to look."""


class RayStartError(RuntimeError):
    """A local Ray did not come up within Ray's own limit; nothing of the run has started."""


class FaithfulTaskRunner(_HostRunner):  # type: ignore[misc]
    """verl's V1 task runner with our trainer."""

    def trainer_class(self, mode: str) -> Any:
        return trainer_for(mode)

    def start_judges(self, config: DictConfig) -> judge_workers.RunningJudges:
        """The judges of this run, healthy; errors as `judge_workers.start`."""
        return judge_workers.start(settings_of(config.faithful_rl.judges))

    def run(self, config: DictConfig) -> str:
        """Drive the run; returns the trainer's outcome ("finished", "stopped" or "nonfinite")."""
        run_dir = Path(config.faithful_rl.output_dir)
        _log_to(run_dir / "logs" / "trainer.log")
        faulthandler.enable()
        plugin.register()
        self._started: dict[str, Any] = {}
        watchdog = Watchdog(run_dir / "logs", phase_limit(config), details=self._hang_details)
        watchdog.start()
        try:
            with watchdog.phase("start of judges"):
                store = multiplier_store.create()
                multiplier_store.write_cluster_file(run_dir)
                judges = self.start_judges(config)
                self._started.update(store=store, judges=judges)  # handles keep the actors alive
            self._control = RunControl(run_dir, watchdog, store, judges.ceilings)
            with watchdog.phase("start of workers and servers"):
                self._drive(config)
        finally:
            watchdog.stop()
            if "judges" in self._started:
                judge_usage.keep(run_dir, self._started["judges"].name, shared=bool(config.faithful_rl.judges.get("pool")))
        return str(self.trainer.outcome)

    def _drive(self, config: DictConfig) -> None:
        """verl's own `run`, which finds our trainer under the mode's name in this process's registry."""
        control, chosen = self._control, self.trainer_class(config.trainer.v1.trainer_mode)

        def build(config: DictConfig) -> Any:
            trainer = chosen(config=config)
            trainer.control = control
            return trainer

        TRAINER_REGISTRY[config.trainer.v1.trainer_mode] = build
        super().run(config)

    def outcome(self) -> str:
        return str(self.trainer.outcome)

    def init_agent_loop_manager(self) -> None:
        super().init_agent_loop_manager()
        # Everything is up: from here on the trainer names its own phases, and verl's loop between them has the same limit.
        self._control.watchdog.leave("start of workers and servers")
        self._control.watchdog.enter("between steps")

    def _hang_details(self) -> dict[str, object]:
        buffer = getattr(getattr(self, "trainer", None), "replay_buffer", None)
        running = sorted(uid for uids in getattr(buffer, "running_keys", {}).values() for uid in uids)
        return {"step": getattr(getattr(self, "trainer", None), "global_steps", None), "prompts being generated": running[:8]}


def phase_limit(config: DictConfig) -> float:
    """Seconds that any phase of a run may take."""
    return float(config.faithful_rl.get("step_timeout_seconds", STEP_TIMEOUT_SECONDS))


def _log_to(path: Path) -> None:
    """Send everything this process prints, C++ libraries included, to one file of the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    own = logging.getLogger("faithful_rl")  # verl raises the level of the root logger above what a reader of this file wants to know
    own.setLevel(logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s:%(asctime)s:%(message)s"))
    own.handlers, own.propagate = [handler], False


class _Launcher:
    """What `run_ppo` takes for the task runner's class: starts the actor, waits until it runs, keeps its handle, and takes the signals.

    The watchdog lives inside the actor, so the time until that one runs is limited here. The signals are taken here and not earlier
    because `ray.init`, which `run_ppo` calls before, sets handlers of its own.
    """

    def __init__(self, runner_class: type, run_dir: Path, start_seconds: float) -> None:
        self._actor_class = ray.remote(num_cpus=RUNNER_CPUS)(runner_class)
        self._run_dir, self._start_seconds = run_dir, start_seconds
        self._previous: dict[int, Any] = {}
        self.handle: Any = None

    def remote(self) -> Any:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        self.handle = self._actor_class.remote()
        self._wait_until_started()
        return self.handle

    def _wait_until_started(self) -> None:
        try:
            ray.get(self.handle.__ray_ready__.remote(), timeout=self._start_seconds)
        except GetTimeoutError:
            free = ray.available_resources().get("CPU", 0.0)
            raise HungRunError(
                f"the task runner did not start within {self._start_seconds:g} s (faithful_rl.step_timeout_seconds): it needs "
                f"{RUNNER_CPUS} CPU, and {free:g} of the cluster's are free now. End what uses them, or see Ray's logs of this session"
            ) from None

    def _on_signal(self, number: int, frame: Any) -> None:
        """The first signal asks for a checkpoint at the end of the step; a second one is obeyed at once."""
        self.restore_signals()
        request_stop(self._run_dir, signal.Signals(number).name)
        logger.warning("%s: the run ends with a checkpoint after the current step; send it again to end now", signal.Signals(number).name)

    def restore_signals(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def prepare(config: DictConfig) -> DictConfig:
    """Point verl at our parts, wherever the recipe left that open."""
    with open_dict(config):
        agent = config.actor_rollout_ref.rollout.agent
        agent.agent_loop_manager_class = agent.get("agent_loop_manager_class") or AGENT_LOOP_MANAGER
        kwargs = config.ray_kwargs.ray_init
        kwargs.namespace = kwargs.get("namespace") or namespace(Path(config.faithful_rl.output_dir))
        # Left open, Ray would join whatever cluster was started on this machine last, somebody else's for example.
        kwargs.address = kwargs.get("address") or os.environ.get("RAY_ADDRESS") or "local"
        if kwargs.address != "local":
            join_cluster(config)
    reference_policy.drop_unused_reference(config)
    return config


def join_cluster(config: DictConfig) -> None:
    """A cluster that runs already has processors of its own, and its workers do not inherit this process's environment."""
    kwargs = config.ray_kwargs.ray_init
    for key in LOCAL_CLUSTER_KEYS:
        kwargs.pop(key, None)
    if config.faithful_rl.hardware.get("node_resource"):
        # TransferQueue pins its storage to nodes in the order of their ids, those of judges and a head without CPUs included.
        config.transfer_queue.backend.SimpleStorage.required_node_resource = config.faithful_rl.hardware.node_resource
    names = [*config.faithful_rl.hardware.environment, *DRIVER_VARIABLES]
    variables = {name: os.environ[name] for name in names if name in os.environ}
    chosen = OmegaConf.create(kwargs.get("runtime_env") or {})
    kwargs.runtime_env = OmegaConf.merge({"env_vars": variables}, chosen)


def namespace(run_dir: Path) -> str:
    """Ray namespace of the run in `run_dir`: two runs on one cluster keep their named actors apart."""
    return f"faithful_rl/{run_dir.resolve().parent.name}/{run_dir.resolve().name}"


def run(config: DictConfig, runner_class: type = FaithfulTaskRunner) -> str:
    """Train as the resolved `config` says; the caller has checked it.

    Returns:
        "finished", or "stopped" when SIGTERM or SIGINT asked for the end: a checkpoint was written and the same call continues.

    Raises:
        NonFiniteRunError: see there.
        HungRunError: see there.
        CheckpointError: the checkpoint in `trainer.default_local_dir` belongs to another recipe.
        ConfigError: the pool of judges that `faithful_rl.judges.pool` names cannot be used.
        PoolError: the run's own judges did not start.
        RayStartError: see there.
    """
    run_dir = Path(config.faithful_rl.output_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    clear_stop(run_dir)
    (run_dir / "logs" / REPORT_FILE).unlink(missing_ok=True)
    prepare(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    starts_ray = not ray.is_initialized()
    if starts_ray and config.ray_kwargs.ray_init.address == "local":  # of a cluster that is joined the token is its own business
        make_token()
    launcher = _Launcher(runner_class, run_dir, phase_limit(config))
    try:
        run_ppo(config, task_runner_class=launcher)
        outcome = str(ray.get(launcher.handle.outcome.remote(), timeout=60))
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, CheckpointError | ConfigError | PoolError) else error from None
    except RayActorError as error:
        hang = describe_hang(run_dir / "logs")
        raise HungRunError(hang) if hang else error from error
    except Exception as error:
        if NODE_TIMED_OUT not in str(error):
            raise
        raise RayStartError(
            "Ray did not start on this machine within its 30 s, mostly because the machine is busy with something else. "
            "Nothing of the run has started: give the same command again when there is less load (uptime), or join a running cluster by "
            "RAY_ADDRESS."
        ) from error
    finally:
        launcher.restore_signals()
        if starts_ray:
            if ray.is_initialized():
                worker_logs.keep(worker_logs.session_logs(), run_dir)
            ray.shutdown()
    if outcome == "nonfinite":
        raise NonFiniteRunError(
            f"{config.faithful_rl.stop_after_nonfinite_steps} steps in a row had a value that is not finite; the reasons are in "
            f"{run_dir / 'logs' / 'trainer.log'}, a checkpoint was written"
        )
    return outcome
