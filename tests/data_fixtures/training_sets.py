"""The training sets in their real layouts, a few rows each, with the oddities that the real files have.

Every image is black with a white rectangle, so that a test can see in the pixels whether a box sits right. Each builder returns what
`in=` and `images=` must be. Layouts follow the cards and public loaders of the sets.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Box = tuple[int, int, int, int]


def picture(width: int, height: int, box: Box | None = None) -> Image.Image:
    """Black, with a white rectangle over `box` (x1, y1, x2, y2)."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    if box:
        pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


def encode(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **({"quality": 95} if form == "JPEG" else {}), **options)
    return stream.getvalue()


def jpeg(width: int = 512, height: int = 512, box: Box | None = None) -> bytes:
    return encode(picture(width, height, box))


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- SAT ---------------------------------------------------------------------------------------------------------------------------

SAT_ROWS: list[dict[str, Any]] = [
    # static head of the file: single images, sometimes more than two options
    {"images": 1, "question": "How many Chairs are visible in the scene?", "answers": ["3", "2", "4"], "question_type": "other", "correct_answer": "3"},
    {"images": 1, "question": "Is the white chair (marked A) to the left or right of the lamp?", "answers": ["left", "right"], "question_type": "other", "correct_answer": "left"},
    # dynamic tail; the stray suffix of obj_movement, and two images
    {"images": 2, "question": "were any of the objects moved from their original positions?",
     "answers": ["chair was moved left in the first frame", "chair was moved right in the first frame"], "question_type": "obj_movement",
     "correct_answer": "chair was moved left in the first frame"},
    {"images": 1, "question": "If I turn left by 40 degrees, will I be facing away from the armchair?", "answers": ["yes", "no"],
     "question_type": "action_consequence", "correct_answer": "yes"},
    {"images": 1, "question": "Which direction should I turn to face the object?", "answers": ["left by 24 degrees", "look straight"],
     "question_type": "goal_aim", "correct_answer": "left by 24 degrees"},
]  # fmt: skip
SAT_BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("answer_not_in_options", {"answers": ["left", "right"], "correct_answer": "up"}),
    ("duplicate_options", {"answers": ["Left", "left."], "correct_answer": "Left"}),
    ("image_truncated", {"cells": [jpeg()[:2000]]}),
    ("image_missing", {"cells": []}),
    ("image_missing", {"cells": [b""]}),
    ("image_unreadable", {"cells": [b"no image at all"]}),
    ("image_bomb", {"cells": [encode(Image.new("1", (12000, 12000)), "PNG")]}),
    ("image_aspect_ratio", {"cells": [jpeg(2100, 10)]}),
    ("media_tag", {"question": "What is in <image> here?"}),
    ("media_tag", {"question": "What is <|image_pad|> here?"}),
    ("empty_question", {"question": "  "}),
]


