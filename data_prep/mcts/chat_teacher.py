"""A vision-language model as teacher: any OpenAI-compatible endpoint. It answers in JSON; what is no such answer is a fault, not a step."""

from __future__ import annotations

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.mcts.chains import clipped
from data_prep.mcts.step import Step, last_box
from data_prep.mcts.teacher import Reply, TeacherFailure
from data_prep.mcts.views import LONGEST_RATIO, View, shown_size, whole, zoomed
from data_prep.prompts import letter, user_text
from data_prep.record import MEDIA_TAG, Record, Unusable
from data_prep.sampling import Sampler, image_part, may_have_cost, text_part
from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.rewards.accuracy import normalise, read_options

COORDINATES = ("pixels", "thousandths")
MAX_TEXT = 600  # characters of one step
MAX_STEPS = 32  # of one reply
VIEWS_KEPT = 512  # encoded images in memory
PATCH = 28  # pixels of one visual token's side
IMAGE_ENDS = 2  # tokens before and after an image
TEMPLATE_TOKENS = 64  # of a chat template around two messages

_BOX = {"anyOf": [{"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}, {"type": "null"}]}
_STEP_FIELDS = {"thought": {"type": "string"}, "box": _BOX}
STEP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {**_STEP_FIELDS, "answer": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    "required": ["thought", "box", "answer"],
    "additionalProperties": False,
}
REST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {"type": "object", "properties": _STEP_FIELDS, "required": ["thought", "box"], "additionalProperties": False},
            "minItems": 1,
            "maxItems": MAX_STEPS,
        },
        "answer": {"type": "string"},
    },
    "required": ["steps", "answer"],
    "additionalProperties": False,
}

RULES = (
    "You solve questions about images in small steps. A step is one or two short sentences that say what you see and what follows from "
    "it, with the box of the region that the step is about. Begin with large regions and narrow down to small ones; look at every thing "
    "that the question needs. Say only what the image shows. Give the answer once the steps so far settle it, in a step that says which "
    "answer follows: the letter of the right option, or a short phrase if there are no options. Answer in JSON only."
)
_PIXELS = "Boxes are [x1, y1, x2, y2] in pixels of the first image, which is {width} x {height} pixels."
_THOUSANDTHS = "Boxes are [x1, y1, x2, y2] of the first image, each coordinate from 0 to 1000 of its width or height."
_ZOOM = "The last image is an enlarged part of the first one: the region of your latest step."
_NEXT = 'Write the next step only, as {"thought": ..., "box": [...] or null, "answer": "..." or null}.'
_REST = 'Write all remaining steps, as {"steps": [{"thought": ..., "box": [...] or null}, ...], "answer": "..."}.'

