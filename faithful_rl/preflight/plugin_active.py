"""Proof that verl will use our parts: it logs a plugin that failed to load at DEBUG only, and trains on without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from faithful_rl.config import ConfigError

REINSTALL = "Install faithful_rl in this environment (pip install -e .) and leave VERL_USE_EXTERNAL_PLUGINS unset."


def check(config: Mapping[str, Any], world: str) -> None:
    """Import verl, run its own validation, and look up what it would start.

    Raises:
        ConfigError: verl refuses the configuration, or platform, engine or reward manager are not ours.
    """
    try:
        from faithful_rl.verl_plugin import plugin
        from faithful_rl.verl_plugin.reward_manager import FaithfulRewardManager
    except ImportError as error:
        raise ConfigError("installation", f"a plugin that does not import ({error})", "faithful_rl beside verl", REINSTALL) from error
    activity = plugin.active(load=True)
    if world == "cpu":
        _expect("platform", activity.platform, "cpu", "Unset VERL_PLATFORM, or set it to cpu.")
        expect_ours("engine for FSDP2", activity.engine)
        expect_ours("rollout server", activity.replica)
    manager = _reward_manager(config)
    if not issubclass(manager, FaithfulRewardManager):  # one that a user has derived from it scores as ours does
        expect_ours("reward manager", f"{manager.__module__}.{manager.__qualname__}")
    verl_validation(config)


def check_engine(world: str) -> None:
    """For supervised fine-tuning, which needs the platform and the engine only.

    Raises:
        ConfigError: one of them is not ours.
    """
    from faithful_rl.verl_plugin import plugin

    activity = plugin.active(load=True)
    if world == "cpu":
        _expect("platform", activity.platform, "cpu", "Unset VERL_PLATFORM, or set it to cpu.")
    expect_ours("engine for FSDP2", activity.engine)


def _expect(what: str, found: str, wanted: str, fix: str) -> None:
    if found != wanted:
        raise ConfigError(f"verl's {what}", repr(found), repr(wanted), fix)


def expect_ours(what: str, found: str) -> None:
    if not found.startswith("faithful_rl."):
        raise ConfigError(f"verl's {what}", found or "none", "the one of faithful_rl.verl_plugin", REINSTALL)


def _reward_manager(config: Mapping[str, Any]) -> type:
    from verl.trainer.ppo.reward import resolve_reward_manager_cls

    try:
        manager: type = resolve_reward_manager_cls(OmegaConf.create(dict(config)))
    except (ImportError, AttributeError, ValueError, AssertionError) as error:
        raise ConfigError(
            "reward.reward_manager",
            str(error).splitlines()[0],
            "a reward manager that loads",
            "Leave reward.reward_manager as the recipe has it.",
        ) from error
    return manager


def verl_validation(config: Mapping[str, Any]) -> None:
    """verl's own checks of a configuration.

    Raises:
        ConfigError: with verl's message.
    """
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    node = OmegaConf.create(dict(config))
    try:
        validate_config(node, use_reference_policy=need_reference_policy(node), use_critic=need_critic(node))
    except (ValueError, AssertionError, TypeError) as error:
        raise ConfigError(
            "configuration",
            f"a value that verl refuses ({str(error).splitlines()[0]})",
            "one that it accepts",
            "Change the key that it names.",
        ) from error
