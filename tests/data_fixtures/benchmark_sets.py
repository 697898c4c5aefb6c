"""The benchmarks in their real layouts, a few rows each, with the oddities that the real files have: `build(name, folder)`.

Rows, columns and folders follow the sets' cards and public loaders; texts are ours where an example was not public.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from training_sets import encode, jpeg, picture, put

EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(width: int = 64, height: int = 48) -> bytes:
    return encode(picture(width, height, (4, 4, 20, 20)), "PNG")


def embedded(name: str, data: bytes | None = None) -> dict[str, Any]:
    return {"bytes": png() if data is None else data, "path": name}


def parquet(path: Path, rows: list[dict[str, Any]], image: str, kind: pa.DataType) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.Table.from_pylist([{key: value for key, value in row.items() if key != image} for row in rows]).schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.append(pa.field(image, kind))), path, row_group_size=2)
    return path


# --- CV-Bench ------------------------------------------------------------------------------------------------------------------------


def cv_row(idx: int, part: str, task: str, question: str, choices: list[str], answer: str, source: str) -> dict[str, Any]:
    listed = "\n".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))
    return {
        "idx": idx, "type": part, "task": task, "image": embedded(f"{idx}.png"), "question": question, "choices": choices, "answer": answer,
        "prompt": f"{question} Select from the following choices.\n{listed}", "filename": f"img/{part}/{task.lower()}/{idx}.png",
        "source": source, "source_dataset": f"{source} Validation Set", "source_filename": f"{idx}.jpg", "target_class": None,
        "target_size": None, "bbox": None,
    }  # fmt: skip


CV_2D = [
    cv_row(0, "2D", "Count", "How many organs are in the image?", ["3", "2", "1", "0"], "(C)", "ADE20K"),
    cv_row(1, "2D", "Count", "How many cars are in the image?", ["6", "5", "4", "3", "2", "1"], "(F)", "COCO"),
    cv_row(2, "2D", "Relation", "Considering the relative positions, where is the dog with respect to the cat?", ["above", "below"], "(B)", "COCO"),
    cv_row(3, "2D", "Relation", "Where is the lamp with respect to the desk?", ["left", "right"], "(A)", "ADE20K"),
]  # fmt: skip
CV_3D = [
    cv_row(1438, "3D", "Depth", "Which object is closer to the camera, the chair (red box) or the desk (blue box)?", ["chair", "desk"], "(A)", "Omni3D"),
    cv_row(1439, "3D", "Distance", "Which object is closer to the sofa (red box), the lamp (blue box) or the box (green box)?", ["lamp", "box"], "(B)", "Omni3D"),
]  # fmt: skip


def cvbench(folder: Path, bad: bool = False) -> Path:
    rows = list(CV_2D)
    if bad:
        rows += [
            cv_row(90, "2D", "Count", "How many?", ["1", "2"], "(C)", "COCO"),
            {**cv_row(91, "2D", "Count", "How many?", ["1", "2"], "(A)", "COCO"), "image": embedded("x.png", png()[:60])},
        ]
    parquet(folder / "test_2d.parquet", rows, "image", EMBEDDED)
    parquet(folder / "test_3d.parquet", CV_3D, "image", EMBEDDED)
    return folder


# --- MindCube ------------------------------------------------------------------------------------------------------------------------

VIEWS = "other_all_image/among/shoe_216"
MINDCUBE: list[dict[str, Any]] = [
    {
        "id": "among_group693_q1_5_2",
        "question": "Based on these four images showing the same scene from different viewpoints (front, left, back, and right): From the viewpoint "
        "presented in image 2, which object is to my right? A. Tv B. Dining table C. Light purple sofa D. Brown curtains",
        "gt_answer": "C",
        "images": [f"{VIEWS}/{side}_007.jpg" for side in ("front", "left", "back", "right")],
        "category": ["perpendicular", "P-P"], "type": "one_frame_dual", "meta_info": [],
    },
    {
        "id": "around_q3_2_1",
        "question": "These two images show a desk. If I stand where A. Smith's chair is and face the desk, is the lamp on my left? A. Yes B. No",
        "gt_answer": "A", "images": [f"{VIEWS}/front_007.jpg", f"{VIEWS}/left_007.jpg"], "category": [], "type": "", "meta_info": [],
    },
    {
        "id": "rotation_q7_0_0",
        "question": "From the first image I turned. Which way?\nA. Left 90 degrees\nB. Right 90 degrees\nC. I turned around\nD. Up\nE. Not at all",
        "gt_answer": "E", "images": [f"{VIEWS}/{side}_007.jpg" for side in ("front", "left", "back")], "category": [], "type": "", "meta_info": [],
    },
]  # fmt: skip


def mindcube(folder: Path, bad: bool = False) -> Path:
    for side in ("front", "left", "back", "right"):
        put(folder / "data" / VIEWS / f"{side}_007.jpg", jpeg(80, 60))
    lines = [json.dumps(row) for row in MINDCUBE]
    if bad:
        lines += [
            "{",
            json.dumps({**MINDCUBE[1], "id": "among_leaves", "images": ["../../secret.jpg"]}),
            json.dumps({**MINDCUBE[1], "id": "among_gold", "gt_answer": "D"}),
            json.dumps({**MINDCUBE[1], "id": "among_open", "question": "Which way?"}),
        ]
    put(folder / "data" / "raw" / "MindCube_tinybench.jsonl", ("\n".join(lines) + "\n").encode())
    return folder


# --- MMVP ----------------------------------------------------------------------------------------------------------------------------

MMVP: list[tuple[str, ...]] = [
    ("1", "Are the butterfly's wings closer to being open or closed?", "(a) Open (b) Closed", "(a)"),
    ("2", "Are the butterfly's wings closer to being open or closed?", "(a) Open (b) Closed", "(b)"),
    ("99", "Does the elephant have long or short tusks?", "(a) Long (b) Short", "(a)"),
    ("100", "Does the elephant have long or short tusks?", "(a) Long (b) Short", "(b)"),
]


def mmvp(folder: Path, bad: bool = False) -> Path:
    rows = [*MMVP, ("5", "Is it there?", "yes or no", "(a)"), ("7", "No image?", "(a) Yes (b) No", "(a)")] if bad else MMVP
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "Questions.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("lndex", "Question", "Options", "Correct Answer"), *rows])  # the header as it is: a small L
    for row in rows:
        if row[0] != "7":
            put(folder / "MMVP Images" / f"{row[0]}.jpg", jpeg(224, 224))
    return folder


# --- OmniSpatial -----------------------------------------------------------------------------------------------------------------------

OMNISPATIAL: list[dict[str, Any]] = [
    {
        "id": "0_0", "question": "How long will it take for the moving car closest to the camera to reach it if it's going at 10 m/s?",
        "options": ["2.7s", "14.7s", "25.7s", "3.9s"], "answer": 0, "task_type": "Dynamic_Reasoning", "sub_task_type": "Motion_Analysis",
    },
    {
        "id": "0_0", "question": "Which piece completes the pattern?", "options": ["A piece with a hole", "B-shaped piece"], "answer": 1,
        "task_type": "Complex_Logic", "sub_task_type": "Pattern_Recognition",
    },
    {
        "id": "12_1", "question": "From the driver's view, where is the sign?", "options": ["left", "right", "behind"], "answer": 2,
        "task_type": "Perspective_Taking", "sub_task_type": "Egocentric",
    },
]  # fmt: skip


def omnispatial(folder: Path, bad: bool = False) -> Path:
    rows = [*OMNISPATIAL, {**OMNISPATIAL[2], "id": "13_0", "answer": 3}, {**OMNISPATIAL[2], "id": "14_0"}] if bad else OMNISPATIAL
    home = folder / "OmniSpatial-test"
    put(home / "data.json", json.dumps(rows).encode())
    for row in rows:
        if row["id"] != "14_0":
            put(home / row["task_type"] / f"{row['id'].split('_')[0]}.png", png(184, 100))
    return folder


# --- RealWorldQA -----------------------------------------------------------------------------------------------------------------------

LETTER = "Please answer directly with only the letter of the correct option and nothing else."
WORD = "Please answer directly with a single word or number."
REALWORLDQA: list[dict[str, Any]] = [
    {"question": f"In which direction is the front wheel of the car on the right side facing?\n\nA. Left\nB. Straight\nC. Right\n{LETTER}", "answer": "C"},
    {"question": f"Is the light green?\n\nA. Yes\nB. No\n{LETTER}", "answer": "B"},
    {"question": f"How many pedestrians are there?\n{WORD}", "answer": "3"},
    {"question": f"Is there a stop sign? {WORD}", "answer": "Yes"},
]  # fmt: skip


def realworldqa(folder: Path, bad: bool = False) -> Path:
    rows = [{**row, "image": embedded(f"{index}.webp")} for index, row in enumerate(REALWORLDQA)]
    if bad:
        rows += [{**rows[0], "answer": "E"}, {**rows[2], "answer": " "}]
    parquet(folder / "data" / "test-00000-of-00002.parquet", rows[:3], "image", EMBEDDED)
    parquet(folder / "data" / "test-00001-of-00002.parquet", rows[3:], "image", EMBEDDED)
    return folder


# --- SAT-Real --------------------------------------------------------------------------------------------------------------------------

SAT_REAL: list[dict[str, Any]] = [
    {"question": "were any of the objects in the initial frame that you can still see in the second frame moved from their original positions?",
     "answers": ["chair was moved left and away from the camera", "chair was moved right and away from the camera"],
     "question_type": "obj_movement", "correct_answer": "chair was moved left and away from the camera", "images": 2},
    {"question": "Which direction should I turn to face the object?", "answers": ["left", "right"], "question_type": "goal_aim",
     "correct_answer": "left", "images": 1},
    {"question": "How did the camera move?", "answers": ["rotated left", "rotated right"], "question_type": "ego_movement",
     "correct_answer": "rotated left", "images": 2},
]  # fmt: skip


def sat_real(folder: Path, bad: bool = False) -> Path:
    """Layout of array/SAT: encoded bytes in `image_bytes`."""
    rows = [{**row, "image_bytes": [png()] * row["images"]} for row in SAT_REAL]
    if bad:
        rows += [{**rows[1], "correct_answer": "up"}, {**rows[1], "image_bytes": []}]
    kept = [{key: value for key, value in row.items() if key != "images"} for row in rows]
    parquet(folder / "SAT_test.parquet", kept, "image_bytes", pa.list_(pa.binary()))
    return folder


def sat_real_v2(folder: Path) -> Path:
    """Layout of array/SAT-v2: image structs in `images`."""
    rows = [{**row, "images": [embedded(f"{index}.png")] * row["images"]} for index, row in enumerate(SAT_REAL)]
    parquet(folder / "data" / "test-00000-of-00001.parquet", rows, "images", pa.list_(EMBEDDED))
    return folder


# --- AlgoPuzzleVQA ---------------------------------------------------------------------------------------------------------------------

PUZZLES: dict[str, list[dict[str, Any]]] = {
    "board_tile": [
        {"image": "images/board_tile/board_tile_0000.jpg", "question": "Can the board be tiled?", "options": ["Yes", "No"], "answer": "No",
         "solution": {"possible": False, "grid": [[0, 1], [1, 0]]}},
    ],
    "calendar": [
        {"image": "images/calendar/calendar_0000.jpg",
         "question": "The image shows the calendar of a month of a particular non-leap year. Which day of the week was on August 2 of the previous year?",
         "options": ["Monday", "Sunday", "Saturday", "Thursday"], "answer": "Sunday", "solution": {"explanation": "..."}},
        {"image": "images/calendar/calendar_0001.jpg", "question": "Which day of the week is the 3rd?",
         "options": ["Monday", "Sunday", "Saturday", "Thursday"], "answer": "Monday", "solution": {"explanation": 3}},
    ],
}  # fmt: skip


def algopuzzlevqa(folder: Path, bad: bool = False) -> Path:
    for puzzle, rows in PUZZLES.items():
        more = [{**rows[0], "image": "images/calendar/calendar_0002.jpg", "answer": "Friday"}] if bad and puzzle == "calendar" else []
        put(folder / "data" / f"{puzzle}.json", "\n".join(json.dumps(row) for row in [*rows, *more]).encode())
        for row in [*rows, *more]:
            put(folder / "data" / row["image"], jpeg(96, 64))
    return folder


def algopuzzlevqa_hub(folder: Path) -> Path:
    """Layout of the hub's copy: one split named `data`, images inside."""
    rows = [
        {**row, "image": embedded(Path(row["image"]).name, jpeg(96, 64)), "solution": json.dumps(row["solution"])}
        for part in PUZZLES.values()
        for row in part
    ]
    parquet(folder / "data" / "data-00000-of-00001.parquet", rows, "image", EMBEDDED)
    return folder


BUILDERS: dict[str, Callable[..., Path]] = {
    "cvbench": cvbench, "mindcube": mindcube, "mmvp": mmvp, "omnispatial": omnispatial, "realworldqa": realworldqa, "sat_real": sat_real,
    "algopuzzlevqa": algopuzzlevqa,
}  # fmt: skip
# Reasons of the rows that `bad=True` adds, in their order.
BAD = {
    "cvbench": ["answer_not_in_options", "image_truncated"],
    "mindcube": ["corrupt_json", "image_outside_root", "answer_not_in_options", "missing_field"],
    "mmvp": ["missing_field", "image_missing"],
    "omnispatial": ["answer_not_in_options", "image_missing"],
    "realworldqa": ["answer_not_in_options", "empty_answer"],
    "sat_real": ["answer_not_in_options", "image_missing"],
    "algopuzzlevqa": ["answer_not_in_options"],
}


def build(name: str, folder: Path, bad: bool = False) -> Path:
    """The folder of one benchmark's files."""
    return BUILDERS[name](folder, bad)


def build_all(root: Path) -> Path:
    """A folder with all of them, as the setting `data` expects it."""
    for name in BUILDERS:
        build(name, root / name)
    return root
