"""Verdicts are the allowed words and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.judges.verdicts import (
    CONSISTENCY_CHOICES,
    SENTENCE_CHOICES,
    parse_consistency,
    parse_rollout,
    parse_sentence,
    rollout_schema,
)
from faithful_rl.types import Reason, Score, Verdict

CORRECT, INCORRECT, SKIP, UNSCORED = Verdict.CORRECT, Verdict.INCORRECT, Verdict.SKIP, Verdict.UNSCORED
ERROR = Score(None, Reason.JUDGE_ERROR)
NO_VERDICTS = (
    "", " ", "yes", "Yes", "no", "YES.", "YES NO", "YES\nNO", "NOYES", "Answer: YES", "\"YES\"", "**YES**", "<YES>", "Y", "TRUE", "1", "\uff39ES",
    "\u0059\u0415S", "YES\u200b", "\u00a0YES", "correct", "CORRECT.", "IN CORRECT", "INCORRECT CORRECT", "CORRECTINCORRECT", "SKIPPED", "skip", "null",
    "[]", "{}", "UNSCORED",
)  # fmt: skip
words = st.one_of(st.sampled_from([*CONSISTENCY_CHOICES, *SENTENCE_CHOICES, *NO_VERDICTS, "\n", " ", ","]), st.text(max_size=5))
texts = st.lists(words, max_size=4).map("".join)


@pytest.mark.parametrize(("text", "score"), [("YES", Score(1.0)), ("NO", Score(0.0)), (" YES\n", Score(1.0)), ("\tNO\r\n", Score(0.0))])
def test_consistency_words(text: str, score: Score) -> None:
    assert parse_consistency(text) == score


@pytest.mark.parametrize(("text", "verdict"), [("CORRECT", CORRECT), ("INCORRECT", INCORRECT), (" SKIP\n", SKIP)])
def test_sentence_words(text: str, verdict: Verdict) -> None:
    assert parse_sentence(text) is verdict


@pytest.mark.parametrize("text", [*NO_VERDICTS, "CORRECT", "SKIP"])
def test_everything_else_is_no_consistency_verdict(text: str) -> None:
    assert parse_consistency(text) == ERROR


@pytest.mark.parametrize("text", [*NO_VERDICTS, "YES", "NO"])
def test_everything_else_is_no_sentence_verdict(text: str) -> None:
    assert parse_sentence(text) is UNSCORED


@given(texts)
def test_nothing_but_the_words_is_ever_accepted(text: str) -> None:
    assert parse_consistency(text).scored == (text.strip(" \t\r\n") in CONSISTENCY_CHOICES)
    assert (parse_sentence(text) is not UNSCORED) == (text.strip(" \t\r\n") in SENTENCE_CHOICES)


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ('{"1": "CORRECT", "2": "SKIP"}', [CORRECT, SKIP]),
        (' {"2":"INCORRECT","1":"CORRECT"}\n', [CORRECT, INCORRECT]),
        ('{"1": "CORRECT"}', [UNSCORED] * 2),
        ('{"1": "CORRECT", "2": "SKIP", "3": "SKIP"}', [UNSCORED] * 2),
        ('{"1": "CORRECT", "02": "SKIP"}', [UNSCORED] * 2),
        ('{"1": "CORRECT", "2": "skip"}', [UNSCORED] * 2),
        ('{"1": "CORRECT", "2": ["SKIP"]}', [UNSCORED] * 2),
        ('{"1": "CORRECT", "2": null}', [UNSCORED] * 2),
        ('{"1": "INCORRECT", "1": "CORRECT", "2": "SKIP"}', [UNSCORED] * 2),
        ('```json\n{"1": "CORRECT", "2": "SKIP"}\n```', [UNSCORED] * 2),
        ('{"1": "CORRECT", "2": "SKIP"} {"1": "CORRECT"}', [UNSCORED] * 2),
        ('["CORRECT", "SKIP"]', [UNSCORED] * 2),
        ('{"1": NaN, "2": "SKIP"}', [UNSCORED] * 2),
        ("[" * 100_000, [UNSCORED] * 2),
        ("9" * 100_000, [UNSCORED] * 2),
        ("", [UNSCORED] * 2),
    ],
)
def test_verdicts_of_a_rollout(text: str, verdicts: list[Verdict]) -> None:
    assert parse_rollout(text, 2) == verdicts


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["1", "2", "3", "x"]), inner, max_size=3)),
    max_leaves=6,
)


@given(st.one_of(json_values.map(json.dumps), texts), st.integers(0, 3))
def test_a_rollout_has_all_its_verdicts_or_none(text: str, n: int) -> None:
    verdicts = parse_rollout(text, n)

    assert len(verdicts) == n
    assert UNSCORED not in verdicts or set(verdicts) == {UNSCORED}
    if n and UNSCORED not in verdicts:
        assert json.loads(text) == {str(number): verdict.name for number, verdict in enumerate(verdicts, 1)}


def test_the_schema_asks_for_exactly_n_verdicts() -> None:
    schema = rollout_schema(3)

    assert schema["required"] == ["1", "2", "3"] == list(schema["properties"])
    assert schema["additionalProperties"] is False
    assert schema["properties"]["2"] == {"type": "string", "enum": ["CORRECT", "INCORRECT", "SKIP"]}
