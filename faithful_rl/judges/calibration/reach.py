"""From a judge's errors to the constraint score that a perfect policy would be given.

Let a judge call a faithful thing (a consistent rollout, a true and new sentence) positive with probability `a1` and negative with
`b1`, and an unfaithful one positive with `a0` and negative with `b0`; the rest is SKIP. Where a share `p` of the things is faithful,

    measured(p) = (p a1 + (1 - p) a0) / (p (a1 + b1) + (1 - p) (a0 + b0)).

- Consistency has one verdict a rollout and no SKIP, so a + b = 1: measured(p) = p * sensitivity + (1 - p) * (1 - specificity), and
  the mean over rollouts (Eq. 5) has this expectation.
- R_S is a share *per rollout*, correct / (correct + incorrect). With verdicts independent given the sentence, m judged sentences hold
  Binomial(m, a / (a + b)) correct ones whatever m is, and a rollout without a judged sentence is left out: the expectation of the
  ratio is a / (a + b) for every number of sentences, so SKIP drops out and the formula holds for the mean over rollouts too.

The perfect policy has p = 1: its score is `measured(1)`, the *ceiling*, the sensitivity among judged things. measured(0), one minus
the specificity among judged things, is the *floor*: what a policy gets that is never faithful. measured(p) rises with p exactly
when ceiling > floor, so no share of faithful rollouts scores above the ceiling of a judge that is better than chance.

A perfect policy may also repeat itself. A repetition is no error and should be SKIP; a judge that calls some repetitions INCORRECT
lowers the score. `ceiling_with_repeats` is measured with sentences mixed as in the labelled set (true and new, or SKIP).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faithful_rl.judges.calibration.statistics import UNDEFINED, Array, Estimate, over_cases, rate

POSITIVE, NEGATIVE, SKIP = 0, 1, 2  # order of labels and verdicts in every table of counts
IN_REACH, UNCERTAIN, OUT_OF_REACH, UNKNOWN = "in reach", "uncertain", "out of reach", "unknown"


@dataclass(frozen=True, slots=True)
class Reach:
    """What the constraint's threshold means with this judge; all scores in [0, 1].

    `share_needed` is the share of faithful rollouts (sentences) at which the measured score equals the threshold: above 1 no
    policy reaches it, at 0 or below every policy holds it. None where the judge's verdicts do not rise with the truth.
    """

    threshold: float
    ceiling: Estimate
    floor: Estimate
    ceiling_with_repeats: Estimate | None
    share_needed: float | None
    state: str
    message: str

    @property
    def warns(self) -> bool:
        return self.state != IN_REACH


def measured(share: float, table: Array) -> float:
    """The score that a policy with this share of faithful things is given, from a (labels, verdicts) table of counts.

    NaN where the labelled set has no judged verdict on a label that is needed.
    """
    positive, negative = _shares(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        above = share * positive[POSITIVE] + (1 - share) * positive[NEGATIVE]
        return float(above / (above + share * negative[POSITIVE] + (1 - share) * negative[NEGATIVE]))


def share_needed(threshold: float, table: Array) -> float | None:
    """The share p with measured(p) = threshold; not clipped. None where the judge is no better than chance or a label is missing."""
    positive, negative = _shares(table)
    if not measured(1.0, table) > measured(0.0, table):
        return None
    # measured(p) = threshold is linear in p once multiplied by its denominator
    at_one = (1 - threshold) * positive[POSITIVE] - threshold * negative[POSITIVE]
    at_zero = (1 - threshold) * positive[NEGATIVE] - threshold * negative[NEGATIVE]
    return float(-at_zero / (at_one - at_zero)) if at_one != at_zero else None


def reach(signal: str, threshold: float, counts: Array) -> Reach:
    """Ceiling, floor and what they mean for a threshold.

    Args:
        signal: the constraint's name, for the message.
        counts: (cases, labels, verdicts) of scored verdicts; POSITIVE, NEGATIVE and for sentences SKIP on both axes.
    """
    table = counts.sum(axis=0)
    judged = counts[:, :, POSITIVE] + counts[:, :, NEGATIVE]
    ceiling = rate(counts[:, POSITIVE, POSITIVE], judged[:, POSITIVE])
    floor = rate(counts[:, NEGATIVE, POSITIVE], judged[:, NEGATIVE])
    repeats = _with_repeats(counts) if counts.shape[1] > SKIP else None
    needed = share_needed(threshold, table)
    state, message = _judge(signal, threshold, ceiling, floor, needed)
    return Reach(threshold, ceiling, floor, repeats, needed, state, message)


def _shares(table: Array) -> tuple[Array, Array]:
    """(positive, negative) verdicts as shares of each label's verdicts, SKIP included; NaN for a label without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = table / table.sum(axis=1, keepdims=True)
    return shares[:, POSITIVE], shares[:, NEGATIVE]


def _with_repeats(counts: Array) -> Estimate:
    faithful = counts[:, POSITIVE] + counts[:, SKIP]  # a policy that writes these sentences has written nothing false
    if not counts[:, SKIP].sum():
        return UNDEFINED
    if not faithful[:, NEGATIVE].sum():
        return rate(faithful[:, POSITIVE], faithful[:, POSITIVE] + faithful[:, NEGATIVE])
    return over_cases(faithful, lambda summed: summed[..., POSITIVE] / (summed[..., POSITIVE] + summed[..., NEGATIVE]))


def _judge(signal: str, threshold: float, ceiling: Estimate, floor: Estimate, needed: float | None) -> tuple[str, str]:
    if ceiling.value is None:
        return UNKNOWN, f"{signal}: no faithful case was judged, so it is not known whether the threshold {threshold:g} can be reached."
    text = f"{ceiling.value:.3f}" + ("" if ceiling.low is None or ceiling.high is None else f" [{ceiling.low:.3f}, {ceiling.high:.3f}]")
    score = f"{signal}: with this judge a perfect policy scores {text}"
    if ceiling.value < threshold and ceiling.high is not None and ceiling.high >= threshold:
        return UNCERTAIN, f"{score}; the threshold {threshold:g} is probably out of its reach: label more cases, or take a better judge."
    if ceiling.value < threshold:
        return OUT_OF_REACH, f"{score}; the threshold {threshold:g} is out of its reach. Lower the threshold or take a better judge."
    if floor.value is not None and floor.value >= ceiling.value:
        return OUT_OF_REACH, f"{score} and one that is never faithful {floor.value:.3f}: its verdicts do not rise with the truth."
    if needed is not None and needed <= 0:
        return OUT_OF_REACH, f"{score} and one that is never faithful {floor.value:.3f}: the threshold {threshold:g} constrains nothing."
    if ceiling.low is not None and ceiling.low < threshold:
        return UNCERTAIN, f"{score}; whether the threshold {threshold:g} is in its reach takes more labelled cases to tell."
    return IN_REACH, f"{score}; the threshold {threshold:g} is in its reach."
