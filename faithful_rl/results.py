"""A run's held-out evaluation before and after training: numbers with intervals, the table, and the sentence that says what happened.

For the terminal and for the report, so that both say the same. Reads `heldout/*.jsonl` of a run directory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faithful_rl.heldout_statistics import QUANTITIES, Coverage, Estimate, Quantity, change, estimate, read_heldout, worst
from faithful_rl.run_directory import DECODING_LABELS, DECODINGS, MOMENTS

CHANGE = "change"
HEADINGS = {
    "accuracy": "accuracy %",
    "inconsistency_rate": "inconsistency rate (IR) %",
    "semantic_grounding": "semantic grounding (R_S) %",
    "spatial_grounding": "spatial grounding (R_G) %",
    "format": "well-formed %",
    "right_for_false_reason": "right answer, false sentence %",
    "sentence_count": "sentences per trace",
    "response_tokens": "tokens per response",
}
SHORT_HEADINGS = {
    "accuracy": "accuracy",
    "inconsistency_rate": "IR",
    "semantic_grounding": "R_S",
    "spatial_grounding": "R_G",
    "format": "format",
    "right_for_false_reason": "false reason",
    "sentence_count": "sentences",
    "response_tokens": "tokens",
}
CARDS = ("accuracy", "inconsistency_rate", "semantic_grounding", "spatial_grounding")
CARD_TITLES = ("Accuracy", "Inconsistency", "True sentences", "Boxes on their things")


@dataclass(frozen=True)
class Results:
    """`numbers[decoding][before|after|change][quantity]` and `coverage` likewise; a moment that was not evaluated is not there. `questions`
    of an evaluation."""

    questions: int
    numbers: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    coverage: Mapping[str, Mapping[str, Mapping[str, Coverage]]]


@dataclass(frozen=True)
class Card:
    """One quantity on the report's first screen: per decoding (label, before, after, change, mood "good", "bad" or "same", of how many
    answers it is where some are missing, else "")."""

    title: str
    name: str
    lines: tuple[tuple[str, str, str, str, str, str], ...]


def read_results(run_dir: Path) -> Results:
    """Every number of the held-out evaluation with its 95% interval (a second or two for 600 questions)."""
    numbers: dict[str, dict[str, dict[str, Estimate]]] = {}
    coverage: dict[str, dict[str, dict[str, Coverage]]] = {}
    questions = 0
    for decoding in DECODINGS:
        found = {moment: rows for moment in MOMENTS if (rows := read_heldout(run_dir, moment, decoding))}
        questions = max([questions, *map(len, found.values())])
        columns = {moment: {q.name: estimate(*q.arrays(list(rows.values()))) for q in QUANTITIES} for moment, rows in found.items()}
        covered = {moment: {q.name: q.coverage(list(rows.values())) for q in QUANTITIES} for moment, rows in found.items()}
        if len(found) == len(MOMENTS):
            covered[CHANGE] = {q.name: worst([covered[moment][q.name] for moment in MOMENTS]) for q in QUANTITIES}
            columns[CHANGE] = {q.name: change(found["before"], found["after"], q) for q in QUANTITIES}
        if columns:
            numbers[decoding], coverage[decoding] = columns, covered
    return Results(questions, numbers, coverage)


def heldout_table(results: Results) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """(column headings, rows of heading and cells), decodings side by side, each number with its 95% interval and, where it is not of
    all questions, of how many it is: `79.2 [76.1, 82.0] (300 of 600)`."""
    found = [(decoding, moment) for decoding, columns in results.numbers.items() for moment in columns]
    rows = []
    for quantity in QUANTITIES:
        cells = tuple(
            _cell(
                results.numbers[decoding][moment][quantity.name],
                quantity,
                moment == CHANGE,
                _covered(results, decoding, moment, quantity).text,
            )
            for decoding, moment in found
        )
        if any(cells):
            rows.append((HEADINGS[quantity.name], cells))
    return tuple(f"{moment}, {DECODING_LABELS[decoding]}" for decoding, moment in found), tuple(rows)


def decoding_rows(results: Results, decoding: str, moments: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Rows (short heading, one cell per moment) of one decoding; a quantity that was never measured has none.

    Of how many questions a number is stands there where some could not be measured.
    """
    columns = results.numbers[decoding]
    rows = []
    for quantity in QUANTITIES:
        cells = tuple(
            _cell(columns[m][quantity.name], quantity, m == CHANGE, missing(_covered(results, decoding, m, quantity)))
            if m in columns
            else ""
            for m in moments
        )
        if any(cells):
            rows.append((SHORT_HEADINGS[quantity.name], cells))
    return rows


