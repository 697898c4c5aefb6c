"""From pairs of label and verdict to what is reported of one judge: agreement, breakdowns, speed, cost and reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from faithful_rl.judges.backend import Usage
from faithful_rl.judges.calibration.cases import CONSISTENCY_LABELS, GROUNDING_LABELS, LabelledCase
from faithful_rl.judges.calibration.reach import NEGATIVE, POSITIVE, Reach, reach
from faithful_rl.judges.calibration.running import CONSISTENCY, GROUNDING, UNSCORED, Ask, Judged, Pair, judge_cases
from faithful_rl.judges.calibration.statistics import Array, Estimate, kappa, proportion, rate

LABELS = {CONSISTENCY: CONSISTENCY_LABELS, GROUNDING: GROUNDING_LABELS}
SIGNALS = {CONSISTENCY: "consistency", GROUNDING: "semantic_grounding"}  # judge -> the constraint that it scores
DEFAULT_THRESHOLD = 0.95  # tau_C and tau_S
ROLLOUTS = 1000  # cost is given for so many
MILLION = 1_000_000
COUNTERS = ("calls", "prompt_tokens", "completion_tokens", "cache_hits", "shared")


@dataclass(frozen=True, slots=True)
class Prices:
    """Price of a million tokens, in any one currency; None: not given."""

    prompt: float | None = None
    completion: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What 1,000 rollouts of this set cost: calls of the judge's model, tokens, and money where prices were given.

    Verdicts that came from the cache, or were shared with an equal question on its way, cost nothing and are counted.
    """

    calls: float
    prompt_tokens: float
    completion_tokens: float
    cache_hits: float
    shared: float
    price: float | None


@dataclass(frozen=True, slots=True)
class Kind:
    """Verdicts on one kind of case or sentence: how many, how many as labelled (share with a Wilson interval), how many unscored."""

    name: str
    label: str
    verdicts: int
    agreed: int
    unscored: int
    agreement: Estimate


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """One judge on one labelled set. Rates and kappa are over scored verdicts; `table` has UNSCORED as its last column.

    `sensitivity` and `specificity` are among verdicts that are not SKIP, which is what the constraint's score is made of.
    """

    judge: str
    version: str
    description: str
    cases: int
    labels: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    base_rate: float | None  # share of positive labels (YES, CORRECT) among all
    constant_agreement: float | None  # what a judge gets that always says the commonest label
    agreement: Estimate
    kappa: Estimate
    sensitivity: Estimate
    specificity: Estimate
    kinds: tuple[Kind, ...]
    unscored: Mapping[str, int]
    seconds: float
    verdicts_per_second: float | None
    call_seconds: tuple[float, float, float]  # median, 95th, 99th percentile
    cost: Cost | None
    reach: Reach
    pairs: tuple[Pair, ...]

    @property
    def verdicts(self) -> int:
        return sum(map(sum, self.table))

    @property
    def unscored_share(self) -> float:
        return sum(self.unscored.values()) / self.verdicts if self.verdicts else 0.0

    @property
    def disagreements(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.verdict not in (pair.label, UNSCORED))

    def as_json(self) -> dict[str, Any]:
        """Plain data without the single verdicts; every estimate is [value, low, high]."""
        return {
            "judge": self.judge,
            "version": self.version,
            "description": self.description,
            "cases": self.cases,
            "verdicts": self.verdicts,
            "confusion": {
                label: dict(zip((*self.labels, UNSCORED), row, strict=True)) for label, row in zip(self.labels, self.table, strict=True)
            },
            "base_rate": self.base_rate,
            "constant_agreement": self.constant_agreement,
            "agreement": self.agreement.as_list(),
            "kappa": self.kappa.as_list(),
            "sensitivity": self.sensitivity.as_list(),
            "specificity": self.specificity.as_list(),
            "kinds": [{**asdict(kind), "agreement": kind.agreement.as_list()} for kind in self.kinds],
            "unscored": dict(self.unscored),
            "seconds": self.seconds,
            "verdicts_per_second": self.verdicts_per_second,
            "call_seconds": dict(zip(("p50", "p95", "p99"), self.call_seconds, strict=True)),
            "per_1000_rollouts": None if self.cost is None else asdict(self.cost),
            "reach": {
                "signal": SIGNALS[self.judge],
                "threshold": self.reach.threshold,
                "ceiling": self.reach.ceiling.as_list(),
                "floor": self.reach.floor.as_list(),
                "ceiling_with_repeats": None if self.reach.ceiling_with_repeats is None else self.reach.ceiling_with_repeats.as_list(),
                "share_needed": self.reach.share_needed,
                "state": self.reach.state,
                "message": self.reach.message,
            },
        }


