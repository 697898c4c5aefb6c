"""What the small model learns to read: hand-worked targets, their sum against the exact judge, and where they stand among the tokens."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from faithful_rl.crm import reading
from faithful_rl.crm.model import encode
from faithful_rl.crm.pairs import LETTERS, Pair
from faithful_rl.crm.scene_pairs import scene_pairs
from faithful_rl.crm.tokenizer import train_tokenizer

QUESTION = "Is the red circle left or right of the blue square?\nA) right\nB) left"
BACKWARDS = "The blue square is right of the red circle."


def said(question: str, thinking: str) -> list[set[str]]:
    """Names of the targets that are 1, sentence by sentence."""
    return [
        {name for name, value in zip(reading.TARGETS, mark.targets, strict=True) if value == 1.0}
        for mark in reading.marks(question, thinking)
    ]


def test_a_claim_the_other_way_round_says_the_same_of_the_options() -> None:
    straight, backwards = said(QUESTION, f"The red circle is left of the blue square. {BACKWARDS}")
    assert straight == {
        "rules out A", "its subject is the question's first thing", "the question's first thing is left of the second",
        "its subject is red", "its subject is circle", "the first thing is red", "the first thing is circle", "the second thing is blue",
        "the second thing is square",
    }  # fmt: skip
    assert backwards == {
        "rules out A", "its subject is the question's second thing", "the question's first thing is left of the second",
        "its subject is blue", "its subject is square", "the first thing is red", "the first thing is circle", "the second thing is blue",
        "the second thing is square",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("thinking", "found"),
    [
        ("So the answer is left.", {"rules out A", "concludes"}),
        ("Hence, the answer is (A).", {"rules out B", "concludes"}),
        ("So the answer is above.", {"rules out A", "rules out B", "concludes"}),  # none of the options
        ("I am not sure.", set()),
    ],
)
def test_conclusions_and_empty_talk(thinking: str, found: set[str]) -> None:
    assert said(QUESTION, thinking) == [found]


def test_a_claim_about_others_rules_nothing_out() -> None:
    (found,) = said(QUESTION, "The red circle is above the green square.")
    assert "its subject is the question's first thing" in found
    assert not any(name.startswith(("rules out", "the question's")) for name in found)


def test_options_that_are_not_there_count_for_nothing() -> None:
    (mark,) = reading.marks(QUESTION, "So the answer is left.")
    assert mark.end == len("So the answer is left.")
    assert mark.targets[2 : reading.OPTIONS] == (reading.IGNORED,) * (reading.OPTIONS - 2)
    assert reading.listed("Left?\nA) yes\nB) no: C) is none\n") == ["yes", "no: C) is none"]
    assert len(mark.targets) == len(reading.TARGETS) == len(reading.WEIGHTS)


def test_of_an_unknown_question_conclusions_are_read() -> None:
    assert said("What is this?\nA) a cat\nB) a dog", "It barks. So the answer is a dog.") == [set(), {"rules out A", "concludes"}]


def test_the_parts_add_up_to_the_exact_judges_verdict() -> None:
    """Consistent: something is concluded, the answer is a listed option, and no sentence rules it out."""
    pairs = list(scene_pairs(1500, 3, "val"))
    for pair in pairs:
        options = reading.listed(pair.question)
        named = [index for index, option in enumerate(options) if pair.answer == f"{LETTERS[index]}) {option}"]
        marks = reading.marks(pair.question, pair.thinking)
        found = bool(named) and any(mark.targets[reading.OPTIONS] for mark in marks) and not any(mark.targets[named[0]] for mark in marks)
        assert found == (pair.consistent == 1.0), pair
    assert {pair.consistent for pair in pairs} == {0.0, 1.0}


def test_targets_stand_at_the_last_token_of_their_sentence() -> None:
    tokenizer = train_tokenizer(128)
    pair = Pair("q", QUESTION, f"{BACKWARDS} So the answer is left.", "B) left", 1.0)
    (row,) = reading.reading_rows(tokenizer, [pair], 128)
    (one,) = encode(tokenizer, [(pair.question, pair.thinking, pair.answer)], 128)
    assert row["input_ids"] == one.ids
    assert [tokenizer.decode(row["input_ids"][: place + 1])[-8:] for place in row["places"]] == [" circle.", "is left."]
    batch = reading.ReadingCollator(int(tokenizer.pad_token_id))([row, {**row, "input_ids": row["input_ids"] + [5]}])
    assert batch["labels"].shape == (2, len(one.ids) + 1, len(reading.TARGETS))
    marked = (batch["labels"] != reading.IGNORED).any(-1)
    assert [marked[0].nonzero().flatten().tolist(), marked[1].nonzero().flatten().tolist()] == [row["places"]] * 2


def test_pairs_that_are_cut_or_empty_are_left_out() -> None:
    tokenizer = train_tokenizer(128)
    pair = Pair("q", QUESTION, f"{BACKWARDS} So the answer is left.", "B) left", 1.0)
    assert reading.reading_rows(tokenizer, [pair], 40) == []
    assert reading.reading_rows(tokenizer, [Pair("q", QUESTION, "", "B) left", 0.0)], 128) == []
    assert reading.reading_rows(tokenizer, [Pair("q", "a " * 60, "Yes.", "left", 0.0)], 64) == []  # the question is cut


def test_loss_by_hand() -> None:
    labels = torch.full((1, 2, len(reading.TARGETS)), reading.IGNORED)
    labels[0, 1, 0], labels[0, 1, reading.OPTIONS + 1] = 1.0, 0.0
    logits = torch.zeros_like(labels)
    logits[0, 0] = 9.0  # a token that is asked for nothing
    # Two targets count, with weights 4 and 1, at ln 2 each: 5 ln 2 / 2.
    assert float(reading.loss({"logits": logits}, labels)) == pytest.approx(2.5 * math.log(2.0))
    assert float(reading.loss({"logits": logits}, torch.full_like(labels, reading.IGNORED))) == 0.0
