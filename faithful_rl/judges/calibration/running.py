"""Put labelled cases to a judge, many at a time, and pair each label with the verdict. Nothing that a judge does stops the run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from faithful_rl.judges.backend import JudgeBackend, JudgeFailure
from faithful_rl.judges.calibration.cases import NO, YES, LabelledCase
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, Verdict

logger = logging.getLogger(__name__)

CONSISTENCY, GROUNDING = "consistency", "grounding"
JUDGES = (CONSISTENCY, GROUNDING)
UNSCORED = Verdict.UNSCORED.name
Ask = Callable[[JudgeRequest], Awaitable[Any]]  # gives a Score or a list[SentenceVerdict]; a pool client's `ask` is one


@dataclass(frozen=True, slots=True)
class Pair:
    """One labelled verdict beside the judge's. `case` counts the cases asked; `reason` is SCORED unless `verdict` is UNSCORED."""

    case: int
    case_id: str
    kind: str
    sentence: str  # "" for consistency
    label: str
    verdict: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Judged:
    """Everything one judge said: pairs in the order of cases and sentences, seconds of each call, and of all together."""

    judge: str
    cases: int
    pairs: tuple[Pair, ...]
    call_seconds: tuple[float, ...]
    seconds: float


def ask_backend(backend: JudgeBackend, judge: str, timeout_seconds: float) -> Ask:
    """Ask a backend directly, as a pool's replica and client would: a judge that is busy is asked again as it says, and a failure becomes
    an unscored Score with its reason."""
    method = backend.consistency if judge == CONSISTENCY else backend.grounding

    async def patiently(request: JudgeRequest) -> Any:
        end = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            left = end - asyncio.get_running_loop().time()
            try:
                return await method(request, left)
            except JudgeFailure as failure:
                if failure.retry_after is None or failure.retry_after >= left:
                    raise
                await asyncio.sleep(failure.retry_after)

    async def ask(request: JudgeRequest) -> Any:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await patiently(request)
        except TimeoutError:
            return Score(None, Reason.JUDGE_TIMEOUT)
        except JudgeFailure as failure:
            return Score(None, failure.reason)
        except Exception:  # a backend may raise anything, and a failed measurement is a result here
            logger.warning("the %s judge failed on case %s", judge, request.uid, exc_info=True)
            return Score(None, Reason.JUDGE_ERROR)

    return ask


async def judge_cases(cases: Sequence[LabelledCase], judge: str, ask: Ask, concurrency: int) -> Judged:
    """Ask about every case that carries a label for this judge, at most `concurrency` at a time.

    Raises:
        ValueError: `judge` is unknown or `concurrency` is below 1.
    """
    if judge not in JUDGES or concurrency < 1:
        raise ValueError(f"judge must be one of {', '.join(JUDGES)} and concurrency at least 1, got {judge!r} and {concurrency}")
    labelled = [case for case in cases if (case.consistency if judge == CONSISTENCY else case.grounding) is not None]
    answers: list[Any] = [None] * len(labelled)
    seconds = [0.0] * len(labelled)
    waiting = iter(range(len(labelled)))

    async def work() -> None:
        for index in waiting:  # shared by all workers: each takes the next case
            began = time.perf_counter()
            answers[index] = await ask(labelled[index].request)
            seconds[index] = time.perf_counter() - began

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(labelled))):
            group.create_task(work())
    elapsed = time.perf_counter() - start
    pair = _consistency_pairs if judge == CONSISTENCY else _grounding_pairs
    pairs = [found for index, case in enumerate(labelled) for found in pair(index, case, answers[index])]
    return Judged(judge, len(labelled), tuple(pairs), tuple(seconds), elapsed)


def _consistency_pairs(index: int, case: LabelledCase, answer: Any) -> list[Pair]:
    verdict, reason = UNSCORED, Reason.JUDGE_ERROR  # anything but a Score is nonsense
    if isinstance(answer, Score):
        reason = answer.reason
        if answer.value is not None:
            verdict = YES if answer.value >= 0.5 else NO
    return [Pair(index, case.id, case.kind, "", str(case.consistency), verdict, reason)]


def _grounding_pairs(index: int, case: LabelledCase, answer: Any) -> list[Pair]:
    labels = case.grounding or ()
    verdicts = [UNSCORED] * len(labels)
    reason = answer.reason if isinstance(answer, Score) and not answer.scored else Reason.JUDGE_ERROR
    # verdicts of other sentences than the labelled ones cannot be compared: they count as an error of the judge
    if isinstance(answer, list) and [getattr(said, "text", None) for said in answer] == [label.sentence for label in labels]:
        verdicts = [Verdict(said.verdict).name for said in answer]
    return [
        Pair(index, case.id, label.kind, label.sentence, label.verdict, verdict, reason if verdict == UNSCORED else Reason.SCORED)
        for label, verdict in zip(labels, verdicts, strict=True)
    ]
