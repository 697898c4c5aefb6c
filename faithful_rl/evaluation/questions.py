"""A benchmark's questions as the evaluation asks them: messages for the model in each mode, and the row that the signals are scored on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.prompts import letter, system_prompt, user_text
from data_prep.record import Image, Record
from faithful_rl.judges.images import encode_image
from faithful_rl.judges.scene_world import read_scene

REASONING, NO_REASONING, TEXT_INSTEAD_OF_IMAGE = "reasoning", "no_reasoning", "text_instead_of_image"
MODES = (REASONING, NO_REASONING, TEXT_INSTEAD_OF_IMAGE)
IMAGE_TAG = "<image>"

DIRECTLY = (
    "Do not reason. Write only the answer, between <answer> and </answer>: the letter of the right option, or a short phrase if there are "
    "no options."
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark.

    `group` names what its trials share (an MMVP pair, the orders of one SAT row), the uid where there is only one. `stratum` is the part
    that a benchmark's official mean weighs equally, "" where there is none. `prompt` are the row's own messages, for a file that carries
    them: they are used word by word. `limits` are the pixel limits (min, max) that the row states, else None.
    """

    benchmark: str
    record: Record
    group: str
    stratum: str = ""
    prompt: tuple[tuple[str, str], ...] | None = None
    limits: tuple[int, int] | None = None

    @property
    def uid(self) -> str:
        return self.record.uid

    @property
    def truth(self) -> str:
        """The letter of the right option, or the free answer."""
        return letter(self.record.gold_index) if self.record.options else self.record.gold_text

    @property
    def scene_json(self) -> str:
        return str(self.record.metadata.get("scene_json") or "")


def image_bytes(image: Image) -> bytes:
    """The encoded file. Raises OSError where its path cannot be read."""
    return image.data if image.data is not None else Path(str(image.path)).read_bytes()


def description(question: Question) -> str | None:
    """An exact description of the images in words, for the mode text_instead_of_image; None where the question has none."""
    stated = question.record.metadata.get("description")
    if isinstance(stated, str) and stated.strip():
        return stated.strip()
    return describe_scene(question.scene_json) if question.scene_json else None


def describe_scene(scene_json: str) -> str:
    """A synthetic scene in words: every object with its box in pixels. Raises ValueError where it is no scene."""
    images = read_scene(scene_json)
    lines = []
    for number, image in enumerate(images, 1):
        name = "The image" if len(images) == 1 else f"Image {number}"
        things = "; ".join(f"a {one.name} at <bbox>[{', '.join(f'{v:g}' for v in one.box.as_list())}]</bbox>" for one in image.objects)
        count = len(image.objects)
        lines.append(f"{name} is {image.width} by {image.height} pixels and shows {count} thing{'' if count == 1 else 's'}: {things}.")
    return "\n".join(lines)


def messages(question: Question, mode: str, prompt: str) -> list[dict[str, Any]]:
    """OpenAI chat messages; images are data URLs in front of the text, in order.

    Args:
        mode: of `MODES`.
        prompt: name of a system prompt (`data_prep.prompts`); not used where the row carries its own messages, nor without reasoning.

    Raises:
        ImageError, OSError: an image cannot be read.
        ValueError: `text_instead_of_image` without a description, or a row's own prompt whose tags and images differ in number.
    """
    said = turns(question, mode, prompt)
    urls = [] if mode == TEXT_INSTEAD_OF_IMAGE else [encode_image(image_bytes(image)).url for image in question.record.images]
    left = iter(urls)
    return [{"role": role, "content": _content(content, left)} for role, content in said]


