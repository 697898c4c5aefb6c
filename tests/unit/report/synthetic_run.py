"""A run directory as a training run leaves it, with invented numbers: every rate is chosen, so that tests know what must come out."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from faithful_rl.run_directory import write_json

CONSTRAINTS = {"consistency": 0.95, "semantic_grounding": 0.95, "spatial_grounding": 0.65}
SIGNALS = ("task", "accuracy", "format", *CONSTRAINTS)
COLOURS = {"red": "#d64545", "green": "#3f9d5a", "blue": "#3c6fd1", "yellow": "#e0b93b"}


@dataclass(frozen=True)
class Rates:
    """Share of right answers, of contradictory traces, of true sentences, and how well boxes sit."""

    accuracy: float
    inconsistency: float
    grounding: float
    boxes: float


START = {"T1": Rates(0.58, 0.33, 0.63, 0.58), "greedy": Rates(0.85, 0.02, 0.91, 0.91)}
END = {
    "fgrpo_tiny": {"T1": Rates(0.79, 0.05, 0.88, 0.88), "greedy": Rates(0.86, 0.01, 0.92, 0.92)},
    "fgrpo_fixed_tiny": {"T1": Rates(0.78, 0.06, 0.87, 0.88), "greedy": Rates(0.85, 0.02, 0.92, 0.91)},
    "grpo_tiny": {"T1": Rates(0.78, 0.25, 0.77, 0.83), "greedy": Rates(0.85, 0.19, 0.89, 0.90)},
}


def picture(seed: int) -> tuple[str, list[list[int]], list[str]]:
    """(PNG in base64, two boxes in pixels, their names) of a 112 x 112 scene."""
    draw_from = np.random.default_rng(seed)
    image = Image.new("RGB", (112, 112))
    canvas = ImageDraw.Draw(image)
    for x in range(112):
        canvas.line([(x, 0), (x, 111)], fill=(150 + x // 2, 190, 235 - x // 2))
    boxes, names = [], []
    cells = draw_from.choice(16, size=2, replace=False)
    colours = draw_from.choice(list(COLOURS), size=2, replace=False)
    for cell, colour, shape in zip(cells, colours, ("circle", "square"), strict=True):
        x, y = 28 * int(cell % 4) + 4, 28 * int(cell // 4) + 4
        box = [x, y, x + 20, y + 20]
        (canvas.ellipse if shape == "circle" else canvas.rectangle)(box, fill=COLOURS[str(colour)])
        boxes.append(box)
        names.append(f"{colour} {shape}")
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii"), boxes, names


def columns(rates: Rates, position: int, questions: int, draw_from: np.random.Generator) -> dict[str, float]:
    """Reward columns of one question; rates hold exactly over `questions` because positions, not chance, decide."""
    place = (position * 37 % questions) / questions  # a permutation, so that the signals do not all fail on the same questions
    right = float(position / questions < rates.accuracy)
    consistent = float(place >= rates.inconsistency)
    true = int(draw_from.binomial(2, rates.grounding))
    row = dict.fromkeys((f"{name}_reason" for name in SIGNALS), 0.0)
    row |= dict.fromkeys((f"{name}_scored" for name in SIGNALS), 1.0)
    row |= {"task": 0.5 * right + 0.5, "accuracy": right, "format": 1.0, "consistency": consistent, "semantic_grounding": true / 2}
    row |= {"spatial_grounding": rates.boxes, "has_reference_boxes": 1.0, "sentence_count": 3.0, "judged_sentence_count": 2.0}
    return row | {"correct_sentence_count": float(true), "predicted_box_count": 2.0, "reference_box_count": 2.0, "invalid_box_count": 0.0}


def rollout(uid: str, step: int, position: int, row: dict[str, float], split: str, decoding: str | None) -> dict[str, Any]:
    """One line of a rollout file whose text agrees with its columns."""
    image, boxes, names = picture(position)
    off = 2 if row["semantic_grounding"] == 1 else 9
    predicted = [[box[0] + off, box[1], box[2] + off, box[3] - 1] for box in boxes]
    places = [f"The {name} is here <bbox>{box}</bbox>.".replace(" [", "[") for name, box in zip(names, predicted, strict=True)]
    texts = [*places, f"The {names[0]} is left of the {names[1]}."]
    verdicts = ["CORRECT", "CORRECT" if row["semantic_grounding"] == 1 else "INCORRECT", "SKIP" if position % 5 == 0 else "CORRECT"]
    answer = "A" if row["accuracy"] else "B"
    concluded = {"A": "left", "B": "right"}[answer if row["consistency"] else {"A": "B", "B": "A"}[answer]]
    reasoning = " ".join([*texts, f"So the answer is {concluded}."])
    sentences, cursor = [], 0
    for text, verdict in zip(texts, verdicts, strict=True):
        start = reasoning.index(text, cursor)
        cursor = start + len(text)
        why = {"CORRECT": "true of the scene", "INCORRECT": "the box does not hold the named shape", "SKIP": "nothing to check"}[verdict]
        sentences.append({"text": text, "start": start, "end": cursor, "verdict": verdict, "why": why})
    group = uid if split == "heldout" else f"group-{position // 5}"
    return {
        "uid": uid, "group": group, "step": step, "split": split, "decoding": decoding, "options": ["left", "right"], "ground_truth": "A",
        "question": f"Is the {names[0]} left or right of the {names[1]}?", "image_png_base64": image, "image_wh": [112, 112],
        "response": f"<think>{reasoning}</think><answer>{answer}</answer>", "boxes_predicted": predicted, "boxes_reference": boxes,
        "sentences": sentences, "columns": row, "consistency_why": f"the conclusion says {concluded}, the answer is {answer}",
        "advantage": None if split == "heldout" else row["task"] - 0.8,
        "advantages_by_signal": {} if split == "heldout" else {"task": row["task"] - 0.8, "consistency": 2 * row["consistency"] - 1.6},
    }  # fmt: skip


def metrics(steps: int, recipe: str, seed: int) -> Iterator[dict[str, float]]:
    """Lines of metrics.jsonl: scores rise, multipliers follow Eq. 4 with step size 0.05."""
    draw_from = np.random.default_rng(seed)
    multipliers = dict.fromkeys(CONSTRAINTS, 1.0)
    end = END[recipe]["T1"]
    for step in range(1, steps + 1):
        done = 1 - np.exp(-4 * step / steps)
        first = START["T1"]
        mix = {name: getattr(first, name) * (1 - done) + getattr(end, name) * done for name in Rates.__dataclass_fields__}
        noise = draw_from.normal(0, 0.02, 4)
        scores = {"consistency": 1 - mix["inconsistency"], "semantic_grounding": mix["grounding"], "spatial_grounding": mix["boxes"]}
        row: dict[str, float] = {"step": step, "time_s": 6.5 * step, "train/accuracy": mix["accuracy"] + noise[0]}
        row |= {"train/inconsistency_rate": mix["inconsistency"] + noise[1] / 2, "train/sentence_count": 3 + 0.1 * done}
        row |= {"train/response_tokens": 52 + 3 * noise[2] / 0.02, "timing_s/step": 6.5, "timing_s/gen": 1.9, "timing_s/update_actor": 3.6}
        row |= {"timing_s/old_log_prob": 0.4, "timing_s/ref": 0.3, "timing_s/update_weights": 0.2, "timing_s/adv": 0.01}
        for name, score in scores.items():
            row[f"train/{name}"] = score
            if recipe == "grpo_tiny":
                continue
            threshold = CONSTRAINTS[name]
            after = float(np.clip(multipliers[name] + 0.05 * (threshold - score), 0, 5)) if recipe == "fgrpo_tiny" else 1.0
            row |= {f"constraint/{name}/score": score, f"constraint/{name}/threshold": threshold}
            row |= {f"constraint/{name}/violation": threshold - score, f"constraint/{name}/multiplier": multipliers[name]}
            row |= {f"constraint/{name}/multiplier_next": after, f"constraint/{name}/coverage": 1.0, f"constraint/{name}/applicable": 90}
            row |= {f"constraint/{name}/frozen": float(step in (7, 8)), f"constraint/{name}/saturated": 0.0}
            multipliers[name] = after
        yield {name: float(value) for name, value in row.items()}


def put_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def put_run(path: Path, recipe: str = "fgrpo_tiny", seed: int = 0, questions: int = 200, steps: int = 60) -> Path:
    """Write a whole run directory and return it."""
    draw_from = np.random.default_rng(seed)
    write_json(
        path / "run.json",
        {
            "recipe": recipe, "method": "grpo" if recipe == "grpo_tiny" else "fgrpo", "seed": seed, "status": "finished", "resumed": [],
            "command": ["python", "-m", "faithful_rl.main", f"recipe={recipe}", f"faithful_rl.seed={seed}"], "code_version": "0.1.0 (abc)",
            "versions": {"python": "3.11", "verl": "0.9.1", "vllm": "0.28.0"}, "machine": {"system": "Linux x86_64", "cpus": 2},
            "started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T10:08:20+00:00",
        },
    )  # fmt: skip
    put_lines(path / "metrics.jsonl", list(metrics(steps, recipe, seed)))
    summary: dict[str, Any] = {}
    for moment, step, rates in (("before", 0, START), ("after", steps, END[recipe])):
        summary[moment] = {"step": step}
        viewer = []
        for decoding in ("T1", "greedy"):
            rows = [columns(rates[decoding], (index + 3 * seed) % questions, questions, draw_from) for index in range(questions)]
            lines = [
                {"uid": f"q{index:04d}", "task_type": "left_right", "response": "text", "response_tokens": 50, **row}
                for index, row in enumerate(rows)
            ]
            put_lines(path / "heldout" / f"{moment}_{decoding}.jsonl", lines)
            summary[moment][decoding] = {"questions": float(questions), "accuracy": float(np.mean([row["accuracy"] for row in rows]))}
            viewer += [rollout(f"q{index:04d}", step, index, rows[index], "heldout", decoding) for index in range(0, questions, 9)]
        put_lines(path / "rollouts" / f"step_{step:06d}_heldout.jsonl", viewer)
    rows = [columns(END[recipe]["T1"], 11 * index % 40, 40, draw_from) for index in range(20)]
    training = [rollout(f"t{index}", steps, index // 5, row, "train", None) for index, row in enumerate(rows)]
    for index, line in enumerate(training):
        line["group"] = f"group-{index // 5}"
    put_lines(path / "rollouts" / f"step_{steps:06d}.jsonl", training)
    write_json(path / "heldout" / "summary.json", summary)
    return path