def sat(directory: Path, layout: str = "bytes", bad: bool = False, split: str = "train", copies: int = 1) -> Path:
    """`SAT_<split>.parquet` of array/SAT (`layout="bytes"`) or `data/<split>-00000-of-00001.parquet` of SAT-v2; one row group."""
    rows = []
    plans = [*SAT_ROWS * copies, *([{**SAT_ROWS[3], **change} for _, change in SAT_BAD_ROWS] if bad else [])]
    for plan in plans:
        cells = plan.get("cells", [jpeg(512, 512, (100, 120, 300, 320))] * plan["images"])
        row = {key: plan[key] for key in ("question", "answers", "question_type", "correct_answer")}
        if layout == "bytes":
            rows.append({"image_bytes": cells, **row})
        else:
            rows.append({"images": [{"bytes": cell, "path": None} for cell in cells], **row})
    texts = [("question", pa.string()), ("answers", pa.list_(pa.string())), ("question_type", pa.string()), ("correct_answer", pa.string())]
    image = pa.binary() if layout == "bytes" else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image_bytes" if layout == "bytes" else "images", pa.list_(image)), *texts])
    path = directory / (f"SAT_{split}.parquet" if layout == "bytes" else f"data/{split}-00000-of-00001.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=10**9)
    return directory


# --- VGR ---------------------------------------------------------------------------------------------------------------------------

VGR_WH, VGR_BOX = (640, 480), (320, 120, 480, 360)  # the box is 0.5, 0.25, 0.75, 0.75
VGR_ROWS: list[dict[str, Any]] = [
    {"image": "coco/train2017/000000336353.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is the man holding?"},
        {"from": "gpt", "value": "<think>The man is here <SOT>[0.5, 0.25, 0.75, 0.75]<EOT><image>, holding a racket.</think>\n\nFinal answer: A racket."}]},
    # lower-case tags, think twice, a region outside of think, an orphan tag
    {"image": "ai2d/abc_images/311.png", "conversations": [
        {"from": "human", "value": "Which label shows the stem?\nA. leaf\nB. stem\nC. root\nAnswer with the option's letter from the given choices directly.\n<image>"},
        {"from": "gpt", "value": "<think>Look at <sot>[0.5, 0.25, 0.75, 0.75]<eot><image> first.</think> Then <think>again <EOT>there.</think> It is <SOT>[0.5,0.25,0.75,0.75]<EOT>.\nFinal answer: B"}]},
    # a box that rounding puts a little outside
    {"image": "gqa/images/7.jpg", "conversations": [
        {"from": "human", "value": "<image>\nIs it open?"},
        {"from": "gpt", "value": "<think>See <SOT>[0.5, 0.25, 1.004, 0.75]<EOT><image>.</think>\nFinal answer: yes"}]},
]  # fmt: skip


def _vgr_row(image: str, told: str, question: str = "<image>\nWhat is it?") -> dict[str, Any]:
    return {"image": image, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": told}]}


_COCO = "coco/train2017/000000336353.jpg"
VGR_BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("reserved_tag", _vgr_row(_COCO, "<think>x <answer>b</answer></think>\nFinal answer: a")),
    ("box_degenerate", _vgr_row(_COCO, "<think>x <SOT>[0.5, 0.5, left]<EOT><image></think>\nFinal answer: a")),
    ("box_outside", _vgr_row(_COCO, "<think>x <SOT>[12, 30, 200, 300]<EOT><image></think>\nFinal answer: a")),
    ("no_final_answer", _vgr_row(_COCO, "<think>x</think> a racket")),
    ("empty_answer", _vgr_row(_COCO, "<think>x</think>\nFinal answer: <SOT>[0.1,0.1,0.2,0.2]<EOT>")),
    ("image_missing", _vgr_row("coco/train2017/absent.jpg", "<think>x</think>\nFinal answer: a")),
    ("image_outside_root", _vgr_row("../secret.jpg", "<think>x</think>\nFinal answer: a")),
    ("image_outside_root", _vgr_row("/etc/passwd", "<think>x</think>\nFinal answer: a")),
    ("media_tag", _vgr_row(_COCO, "<think>x</think>\nFinal answer: a", "<image>\nCompare <image> with this.")),
]


def vgr(directory: Path, bad: bool = False, lists: bool = False) -> tuple[Path, Path]:
    """(directory with both files below `data/`, image root); `lists`: `image` is a list of one path, as some loaders expect."""
    root = directory / "llava_next_raw_format"
    for name in (_COCO, "gqa/images/7.jpg"):
        put(root / name, jpeg(*VGR_WH, VGR_BOX))
    put(root / "ai2d/abc_images/311.png", encode(picture(*VGR_WH, VGR_BOX), "PNG"))
    put(directory / "secret.jpg", jpeg(64, 64))
    rows = [*VGR_ROWS, *(row for _, row in (VGR_BAD_ROWS if bad else []))]
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    for kind in ("short", "long"):
        path = directory / "data" / f"vgr_{kind}cot.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        one = [{**row, "image": [row["image"]] if lists else row["image"]} for row in rows]
        schema = pa.schema([("image", pa.list_(pa.string()) if lists else pa.string()), ("conversations", pa.list_(turn))])
        pq.write_table(pa.Table.from_pylist(one, schema=schema), path)
    return directory, root


