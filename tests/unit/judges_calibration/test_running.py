"""Asking: every labelled verdict gets its pair whatever the judge does, and never more questions at once than allowed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faithful_rl.judges.backend import JudgeFailure, Usage
from faithful_rl.judges.calibration.cases import LabelledCase, read_cases
from faithful_rl.judges.calibration.results import JudgeUnderTest, Prices, calibrate, cost_of, counts_of
from faithful_rl.judges.calibration.running import ask_backend, judge_cases
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards.sentences import non_trivial
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

Cases = tuple[LabelledCase, ...]


@pytest.fixture
def eight(put: Callable[..., Path], make_row: Callable[..., dict[str, Any]]) -> Cases:
    """Eight consistency labels: five YES, three NO."""
    labels = ["YES"] * 5 + ["NO"] * 3
    return read_cases(put(*(make_row(f"c{index}", consistency=label, kind=label.lower()) for index, label in enumerate(labels))))


def said(request: JudgeRequest, *verdicts: Verdict) -> list[SentenceVerdict]:
    return [
        SentenceVerdict(one.text, one.start, one.end, verdict)
        for one, verdict in zip(non_trivial(request.reasoning), verdicts, strict=True)
    ]


class Scripted:
    """A backend that gives or raises what its table says for each case; UNSCORED without an entry."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table

    async def consistency(self, request: JudgeRequest, deadline: float) -> Any:
        answer = self.table.get(request.uid, Score(None, Reason.JUDGE_ERROR))
        if isinstance(answer, BaseException):
            raise answer
        if answer == "never":
            await asyncio.Event().wait()
        return answer

    async def grounding(self, request: JudgeRequest, deadline: float) -> Any:
        answer = await self.consistency(request, deadline)
        return said(request, *answer) if isinstance(answer, tuple) else answer


def pairs(cases: Cases, judge: str, table: dict[str, Any], timeout: float = 5.0) -> list[tuple[str, str, str, str]]:
    asked = asyncio.run(judge_cases(cases, judge, ask_backend(Scripted(table), judge, timeout), 4))  # type: ignore[arg-type]
    return [(pair.case_id, pair.label, pair.verdict, pair.reason.name) for pair in asked.pairs]


def failure(reason: Reason) -> JudgeFailure:
    made = JudgeFailure(reason, "down")
    assert made.reason is reason
    return made


def test_whatever_a_consistency_judge_does_each_label_has_its_pair(eight: Cases) -> None:
    found = pairs(
        eight,
        "consistency",
        {
            "c0": Score(1.0),
            "c1": Score(0.0),
            "c2": Score(None, Reason.NOTHING_TO_JUDGE),
            "c3": failure(Reason.JUDGE_UNAVAILABLE),
            "c4": ZeroDivisionError(),
            "c5": "YES",  # no Score
            "c6": "never",
            "c7": Score(0.0),
        },
        timeout=0.05,
    )
    assert found == [
        ("c0", "YES", "YES", "SCORED"),
        ("c1", "YES", "NO", "SCORED"),
        ("c2", "YES", "UNSCORED", "NOTHING_TO_JUDGE"),
        ("c3", "YES", "UNSCORED", "JUDGE_UNAVAILABLE"),
        ("c4", "YES", "UNSCORED", "JUDGE_ERROR"),
        ("c5", "NO", "UNSCORED", "JUDGE_ERROR"),
        ("c6", "NO", "UNSCORED", "JUDGE_TIMEOUT"),
        ("c7", "NO", "NO", "SCORED"),
    ]


def test_a_busy_judge_is_asked_again_within_the_time_of_the_case(eight: Cases) -> None:
    class Busy(Scripted):
        refusals = 2

        async def consistency(self, request: JudgeRequest, deadline: float) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "answered 429", retry_after=0.001)
            return Score(1.0)

    def asked(backend: Busy, timeout: float) -> Any:
        return asyncio.run(ask_backend(backend, "consistency", timeout)(eight[0].request))  # type: ignore[arg-type]

    assert asked(Busy({}), 30.0) == Score(1.0)
    for_ever = Busy({})
    for_ever.refusals = 10**9
    assert asked(for_ever, 0.05).reason in (Reason.JUDGE_UNAVAILABLE, Reason.JUDGE_TIMEOUT)


def test_whatever_a_grounding_judge_does_each_sentence_has_its_pair(eight: Cases) -> None:
    correct, incorrect, skip, unscored = Verdict.CORRECT, Verdict.INCORRECT, Verdict.SKIP, Verdict.UNSCORED
    other = [SentenceVerdict("Another sentence.", 0, 5, correct)] * 2
    table = {
        "c0": (correct, skip),
        "c1": (incorrect, unscored),
        "c2": Score(None, Reason.JUDGE_TIMEOUT),
        "c3": other,
        "c4": [],
        "c5": Score(1.0),
    }
    found = pairs(eight[:6], "grounding", table)
    assert [(verdict, reason) for _, _, verdict, reason in found] == [
        ("CORRECT", "SCORED"), ("SKIP", "SCORED"), ("INCORRECT", "SCORED"), ("UNSCORED", "JUDGE_ERROR"),
        *[("UNSCORED", "JUDGE_TIMEOUT")] * 2, *[("UNSCORED", "JUDGE_ERROR")] * 6,
    ]  # fmt: skip


