"""What a judge is asked about one rollout. Imports nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One rollout as judges see it.

    `reasoning` and `answer` come from `faithful_rl.response.parse`; an absent answer is the empty string. `options` are
    the texts of a multiple choice question in the order of their letters (A, B, ...). `images` are encoded image files,
    in prompt order; the consistency judge never looks at them. `frames` are the (width, height) in pixels in which the
    reasoning's boxes are written, one for each image (the policy's resized images); empty: those of the image files.
    `scene_json` is the exact scene of a synthetic row (`faithful_rl.judges.scene_world`), empty for photographs.
    """

    uid: str
    question: str
    options: tuple[str, ...]
    reasoning: str
    answer: str
    images: tuple[bytes, ...] = ()
    scene_json: str = ""
    dataset: str = ""
    frames: tuple[tuple[int, int], ...] = ()
