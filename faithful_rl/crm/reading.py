"""What a small model learns before labels: to read each sentence of a reasoning, in targets that add up to the exact judge's verdict.

The judge of scenes calls a reasoning consistent when it concludes and no sentence rules out its answer. From that one bit a model from
scratch finds no way to the parts, least of all where neither the words nor their order say anything alone ("b is right of a" for "a is
left of b"). Here every sentence's last token is asked for the parts: who is spoken of, who was asked about, which of the two comes
first, what the sentence says of them from the question's side, which lettered options that rules out, and whether it concludes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from faithful_rl.crm import model as crm_model  # first: it readies torchvision for transformers  # isort: skip
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from faithful_rl.crm.pairs import LETTERS, Pair
from faithful_rl.judges.scene_language import (
    RELATIONS,
    Claim,
    Counted,
    Question,
    Related,
    contradicts,
    option_index,
    read_conclusion,
    read_question,
    read_sentence,
)
from faithful_rl.judges.scene_world import COLOURS, SHAPES
from faithful_rl.rewards.sentences import split

IGNORED = -100.0  # a target that the loss leaves out
OPTIONS = 8  # lettered options that are read, as many as a scene's question has at most
_WORDS = (*COLOURS, *SHAPES)
TARGETS = (
    *(f"rules out {letter}" for letter in LETTERS[:OPTIONS]),
    "concludes",
    *(f"its subject is the question's {place} thing" for place in ("first", "second")),
    *(f"the question's first thing is {side} the second" for side in ("right of", "left of", "below", "above")),
    *(f"{thing} is {word}" for thing in ("its subject", "the first thing", "the second thing") for word in _WORDS),
)
# What the labels need directly weighs most; the names are a help on the way and are learnt at once.
WEIGHTS = (*[4.0] * (OPTIONS + 1), *[1.0] * 2, *[2.0] * 4, *[1.0] * (3 * len(_WORDS)))


@dataclass(frozen=True, slots=True)
class Mark:
    """What one sentence says: it ends before character `end` of the thinking; `targets` (len(TARGETS),) are 0, 1 or `IGNORED`."""

    end: int
    targets: tuple[float, ...]


def marks(question: str, thinking: str) -> list[Mark]:
    """One mark per sentence. `question` carries its lettered options, as `pairs.asked` writes them.

    Of a question or sentence that is not of the scene language only conclusions are known; its other targets are 0.
    """
    options = listed(question)[:OPTIONS]
    asked = read_question(question.split("\n", 1)[0])
    return [Mark(sentence.end, _targets(sentence.text, asked, options)) for sentence in split(thinking)]


def listed(question: str) -> list[str]:
    """The texts of the lettered options that a pair's question lists."""
    return re.findall(r"^[A-Z]\) (.*)$", question, re.MULTILINE)


def _targets(sentence: str, asked: Question | None, options: Sequence[str]) -> tuple[float, ...]:
    ruled_out, rest = [False] * len(options), [0.0] * (len(TARGETS) - OPTIONS - 1)
    concluded = read_conclusion(sentence)
    if concluded is not None:
        named = option_index(concluded, options)
        ruled_out = [index != named for index in range(len(options))]
    elif asked is not None and (read := read_sentence(sentence)) is not None:
        ruled_out = [contradicts(read[1], asked, option) for option in options]
        rest = _parts(read[1], asked)
    unused = [IGNORED] * (OPTIONS - len(options))
    return (*map(float, ruled_out), *unused, float(concluded is not None), *rest)


def _parts(claim: Claim, asked: Question) -> list[float]:
    """Targets after "concludes"."""
    subject = claim.colour if isinstance(claim, Counted) else claim.subject
    first, second = (*asked.references, "", "")[:2]
    sides = [0.0] * 4
    if isinstance(claim, Related) and {claim.subject, claim.reference} == {first, second}:
        sign = 1 if subject == first else -1
        right, down = (sign * step for step in RELATIONS[claim.relation])
        sides = [float(right > 0), float(right < 0), float(down > 0), float(down < 0)]
    names = [float(word in name.split()) for name in (subject, first, second) for word in _WORDS]
    return [float(subject == first), float(subject == second), *sides, *names]


def reading_rows(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_length: int) -> list[dict[str, Any]]:
    """A row for each pair with a sentence: `input_ids`, `places` (sentences,) of their last tokens and `labels` (sentences, len(TARGETS)).

    A pair that is too long for `max_length` is left out.
    """
    encoded = crm_model.encode(tokenizer, [(pair.question, pair.thinking, pair.answer) for pair in pairs], max_length)
    rows = []
    for pair, one in zip(pairs, encoded, strict=True):
        before = 1 + len(tokenizer(f"{pair.question}\n", add_special_tokens=False)["input_ids"])
        offsets = tokenizer(pair.thinking, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        cut = before + len(offsets) >= len(one.ids) or one.ids[before + len(offsets)] != tokenizer.sep_token_id
        if one.shortened or cut:
            continue
        ends = np.array([end for _, end in offsets])
        found = [mark for mark in marks(pair.question, pair.thinking) if len(ends) and ends[0] <= mark.end]
        if found:
            places = [before + int(np.searchsorted(ends, mark.end, side="right")) - 1 for mark in found]
            rows.append({"input_ids": one.ids, "places": places, "labels": [mark.targets for mark in found]})
    return rows


class ReadingCollator:
    """Rows as padded tensors; `labels` (rows, tokens, len(TARGETS)) are `IGNORED` but at the ends of sentences."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = crm_model.padded([row["input_ids"] for row in rows], self._pad)
        labels = torch.full((*ids.shape, len(TARGETS)), IGNORED)
        for index, row in enumerate(rows):
            labels[index, row["places"]] = torch.tensor(row["labels"])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Weighted binary cross-entropy, in nats a target that counts; the signature is transformers' `compute_loss_func`."""
    logits = outputs["logits"].float()
    counts = (labels != IGNORED).float()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0.0), reduction="none")
    return (each * counts * logits.new_tensor(WEIGHTS)).sum() / counts.sum().clamp(min=1.0)