def test_no_more_cases_at_once_than_allowed(eight: Cases) -> None:
    running, peak = 0, 0

    async def ask(request: JudgeRequest) -> Score:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0)
        running -= 1
        return Score(1.0)

    assert asyncio.run(judge_cases(eight, "consistency", ask, 3)).cases == 8
    assert peak == 3
    with pytest.raises(ValueError, match="concurrency at least 1, got 'consistency' and 0"):
        asyncio.run(judge_cases(eight, "consistency", ask, 0))
    assert asyncio.run(judge_cases(eight[:0], "consistency", ask, 3)).pairs == ()


class Counting:
    """A pool's client by its shape, and a meter."""

    def __init__(self) -> None:
        self.calls = 0

    async def ask(self, request: JudgeRequest) -> Score:
        self.calls += 1
        return Score(float(request.uid != "c0"))

    def usage(self) -> Usage:
        return Usage(calls=100 + self.calls, prompt_tokens=50 * self.calls, completion_tokens=self.calls, cache_hits=0)


def test_a_judge_by_hand(eight: Cases) -> None:
    """Says YES to all but c0: 4 of 5 YES and 0 of 3 NO are right. Observed .5; expected (5*7 + 3*1)/64 = .59375."""
    client = Counting()
    one = JudgeUnderTest("consistency", client.ask, "v1", "a client", client.usage)
    found = asyncio.run(calibrate(eight, one, threshold=0.75, concurrency=2, prices=Prices(2.0, 10.0)))
    assert found.table == ((4, 1, 0), (3, 0, 0))
    assert found.kappa.value == pytest.approx((0.5 - 0.59375) / (1 - 0.59375))
    assert (found.sensitivity.value, found.specificity.value, found.base_rate, found.constant_agreement) == (0.8, 0.0, 0.625, 0.625)
    assert found.reach.message.endswith("one that is never faithful 1.000: its verdicts do not rise with the truth.")
    assert [(kind.name, kind.verdicts, kind.agreed) for kind in found.kinds] == [("yes", 5, 4), ("no", 3, 0)]
    assert [pair.case_id for pair in found.disagreements] == ["c0", "c5", "c6", "c7"]
    # 8 calls of 50 + 1 tokens; a thousand rollouts are 125 times as many: 50,000 and 1,000 tokens
    assert found.cost is not None
    assert (found.cost.calls, found.cost.prompt_tokens, found.cost.completion_tokens, found.cost.cache_hits) == (1000, 50_000, 1000, 0)
    assert found.cost.price == pytest.approx(0.05 * 2 + 0.001 * 10)
    assert found.verdicts_per_second == pytest.approx(8 / found.seconds)


def test_unscored_verdicts_stay_out_of_every_rate(eight: Cases) -> None:
    table = {"c0": Score(1.0), "c5": Score(0.0)}
    one = JudgeUnderTest("consistency", ask_backend(Scripted(table), "consistency", 5.0), "v", "scripted")  # type: ignore[arg-type]
    found = asyncio.run(calibrate(eight, one))
    assert found.table == ((1, 0, 4), (0, 1, 2))
    assert (found.kappa.value, found.agreement.value, found.sensitivity.value) == (1.0, 1.0, 1.0)
    assert (found.unscored, found.unscored_share) == ({"JUDGE_ERROR": 6}, 0.75)
    assert found.cost is None
    assert [kind.agreement.value for kind in found.kinds] == [1.0, 1.0]


def test_counts_add_up_to_the_labels(eight: Cases) -> None:
    table = {case.id: (Verdict.CORRECT, Verdict.SKIP) for case in eight[:5]}
    judged = asyncio.run(judge_cases(eight, "grounding", ask_backend(Scripted(table), "grounding", 5.0), 4))  # type: ignore[arg-type]
    counts = counts_of(judged)
    assert counts.shape == (8, 3, 4)
    np.testing.assert_array_equal(counts.sum(axis=(1, 2)), [2.0] * 8)
    assert Counter(pair.verdict for pair in judged.pairs) == {"CORRECT": 5, "SKIP": 5, "UNSCORED": 6}


def test_no_price_without_both_prices_and_no_cost_without_rollouts() -> None:
    nothing = Usage(calls=0, prompt_tokens=0, completion_tokens=0, cache_hits=0)
    assert cost_of(nothing, nothing, 0, Prices()) is None
    found = cost_of(nothing, Usage(calls=1, prompt_tokens=5, completion_tokens=5, cache_hits=1), 10, Prices(prompt=1.0))
    assert found is not None
    assert (found.price, found.cache_hits) == (None, 100.0)