# --- Visual-CoT --------------------------------------------------------------------------------------------------------------------

CUB_NAME = "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg"
VISCOT_ROWS: dict[str, list[dict[str, Any]]] = {
    "cub": [
        {"question": "Does the bird in the picture have grey forehead and grey throat?", "answer": "Yes", "image": CUB_NAME, "width": 500, "height": 336,
         "bboxs": [[139.0, 30.0, 292.0, 294.0]], "dataset": "cub", "split": "train"},
        {"question": "What colour is the wing?", "answer": "white", "image": CUB_NAME, "width": 500, "height": 336,
         "bboxs": [[139, 30, 292, 294], [10, 10, 40, 60]], "dataset": "cub", "split": "train"},
    ],
    # a box that sticks out, and further columns
    "dude": [{"question": "What is the date?", "answer": 1996, "image": "page.png", "width": 600, "height": 800, "bboxs": [[450.0, 700.0, 660.0, 820.0]],
              "dataset": "dude", "split": "train", "possible_answers": ["1996"], "full_answer": "The date is 1996."}],
    # its images lie in another folder
    "textcap": [{"question": "What is written on the sign?", "answer": "a sign that says stop in red letters", "image": "sign.jpg", "width": 300, "height": 200,
                 "bboxs": [[50, 50, 150, 120]], "dataset": "textcap", "split": "train", "reasoning": "text"}],
}  # fmt: skip
_CUB = VISCOT_ROWS["cub"][0]
VISCOT_BAD_LINES: list[tuple[str, str]] = [
    ("corrupt_json", '{"question": "cut'),
    ("corrupt_json", "[1, 2]"),
    ("corrupt_json", "\x00\x01"),
    ("box_degenerate", json.dumps({**_CUB, "bboxs": [[139, 30, 139, 294]]})),
    ("box_degenerate", json.dumps({**_CUB, "bboxs": [[139, 30, 200]]})),
    ("box_degenerate", json.dumps({**_CUB, "bboxs": [[139, 30, float("nan"), 294]]})),
    ("box_outside", json.dumps({**_CUB, "bboxs": [[600, 30, 700, 294]]})),
    ("missing_field", json.dumps({key: value for key, value in _CUB.items() if key != "answer"})),
    ("bad_type", json.dumps({**_CUB, "question": 7})),
    ("bad_type", json.dumps({**_CUB, "bboxs": "139,30"})),
    ("empty_answer", json.dumps({**_CUB, "answer": None})),
    ("image_size_differs", json.dumps({**_CUB, "width": 336, "height": 500})),
    ("image_missing", json.dumps({**_CUB, "image": "nowhere.jpg"})),
    ("image_outside_root", json.dumps({**_CUB, "image": "../dude/page.png"})),
    ("image_outside_root", json.dumps({**_CUB, "image": "link.jpg"})),
]


def viscot_images(directory: Path) -> Path:
    root = directory / "cot_image_data"
    put(root / "cub" / CUB_NAME, jpeg(500, 336, (139, 30, 292, 294)))
    put(root / "dude" / "page.png", encode(picture(600, 800, (450, 700, 600, 800)), "PNG"))
    put(root / "textvqa" / "sign.jpg", jpeg(300, 200, (50, 50, 150, 120)))
    put(root / "gqa" / "1.jpg", jpeg(640, 427, (100, 200, 300, 400)))
    put(directory / "elsewhere.jpg", jpeg(64, 64))
    link = root / "cub" / "link.jpg"
    if not link.is_symlink():
        link.symlink_to(directory / "elsewhere.jpg")
    return root