@dataclass(frozen=True, slots=True)
class JudgeUnderTest:
    """A judge to be measured: how to ask it, the version its verdicts belong to, and its counters where it has any."""

    judge: str
    ask: Ask
    version: str
    description: str
    usage: Callable[[], Usage] | None = None  # cumulative; may hand out the same object again and again


async def calibrate(
    cases: Sequence[LabelledCase],
    judge: JudgeUnderTest,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    concurrency: int = 64,
    prices: Prices = Prices(),
) -> JudgeResult:
    """Ask one judge about every case labelled for it and summarise what it said."""
    before = None if judge.usage is None else replace(judge.usage())
    judged = await judge_cases(cases, judge.judge, judge.ask, concurrency)
    cost = None if before is None or judge.usage is None else cost_of(before, judge.usage(), judged.cases, prices)
    return summarise(judged, judge.version, judge.description, threshold, cost)


def summarise(judged: Judged, version: str, description: str, threshold: float, cost: Cost | None = None) -> JudgeResult:
    """Every number of a `JudgeResult` from the pairs."""
    labels = LABELS[judged.judge]
    counts = counts_of(judged)
    scored = counts[:, :, : len(labels)]
    table = counts.sum(axis=0)
    per_label = table.sum(axis=1)
    total = float(per_label.sum())
    given = [pair for pair in judged.pairs if pair.verdict != UNSCORED]
    decided = scored[:, :, POSITIVE] + scored[:, :, NEGATIVE]
    quantiles = np.quantile(judged.call_seconds, [0.5, 0.95, 0.99]) if judged.call_seconds else np.zeros(3)
    return JudgeResult(
        judge=judged.judge,
        version=version,
        description=description,
        cases=judged.cases,
        labels=labels,
        table=tuple(tuple(int(value) for value in row) for row in table),
        base_rate=float(per_label[POSITIVE]) / total if total else None,
        constant_agreement=float(per_label.max()) / total if total else None,
        agreement=rate(np.trace(scored, axis1=1, axis2=2), scored.sum(axis=(1, 2))),
        kappa=kappa(scored),
        sensitivity=rate(scored[:, POSITIVE, POSITIVE], decided[:, POSITIVE]),
        specificity=rate(scored[:, NEGATIVE, NEGATIVE], decided[:, NEGATIVE]),
        kinds=kinds_of(judged.pairs),
        unscored=dict(sorted(Counter(pair.reason.name for pair in judged.pairs if pair.verdict == UNSCORED).items())),
        seconds=judged.seconds,
        verdicts_per_second=len(given) / judged.seconds if judged.seconds > 0 else None,
        call_seconds=(float(quantiles[0]), float(quantiles[1]), float(quantiles[2])),
        cost=cost,
        reach=reach(SIGNALS[judged.judge], threshold, scored),
        pairs=judged.pairs,
    )


def counts_of(judged: Judged) -> Array:
    """(cases, labels, verdicts) counts; the last column is UNSCORED."""
    labels = LABELS[judged.judge]
    columns = (*labels, UNSCORED)
    counts = np.zeros((judged.cases, len(labels), len(columns)))
    for pair in judged.pairs:
        counts[pair.case, labels.index(pair.label), columns.index(pair.verdict)] += 1
    return counts


def kinds_of(pairs: Sequence[Pair]) -> tuple[Kind, ...]:
    """One entry per kind and label, in order of first appearance."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.kind, pair.label), []).append(pair)
    found = []
    for (name, label), group in groups.items():
        unscored = sum(pair.verdict == UNSCORED for pair in group)
        agreed = sum(pair.verdict == label for pair in group)
        found.append(Kind(name, label, len(group), agreed, unscored, proportion(agreed, len(group) - unscored, "wilson")))
    return tuple(found)


def cost_of(before: Usage, after: Usage, rollouts: int, prices: Prices) -> Cost | None:
    """Growth of the counters scaled to 1,000 rollouts; None without rollouts. The price needs both prices."""
    if not rollouts:
        return None
    grown = {name: ROLLOUTS / rollouts * (getattr(after, name) - getattr(before, name)) for name in COUNTERS}
    price = None
    if prices.prompt is not None and prices.completion is not None:
        price = (grown["prompt_tokens"] * prices.prompt + grown["completion_tokens"] * prices.completion) / MILLION
    return Cost(**grown, price=price)
