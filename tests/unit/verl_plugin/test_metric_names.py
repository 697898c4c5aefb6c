"""Every name that training emits stands in the table of docs/metrics.md, and means there what it is."""

import re

import numpy as np
import pytest

pytest.importorskip("verl")

from faithful_rl import metrics
from faithful_rl.advantage import AdvantageSettings
from faithful_rl.constraints import ConstrainedProblem
from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.verl_plugin import judge_timing
from faithful_rl.verl_plugin.constrained_step import constrained_step
from faithful_rl.verl_plugin.reward_columns import RewardBatch
from faithful_rl.verl_plugin.step_guard import StepGuard

MULTIPLIER = {"kind": "dual_ascent", "start": 1.0, "step_size": 0.1, "maximum": 5.0, "min_applicable": 1}
PATTERNS = [re.compile(re.sub(r"<\w+>", r"[\\w]+", metric.name)) for metric in metrics.METRICS]


def listed(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in PATTERNS)


def test_every_emitted_name_is_listed() -> None:
    generator = np.random.default_rng(0)
    columns = {name: generator.random(20) for name in COLUMNS}
    columns |= {name: np.ones(20) for name in COLUMNS if name.endswith("_scored") or name == "accuracy"}
    batch = RewardBatch(np.arange(20), np.repeat(np.array(list("abcd"), dtype=object), 5), columns, np.arange(20))
    settings = {name: {"threshold": 0.95, "mask": "accuracy", "multiplier": MULTIPLIER} for name in metrics.CONSTRAINT_SIGNALS}
    result = constrained_step(batch, ConstrainedProblem.from_settings(settings), AdvantageSettings())
    guard = StepGuard(3)
    guard.begin_step()
    emitted = {
        **result.metrics,
        **judge_timing.step_metrics([{judge_timing.TIMES_KEY: (0.0, 1.0)}]),
        **guard.end_step(1),
        metrics.TRAIN_RESPONSE_TOKENS: 1.0,
        "time_s": 1.0,
        metrics.heldout_metric("T1", "accuracy"): 1.0,
    }
    assert len(emitted) > 30
    assert [name for name in emitted if not listed(name)] == []
    assert not listed("train/consistency/nonsense")


def test_constraints_of_rows() -> None:
    rows = [
        {"step": 1.0, "constraint/response_tokens/score": 1.0},
        {"constraint/semantic_grounding/multiplier": 1.0, "constraint/consistency/score": 1.0},
    ]
    assert metrics.constraint_names(rows) == ("consistency", "semantic_grounding", "response_tokens")
