"""The columns of verl's RL parquet, one list for every file that we write: scenes, puzzles and prepared sets read alike."""

from __future__ import annotations

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# What rewards, judges and the evaluation know of a row; `rewards.suite.Reference.from_row` reads it.
EXTRA_INFO = pa.struct(
    [
        ("split", pa.string()),
        ("index", pa.int64()),
        ("uid", pa.string()),
        ("dataset", pa.string()),
        ("task_type", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("gold_index", pa.int64()),
        ("gt_boxes", pa.list_(pa.list_(pa.float64()))),
        ("box_labels", pa.list_(pa.string())),
        ("box_image_idx", pa.list_(pa.int64())),
        ("img_wh", pa.list_(pa.list_(pa.int64()))),
        ("min_pixels", pa.int64()),
        ("max_pixels", pa.int64()),
        ("scene_json", pa.string()),
        ("meta_json", pa.string()),
    ]
)


# Pixel limits travel with the image, because verl hands the whole struct to qwen_vl_utils.
IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())]))
SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", MESSAGES),
        ("images", IMAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", EXTRA_INFO),
    ]
)
