"""Six reward designs for visual reasoning (arXiv 2601.00215): which tags a response writes, and what each is worth.

The task reward of a design is a weighted sum of tag scores and of the answer's score. A tag that is not the answer scores

    tanh(number of different sentences in it) - tanh(number of repeated sentences in it)

over all of its complete blocks together; 0 without one. A block counts at its place only: description, think, rethink and answer inside no
other of the design's blocks, visual spans inside a think block. Two sentences are the same when they differ in case and white space only.
Whether a sentence is true plays no part. `paper` is not one of the six: it is Faithful GRPO's own R_task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from faithful_rl import response
from faithful_rl.rewards.accuracy import accuracy_score
from faithful_rl.rewards.partial_credit import credit_score
from faithful_rl.rewards.sentences import split
from faithful_rl.types import ParsedResponse, Score

TAGS = ("description", "think", "rethink", "visual")  # every tag of a design but `answer`
TAG_COLUMNS = tuple(f"{tag}_tag" for tag in TAGS)  # scores in (-1, 1), 0 where the design does not use the tag
CREDIT_COLUMN = "answer_credit"  # the answer's part before its weight, in [0, 1]; 0 under `paper`
COLUMNS = (*TAG_COLUMNS, CREDIT_COLUMN)

EXACT, PARTIAL, PRESENT = "exact", "partial", "present"  # how an answer is scored: R_acc, partial credit, an answer block holds text

_ANY_TAG = re.compile(rf"</?(?:{'|'.join((*TAGS, 'answer'))})>")


@dataclass(frozen=True, slots=True)
class Design:
    """One design. Weights sum to 1; `blocks` are the response's top-level tags in their order; `instruction` is the system prompt."""

    name: str
    weights: Mapping[str, float]  # of tags
    answer_weight: float
    answer: str  # exact | partial | present
    blocks: tuple[str, ...]
    instruction: str

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag that a full response holds, `answer` last."""
        return (*self.weights, "answer")

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of `COLUMNS` that this design's task reward is made of."""
        return (*(f"{tag}_tag" for tag in self.weights), CREDIT_COLUMN)


_LAST = (
    "Then give only the final answer inside <answer> and </answer>: the letter of the right option, or a number or short phrase if there "
    "are no options."
)
_THINK = "First reason step by step inside <think> and </think>. "
_DESCRIBE = (
    "First describe everything in the image that matters for the question inside <description> and </description>. Then reason step by "
    "step inside <think> and </think>. Then check your reasoning against the image once more, and correct it, inside <rethink> and "
    "</rethink>. "
)
_SPANS = (
    "First reason step by step inside <think> and </think>. Whenever a step relies on something in the image, say what you see inside "
    "<visual> and </visual> within the reasoning. "
)
_OPENING = "You solve a question about an image. "


def _design(name: str, weights: Mapping[str, float], answer_weight: float, how: str, instruction: str, answer: str = EXACT) -> Design:
    blocks = tuple(tag for tag in weights if tag != "visual")
    return Design(name, MappingProxyType(dict(weights)), answer_weight, answer, (*blocks, "answer"), _OPENING + how + instruction)


_MIXTURE = {"description": 0.06, "think": 0.06, "rethink": 0.08}

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        design.name: design
        for design in (
            _design("vanilla", {"think": 0.1}, 0.9, _THINK, _LAST),
            _design("only_accuracy", {}, 1.0, "", _LAST.removeprefix("Then g").replace("ive", "Give", 1)),
            _design("mixture", _MIXTURE, 0.8, _DESCRIBE, _LAST),
            _design("continuous", _MIXTURE, 0.8, _DESCRIBE, _LAST, PARTIAL),
            _design("visual_fusion", {"think": 0.1, "visual": 0.1}, 0.8, _SPANS, _LAST),
            _design("no_accuracy", {"description": 0.3, "think": 0.3, "rethink": 0.3}, 0.1, _DESCRIBE, _LAST, PRESENT),
        )
    }
)


def get(name: str) -> Design | None:
    """The design called `name`; None for `paper`. Raises KeyError for any other name."""
    return None if name == "paper" else DESIGNS[name]


def tag_contents(design: Design, text: str) -> dict[str, tuple[str, ...]]:
    """Contents of each of the design's tags, `answer` among them, where they stand at their place."""
    found = response.placed(text, design.blocks)
    if "visual" in design.weights:
        found["visual"] = tuple(span for block in found["think"] for span in response.contents(block, "visual"))
    return found


def tag_score(contents: Sequence[str]) -> float:
    """tanh(different sentences) - tanh(repeated sentences) over all blocks of one tag together, in (-1, 1); 0 for none."""
    sentences = [sentence for content in contents for sentence in _sentences(content)]
    different = len(set(sentences))
    return math.tanh(different) - math.tanh(len(sentences) - different)


def answer_score(design: Design, parsed: ParsedResponse, truth: str, options: tuple[str, ...], gold_index: int) -> Score:
    """The answer's part before its weight, in [0, 1]."""
    match design.answer:
        case "exact":
            return accuracy_score(parsed.answer, truth, options, gold_index)
        case "partial":
            return credit_score(parsed.answer, truth, options, gold_index)
        case "present":
            # Tags are all that this design pays for, so that its answer has to be one: at its place, and not blank.
            return Score(float(any(_ANY_TAG.sub("", content).strip() for content in tag_contents(design, parsed.text)["answer"])))
    raise ValueError(f"unknown way to score an answer {design.answer!r}")


def design_scores(design: Design, parsed: ParsedResponse, truth: str, options: tuple[str, ...], gold_index: int) -> dict[str, Score]:
    """`task`, the weighted sum, and the parts that it is made of, by the names in `COLUMNS`."""
    contents = tag_contents(design, parsed.text)
    tags = {tag: tag_score(contents[tag]) for tag in design.weights}
    credit = answer_score(design, parsed, truth, options, gold_index)
    task = sum(weight * tags[tag] for tag, weight in design.weights.items()) + design.answer_weight * (credit.value or 0.0)
    columns = {f"{tag}_tag": Score(tags.get(tag, 0.0)) for tag in TAGS}
    return {"task": Score(task), **columns, CREDIT_COLUMN: credit}


def _sentences(content: str) -> list[str]:
    """Sentences of a block in one spelling; tags inside it, such as those of visual spans, are no text."""
    plain = _ANY_TAG.sub(" ", content)
    return [" ".join(sentence.text.casefold().split()) for sentence in split(plain)]
