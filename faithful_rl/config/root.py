"""The whole `faithful_rl:` node: composed of the parts, typed, and checked as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from faithful_rl.config.advantage import AdvantageConfig, validate_advantage
from faithful_rl.config.checks import in_range, one_of, require
from faithful_rl.config.constraints import GROUNDED, ConstraintConfig, known_columns, validate_asked, validate_constraint
from faithful_rl.config.crm import CrmConfig, validate_crm
from faithful_rl.config.data import DataConfig, EvaluationConfig, validate_data, validate_evaluation
from faithful_rl.config.errors import ConfigError
from faithful_rl.config.hardware import HardwareConfig, ReferencePolicyConfig, validate_hardware, validate_reference_policy
from faithful_rl.config.judges import JudgesConfig, validate_judges
from faithful_rl.config.rewards import RewardsConfig, validate_rewards
from faithful_rl.config.sft import SftConfig
from faithful_rl.config.ui import UiConfig, validate_ui
from faithful_rl.config.warm_start import WarmStartConfig, validate_warm_start

METHODS = ("grpo", "fgrpo", "sft", "sft_verl", "crm")


@dataclass
class FaithfulRLConfig:
    """The whole `faithful_rl:` node. Ranges are checked by `validate`."""

    recipe: str = MISSING  # the recipe's name
    description: str = ""  # one line for `--help`
    method: str = "fgrpo"  # grpo (task reward only) | fgrpo (constrained) | sft (tiny warm start) | sft_verl | crm (consistency model)
    seed: int = 0  # data order, sampling and initialisation, >= 0
    constraints: dict[str, ConstraintConfig] = field(default_factory=dict)
    constraint_patience: int = 20  # steps, >= 1, after which a constraint out of reach or a multiplier that stands still is reported
    coverage_floor: float = 0.9  # in [0, 1]: below this share of scored rollouts a constraint's dual step is frozen
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    judges: JudgesConfig = field(default_factory=JudgesConfig)
    reference_policy: ReferencePolicyConfig = field(default_factory=ReferencePolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ui: UiConfig = field(default_factory=UiConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    crm: CrmConfig = field(default_factory=CrmConfig)
    output_dir: str = ""  # empty: outputs/<recipe>/<time>, or the unfinished run of the same configuration found there
    step_timeout_seconds: float = 1800.0  # > 0: a phase of a step that takes longer is named and ends the run
    stop_after_nonfinite_steps: int = 3  # steps in a row with a NaN or infinite loss or advantage, >= 1


def validate(config: FaithfulRLConfig) -> FaithfulRLConfig:
    """Check every range and choice, and what several keys mean together; returns `config` unchanged.

    Raises:
        ConfigError: naming the first key that is wrong, what was found, what is expected and the fix.
    """
    one_of("method", config.method, METHODS)
    in_range("seed", config.seed, 0, 2**31 - 1)
    in_range("coverage_floor", config.coverage_floor, 0.0, 1.0)
    validate_rewards(config.rewards)
    validate_advantage(config.advantage, config.constraints, config.rewards.design)
    in_range("constraint_patience", config.constraint_patience, 1)
    in_range("step_timeout_seconds", config.step_timeout_seconds, 0.0, open_low=True)
    in_range("stop_after_nonfinite_steps", config.stop_after_nonfinite_steps, 1)
    columns = known_columns(config.rewards.design) if config.constraints else {}
    for name, constraint in config.constraints.items():
        validate_constraint(name, constraint, columns)
        validate_asked(name, constraint, config.judges.ask_masked)
    validate_judges(config.judges)
    needed = {*config.advantage.weights, *(used for name, one in config.constraints.items() for used in (one.column or name, one.mask))}
    require(
        config.judges.grounding_in_training or not needed & set(GROUNDED),
        "judges.grounding_in_training",
        False,
        "true, because constraints or weights need the grounding judge's verdicts: " + ", ".join(sorted(needed & set(GROUNDED))),
        "Leave it out, or train without them.",
    )
    require(
        config.method != "fgrpo" or bool(config.constraints),
        "constraints",
        "none",
        "at least one constraint, because faithful_rl.method is fgrpo",
        "Choose constraints=fgrpo, or set faithful_rl.method=grpo to train on the task reward only.",
    )
    require(
        config.method == "fgrpo" or not config.constraints,
        "constraints",
        ", ".join(config.constraints),
        f"no constraints, because faithful_rl.method is {config.method}",
        "Choose constraints=none, or set faithful_rl.method=fgrpo.",
    )
    validate_reference_policy(config.reference_policy)
    validate_data(config.data)
    validate_evaluation(config.evaluation)
    validate_ui(config.ui)
    validate_hardware(config.hardware)
    validate_warm_start(config.warm_start)
    validate_crm(config.crm)
    return config


def from_node(node: DictConfig | Mapping[str, Any]) -> FaithfulRLConfig:
    """Typed and validated view of the `faithful_rl:` node (a DictConfig or a plain mapping).

    Raises:
        ConfigError: for an unknown key, a wrong type, a missing or an out-of-range value.
    """
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(FaithfulRLConfig), OmegaConf.create(plain))
        typed = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = f"faithful_rl.{error.full_key}" if error.full_key else "faithful_rl"
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(
            key, f"a problem ({reason})", "a known key with a value of its type", "See faithful_rl/config for the keys."
        ) from error
    if not isinstance(typed, FaithfulRLConfig):
        raise TypeError(f"expected a FaithfulRLConfig, got {type(typed).__name__}")
    return validate(typed)
