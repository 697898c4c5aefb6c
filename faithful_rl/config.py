"""Everything that lives below the key `faithful_rl:` of a recipe, typed, with defaults, units and ranges.

verl's own tree (`data`, `actor_rollout_ref`, `algorithm`, `trainer`, ...) stays verl's. Hydra merges a recipe into
these dataclasses, so unknown keys and wrong types are refused by name; `validate` checks what types cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

SIGNALS = ("task", "accuracy", "format", "consistency", "semantic_grounding", "spatial_grounding")
CONSTRAINED_SIGNALS = ("consistency", "semantic_grounding", "spatial_grounding")
MASKS = ("accuracy", "has_reference_boxes")
METHODS = ("grpo", "fgrpo", "sft")
MULTIPLIER_KINDS = ("dual_ascent", "fixed")
JUDGE_BACKENDS = ("fake", "openai", "scene", "vllm")
PLACEMENTS = ("colocated", "own_pool")
MASKED_ROLLOUTS = ("left_out", "as_zero")
DECODINGS = ("T1", "greedy")


class ConfigError(ValueError):
    """A user's mistake. The message names the key or file, what was found, what is expected and the fix."""

    def __init__(self, key: str, found: object, expected: str, fix: str) -> None:
        self.key = key
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(f"{key}: found {found}, expected {expected}. {fix}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        """Exceptions travel between processes by their constructor's arguments, which are more than the message here."""
        return type(self), (self.key, self.found, self.expected, self.fix)


@dataclass
class MultiplierConfig:
    """How the multiplier lambda_k of one constraint moves (Eq. 4)."""

    kind: str = "dual_ascent"  # dual_ascent | fixed
    start: float = 1.0  # first value, in [0, maximum]
    step_size: float = 0.05  # eta, > 0; unused by `fixed`
    maximum: float = 5.0  # lambda_max, > 0
    min_applicable: int = 8  # rollouts; with fewer applicable ones in a batch the multiplier stays as it is


@dataclass
class ConstraintConfig:
    """One constraint E[R_k] >= threshold over the rollouts where the mask column is > 0 (Eq. 2 and 5)."""

    threshold: float = MISSING  # tau_k, in [0, 1]
    mask: str = MISSING  # accuracy | has_reference_boxes
    multiplier: MultiplierConfig = field(default_factory=MultiplierConfig)


@dataclass
class AdvantageConfig:
    """How per-signal advantages are made and combined (Eq. 6)."""

    std_floor: float = 1e-3  # smallest divisor, in reward units, > 0: judge noise is not stretched into advantages
    epsilon: float = 1e-6  # added to the divisor, >= 0
    whiten: bool = True  # whiten the combined advantage over the batch, one value per rollout
    masked_rollouts: str = "left_out"  # left_out of group statistics (advantage 0) | as_zero (counted as reward 0; an ablation)


@dataclass
class JudgeConfig:
    """One judge and the named Ray actors that serve it."""

    backend: str = "scene"  # scene: exact verdicts from the known scene | vllm: a server of its own | openai: an endpoint | fake: tests
    replicas: int = 1  # actors, >= 1
    timeout_seconds: float = 60.0  # for one rollout, > 0; afterwards the rollout is unscored, never zero
    num_cpus: float = 0.0  # logical CPUs that Ray sets aside for each replica, >= 0
    num_gpus: float = 0.0  # GPUs for each replica, >= 0
    options: dict[str, Any] = field(default_factory=dict)  # the backend's own keys, as in a pool's file: model, base_url, mode, ...


@dataclass
class JudgesConfig:
    """Who judges the reasoning: actors of the run's own, or a pool that other runs use too."""

    pool: str | None = None  # name of a pool of this Ray cluster (`python -m faithful_rl.judges serve`); null: the run starts its own
    consistency: JudgeConfig = field(default_factory=JudgeConfig)
    grounding: JudgeConfig = field(default_factory=JudgeConfig)
    ask_masked: bool = False  # also ask about rollouts whose verdict cannot count; validation always asks
    calibrations: str = "calibrations"  # directory that `python -m faithful_rl.judges calibrate out=...` wrote; preflight looks there


@dataclass
class ReferencePolicyConfig:
    placement: str = "colocated"  # colocated: inside the actor's workers | own_pool: workers of its own
    n_gpus_per_node: int = 1  # size of the own pool on each node, >= 1
    nnodes: int = 1  # nodes of the own pool, >= 1


@dataclass
class ScenesConfig:
    """Synthetic spatial scenes, made at first use: the same seed and sizes give the same bytes."""

    seed: int = 0
    train: int = 6400  # rows, >= 1
    val: int = 200  # rows, >= 1
    test: int = 600  # rows, >= 1: the held-out questions of the before/after table
    directory: str = "outputs/data/scenes"  # one folder per seed and size below it


@dataclass
class DataConfig:
    source: str = "scenes"  # scenes: generated here | parquet: data.train_files and data.val_files name existing files
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    check_rows: int = 256  # rows per file whose image and tags preflight opens; -1: every row


@dataclass
class EvaluationConfig:
    """Held-out evaluation before the first and after the last step."""

    at_start: bool = True
    at_end: bool = True
    decodings: list[str] = field(default_factory=lambda: ["T1", "greedy"])  # T1: sampled at temperature 1
    max_questions: int = -1  # -1: the whole held-out set


@dataclass
class UiConfig:
    progress: bool = True  # one live line instead of the stack's chatter, which goes to <output_dir>/logs
    rollouts_every: int = 10  # steps between dumps for the rollout viewer, >= 1
    rollouts_per_step: int = 20  # rollouts in one dump, >= 0


@dataclass
class HardwareConfig:
    world: str = "cpu"  # cpu | gpu: which extra must be installed and which platform must be active
    environment: dict[str, str] = field(default_factory=dict)  # set before verl is imported, unless the shell sets them
    min_free_disk_gib: float = 1.0  # GiB, >= 0, on top of the estimate for checkpoints


@dataclass
class WarmStartConfig:
    """Supervised warm start of the tiny model (`recipe=sft_tiny`); the fields of `faithful_rl.tiny.warm_start.WarmStartSettings`."""

    alignment_steps: int = 600  # >= 2
    clean_steps: int = 2000  # >= 2
    imperfect_steps: int = 600  # >= 2
    batch_size: int = 48  # examples, >= 1
    caption_share: float = 0.25  # of the clean examples, in [0, 1]
    matrix_learning_rate: float = 0.02  # > 0; Muon
    other_learning_rate: float = 2e-3  # > 0; AdamW
    imperfect_rate: float = 0.5  # > 0; factor on both learning rates in the last stage
    threads: int = 2  # torch threads, >= 1


@dataclass
class FaithfulRLConfig:
    """The whole `faithful_rl:` node. Ranges are checked by `validate`."""

    recipe: str = MISSING  # the recipe's name
    description: str = ""  # one line for `--help`
    method: str = "fgrpo"  # grpo (task reward only) | fgrpo (constrained) | sft
    seed: int = 0  # data order, sampling and initialisation, >= 0
    constraints: dict[str, ConstraintConfig] = field(default_factory=dict)
    coverage_floor: float = 0.9  # in [0, 1]: below this share of scored rollouts a constraint's dual step is frozen
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    judges: JudgesConfig = field(default_factory=JudgesConfig)
    reference_policy: ReferencePolicyConfig = field(default_factory=ReferencePolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ui: UiConfig = field(default_factory=UiConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    output_dir: str = ""  # empty: outputs/<recipe>/<time>, or the unfinished run of the same configuration found there
    step_timeout_seconds: float = 1800.0  # > 0: a phase of a step that takes longer is named and ends the run
    stop_after_nonfinite_steps: int = 3  # steps in a row with a NaN or infinite loss or advantage, >= 1


def _require(ok: bool, key: str, found: object, expected: str, fix: str) -> None:
    if not ok:
        raise ConfigError(f"faithful_rl.{key}", repr(found), expected, fix)


def _one_of(key: str, found: str, allowed: tuple[str, ...]) -> None:
    _require(found in allowed, key, found, "one of " + ", ".join(allowed), f"Set faithful_rl.{key} to one of them.")


def _in_range(key: str, found: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    inside = math.isfinite(found) and (found > low if open_low else found >= low) and found <= high
    if high < math.inf:
        expected = f"a number in {'(' if open_low else '['}{low:g}, {high:g}]"
    else:
        expected = f"a finite number {'>' if open_low else '>='} {low:g}"
    _require(inside, key, found, expected, f"Change faithful_rl.{key}.")


def _validate_constraint(name: str, constraint: ConstraintConfig) -> None:
    key = f"constraints.{name}"
    _one_of("constraints", name, CONSTRAINED_SIGNALS)
    _in_range(f"{key}.threshold", constraint.threshold, 0.0, 1.0)
    _one_of(f"{key}.mask", constraint.mask, MASKS)
    multiplier = constraint.multiplier
    _one_of(f"{key}.multiplier.kind", multiplier.kind, MULTIPLIER_KINDS)
    _in_range(f"{key}.multiplier.maximum", multiplier.maximum, 0.0, open_low=True)
    _in_range(f"{key}.multiplier.start", multiplier.start, 0.0, multiplier.maximum)
    _in_range(f"{key}.multiplier.step_size", multiplier.step_size, 0.0, open_low=True)
    _in_range(f"{key}.multiplier.min_applicable", multiplier.min_applicable, 1)


def _validate_judge(name: str, judge: JudgeConfig) -> None:
    key = f"judges.{name}"
    _one_of(f"{key}.backend", judge.backend, JUDGE_BACKENDS)
    _in_range(f"{key}.replicas", judge.replicas, 1)
    _in_range(f"{key}.timeout_seconds", judge.timeout_seconds, 0.0, open_low=True)
    _in_range(f"{key}.num_cpus", judge.num_cpus, 0.0)
    _in_range(f"{key}.num_gpus", judge.num_gpus, 0.0)


def _validate_rest(config: FaithfulRLConfig) -> None:
    _one_of("reference_policy.placement", config.reference_policy.placement, PLACEMENTS)
    _in_range("reference_policy.n_gpus_per_node", config.reference_policy.n_gpus_per_node, 1)
    _in_range("reference_policy.nnodes", config.reference_policy.nnodes, 1)
    _one_of("data.source", config.data.source, ("scenes", "parquet"))
    for split in ("train", "val", "test"):
        _in_range(f"data.scenes.{split}", getattr(config.data.scenes, split), 1)
    _in_range("data.scenes.seed", config.data.scenes.seed, 0)
    _in_range("data.check_rows", config.data.check_rows, -1)
    for decoding in config.evaluation.decodings:
        _one_of("evaluation.decodings", decoding, DECODINGS)
    _in_range("evaluation.max_questions", config.evaluation.max_questions, -1)
    _in_range("ui.rollouts_every", config.ui.rollouts_every, 1)
    _in_range("ui.rollouts_per_step", config.ui.rollouts_per_step, 0)
    _one_of("hardware.world", config.hardware.world, ("cpu", "gpu"))
    _in_range("hardware.min_free_disk_gib", config.hardware.min_free_disk_gib, 0.0)
    warm_start = config.warm_start
    for name in ("alignment_steps", "clean_steps", "imperfect_steps"):
        _in_range(f"warm_start.{name}", getattr(warm_start, name), 2)
    for name in ("matrix_learning_rate", "other_learning_rate", "imperfect_rate"):
        _in_range(f"warm_start.{name}", getattr(warm_start, name), 0.0, open_low=True)
    _in_range("warm_start.batch_size", warm_start.batch_size, 1)
    _in_range("warm_start.caption_share", warm_start.caption_share, 0.0, 1.0)
    _in_range("warm_start.threads", warm_start.threads, 1)


def validate(config: FaithfulRLConfig) -> FaithfulRLConfig:
    """Check every range and choice, and what several keys mean together; returns `config` unchanged.

    Raises:
        ConfigError: naming the first key that is wrong, what was found, what is expected and the fix.
    """
    _one_of("method", config.method, METHODS)
    _in_range("seed", config.seed, 0, 2**31 - 1)
    _in_range("coverage_floor", config.coverage_floor, 0.0, 1.0)
    _in_range("advantage.std_floor", config.advantage.std_floor, 0.0, open_low=True)
    _in_range("advantage.epsilon", config.advantage.epsilon, 0.0)
    _one_of("advantage.masked_rollouts", config.advantage.masked_rollouts, MASKED_ROLLOUTS)
    _in_range("step_timeout_seconds", config.step_timeout_seconds, 0.0, open_low=True)
    _in_range("stop_after_nonfinite_steps", config.stop_after_nonfinite_steps, 1)
    for name, constraint in config.constraints.items():
        _validate_constraint(name, constraint)
    _validate_judge("consistency", config.judges.consistency)
    _validate_judge("grounding", config.judges.grounding)
    _require(
        config.method != "fgrpo" or bool(config.constraints),
        "constraints",
        "none",
        "at least one constraint, because faithful_rl.method is fgrpo",
        "Choose constraints=fgrpo, or set faithful_rl.method=grpo to train on the task reward only.",
    )
    _require(
        config.method == "fgrpo" or not config.constraints,
        "constraints",
        ", ".join(config.constraints),
        f"no constraints, because faithful_rl.method is {config.method}",
        "Choose constraints=none, or set faithful_rl.method=fgrpo.",
    )
    _validate_rest(config)
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
            key, f"a problem ({reason})", "a known key with a value of its type", "See faithful_rl/config.py for the keys."
        ) from error
    if not isinstance(typed, FaithfulRLConfig):
        raise TypeError(f"expected a FaithfulRLConfig, got {type(typed).__name__}")
    return validate(typed)
