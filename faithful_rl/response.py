"""The only parser of a policy's response: think block, answer block and the boxes that the reasoning cites.

Expected form: `<think> reasoning with <bbox>[x1, y1, x2, y2]</bbox> </think> <answer>B</answer>`. Reward designs ask for other
blocks (`description`, `think`, `rethink`, `answer`, with `visual` spans inside); `blocks` names them in their order.

Every text has a defined result and none raises, because the policy writes the text. Each pass looks at every
character a bounded number of times: tags are found by one scan for the tags themselves, never by a pattern that
spans the text between them, so that thousands of unclosed tags stay linear.

Pass the text decoded *without* special tokens, as verl's reward loop does. An end-of-sequence marker that is still
spelled out in the text is ordinary text after the answer block, hence malformed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence

from faithful_rl.types import Box, ParsedResponse

# Far outside any image (Qwen2.5-VL sees at most 12.8 megapixels, sides up to 200 : 1); its square is far inside float64.
MAX_COORDINATE = 1e6

# Four numbers of any sane notation fit; the bound keeps `float` away from megabytes of digits.
_MAX_BOX_CHARACTERS = 160

BLOCKS = ("think", "answer")  # of Faithful GRPO's own responses

_ANSWER_TAG = re.compile(r"</?answer>")
_BBOX_TAG = re.compile(r"</?bbox>")
# [0-9] and not \d: digits of other scripts are not coordinates.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def parse(text: str, blocks: Sequence[str] = BLOCKS) -> ParsedResponse:
    """Take a response apart.

    - `well_formed` (R_fmt): exactly one of each block of `blocks`, in that order, only white space before, between and after.
      Tags are lower case, without attributes, and none of them occurs twice. A blank block is still a block.
    - `reasoning`: what follows the first `<think>` up to the first `</think>` after it; when that is missing (a response cut at
      its length limit), up to the first `<answer>` after it or the end. "" without `<think>`. Where `blocks` has more than
      think and answer, the contents of all its complete blocks but the answer (none inside another), one a line, if there are any.
    - `answer`: the content, stripped, of the last complete answer block, so that a later block overrides an earlier one and
      listing several buys nothing. None without a complete block.
    - `boxes`: in order, from the reasoning only. Swapped corners are put in order. `invalid_boxes` counts `<bbox>` openings that
      give no box: unclosed, not four numbers, not ASCII decimal, not finite or beyond `MAX_COORDINATE` pixels.
    """
    reasoning = _joined(text, blocks) or _reasoning(text)
    boxes, invalid = _boxes(reasoning)
    return ParsedResponse(
        text=text,
        well_formed=_well_formed(text, blocks),
        reasoning=reasoning,
        answer=_answer(text),
        boxes=boxes,
        invalid_boxes=invalid,
    )


def parse_box(content: str) -> Box | None:
    """The box written as `[x1, y1, x2, y2]` (brackets optional, spaces and decimals allowed), or None when it is not one."""
    if len(content) > _MAX_BOX_CHARACTERS:
        return None
    content = content.strip()
    if content.startswith("[") and content.endswith("]"):
        content = content[1:-1]
    parts = [part.strip() for part in content.split(",")]
    if len(parts) != 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    xa, ya, xb, yb = (float(part) for part in parts)
    if not all(math.isfinite(value) and abs(value) <= MAX_COORDINATE for value in (xa, ya, xb, yb)):
        return None
    return Box(x1=min(xa, xb), y1=min(ya, yb), x2=max(xa, xb), y2=max(ya, yb))


def box_spans(text: str) -> list[tuple[int, int]]:
    """`[start, end)` of every complete `<bbox>...</bbox>` in `text`, tags included, valid or not."""
    return [(start - len("<bbox>"), end + len("</bbox>")) for start, end in _blocks(text, _BBOX_TAG)]


def contents(text: str, tag: str) -> tuple[str, ...]:
    """Contents of every complete `<tag>...</tag>` in a response, in order; of nested ones the innermost. `tag` is a plain word."""
    return tuple(text[start:end] for start, end in _blocks(text, _tag(tag)))


def placed(text: str, blocks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Contents of the complete blocks of a response that lie inside no other of `blocks`, by tag, in order. Tags are plain words.

    A block ends at the first closing tag of its name. A tag that is never closed opens nothing, so that what follows it still stands.
    """
    tags = list(_tag("|".join(blocks)).finditer(text))
    closing: list[int | None] = [None] * len(tags)  # for each opening tag, the index of the next closing one of its name
    ahead: dict[str, int] = {}
    for index in range(len(tags) - 1, -1, -1):
        name = tags[index][0].strip("</>")
        if tags[index][0][1] == "/":
            ahead[name] = index
        else:
            closing[index] = ahead.get(name)
    found: dict[str, list[str]] = {block: [] for block in blocks}
    index = 0
    while index < len(tags):
        end = closing[index]
        if end is not None:
            found[tags[index][0].strip("</>")].append(text[tags[index].end() : tags[end].start()])
            index = end
        index += 1
    return {block: tuple(texts) for block, texts in found.items()}


def _blocks(text: str, tag: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Content spans of an opening tag followed, with no other such tag between, by its closing tag (the innermost blocks)."""
    opened: int | None = None
    for match in tag.finditer(text):
        if text[match.start() + 1] != "/":
            opened = match.end()
        elif opened is not None:
            yield opened, match.start()
            opened = None


def _well_formed(text: str, blocks: Sequence[str]) -> bool:
    position = 0
    for block in blocks:
        opening, closing = f"<{block}>", f"</{block}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return False
        start, end = text.index(opening), text.index(closing)
        if not position <= start < end or text[position:start].strip():
            return False
        position = end + len(closing)
    return not text[position:].strip()


@functools.cache
def _tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"</?(?:{name})>")


def _joined(text: str, blocks: Sequence[str]) -> str:
    """Contents of the complete reasoning blocks of a design with more of them than `think`; "" for other designs."""
    reasoning = [block for block in blocks if block != "answer"]
    if len(reasoning) < 2:
        return ""
    found = placed(text, blocks)
    return "\n".join(content for block in reasoning for content in found[block])


def _reasoning(text: str) -> str:
    start = text.find("<think>")
    if start < 0:
        return ""
    start += len("<think>")
    end = text.find("</think>", start)
    if end < 0:
        end = text.find("<answer>", start)
    return text[start:end] if end >= 0 else text[start:]


def _answer(text: str) -> str | None:
    answer = None
    for start, end in _blocks(text, _ANSWER_TAG):
        answer = text[start:end].strip()
    return answer


def _boxes(reasoning: str) -> tuple[tuple[Box, ...], int]:
    read = (parse_box(reasoning[start:end]) for start, end in _blocks(reasoning, _BBOX_TAG))
    boxes = tuple(box for box in read if box is not None)
    return boxes, reasoning.count("<bbox>") - len(boxes)