def _covered(results: Results, decoding: str, moment: str, quantity: Quantity) -> Coverage:
    return results.coverage[decoding][moment][quantity.name]


def missing(covered: Coverage) -> str:
    """`300 of 600` where something could not be measured, "" elsewhere."""
    return covered.text if covered.partial else ""


def _cell(found: Estimate, quantity: Quantity, signed: bool, covered: str) -> str:
    if math.isnan(found.value):
        return ""
    value, low, high = (_number(number, quantity, signed) for number in (found.value, found.low, found.high))
    told = value if math.isnan(found.low) else f"{value} [{low}, {high}]"
    return f"{told} ({covered})" if covered else told


def _number(value: float, quantity: Quantity, signed: bool = False) -> str:
    scale, digits = (100.0, 1) if quantity.percent else (1.0, 1 if quantity.name == "response_tokens" else 2)
    return f"{scale * value:{'+' if signed else ''}.{digits}f}"


def cards(results: Results) -> tuple[Card, ...]:
    """Before and after of the four headline quantities, for each decoding that has both."""
    by_name = {quantity.name: quantity for quantity in QUANTITIES}
    made = []
    for title, name in zip(CARD_TITLES, CARDS, strict=True):
        lines = []
        for decoding, columns in results.numbers.items():
            if CHANGE in columns and not math.isnan(columns[CHANGE][name].value):
                before, after, moved = (columns[moment][name] for moment in (*MOMENTS, CHANGE))
                quantity = by_name[name]
                mood = "same" if not moved.excludes_zero else "good" if moved.value * quantity.better > 0 else "bad"
                texts = (_number(before.value, quantity), _number(after.value, quantity), _number(moved.value, quantity, signed=True))
                lines.append((DECODING_LABELS[decoding], *texts, mood, missing(_covered(results, decoding, CHANGE, quantity))))
        if lines:
            made.append(Card(title, name, tuple(lines)))
    return tuple(made)


def headline(results: Results) -> tuple[str, ...]:
    """What training did, one sentence per decoding made from the numbers; () before both evaluations exist.

    A change is called one only where its 95% interval excludes zero. What could not be measured of all answers is said last.
    """
    both = [(decoding, columns) for decoding, columns in results.numbers.items() if CHANGE in columns]
    sentences = []
    for decoding, columns in both:
        parts = []
        for name, what in (("inconsistency_rate", "answers that contradict their own reasoning"), ("accuracy", "accuracy")):
            if not math.isnan(columns[CHANGE][name].value):
                parts.append(_moved(what, *(columns[moment][name] for moment in (*MOMENTS, CHANGE))))
        if parts:
            where = "Sampled at temperature 1" if decoding == "T1" else "Decoded greedily"
            sentences.append(f"{where}, {' and '.join(parts)}.")
    return (*sentences, *_partial(results))


def _partial(results: Results) -> tuple[str, ...]:
    """One sentence for the headline's quantities that rest on a part of the answers; () where none does."""
    told = [
        f"{SHORT_HEADINGS[name]} {moment} training, {DECODING_LABELS[decoding]}: {text}"
        for decoding, moments in results.coverage.items()
        for moment, covered in moments.items()
        if moment != CHANGE
        for name in ("accuracy", "inconsistency_rate")
        if (text := missing(covered[name]))
    ]
    return (f"Partial, because some answers could not be judged: {'; '.join(told)}.",) if told else ()


def _moved(what: str, before: Estimate, after: Estimate, moved: Estimate) -> str:
    start, end = 100 * before.value, 100 * after.value
    if not moved.excludes_zero:
        return f"{what} did not change measurably ({start:.1f}% to {end:.1f}%)"
    return f"{what} {'rose' if moved.value > 0 else 'fell'} from {start:.1f}% to {end:.1f}%"
