"""A crafted set of predictions with every oddity: one scene, 48 questions, and what each response is worth, worked by hand.

The scene is 112 x 112 pixels: a red circle at [10, 10, 30, 30], upper left, and a blue square at [70, 70, 100, 100], lower right. Every
question asks whether the circle is left or right of the square; "left" (A) is right.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from faithful_rl.judges.scene_world import SceneImage, SceneObject, write_scene
from faithful_rl.types import Box

SIDE = 112
CIRCLE, SQUARE = [10, 10, 30, 30], [70, 70, 100, 100]
SCENE = write_scene([SceneImage(SIDE, SIDE, (SceneObject("red", "circle", Box(*CIRCLE)), SceneObject("blue", "square", Box(*SQUARE))))])
QUESTION = "Is the red circle left or right of the blue square?"
OPTIONS = ["left", "right"]

AT_CIRCLE = f"The red circle is in the upper left <bbox>{CIRCLE}</bbox>."
AT_SQUARE = f"The blue square is in the lower right <bbox>{SQUARE}</bbox>."
LEFT, RIGHT = "The red circle is left of the blue square.", "The red circle is right of the blue square."
SO_LEFT, SO_RIGHT = "So the answer is left.", "So the answer is right."
FULL = f"{AT_CIRCLE} {AT_SQUARE} {LEFT} {SO_LEFT}"


def tagged(reasoning: str, answer: str) -> str:
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


@dataclass(frozen=True)
class Case:
    """A response and what it is worth. `consistent`: 1, 0 or None; `grounding`: (correct, judged) sentences; `boxes`: R_G."""

    name: str
    response: str | None
    times: int
    parsed: bool
    correct: bool
    consistent: int | None
    grounding: tuple[int, int]
    boxes: float
    form: bool
    tokens: int
    finish: str = "stop"


CASES = (
    Case("perfect", tagged(FULL, "A"), 8, True, True, 1, (3, 3), 1.0, True, 60),
    Case("contradicts itself", tagged(FULL, "B"), 4, True, False, 0, (3, 3), 1.0, True, 60),
    Case("wrong and consistent", tagged(f"{RIGHT} {SO_RIGHT}", "B"), 3, True, False, 1, (0, 1), 0.0, True, 20),
    # one box, of the other thing: matched to the square with CIoU 1, over max(1, 2) boxes
    Case("right for a false reason", tagged(f"The red circle is in the lower right <bbox>{SQUARE}</bbox>. {LEFT} {SO_LEFT}", "A"), 4, True, True, 1, (1, 2), 0.5, True, 40),
    Case("right by luck", tagged(f"{LEFT} {SO_RIGHT}", "A"), 2, True, True, 0, (1, 1), 0.0, True, 20),
    # without tags: no reasoning, so nothing entails the answer
    Case("phrase", "Answer: A", 2, True, True, 0, (0, 0), 0.0, False, 4),
    Case("boxed", "Hence it must be \\boxed{\\text{left}}", 1, True, True, 0, (0, 0), 0.0, False, 6),
    Case("a word", "left", 1, True, True, 0, (0, 0), 0.0, False, 1),
    Case("a letter among words", "I looked at it.\nThe final answer is (B).", 1, True, False, 0, (0, 0), 0.0, False, 9),
    Case("empty", "", 1, False, False, 0, (0, 0), 0.0, False, 0),
    Case("white space", " \n\t ", 1, False, False, 0, (0, 0), 0.0, False, 1),
    Case("hedges", tagged(f"{LEFT} {SO_LEFT}", "A or B"), 2, False, False, 0, (1, 1), 0.0, True, 25),
    Case("empty answer block", tagged(f"{LEFT} {SO_LEFT}", " "), 1, False, False, 0, (1, 1), 0.0, True, 20),
    Case("cut in its reasoning", f"<think>{AT_CIRCLE} {LEFT} The bl", 2, False, False, 0, (2, 2), 0.5, False, 96, "length"),
    # the last block counts; two blocks are not well-formed
    Case("two answers", f"<think>{LEFT} {SO_LEFT}</think><answer>B</answer><answer>A</answer>", 1, True, True, 1, (1, 1), 0.0, False, 25),
    Case("letter against text", tagged(f"{LEFT} {SO_LEFT}", "B. left"), 1, False, False, 0, (1, 1), 0.0, True, 22),
    Case("letter with text", tagged(f"{LEFT} {SO_LEFT}", "A. left"), 1, True, True, 1, (1, 1), 0.0, True, 22),
    Case("small letter in brackets", tagged(f"{LEFT} {SO_LEFT}", "(a)"), 1, True, True, 1, (1, 1), 0.0, True, 20),
    # the exact judge reads ASCII letters only
    Case("full-width letter", tagged(f"{LEFT} {SO_LEFT}", "\uff21"), 1, True, True, 0, (1, 1), 0.0, True, 20),
    Case("letter beyond the options", tagged(f"{LEFT} {SO_LEFT}", "C"), 1, False, False, 0, (1, 1), 0.0, True, 20),
    Case("text of the option", tagged(f"{LEFT} {SO_LEFT}", "Left."), 1, True, True, 1, (1, 1), 0.0, True, 20),
    Case("nothing to judge", tagged(f"Let me think. {SO_LEFT}", "A"), 1, True, True, 1, (0, 0), 0.0, True, 10),
    Case("only what nobody can check", tagged(f"The red circle looks shiny. {SO_LEFT}", "A"), 1, True, True, 1, (0, 0), 0.0, True, 12),
    Case("answer before thinking", f"<answer>A</answer><think>{LEFT} {SO_LEFT}</think>", 1, True, True, 1, (1, 1), 0.0, False, 20),
    # half a character becomes a question mark, which is punctuation to the rule and not to the exact judge
    Case("half a character", tagged(f"{LEFT} {SO_LEFT}", "A\ud800"), 1, True, True, 0, (1, 1), 0.0, True, 20),
    Case("markup", f"<script>alert(1)</script>{tagged(f'{LEFT} {SO_LEFT}', 'A')}", 1, True, True, 1, (1, 1), 0.0, False, 30),
    Case("repeats for ever", "<think>" + "and so on " * 5000, 1, False, False, 0, (0, 0), 0.0, False, 4096, "length"),
    Case("no prediction", None, 2, False, False, None, (0, 0), 0.0, False, 0),
)  # fmt: skip


def expanded() -> list[tuple[str, Case]]:
    """(uid, case) of all questions, in order."""
    return [(f"q{number:02d}", case) for number, case in enumerate(case for case in CASES for _ in range(case.times))]


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(stream, format="PNG")
    return stream.getvalue()


def row(uid: str) -> dict[str, Any]:
    """A row in verl's format."""
    facts = {
        "split": "test", "uid": uid, "dataset": "scenes", "task_type": "left_right", "question": QUESTION, "options": OPTIONS, "gold_index": 0,
        "gt_boxes": [[float(v) for v in CIRCLE], [float(v) for v in SQUARE]], "box_labels": ["red circle", "blue square"],
        "box_image_idx": [0, 0], "img_wh": [[SIDE, SIDE]], "min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE, "scene_json": SCENE,
    }  # fmt: skip
    return {
        "data_source": "scenes",
        "prompt": [{"role": "user", "content": f"<image>{QUESTION}\nA) left\nB) right"}],
        "images": [{"bytes": picture()}],
        "reward_model": {"style": "rule", "ground_truth": "A"},
        "extra_info": facts,
    }


def write_questions(path: Path) -> Path:
    """The questions as a parquet file in verl's format."""
    pq.write_table(pa.Table.from_pylist([row(uid) for uid, _ in expanded()]), path)
    return path


def write_predictions(path: Path, change: dict[str, str] | None = None) -> Path:
    """The responses in another tool's words (id, output, tokens, finish_reason), with an unknown id, a repeated line and a torn last line."""
    lines = [
        json.dumps({"id": uid, "output": (change or {}).get(uid, case.response), "tokens": case.tokens, "finish_reason": case.finish})
        for uid, case in expanded()
        if case.response is not None
    ]
    lines += [lines[0], json.dumps({"id": "q99", "output": "<answer>A</answer>", "tokens": 3, "finish_reason": "stop"})]
    path.write_text("\n".join(lines) + '\n{"id": "q0', encoding="utf-8")
    return path
