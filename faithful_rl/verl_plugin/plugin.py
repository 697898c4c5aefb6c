"""The plugin that verl loads: importing this module registers everything.

verl imports its plugins at `import verl`, in the driver and in every Ray worker, by one of two ways:
the entry-point group `verl.plugins` (it imports the named module and calls nothing; a failure is
logged at DEBUG only) or the variable `VERL_USE_EXTERNAL_MODULES` (a failure is raised). That is why
registration happens at import and `active()` can prove it afterwards.

Registration must be cheap: it happens in processes that never touch an engine. Whatever needs a heavy
module waits until that module is imported (post-import hooks).

Beside a torch built for GPUs and without `VERL_PLATFORM=cpu` only those guards are installed whose defects
no platform is free of (position ids of equal lengths, a TRL without the class verl wants, two runs' weights
through one socket); they leave sound cases alone. The FSDP2 engine for CUDA is verl's own, with the switch for the vision tower.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import wrapt

from faithful_rl.verl_plugin.guards import position_ids, process_group, trl_value_head, weight_socket
from faithful_rl.verl_plugin.vllm_plugin import install_guards

STACK = ("verl", "torch", "vllm", "ray", "transformers", "tensordict", "TransferQueue", "torchvision")

_registered: list[str] = []


@dataclass(frozen=True)
class Activity:
    """What the plugin has done in one process.

    Attributes:
        platform: verl's platform in this process ("cpu", "nvidia", ...), by vendor name.
        guards: guards installed or waiting for their module, in order.
        engine: class that would run FSDP2 here, or "" where verl's engines were not loaded.
        replica: class that would serve rollouts of `rollout.name=vllm`, or "" where not loaded.
        versions: installed distributions of the stack; "" where absent.
    """

    platform: str
    guards: tuple[str, ...]
    engine: str
    replica: str
    versions: dict[str, str]


def register() -> None:
    """Register platform, engine, rollout replica and guards in this process. Calling it again does nothing."""
    if _registered:
        return
    _when_imported("transfer_queue.client", "position_ids", position_ids.apply)
    _when_imported("verl.utils.import_utils", "trl_value_head", trl_value_head.apply)
    _when_imported("verl.workers.rollout.vllm_rollout.vllm_rollout", "weight_sender", weight_socket.apply_to_sender)
    _when_imported("verl.workers.rollout.vllm_rollout.vllm_async_server", "weight_receiver", weight_socket.apply_to_receiver)
    _registered.extend(install_guards())
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        _register_cpu()
    else:
        _when_imported("verl.workers.engine", "gpu_engine", _load_gpu_engine)


def _register_cpu() -> None:
    from verl.plugin.platform import PlatformRegistry

    from faithful_rl.verl_plugin import processor_memo
    from faithful_rl.verl_plugin.platform import PLATFORM_NAME, CpuPlatform

    PlatformRegistry.register(platform=PLATFORM_NAME)(CpuPlatform)
    _when_imported("verl.utils.distributed", "process_group", process_group.apply)
    _when_imported("verl.workers.engine", "fsdp_engine", _load_engine)
    _when_imported("verl.workers.rollout.replica", "vllm_replica", _register_replica)
    _when_imported("verl.utils.tokenizer.continuous_token", "processor_memo", processor_memo.apply_to_tokenisation)
    _when_imported("verl.experimental.agent_loop.agent_loop", "image_memo", processor_memo.apply_to_agent_loop)


def _when_imported(module: str, guard: str, hook: Callable[[ModuleType], None]) -> None:
    """Run `hook(module)` now if the module is loaded, else right after its import."""
    wrapt.register_post_import_hook(hook, module)
    _registered.append(guard)


def _load_engine(module: ModuleType) -> None:
    import faithful_rl.verl_plugin.fsdp_engine  # noqa: F401  (registers itself)


def _load_gpu_engine(module: ModuleType) -> None:
    import faithful_rl.verl_plugin.gpu_engine  # noqa: F401  (registers itself)


def _register_replica(module: ModuleType) -> None:
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    RolloutReplicaRegistry.register("vllm", _load_replica)


def _load_replica() -> type:
    from faithful_rl.verl_plugin.vllm_server import load_replica

    return load_replica()


def active(load: bool = False) -> Activity:
    """Say what is registered in THIS process; pass it to a Ray task to ask another one.

    Args:
        load: import verl's engines and rollout replicas first (seconds), so that `engine` and
            `replica` name the classes that a worker would use.
    """
    import sys

    import verl  # noqa: F401  (loads the plugins)
    from verl.plugin.platform import get_platform

    engine = replica = ""
    if load or "verl.workers.engine" in sys.modules:
        from verl.workers.engine import EngineRegistry

        engine = _name(EngineRegistry.get_engine_cls("language_model", "fsdp2"))
    if load or "verl.workers.rollout.replica" in sys.modules:
        from verl.workers.rollout.replica import RolloutReplicaRegistry

        replica = _name(RolloutReplicaRegistry.get("vllm"))
    return Activity(get_platform().vendor_name, tuple(_registered), engine, replica, {name: _version(name) for name in STACK})


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


register()
