"""Time and memory to build a report of a long run, and the page of its viewer with every rollout.

    python -m benchmarks.report [--steps 100] [--rollouts 640] [--group-size 5] [--repeats 3] [--out benchmarks/results/report.json]

Writes a run directory with invented numbers and real-looking rollouts (a picture per prompt, three judged sentences, boxes, advantages)
into a temporary folder, then builds each page in a process of its own and takes its wall time, processor time and largest memory
(`ru_maxrss`), imports included. `report` is `python -m faithful_rl.report run=DIR out=FILE`, with up to 10,000 rollouts in its viewer;
`viewer` is `python -m faithful_rl.report view run=DIR out=FILE`, with all of them. Medians over the repeats count.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from faithful_rl.report.viewer import REPORT_LIMIT
from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.run_directory import CONFIG, METRICS, RUN, heldout_file, rollout_file, write_json
from faithful_rl.run_record import code_version, machine, versions

RESULTS = Path(__file__).parent / "results" / "report.json"
CONSTRAINTS = {"consistency": 0.95, "semantic_grounding": 0.95, "spatial_grounding": 0.65}
HELDOUT = 600  # questions, as in the tiny recipes
COLOURS = ("red", "green", "blue", "orange")


def picture(generator: np.random.Generator) -> tuple[str, list[list[int]], tuple[str, ...]]:
    """(PNG in base64, boxes, names) of a scene with two squares."""
    image = Image.new("RGB", (112, 112), (200, 210, 225))
    canvas, boxes, names = ImageDraw.Draw(image), [], []
    for corner in generator.choice(16, 2, replace=False):
        x, y, colour = 28 * int(corner % 4) + 2, 28 * int(corner // 4) + 2, COLOURS[int(generator.integers(4))]
        boxes.append([x, y, x + 22, y + 22])
        names.append(colour)
        canvas.rectangle(boxes[-1], fill=colour)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii"), boxes, tuple(names)


def columns(generator: np.random.Generator) -> dict[str, float]:
    """Reward columns of one rollout; every signal is scored."""
    row = dict.fromkeys(COLUMNS, 0.0) | {name: 1.0 for name in COLUMNS if name.endswith("_scored")}
    right, consistent, true = float(generator.random() < 0.8), float(generator.random() < 0.9), int(generator.integers(0, 4))
    row |= {"task": (1 + right) / 2, "accuracy": right, "format": 1.0, "consistency": consistent, "semantic_grounding": true / 3}
    row |= {"spatial_grounding": float(generator.random()), "has_reference_boxes": 1.0, "sentence_count": 3.0}
    return row | {
        "correct_sentence_count": float(true),
        "judged_sentence_count": 3.0,
        "predicted_box_count": 2.0,
        "reference_box_count": 2.0,
    }


def rollout(step: int, prompt: int, scene: tuple[str, list[list[int]], tuple[str, ...]], generator: np.random.Generator) -> dict[str, Any]:
    """One line of a rollout file."""
    image, boxes, names = scene
    row = columns(generator)
    moved = [[value + int(generator.integers(-4, 5)) for value in box] for box in boxes]
    texts = [f"The {name} square is here <bbox>{json.dumps(box)}</bbox>." for name, box in zip(names, moved, strict=True)]
    texts.append(f"The {names[0]} square is left of the {names[1]} square.")
    sentences, cursor = [], 0
    for number, text in enumerate(texts):
        verdict = "CORRECT" if number < row["correct_sentence_count"] else "INCORRECT"
        sentences.append({"text": text, "start": cursor, "end": cursor + len(text), "verdict": verdict, "why": ""})
        cursor += len(text) + 1
    response = f"<think>{' '.join(texts)} So the answer is left.</think><answer>{'A' if row['accuracy'] else 'B'}</answer>"
    advantages = {name: float(value) for name, value in zip(("task", *CONSTRAINTS), generator.normal(size=4), strict=True)}
    return {
        "uid": f"{step}-{prompt}", "group": f"{prompt:012d}", "step": step, "split": "train", "decoding": None, "task_type": "left_right",
        "question": f"Is the {names[0]} square left or right of the {names[1]} square?", "options": ["left", "right"], "ground_truth": "A",
        "response": response, "image_png_base64": image, "image_wh": [112, 112], "image_resized_wh": [112, 112], "boxes_predicted": moved,
        "boxes_reference": boxes, "boxes_reference_image": [], "sentences": sentences, "columns": row,
        "advantage": sum(advantages.values()), "advantages_by_signal": advantages,
    }  # fmt: skip


def put_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def put_run(run_dir: Path, steps: int, rollouts: int, group_size: int) -> Path:
    """Write the whole run and return its directory."""
    generator = np.random.default_rng(0)
    write_json(run_dir / RUN, {"recipe": "fgrpo_tiny", "method": "fgrpo", "seed": 0, "status": "finished", "resumed": [],
                               "command": ["invented"], "code_version": code_version(),
                               "versions": versions(), "machine": machine(),
                               "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00"})  # fmt: skip
    (run_dir / CONFIG).write_text("faithful_rl: {hardware: {world: cpu}}\n", encoding="utf-8")
    rows = []
    for step in range(1, steps + 1):
        lines = []
        for prompt in range(rollouts // group_size):
            scene = picture(generator)
            lines += [rollout(step, prompt, scene, generator) for _ in range(group_size)]
        put_lines(rollout_file(run_dir, step), lines)
        row: dict[str, Any] = {"step": step, "time_s": 10.0 * step, "train/accuracy": 0.8, "train/inconsistency_rate": 0.2 / step}
        row |= {f"extra/{number}": 1.0 for number in range(80)}  # as many as verl logs
        for name, threshold in CONSTRAINTS.items():
            fields = {"score": 0.9, "threshold": threshold, "violation": threshold - 0.9, "multiplier": 1 + step / 100, "coverage": 1.0}
            row |= {f"constraint/{name}/{field}": value for field, value in fields.items()}
        rows.append(row)
    put_lines(run_dir / METRICS, rows)
    for moment in ("before", "after"):
        for decoding in ("T1", "greedy"):
            held = [{"uid": f"q{number}", "response_tokens": 60, **columns(generator)} for number in range(HELDOUT)]
            put_lines(heldout_file(run_dir, moment, decoding), held)
    return run_dir


def measure(arguments: Sequence[str]) -> dict[str, float]:
    """Run `python -m faithful_rl.report ...` in a process of its own: seconds and MiB."""
    began = time.perf_counter()
    child = os.posix_spawn(sys.executable, [sys.executable, "-m", "faithful_rl.report", *arguments], dict(os.environ))
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the report ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "wall_seconds": time.perf_counter() - began,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,  # Linux gives KiB
    }


def summary(runs: Sequence[dict[str, float]], page: Path) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]} | {
        "page_mib": round(page.stat().st_size / 2**20, 3),
        "runs": len(runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rollouts", type=int, default=640, help="of each step")
    parser.add_argument("--group-size", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = put_run(Path(folder) / "run", arguments.steps, arguments.rollouts, arguments.group_size)
        on_disk = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
        pages = {"report": ("report.html", ()), "viewer": ("viewer.html", ("view",))}
        found = {}
        for name, (file, words) in pages.items():
            page = Path(folder) / file
            found[name] = summary([measure([*words, f"run={run_dir}", f"out={page}"]) for _ in range(arguments.repeats)], page)
    result = {
        "what": "time and memory to build the report of a run, and its viewer with every rollout, each in a process of its own",
        "steps": arguments.steps,
        "rollouts_of_a_step": arguments.rollouts,
        "rollouts": arguments.steps * arguments.rollouts,
        "rollouts_in_report": min(REPORT_LIMIT, arguments.steps * arguments.rollouts),
        "run_on_disk_mib": round(on_disk / 2**20, 1),
        **found,
        "peak_includes": "Python, matplotlib and scipy; ru_maxrss of the process",
        "machine": {**machine(), "load_average_1min_at_start": load},
        "idle": load < 0.5 * len(os.sched_getaffinity(0)),
        "code_version": code_version(),
        "versions": versions(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for name in pages:
        one = found[name]
        seconds = f"{one['wall_seconds']:.1f} s wall, {one['processor_seconds']:.1f} s processor"
        print(f"{name}: {seconds}, {one['peak_mib']:.0f} MiB, page {one['page_mib']:.1f} MiB")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