_TAGS = re.compile(r"<bbox>.*?</bbox>|</?(?:think|answer|bbox|image|video|audio)>", re.IGNORECASE | re.DOTALL)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*|\s*```\s*\Z")


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """How a chat model is asked.

    Raises:
        ConfigError: a value out of its range.
    """

    coordinates: str = "pixels"  # of the resized image (Qwen2.5-VL) | thousandths of its sides (Qwen3-VL, Qwen2-VL)
    zoom: bool = True  # also show the region of the latest step
    step_tokens: int = 256  # completion tokens of one step, >= 16
    rest_tokens: int = 1024  # completion tokens of all remaining steps, >= 16
    min_pixels: int = 256 * PATCH * PATCH  # of each view: small images and regions are enlarged
    max_pixels: int = 1280 * PATCH * PATCH

    def __post_init__(self) -> None:
        if self.coordinates not in COORDINATES:
            raise ConfigError("coordinates", repr(self.coordinates), f"one of {', '.join(COORDINATES)}", "Choose what the teacher writes.")
        for name in ("step_tokens", "rest_tokens"):
            if getattr(self, name) < 16:
                raise ConfigError(name, getattr(self, name), "a whole number >= 16", f"Change {name}.")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ConfigError(
                "min_pixels, max_pixels", f"{self.min_pixels} and {self.max_pixels}", "0 < minimum <= maximum", "Change them."
            )


class ChatTeacher:
    """Steps of a chat model. Requests carry a seed, which vLLM honours."""

    def __init__(self, sampler: Sampler, settings: TeacherSettings | None = None) -> None:
        self._sampler = sampler
        self.settings = settings or TeacherSettings()
        self._views: OrderedDict[tuple[Any, ...], View] = OrderedDict()

    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        text, tokens, view = await self._ask(record, steps, seed, _NEXT, STEP_SCHEMA, self.settings.step_tokens)
        return Reply(read_next(text, record, view, self.settings.coordinates), tokens)

    async def rest(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        text, tokens, view = await self._ask(record, steps, seed, _REST, REST_SCHEMA, self.settings.rest_tokens)
        return Reply(read_rest(text, record, view, self.settings.coordinates), tokens)

    def step_tokens(self, record: Record, steps: Sequence[Step]) -> int:
        """Images at their largest, the very text of the prompt with a token for every byte (the most that a byte-level tokenizer makes
        of it, in any language), the schema, which some endpoints put into the prompt, and the longest completion."""
        own = self.settings
        zoom = own.zoom and last_box(steps) is not None
        first = View(b"", *shown_size(record.images[0].wh, own.min_pixels, own.max_pixels))
        images = (len(record.images) + zoom) * (max(own.max_pixels // PATCH**2, LONGEST_RATIO + 1) + IMAGE_ENDS)
        kinds = ((_NEXT, STEP_SCHEMA), (_REST, REST_SCHEMA))
        texts = [self._words(record, steps, first, zoom, task) + json.dumps(schema) for task, schema in kinds]
        text = len(RULES.encode()) + max(len(one.encode()) for one in texts) + TEMPLATE_TOKENS
        return images + text + max(own.step_tokens, own.rest_tokens)

    async def start(self) -> None:
        await self._sampler.start()

    async def close(self) -> None:
        await self._sampler.close()

    async def _ask(
        self, record: Record, steps: Sequence[Step], seed: int, task: str, schema: dict[str, Any], max_tokens: int
    ) -> tuple[str, int, View]:
        try:
            views = await asyncio.to_thread(self._look, record, steps)
            messages = self._messages(record, steps, views, task)
        except (JudgeFailure, Unusable) as failure:
            raise TeacherFailure(f"{record.uid}: {failure}", sent=False) from failure
        try:
            completion = await self._sampler.sample(messages, max_tokens=max_tokens, seed=seed, json_schema=schema)
        except JudgeFailure as failure:
            told = f"{record.uid}: {failure}"
            raise TeacherFailure(told, may_have_cost(failure), failure.retryable, failure.retry_after or 0.0) from failure
        used = completion.prompt_tokens + completion.completion_tokens
        return completion.text, used or self.step_tokens(record, steps), views[0]  # an endpoint that counts nothing costs the bound

    def _look(self, record: Record, steps: Sequence[Step]) -> list[View]:
        """All images of the question and, last, the region of the latest box, which is in the first image."""
        limits = (self.settings.min_pixels, self.settings.max_pixels)
        views = [self._kept((record.uid, number), lambda image=image: whole(image, *limits)) for number, image in enumerate(record.images)]
        box = last_box(steps) if self.settings.zoom else None
        if box is not None:
            views.append(self._kept((record.uid, box), lambda: zoomed(record.images[0], box, *limits)))
        return views

    def _kept(self, key: tuple[Any, ...], make: Any) -> View:
        view: View | None = self._views.get(key)
        if view is None:
            view = self._views[key] = make()
            while len(self._views) > VIEWS_KEPT:
                try:
                    self._views.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
        return view

    def _messages(self, record: Record, steps: Sequence[Step], views: Sequence[View], task: str) -> list[dict[str, Any]]:
        words = self._words(record, steps, views[0], len(views) > len(record.images), task)
        content = [*(image_part(view.png) for view in views), text_part(words)]
        return [{"role": "system", "content": RULES}, {"role": "user", "content": content}]

    def _words(self, record: Record, steps: Sequence[Step], first: View, zoom: bool, task: str) -> str:
        """The user's text; `first` is the view of the first image, `zoom` whether an enlarged part follows the images."""
        frame = _PIXELS.format(width=first.width, height=first.height) if self.settings.coordinates == "pixels" else _THOUSANDTHS
        said = [f"{number}. {json.dumps(self._shown(step, record, first), ensure_ascii=False)}" for number, step in enumerate(steps, 1)]
        parts = [f"Question: {user_text(record.question, record.options)}", "Steps so far:" if said else "There are no steps yet.", *said]
        return "\n".join([*parts, *([_ZOOM] if zoom else []), frame, task])

    def _shown(self, step: Step, record: Record, view: View) -> dict[str, Any]:
        """An earlier step in the coordinates that the teacher writes."""
        scale = _scale(record, view, self.settings.coordinates)
        box = None if step.box is None else [round(value / scale[axis % 2]) for axis, value in enumerate(step.box)]
        return {"thought": step.text, "box": box}


def read_next(text: str, record: Record, view: View, coordinates: str) -> tuple[Step, ...]:
    """The one step of an answer, or nothing where the answer is not one."""
    fields = _object(text)
    step = None if fields is None else _step(fields, record, view, coordinates, fields.get("answer"))
    return () if step is None else (step,)


def read_rest(text: str, record: Record, view: View, coordinates: str) -> tuple[Step, ...]:
    """All steps of an answer, the last with the answer; nothing where one of them is unusable or the answer is missing."""
    fields = _object(text) or {}
    listed, answer = fields.get("steps"), fields.get("answer")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_STEPS or not _usable(answer):
        return ()
    read = [_step(one, record, view, coordinates, answer if one is listed[-1] else None) for one in listed if isinstance(one, dict)]
    steps = tuple(step for step in read if step is not None)
    return steps if len(steps) == len(listed) else ()


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(_FENCE.sub("", text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _usable(answer: Any) -> bool:
    return isinstance(answer, str) and 0 < len(answer.strip()) <= MAX_TEXT


def _step(fields: dict[str, Any], record: Record, view: View, coordinates: str, answer: Any) -> Step | None:
    """Text without tags, the box in original pixels. None where the text is empty, too long or nothing that a file or a tokenizer may
    hold, or the box or answer is no such thing."""
    thought, raw = fields.get("thought"), fields.get("box")
    words = " ".join(_TAGS.sub(" ", thought).split()) if isinstance(thought, str) else ""
    if not words or len(words) > MAX_TEXT or not (answer is None or _usable(answer)):
        return None
    if not all(_holdable(text) for text in (words, answer or "")):
        return None
    box = None
    if raw is not None:
        numbers = isinstance(raw, list) and len(raw) == 4 and all(isinstance(v, int | float) and abs(v) < 1e6 for v in raw)
        scale = _scale(record, view, coordinates)
        box = clipped([value * scale[axis % 2] for axis, value in enumerate(raw)], record.images[0].wh) if numbers else None
        if box is None:
            return None
    return Step(words, box, None if answer is None else one_spelling(_TAGS.sub("", answer).strip(), record) or None)


def _holdable(text: str) -> bool:
    """Whether these are whole characters (no file holds half of one) without a special token, which a tokenizer reads out of text."""
    return not MEDIA_TAG.search(text) and not any("\ud800" <= character <= "\udfff" for character in text)


def one_spelling(answer: str, record: Record) -> str:
    """An answer as the prompt asks for it, so that `B`, `(B)` and `B. left` are one step and the model learns one form: the letter of the
    option that it names, the gold text where it equals that but for case and punctuation, else as it is."""
    if record.options:
        named = read_options(answer, record.options)
        return letter(min(named)) if len(named) == 1 else answer
    return record.gold_text if normalise(answer) and normalise(answer) == normalise(record.gold_text) else answer


def _scale(record: Record, view: View, coordinates: str) -> tuple[float, float]:
    """Original pixels per unit of the teacher's coordinates, in x and y."""
    width, height = record.images[0].wh
    if coordinates == "thousandths":
        return width / 1000, height / 1000
    return width / view.width, height / view.height
