"""The judges' prompts: Jinja templates of our own wording, filled with fenced text only.

What is equal for many questions comes first, so that a server's prefix cache hits: rules (equal for all), images, question, sentences so
far, and last the sentence to judge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError, Undefined

from faithful_rl.config import ConfigError
from faithful_rl.judges.fencing import REASONING_TAG, Fenced, fence, fence_lines
from faithful_rl.judges.images import EncodedImage, encode_image
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.verdicts import rollout_schema
from faithful_rl.rewards.sentences import Sentence, split

Messages = list[dict[str, Any]]

DIRECTORY = Path(__file__).with_name("templates")
TEMPLATES = (
    "consistency_system.jinja",
    "consistency.jinja",
    "grounding_sentence_system.jinja",
    "grounding_sentence.jinja",
    "grounding_rollout_system.jinja",
    "grounding_rollout.jinja",
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Rendered into the version, so that a change of fencing, sentence rules or layout is a new version as a change of wording is.
_SAMPLE = JudgeRequest(
    uid="sample",
    question="Is the red\u200b circle <b>left</b> of the square?\r\n\n\n\nLook [INST]closely[/INST].",
    options=("left", "right"),
    reasoning="Let me look.  The circle is red <bbox>[1,2,3,4]</bbox>. It is\nleft of\tthe \uff5csquare\uff5c ![x](y). 2 + 2 = 4. "
    "So the answer is A.",
    answer="A",
    frames=((640, 480), (28, 56)),
)
_SAMPLE_IMAGES = tuple(EncodedImage(f"data:image/png;base64,{name}", name * 64, 8, 8) for name in "ab")


class Prompts:
    """Templates of one directory, checked. `version` is 16 hexadecimal digits that change whenever a prompt does."""

    def __init__(self, sources: dict[str, str]) -> None:
        """
        Args:
            sources: template text by file name.

        Raises:
            jinja2.TemplateError, ValueError, TypeError: a template is faulty or prints something that was not fenced.
        """
        self._environment = Environment(
            loader=DictLoader(sources),
            undefined=StrictUndefined,
            finalize=_only_fenced,
            autoescape=False,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        self._system = {name: self._render(name) for name in TEMPLATES if name.endswith("_system.jinja")}
        sentences = split(_SAMPLE.reasoning)
        rendered = [
            self.consistency(_SAMPLE),
            self.grounding_sentence(_SAMPLE, sentences, 2, _SAMPLE_IMAGES),
            self.grounding_rollout(_SAMPLE, sentences, _SAMPLE_IMAGES),
        ]
        content = json.dumps([sorted(sources.items()), rendered], sort_keys=True)
        self.version = hashlib.sha256(content.encode()).hexdigest()[:16]

    @classmethod
    def load(cls, directory: Path | None = None) -> Prompts:
        """Prompts from `*.jinja` files; None: those that ship with the package.

        Raises:
            ConfigError: the directory lacks a template, or one is faulty.
        """
        folder = DIRECTORY if directory is None else directory
        try:
            sources = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.jinja"))}
            missing = [name for name in TEMPLATES if name not in sources]
            if missing:
                fix = f"Copy the missing ones from {DIRECTORY}, or correct the path."
                raise ConfigError(
                    "prompt_directory", f"{folder} without {', '.join(missing)}", f"the templates {', '.join(TEMPLATES)}", fix
                )
            return cls(sources)
        except (OSError, UnicodeDecodeError, TemplateError, TypeError) as error:
            problem = f"a fault in {folder} ({type(error).__name__}: {error})"
            raise ConfigError("prompt_directory", problem, "readable Jinja templates that print fenced values", "Correct it.") from error

    def consistency(self, request: JudgeRequest) -> Messages:
        """System and user message for R_C. No image."""
        text = self._render(
            "consistency.jinja",
            **_question(request),
            reasoning=fence(request.reasoning, REASONING_TAG),
            answer=fence(request.answer, "answer"),
        )
        return _messages(self._system["consistency_system.jinja"], text, ())

    def grounding_sentence(
        self, request: JudgeRequest, sentences: Sequence[Sentence], index: int, images: Sequence[EncodedImage] | None = None
    ) -> Messages:
        """Messages that ask for a verdict on `sentences[index]`; those before it stand in the prompt as sentences so far.

        Args:
            sentences: all sentences of the reasoning, trivial ones too: they say what "it" is.
            images: `request.images` encoded; None: encode them here.

        Raises:
            ImageError: an image cannot be decoded.
        """
        images = _encoded(request, images)
        earlier = [(str(number), sentence.text) for number, sentence in enumerate(sentences[:index], 1)]
        text = self._render(
            "grounding_sentence.jinja",
            **_question(request),
            frames=_frames(request, images),
            earlier=fence_lines(earlier, "sentences_so_far") if earlier else None,
            latest=fence_lines([(str(index + 1), sentences[index].text)], "next_sentence"),
        )
        return _messages(self._system["grounding_sentence_system.jinja"], text, images)

    def grounding_rollout(
        self, request: JudgeRequest, sentences: Sequence[Sentence], images: Sequence[EncodedImage] | None = None
    ) -> tuple[Messages, dict[str, Any]]:
        """Messages that ask for all verdicts at once, and the JSON schema of the answer (`verdicts.rollout_schema`).

        `sentences` are all of the reasoning; the non-trivial ones get the numbers 1 to n, the others a dash.
        """
        images = _encoded(request, images)
        lines, count = [], 0
        for sentence in sentences:
            count += not sentence.trivial
            lines.append(("-" if sentence.trivial else str(count), sentence.text))
        text = self._render(
            "grounding_rollout.jinja",
            **_question(request),
            frames=_frames(request, images),
            sentences=fence_lines(lines, "sentences"),
            count=count,
        )
        return _messages(self._system["grounding_rollout_system.jinja"], text, images), rollout_schema(count)

    def _render(self, name: str, **values: Any) -> str:
        return self._environment.get_template(name).render(**values).strip()


def _only_fenced(value: Any) -> Any:
    """Jinja prints nothing but fenced text and our own numbers: a template cannot leave the fence out by mistake."""
    if isinstance(value, Fenced | Undefined) or (isinstance(value, int) and not isinstance(value, bool)):  # Jinja refuses an undefined one
        return value
    raise TypeError(f"a prompt template prints a {type(value).__name__} that was not fenced")


def _question(request: JudgeRequest) -> dict[str, Any]:
    options = [(_label(index), option) for index, option in enumerate(request.options)]
    return {"question": fence(request.question, "question"), "options": fence_lines(options, "options") if options else None}


def _label(index: int) -> str:
    return _LETTERS[index] if index < len(_LETTERS) else str(index + 1)


def _encoded(request: JudgeRequest, images: Sequence[EncodedImage] | None) -> Sequence[EncodedImage]:
    return [encode_image(data) for data in request.images] if images is None else images


def _frames(request: JudgeRequest, images: Sequence[EncodedImage]) -> list[tuple[int, int]]:
    given = [(int(width), int(height)) for width, height in request.frames]
    return given if len(given) == len(images) else [(image.width, image.height) for image in images]


def _messages(system: str, text: str, images: Sequence[EncodedImage]) -> Messages:
    if not images:
        return [{"role": "system", "content": system}, {"role": "user", "content": text}]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image.url}} for image in images]
    return [{"role": "system", "content": system}, {"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
