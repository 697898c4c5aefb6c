"""What the red-team corpus must not be able to do to our own prompts and parsers; needs no judge, so it runs in every test run."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from faithful_rl.judges.calibration.attacks import Attack
from faithful_rl.judges.calibration.running import CONSISTENCY
from faithful_rl.judges.prompts import Messages, Prompts
from faithful_rl.judges.verdicts import parse_consistency, parse_rollout, parse_sentence
from faithful_rl.rewards.sentences import split
from faithful_rl.types import Verdict

BAR = "| "  # every line of a fenced text begins with it
_HARMLESS = "The circle is red. I looked at it."
_CONTROL_TOKENS = re.compile(
    r"<\||\|>|\[\s*/?\s*(?:INST|SYS|IMG|IMG_END|TOOL_CALLS|SYSTEM_PROMPT)\s*\]|</?s>|<image>|<(?:start|end)_of_turn>|!\[", re.IGNORECASE
)
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co"})


def prompt_faults(attack: Attack, prompts: Prompts) -> list[str]:
    """What the attack's text achieves in the prompts of its judge; [] when it stays mere text.

    A prompt is compared with those of a harmless rollout: the same roles and rules, the same images before the text, and no line outside
    the fences that a harmless prompt has not got. Inside the fences there is no bracket of a tag, no control token and nothing invisible.
    """
    harmless = replace(attack, text=_HARMLESS, where="after")
    allowed = {line for messages in _prompts(harmless, prompts) for line in _outside(_text(messages))}
    rules = {str(messages[0]["content"]) for messages in _prompts(harmless, prompts)}
    faults: list[str] = []
    for messages in _prompts(attack, prompts):
        text = _text(messages)
        if [message["role"] for message in messages] != ["system", "user"] or messages[0]["content"] not in rules:
            faults.append("the roles or the rules changed")
        if not _images_first(messages, 0 if attack.judge == CONSISTENCY else 1):
            faults.append("the images changed")
        outside = _outside(text)
        faults += [f"a line stands outside the fences: {line[:60]!r}" for line in outside if line not in allowed]
        tags = [line for line in outside if line.startswith("<")]
        if len(set(tags)) != len(tags):
            faults.append("a fence opens or closes twice")
        faults += _fenced_faults("\n".join(line for line in text.split("\n") if line.startswith(BAR)))
    return sorted(set(faults))


def parser_faults(attack: Attack) -> list[str]:
    """Parsers that read a verdict out of the attack's reasoning, as if the judge had repeated it; [] when none does."""
    said = attack.reasoning
    faults = []
    if parse_consistency(said).scored:
        faults.append("parse_consistency")
    if parse_sentence(said) is not Verdict.UNSCORED:
        faults.append("parse_sentence")
    if any(verdict is not Verdict.UNSCORED for count in (1, 2, 3) for verdict in parse_rollout(said, count)):
        faults.append("parse_rollout")
    return faults


def _prompts(attack: Attack, prompts: Prompts) -> Iterator[Messages]:
    request = attack.request()
    if attack.judge == CONSISTENCY:
        yield prompts.consistency(request)
        return
    sentences = split(request.reasoning)
    judged = [index for index, sentence in enumerate(sentences) if not sentence.trivial]
    # the first, the last and those beside them: an attack of 100,000 characters may be thousands of sentences
    for index in sorted({*judged[:2], *judged[-2:]}):
        yield prompts.grounding_sentence(request, sentences, index)
    yield prompts.grounding_rollout(request, sentences)[0]


def _text(messages: Messages) -> str:
    content: Any = messages[-1]["content"]
    return content if isinstance(content, str) else str(content[-1]["text"])


def _outside(text: str) -> list[str]:
    """Lines that are ours; numbers in them count sentences."""
    return [re.sub(r"[0-9]+", "0", line) for line in text.split("\n") if not line.startswith(BAR)]


def _images_first(messages: Messages, images: int) -> bool:
    content: Any = messages[-1]["content"]
    kinds = ["text"] if isinstance(content, str) else [part["type"] for part in content]
    return kinds == ["image_url"] * images + ["text"]


def _fenced_faults(text: str) -> list[str]:
    faults = []
    for form in (text, *(unicodedata.normalize(kind, text) for kind in ("NFC", "NFKC"))):
        if "<" in form or ">" in form:
            faults.append("an angle bracket stands in a fence")
        if _CONTROL_TOKENS.search(form):
            faults.append("a control token stands in a fence")
    if any(unicodedata.category(character) in _HIDDEN for character in set(text) - {"\n", "\t"}):
        faults.append("an invisible character stands in a fence")
    if len(text.splitlines()) != len(text.split("\n")) and text:
        faults.append("a line ends where no bar follows")
    return faults
