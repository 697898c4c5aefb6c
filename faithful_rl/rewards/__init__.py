"""Rewards of one rollout: accuracy, format, spatial grounding, sentences, and the suite that names them all. No torch, ray or verl."""

from faithful_rl.rewards.accuracy import accuracy_score
from faithful_rl.rewards.format import format_score, task_score
from faithful_rl.rewards.sentences import Rule, Sentence, non_trivial, semantic_grounding_score, split
from faithful_rl.rewards.spatial_grounding import matched_ciou, spatial_grounding_score
from faithful_rl.rewards.suite import COLUMNS, COUNTS, SIGNALS, Reference, assemble, columns, needs_judge, rule_scores

__all__ = [
    "COLUMNS",
    "COUNTS",
    "SIGNALS",
    "Reference",
    "Rule",
    "Sentence",
    "accuracy_score",
    "assemble",
    "columns",
    "format_score",
    "matched_ciou",
    "needs_judge",
    "non_trivial",
    "rule_scores",
    "semantic_grounding_score",
    "spatial_grounding_score",
    "split",
    "task_score",
]
