"""Train, val and test that cannot overlap: the split of a scene is a function of the scene itself.

A question inherits the split of its images, so no image of the test set is ever seen in training under any seed,
not even with another question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from data_prep.scenes.world import Scene, scene_image
from faithful_rl.judges.scene_world import write_scene

SPLITS = ("train", "val", "test")
_TEST_PERCENT = 10
_VAL_PERCENT = 10


def split_of(scene: Scene) -> str:
    """The only split that a scene can be in; the order in which its shapes are listed does not matter."""
    digest = hashlib.sha256(write_scene([scene_image(scene)]).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    if bucket < _TEST_PERCENT:
        return "test"
    return "val" if bucket < _TEST_PERCENT + _VAL_PERCENT else "train"


def in_split(scenes: Iterable[Scene], split: str) -> bool:
    """Whether every image of a question belongs to `split`."""
    return all(split_of(scene) == split for scene in scenes)
