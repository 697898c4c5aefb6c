"""Text written by others, made safe to stand in a prompt.

Three walls, each enough by itself against an early end of the fence:
1. Angle brackets, in every form that some normalisation turns into one, become the quotes ‹ and ›. Fences, and the control tokens of
   chat templates (`<|im_end|>`, `</s>`, `<image>`, `<start_of_turn>`), are written with angle brackets; tokenizers read such tokens
   out of plain text.
2. Words alone in square brackets (`[INST]`, `[/SYSTEM_PROMPT]`, `[IMG]`: other models' control tokens) get round brackets.
3. Every line begins with a bar, so that no line of the text can stand where a line of ours would.
Invisible characters, which hide instructions from people but not from models, are dropped, and long white space is shortened.
All of it is deterministic: a fence chosen at random would defeat every cache.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

REASONING_TAG = "reasoning"
OPEN, CLOSE = f"<{REASONING_TAG}>", f"</{REASONING_TAG}>"  # the delimiters that an attacker would imitate

# What NFC, NFKC, NFD or NFKD turn into angle, square or curly brackets or a bar; a test compares with the Unicode database.
_LOOK_ALIKES = str.maketrans(
    {
        "<": "\u2039", ">": "\u203a", "\uff1c": "\u2039", "\uff1e": "\u203a", "\ufe64": "\u2039", "\ufe65": "\u203a",
        "\u226e": "\u2265", "\u226f": "\u2264",
        "\uff3b": "[", "\uff3d": "]", "\ufe47": "[", "\ufe48": "]", "\uff5c": "|",
        "\uff5b": "{", "\uff5d": "}", "\ufe5b": "{", "\ufe5c": "}", "\ufe37": "{", "\ufe38": "}",
    }
)  # fmt: skip
_LINE_ENDS = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co"})
_VARIATION_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF), (0x180B, 0x180F))
# Every repetition is bounded: a policy must not be able to make a search slow.
_CONTROL_WORD = re.compile(r"\[(\s{0,4}/?\s{0,4}[^\W\d]\w{0,40}(?:[ -]\w{1,40}){0,3}\s{0,4})\]")
_IMAGE_LINK = re.compile(r"!(?=\[)")
_SPACES = re.compile(r"[^\S\n]{9,}")
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n(?:[^\S\n]*\n)+")
_TAG = re.compile(r"[a-z][a-z_]*")


class Fenced(str):
    """Text that has been through this module; the only text that prompt templates accept."""

    __slots__ = ()


def neutralise(text: str) -> str:
    """The text without anything that could act as a delimiter, a control token or hidden writing; lines are kept, ends trimmed."""
    text = _LINE_ENDS.sub("\n", text)
    text = _CONTROL.sub("", text)
    if not text.isascii():
        text = "".join(character for character in text if not _invisible(character))
    text = text.translate(_LOOK_ALIKES)
    text = _SPACES.sub(" ", text)
    text = _BLANK_LINES.sub("\n\n", text)
    text = _CONTROL_WORD.sub(r"(\1)", text)
    return _IMAGE_LINK.sub("! ", text).strip()


def fence(text: str, tag: str = "text") -> Fenced:
    """The neutralised text between `<tag>` and `</tag>`, each on a line of its own, every line of the text behind a bar.

    Raises:
        ValueError: `tag` is not made of small letters and underscores.
    """
    return _between(tag, neutralise(text).split("\n"))


def fence_lines(items: Iterable[tuple[str, str]], tag: str) -> Fenced:
    """(label, text) pairs between `<tag>` and `</tag>`, one line each: white space inside a text becomes single spaces.

    Labels are ours (numbers, letters) and stand right behind the bar, where no text can put one.
    """
    return _between(tag, [f"{label}: {_one_line(text)}" for label, text in items])


@lru_cache(maxsize=2048)  # each sentence of a rollout stands in the prompts of all later ones
def _one_line(text: str) -> str:
    return " ".join(neutralise(text).split())


def _between(tag: str, lines: list[str]) -> Fenced:
    if not _TAG.fullmatch(tag):
        raise ValueError(f"a fence's tag is small letters and underscores, got {tag!r}")
    return Fenced("\n".join([f"<{tag}>", *(f"| {line}" for line in lines), f"</{tag}>"]))


def _invisible(character: str) -> bool:
    if character == "\n" or character == "\t":
        return False
    if unicodedata.category(character) in _DROPPED_CATEGORIES:
        return True
    return any(low <= ord(character) <= high for low, high in _VARIATION_SELECTORS)
