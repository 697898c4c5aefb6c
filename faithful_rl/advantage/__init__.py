"""From reward columns to one advantage for each rollout: the constrained one (Eq. 6) and its named alternatives. NumPy only."""

from faithful_rl.advantage.combine import Advantages, combined_advantage, constrained_advantage
from faithful_rl.advantage.coupled import ADDITIVE, COUPLED, MULTIPLICATIVE, Term, coupled_reward
from faithful_rl.advantage.normalise import Groups, group_normalised, whitened
from faithful_rl.advantage.settings import KINDS, MASKED_ROLLOUTS, TASK, WHITENINGS, AdvantageSettings

__all__ = [
    "ADDITIVE",
    "COUPLED",
    "KINDS",
    "MASKED_ROLLOUTS",
    "MULTIPLICATIVE",
    "TASK",
    "WHITENINGS",
    "AdvantageSettings",
    "Advantages",
    "Groups",
    "Term",
    "combined_advantage",
    "constrained_advantage",
    "coupled_reward",
    "group_normalised",
    "whitened",
]
