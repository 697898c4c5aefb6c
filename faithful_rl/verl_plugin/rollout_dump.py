"""Rollouts for the viewer: plain records, written as JSON Lines below `<run>/rollouts`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from faithful_rl.geometry import smart_resize


def to_plain(value: Any) -> Any:
    """NumPy and tensor scalars and arrays as Python numbers and lists, dictionaries and sequences likewise."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    return to_plain(value.tolist()) if hasattr(value, "tolist") else value


def first_image_base64(raw_prompt: Sequence[Mapping[str, Any]]) -> str | None:
    """The first image of a chat prompt as base64 of a PNG file; None when the prompt has none."""
    for message in raw_prompt:
        content = message.get("content")
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and part.get("type") == "image":
                return _png_base64(part)
    return None


def image_count(raw_prompt: Sequence[Mapping[str, Any]]) -> int:
    """Images of a chat prompt: a record keeps the first only, and who judges it anew must know that there are others."""
    contents = [message.get("content") for message in raw_prompt]
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    return sum(isinstance(part, Mapping) and part.get("type") == "image" for part in parts)


def _png_base64(part: Mapping[str, Any]) -> str | None:
    data, image = part.get("bytes"), part.get("image")
    if isinstance(data, bytes) and data.startswith(b"\x89PNG"):
        return base64.b64encode(data).decode("ascii")
    if isinstance(data, bytes):
        image = Image.open(BytesIO(data))
    if not isinstance(image, Image.Image):
        return None
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def resized_size(size: Sequence[int], extra: Mapping[str, Any]) -> list[int]:
    """[width, height] of the first image as the policy sees it, which is the frame of the boxes it writes; [] where it is not known.

    Args:
        size: (width, height) of the original image in pixels, or empty.
        extra: the row's `extra_info` with `min_pixels` and `max_pixels`.
    """
    limits = [extra.get(key) for key in ("min_pixels", "max_pixels")]
    if len(size) != 2 or None in limits:
        return []
    low, high = (int(limit) for limit in limits if limit is not None)
    height, width = smart_resize(int(size[1]), int(size[0]), min_pixels=low, max_pixels=high)
    return [width, height]


def record(
    *,
    step: int,
    split: str,
    decoding: str | None,
    group: str,
    response: str,
    fields: Mapping[str, Any],
    columns: Mapping[str, float],
    judged_json: str,
    advantage: float | None = None,
    by_signal: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One line for the viewer.

    Args:
        fields: the row's `extra_info`, `reward_model` and `raw_prompt` as verl keeps them. Reference boxes stay in pixels of the
            original image, predicted ones in pixels of `image_resized_wh`.
        judged_json: what `reward_manager.details_json` wrote, or "".
    """
    extra = fields.get("extra_info") or {}
    judged = json.loads(judged_json) if judged_json else {}
    sizes = to_plain(extra.get("img_wh")) or []
    size = sizes[0] if sizes and isinstance(sizes[0], list) else sizes
    return {
        "uid": str(extra.get("uid", "")),
        "group": group,
        "step": step,
        "split": split,
        "decoding": decoding,
        "task_type": extra.get("task_type"),
        "question": extra.get("question"),
        "options": to_plain(extra.get("options")) or [],
        "ground_truth": (fields.get("reward_model") or {}).get("ground_truth"),
        "response": response,
        "image_png_base64": first_image_base64(fields.get("raw_prompt") or ()),
        "image_count": image_count(fields.get("raw_prompt") or ()),
        "image_wh": size,
        "image_resized_wh": resized_size(size, extra),
        "boxes_predicted": judged.get("boxes_predicted", []),
        "boxes_reference": to_plain(extra.get("gt_boxes")) or [],
        "boxes_reference_image": to_plain(extra.get("box_image_idx")) or [],
        "sentences": judged.get("sentences", []),
        "columns": dict(columns),
        "advantage": advantage,
        "advantages_by_signal": dict(by_signal or {}),
    }


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file in one step: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for one in records:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
    temporary.replace(path)
