"""Everything that lives below the key `faithful_rl:` of a recipe, typed, with defaults, units and ranges.

verl's own tree (`data`, `actor_rollout_ref`, `algorithm`, `trainer`, ...) stays verl's. Hydra merges a recipe into
these dataclasses, so unknown keys and wrong types are refused by name; `validate` checks what types cannot say.
One module for each node: its dataclasses with their defaults, and the function that checks them; `root` puts them together.
"""

from faithful_rl.config.advantage import ADVANTAGE_KINDS, MASKED_ROLLOUTS, WHITENINGS, AdvantageConfig
from faithful_rl.config.constraints import (
    DIRECTIONS,
    MULTIPLIER_KINDS,
    THRESHOLD_KINDS,
    ConstraintConfig,
    MultiplierConfig,
    ThresholdScheduleConfig,
)
from faithful_rl.config.crm import CrmConfig
from faithful_rl.config.data import DECODINGS, SOURCES, DataConfig, EvaluationConfig, PuzzlesConfig, ScenesConfig
from faithful_rl.config.errors import ConfigError
from faithful_rl.config.hardware import PLACEMENTS, WORLDS, HardwareConfig, ReferencePolicyConfig
from faithful_rl.config.judges import JUDGE_BACKENDS, JudgeConfig, JudgesConfig
from faithful_rl.config.rewards import DESIGNS, RewardsConfig
from faithful_rl.config.root import METHODS, FaithfulRLConfig, from_node, validate
from faithful_rl.config.schedule import SCHEDULE_KINDS, ScheduleConfig
from faithful_rl.config.sft import SftConfig
from faithful_rl.config.ui import UiConfig
from faithful_rl.config.warm_start import WarmStartConfig

SIGNALS = ("task", "accuracy", "format", "consistency", "semantic_grounding", "spatial_grounding")

__all__ = [
    "ADVANTAGE_KINDS",
    "DECODINGS",
    "DESIGNS",
    "DIRECTIONS",
    "JUDGE_BACKENDS",
    "MASKED_ROLLOUTS",
    "METHODS",
    "MULTIPLIER_KINDS",
    "PLACEMENTS",
    "SCHEDULE_KINDS",
    "SIGNALS",
    "SOURCES",
    "THRESHOLD_KINDS",
    "WHITENINGS",
    "WORLDS",
    "AdvantageConfig",
    "ConfigError",
    "ConstraintConfig",
    "CrmConfig",
    "DataConfig",
    "EvaluationConfig",
    "FaithfulRLConfig",
    "HardwareConfig",
    "JudgeConfig",
    "JudgesConfig",
    "MultiplierConfig",
    "PuzzlesConfig",
    "ReferencePolicyConfig",
    "RewardsConfig",
    "ScenesConfig",
    "ScheduleConfig",
    "SftConfig",
    "ThresholdScheduleConfig",
    "UiConfig",
    "WarmStartConfig",
    "from_node",
    "validate",
]
