"""Whether two sides of a comparison were measured alike: judges, readers of answers, mode, prompt, decoding and files.

What another judge said is no difference between models: figures that hang on judges that differ are not compared. What may well be the
subject of a comparison (mode, prompt, length, temperature) is named and compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.rows import Row

Summary = Mapping[str, Any]
# Judge in a summary -> the figures that hang on its words.
JUDGED = {"consistency": ("inconsistency_rate",), "grounding": ("semantic_grounding", "right_for_a_false_reason")}
READ = ("unparsed_rate",)  # figures that a model that reads answers changes, and that the rule alone cannot give back
MADE = ("temperature", "max_new_tokens", "context", "pixel_limits")  # how responses came about, where they were generated here
NOT_ASKED = "none"


@dataclass(frozen=True)
class Alike:
    """`left_out` are figures that must not be compared, `by_rule` says that answers must be taken as the rule reads them, `cautions` are
    what a reader must know, one sentence each."""

    left_out: frozenset[str]
    by_rule: bool
    cautions: tuple[str, ...]


def alike(benchmark: str, a: Sequence[Summary], b: Sequence[Summary], names: tuple[str, str]) -> Alike:
    """What differs between the evaluations of two sides (each its seeds) that answered `benchmark`; `names` are what a reader calls
    them."""
    left_out: set[str] = set()
    cautions: list[str] = []

    def told(of: Callable[[Summary], Any], skip: Callable[[Any], bool] = lambda value: value is None) -> str:
        """`grpo: 2048; fgrpo: 4096`, or "" where all say the same."""
        sides = [[value for one in side if not skip(value := of(one))] for side in (a, b)]
        if len({json.dumps(value, sort_keys=True, default=str) for side in sides for value in side}) < 2:
            return ""
        words = [" and ".join(dict.fromkeys(map(_word, side))) or "not known" for side in sides]
        return "; ".join(f"{name}: {word}" for name, word in zip(names, words, strict=True))

    for judge, hanging in JUDGED.items():
        if differs := told(lambda one, judge=judge: _judge(one, judge)):  # type: ignore[misc]
            left_out |= set(hanging)
            cautions.append(f"the judges of {judge} differ ({differs}): {' and '.join(hanging)} not compared")
    readers = told(lambda one: (one.get("benchmarks", {}).get(benchmark, {}).get("extractor") or {}).get("model", "the rule alone"))
    if readers:
        left_out |= set(READ)
        cautions.append(f"answers were read differently ({readers}): accuracy is compared as the rule reads them")
    generated = told(lambda one: (one.get("decoding") or {}).get("generated_here"))
    if generated:
        cautions.append("the responses of one side come from a prediction file: nobody knows how they were generated")
    if differs := told(lambda one: one.get("mode")):
        cautions.append(f"mode differs ({differs})")
    for key in ("prompt", *MADE):
        if key in MADE and not all((one.get("decoding") or {}).get("generated_here") for one in (*a, *b)):
            continue
        if differs := told(lambda one, key=key: (one.get("decoding") or {}).get(key)):  # type: ignore[misc]
            cautions.append(f"{key} differs ({differs})")
    if told(lambda one: one.get("benchmarks", {}).get(benchmark, {}).get("digest")):
        cautions.append("the files of the two sides differ: only questions of one text are compared")
    return Alike(frozenset(left_out), bool(readers), tuple(cautions))


def _judge(summary: Summary, name: str) -> str | None:
    """What judged and its version; None where nobody was asked or the summary does not say."""
    entry = (summary.get("judges") or {}).get(name) or {}
    if entry.get("is", NOT_ASKED) == NOT_ASKED:
        return None
    return f"{entry['is']} {entry['version']}" if entry.get("version") else str(entry["is"])


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def by_rule(row: Row) -> Row:
    """A row with its answer as the rule alone reads it."""
    return {**row, "correct": row["rule_correct"]}


def refuse_twins(directories: Sequence[Path], rows: Sequence[Mapping[str, Mapping[str, Row]]]) -> None:
    """Seeds of one method (a directory and the rows by benchmark and uid of each) must be different evaluations.

    Raises:
        ConfigError: one directory is given twice, or two hold the same responses: intervals would be too narrow.
    """
    fix = "Give every seed's own evaluation once."
    for index, directory in enumerate(directories):
        for other, theirs in zip(directories[:index], rows[:index], strict=True):
            if directory.resolve() == other.resolve():
                raise ConfigError(str(directory), "the same evaluation twice as two seeds", "different evaluations", fix)
            if _same(rows[index], theirs):
                what = f"the same responses as in {other}, taken for two seeds"
                raise ConfigError(str(directory), what, "responses of another seed", fix)


def _same(ours: Mapping[str, Mapping[str, Row]], theirs: Mapping[str, Mapping[str, Row]]) -> bool:
    """Whether both answered something, and each question with the same text; responses without a text say nothing."""
    texts = [{(name, uid): row.get("response") for name, part in side.items() for uid, row in part.items()} for side in (ours, theirs)]
    return any(texts[0].values()) and texts[0] == texts[1]