def viscot(directory: Path, bad: bool = False) -> tuple[Path, Path]:
    """(metadata folder, image root); blank lines stand between rows, as in some files."""
    for name, rows in VISCOT_ROWS.items():
        lines = [json.dumps(row) for row in rows]
        if bad and name == "cub":
            lines += [line for _, line in VISCOT_BAD_LINES]
        put(directory / "metadata" / f"{name}_cot_train.jsonl", ("\n\n".join(lines) + "\n").encode())
    return directory / "metadata", viscot_images(directory)


def viscot_turns(question: str, box: str, answer: str) -> list[dict[str, str]]:
    ask = "Please provide the bounding box coordinate of the region that can help you answer the question better."
    return [
        {"from": "human", "value": f"<image>\n{question} {ask}"},
        {"from": "gpt", "value": box},
        {"from": "human", "value": "<image>"},
        {"from": "gpt", "value": answer},
    ]


def padded(box: Box, width: int, height: int) -> str:
    """What the official script writes: relative to the padded square, three decimals."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return str([round((value + shift) / side, 3) for value, shift in zip(box, (left, top, left, top), strict=True)])


def _entry(dataset: str, path: str, box: str, turns: list[dict[str, str]], number: int = 0) -> dict[str, Any]:
    return {"dataset": dataset, "split": "train", "question_id": number, "image": [path, f"{path}###{box}"], "conversations": turns}


GQA_BOX = (100, 200, 300, 400)
VISCOT_363K_ROWS = [
    _entry("gqa", "cot/gqa/1.jpg", str(list(GQA_BOX)), viscot_turns("What is on the table?", padded(GQA_BOX, 640, 427), "cup")),
    _entry(
        "cub", f"cot/cub/{CUB_NAME}", "[139, 30, 292, 294]", viscot_turns("Is it grey?", padded((139, 30, 292, 294), 500, 336), "Yes"), 1
    ),
    # one file's boxes read as plain: accepted and noted
    _entry(
        "textcap", "cot/textcap/sign.jpg", "[50, 50, 150, 120]", viscot_turns("What does it say?", "[0.167, 0.25, 0.5, 0.6]", "stop"), 2
    ),
]
VISCOT_363K_BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("conflicting_boxes", _entry("gqa", "cot/gqa/1.jpg", str(list(GQA_BOX)), viscot_turns("What?", "[0.01, 0.01, 0.02, 0.02]", "cup"))),
    ("missing_field", {**VISCOT_363K_ROWS[0], "conversations": VISCOT_363K_ROWS[0]["conversations"][:2]}),
    ("box_degenerate", _entry("gqa", "cot/gqa/1.jpg", "[1, 2]", viscot_turns("What?", padded(GQA_BOX, 640, 427), "cup"))),
    ("image_missing", {**VISCOT_363K_ROWS[0], "image": ["cot/gqa/1.jpg"]}),
    (
        "image_outside_root",
        _entry("gqa", "cot/gqa/../dude/page.png", str(list(GQA_BOX)), viscot_turns("What?", padded(GQA_BOX, 640, 427), "cup")),
    ),
]


def viscot_363k(directory: Path, bad: bool = False, cut: bool = False) -> tuple[Path, Path]:
    """(`viscot_363k.json`, image root); `cut` breaks the list off."""
    text = json.dumps([*VISCOT_363K_ROWS, *(row for _, row in (VISCOT_363K_BAD_ROWS if bad else []))], indent=1)
    return put(directory / "viscot_363k.json", (text[: len(text) - 300] if cut else text).encode()), viscot_images(directory)


# --- TreeVGR-RL --------------------------------------------------------------------------------------------------------------------

TREEVGR_ROWS: list[dict[str, Any]] = [
    {"images": ["images/0.jpg"], "problem": "<image>\nWhat is the color of the candles?", "answer": "The color of the candles is white.",
     "target_instances": [{"bbox": [1032.0, 198.0, 1104.0, 324.0], "label": "candles", "name": "candles"}]},
    {"images": ["images/0.jpg"], "problem": "<image>\nIs the cup left of the plate?", "answer": "Yes",
     "target_instances": [{"bbox": [1032.0, 198.0, 1104.0, 324.0], "label": "cup", "name": "cup"}, {"bbox": [10.0, 20.0, 60.0, 90.0], "label": "plate", "name": "plate"}]},
    # VisDrone: options inside the problem, answers in two forms
    {"images": ["images/1.png"], "problem": "<image>\nHow many cars are there?\n(A) 2\n(B) 3\n(C) 4\nAnswer with the option's letter from the given choices directly.",
     "answer": "B", "target_instances": [{"bbox": [5.0, 5.0, 30.0, 30.0], "label": "car", "name": "car 1"}]},
    {"images": ["images/1.png"], "problem": "<image>\nWhat is the van doing? A. parking B. driving", "answer": "(A)",
     "target_instances": [{"bbox": [5.0, 5.0, 30.0, 30.0], "label": "van", "name": "van"}]},
]  # fmt: skip
TREEVGR_BAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("answer_not_in_options", {**TREEVGR_ROWS[2], "answer": "D"}),
    ("answer_not_in_options", {**TREEVGR_ROWS[0], "answer": "B"}),
    ("image_missing", {**TREEVGR_ROWS[0], "images": []}),
    ("image_missing", {**TREEVGR_ROWS[0], "images": ["images/9.jpg"]}),
    ("box_outside", {**TREEVGR_ROWS[2], "target_instances": [{"bbox": [900.0, 5.0, 930.0, 30.0], "label": "car", "name": "car"}]}),
    ("box_degenerate", {**TREEVGR_ROWS[2], "target_instances": [{"bbox": [30.0, 5.0, 5.0, 30.0], "label": "car", "name": "car"}]}),
]


def treevgr(directory: Path, bad: bool = False) -> Path:
    put(directory / "images" / "0.jpg", jpeg(1200, 800, (1032, 198, 1104, 324)))
    put(directory / "images" / "1.png", encode(picture(90, 60, (5, 5, 30, 30)), "PNG"))
    rows = [*TREEVGR_ROWS, *(row for _, row in (TREEVGR_BAD_ROWS if bad else []))]
    target = pa.struct([("bbox", pa.list_(pa.float64())), ("label", pa.string()), ("name", pa.string())])
    schema = pa.schema(
        [("images", pa.list_(pa.string())), ("problem", pa.string()), ("answer", pa.string()), ("target_instances", pa.list_(target))]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), directory / "vstar30k_visdrone6k_x1y1x2y2.parquet")
    return directory


def build(name: str, directory: Path, bad: bool = False) -> tuple[Path, dict[str, Any]]:
    """(`in`, options) of a source by name."""
    directory.mkdir(parents=True, exist_ok=True)
    if name in ("sat", "sat_v2"):
        return sat(directory, "bytes" if name == "sat" else "v2", bad), {}
    if name == "treevgr_rl":
        return treevgr(directory, bad), {}
    location, root = {"vgr": vgr, "viscot": viscot, "viscot_363k": viscot_363k}[name](directory, bad)
    return location, {"images": str(root), **({"cot": "short"} if name == "vgr" else {})}


SOURCES = ("sat", "sat_v2", "vgr", "viscot", "viscot_363k", "treevgr_rl")
BAD = {
    "sat": [reason for reason, _ in SAT_BAD_ROWS],
    "sat_v2": [reason for reason, _ in SAT_BAD_ROWS],
    "vgr": [reason for reason, _ in VGR_BAD_ROWS],
    "viscot": [reason for reason, _ in VISCOT_BAD_LINES],
    "viscot_363k": [reason for reason, _ in VISCOT_363K_BAD_ROWS],
    "treevgr_rl": [reason for reason, _ in TREEVGR_BAD_ROWS],
}


def source_of(name: str) -> str:
    return "sat" if name == "sat_v2" else name
