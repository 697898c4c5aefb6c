"""`python -m faithful_rl.preflight.known_box REQUEST`: push an image with a known box through a model's processor; print a line of JSON.

REQUEST is JSON: `model` (a directory), `limits` (min and max pixels that boxes are read with), `options` (what the server gives to every
call of the processor). The answer holds `problem` (found, expected, fix) where they differ, and `skipped` where the model is none whose
frame we know. A program of its own, so that an evaluation needs neither torch nor transformers in its process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from data_prep.frames import Frame, check_processor
from faithful_rl.config import ConfigError
from faithful_rl.evaluation.known_box import ANSWER
from faithful_rl.geometry import QWEN2_5_VL_FACTOR

SIZES = ((500, 336), (336, 500), (60, 40), (1920, 1080))  # as benchmarks have them: wide, tall, small, large


def main(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer, as above."""
    from faithful_rl.verl_plugin.guards import torchvision_schema

    torchvision_schema.apply()
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(request["model"])
    images = getattr(processor, "image_processor", None)
    factor = int(getattr(images, "patch_size", 0)) * int(getattr(images, "merge_size", 0))
    if factor != QWEN2_5_VL_FACTOR:
        return {"skipped": f"{request['model']} does not resize images as Qwen2.5-VL does"}
    low, high = request["limits"]
    try:
        for image_wh in SIZES:
            check_processor(processor, Frame("processor", low, high), image_wh, request["options"])
    except ConfigError as error:
        return {"problem": [error.found, error.expected]}
    return {}


if __name__ == "__main__":
    sys.stdout.write("\n" + ANSWER + json.dumps(main(json.loads(sys.argv[1]))) + "\n")