def turns(question: Question, mode: str, prompt: str) -> list[tuple[str, str]]:
    """(role, content) of the chat, with `IMAGE_TAG` where each image stands. Arguments and ValueError as in `messages`."""
    record = question.record
    if question.prompt is not None:
        said = [(role, content) for role, content in question.prompt if mode != NO_REASONING or role != "system"]
    else:
        system = "" if mode == NO_REASONING else system_prompt(prompt)
        said = [("system", system)] if system else []
        said.append(("user", IMAGE_TAG * len(record.images) + user_text(record.question, record.options)))
    if mode == NO_REASONING:
        role, content = said[-1]
        said[-1] = (role, f"{content}\n{DIRECTLY}")
    if mode == TEXT_INSTEAD_OF_IMAGE:
        text = description(question)
        if text is None:
            raise ValueError(f"{question.uid} has no exact description of its images")
        first = next(index for index, (role, _) in enumerate(said) if role == "user")
        said = [(role, content.replace(IMAGE_TAG, "")) for role, content in said]
        said[first] = ("user", f"{text}\n{said[first][1]}")
    tags, images = sum(content.count(IMAGE_TAG) for _, content in said), 0 if mode == TEXT_INSTEAD_OF_IMAGE else len(record.images)
    if tags != images:
        raise ValueError(f"{question.uid}: its prompt has {tags} {IMAGE_TAG} tags for {images} images")
    return said


def _content(text: str, urls: Any) -> str | list[dict[str, Any]]:
    if IMAGE_TAG not in text:
        return text
    parts: list[dict[str, Any]] = []
    for index, piece in enumerate(text.split(IMAGE_TAG)):
        if index:
            parts.append({"type": "image_url", "image_url": {"url": next(urls)}})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def extra_info(question: Question, limits: tuple[int, int] | None, images: Sequence[bytes] = ()) -> dict[str, Any]:
    """The record in the columns that `rewards.suite.Reference` and the judges' requests read.

    Args:
        limits: pixel limits of the model's image processor; the row's own stand before them. None: boxes cannot be mapped, so none
            are compared.
        images: encoded files for a judge that looks at them.
    """
    record = question.record
    used = question.limits or limits
    boxes = [list(box) for box in record.boxes] if used is not None else []
    return {
        "uid": record.uid,
        "dataset": record.dataset,
        "question": record.question,
        "options": list(record.options),
        "gold_index": record.gold_index,
        "gt_boxes": boxes,
        "box_image_idx": list(record.box_image_index) if boxes else [],
        "img_wh": [list(image.wh) for image in record.images],
        "min_pixels": None if used is None else used[0],
        "max_pixels": None if used is None else used[1],
        "scene_json": question.scene_json,
        "images": list(images),
    }


def from_row(benchmark: str, row: Mapping[str, Any]) -> Question:
    """A question from a row in verl's format, as `data_prep` writes it, with its own prompt and pixel limits.

    Raises:
        ValueError, KeyError, TypeError: the row lacks a column or contradicts itself.
    """
    facts = row["extra_info"]
    sizes = [(int(width), int(height)) for width, height in facts["img_wh"]]
    options = tuple(str(option) for option in (facts.get("options") or ()))
    gold = int(facts["gold_index"]) if options else -1
    scene = facts.get("scene_json") or ""
    boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in (facts.get("gt_boxes") or ()))
    record = Record(
        uid=str(facts["uid"]),
        dataset=str(facts.get("dataset") or row["data_source"]),
        split=str(facts.get("split") or "test"),
        question=str(facts["question"]),
        options=options,
        gold_index=gold,
        gold_text=options[gold] if options else str(row["reward_model"]["ground_truth"]),
        images=tuple(_image(image, size) for image, size in zip(row["images"], sizes, strict=True)),
        boxes=boxes,
        box_labels=tuple(str(label) for label in (facts.get("box_labels") or ("",) * len(boxes))),
        box_image_index=tuple(int(index) for index in (facts.get("box_image_idx") or (0,) * len(boxes))),
        task_type=str(facts.get("task_type") or ""),
        metadata={**_metadata(facts.get("meta_json")), **({"scene_json": scene} if scene else {})},
    )
    limits = None if facts.get("min_pixels") is None else (int(facts["min_pixels"]), int(facts["max_pixels"]))
    prompt = tuple((str(turn["role"]), str(turn["content"])) for turn in row["prompt"])
    return Question(benchmark, record, record.uid, "", prompt, limits)


def _metadata(text: Any) -> dict[str, Any]:
    """Free-form metadata of a row, which is JSON text; {} for anything else."""
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _image(image: Mapping[str, Any], size: tuple[int, int]) -> Image:
    data = image.get("bytes")
    return Image(data, None, *size) if data else Image(None, str(image["path"]), *size)
