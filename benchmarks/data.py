"""Rows per second and peak memory of data_prep on a metadata set, beside a plain `datasets.map` that does the same.

    python -m benchmarks.data [--rows 100000] [--images 400] [--repeats 2]

The set has the layout of Visual-CoT's metadata files: one JSON line for each question, its image as a file of its own. Every arm turns each
row into the same RL row: it reads the line, opens and decodes the image once (a truncated one must be found), clips and checks the boxes,
writes prompt, image bytes and `extra_info` with verl's columns into one parquet file with row groups of 200. `datasets` does it with
`load_dataset("json").map(...).to_parquet(...)`, with one process and with as many as there are cores; data_prep also counts rejects,
checks uids, hashes its files and writes a manifest. All arms take the same rows, in turns and in an order that alternates, each in a
process of its own; the time includes its start. Peak memory is that of the largest process of an arm (the system's `ru_maxrss`), and of
all its processes together, sampled ten times a second. `beside` divides ours by each peer's: above 1 is faster, below 1 is smaller.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageDraw

from faithful_rl.run_record import code_version, machine, versions

RESULTS = Path(__file__).parent / "results" / "data.json"
WIDTH, HEIGHT = 500, 336
SECONDS_FOR_ONE_ARM = 3600.0
LIMIT_MIB = 1024.0
COMPARED = ("rows_per_second", "rows_per_processor_second", "all_processes_mib")


def make_set(directory: Path, rows: int, images: int) -> None:
    """`metadata/cub_cot_train.jsonl` with `rows` questions over `images` photographs' worth of noise and shapes."""
    root = directory / "cot_image_data" / "cub"
    root.mkdir(parents=True)
    (directory / "metadata").mkdir()
    generator = np.random.default_rng(0)
    for number in range(images):
        small = Image.fromarray(generator.integers(0, 256, (12, 18, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(small)
        for _ in range(12):
            x, y = int(generator.integers(0, WIDTH - 60)), int(generator.integers(0, HEIGHT - 60))
            pen.rectangle((x, y, x + 50, y + 40), fill=tuple(int(value) for value in generator.integers(0, 256, 3)))
        small.save(root / f"{number:05d}.jpg", quality=85)
    with (directory / "metadata" / "cub_cot_train.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            x, y = (number * 37) % 400, (number * 53) % 250
            row = {
                "question": f"What is at place {number}?",
                "answer": "Yes" if number % 2 else "No",
                "image": f"{number % images:05d}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "bboxs": [[x, y, x + 80.0, y + 90.0]],
                "dataset": "cub",
                "split": "train",
            }
            file.write(json.dumps(row) + "\n")


def run_datasets(directory: Path, out: Path, processes: int) -> None:
    """The peer: what a person would write with `datasets`."""
    import datasets

    from data_prep.frames import MAX_PIXELS, MIN_PIXELS
    from data_prep.prompts import SYSTEM_PROMPTS, user_content
    from data_prep.rl_schema import SCHEMA

    root = directory / "cot_image_data" / "cub"

    def convert(row: dict[str, Any], index: int) -> dict[str, Any]:
        data = (root / row["image"]).read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            width, height = picture.size
        boxes = [[max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)] for x1, y1, x2, y2 in row["bboxs"]]
        boxes = [box for box in boxes if box[0] < box[2] and box[1] < box[3]]
        prompt = [{"role": "system", "content": SYSTEM_PROMPTS["think"]}, {"role": "user", "content": user_content(row["question"], (), 1)}]
        extra = {
            "split": "train",
            "index": index,
            "uid": f"viscot-cub-{index}",
            "dataset": "viscot",
            "task_type": "cub",
            "question": row["question"],
            "options": [],
            "gold_index": -1,
            "gt_boxes": boxes,
            "box_labels": [""] * len(boxes),
            "box_image_idx": [0] * len(boxes),
            "img_wh": [[width, height]],
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
            "scene_json": "",
            "meta_json": json.dumps({"image": row["image"], "dataset": "cub", "split": "train"}, sort_keys=True),
        }
        return {
            "data_source": "viscot",
            "prompt": prompt,
            "images": [{"bytes": data, "min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS}],
            "ability": "spatial",
            "reward_model": {"style": "rule", "ground_truth": row["answer"]},
            "extra_info": extra,
        }

    loaded = datasets.load_dataset(
        "json", data_files=str(directory / "metadata" / "cub_cot_train.jsonl"), cache_dir=str(out / "cache"), split="train"
    )
    mapped = loaded.map(
        convert,
        with_indices=True,
        remove_columns=loaded.column_names,
        features=datasets.Features.from_arrow_schema(SCHEMA),
        num_proc=processes if processes > 1 else None,
    )
    mapped.to_parquet(str(out / "train.parquet"), batch_size=200)


def command(arm: str, directory: Path, out: Path) -> list[str]:
    if arm.startswith("data_prep"):
        workers = arm.partition(":")[2] or "0"
        return [sys.executable, "-m", "data_prep", "viscot", f"in={directory / 'metadata'}", f"out={out}", f"workers={workers}"]
    return [sys.executable, "-m", "benchmarks.data", "--peer", arm.partition(":")[2], "--directory", str(directory), "--out", str(out)]


def measure(arm: str, directory: Path, rows: int) -> dict[str, float]:
    """Run one arm in its own process; wall seconds, rows per second, and MiB of memory."""
    out = Path(tempfile.mkdtemp(prefix="out-", dir=directory.parent))
    started = time.perf_counter()
    process = subprocess.Popen(command(arm, directory, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    together = 0
    watched = psutil.Process(process.pid)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.perf_counter() - started > SECONDS_FOR_ONE_ARM:
            process.kill()
            raise TimeoutError(f"{arm} took longer than {SECONDS_FOR_ONE_ARM:.0f} s")
        try:
            members = [watched, *watched.children(recursive=True)]
            together = max(together, sum(_resident(member) for member in members))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{arm} failed: {process.stderr.read().decode()[-2000:] if process.stderr else ''}")
    size = (out / "train.parquet").stat().st_size
    shutil.rmtree(out)
    processor = usage.ru_utime + usage.ru_stime  # with its own children: disturbed by other programs much less than wall time
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / seconds, 1),
        "processor_seconds": round(processor, 2),
        "rows_per_processor_second": round(rows / processor, 1),
        "largest_process_mib": round(usage.ru_maxrss / 1024, 1),
        "all_processes_mib": round(together / 2**20, 1),
        "file_mib": round(size / 2**20, 1),
    }


def _resident(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()  # proportional share: pages that forked processes have in common count once
        return int(getattr(memory, "pss", memory.rss))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}


def benchmark(rows: int, images: int, repeats: int) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    arms = ["data_prep", "datasets:1", *([f"datasets:{cores}"] if cores > 1 else [])]
    work = Path(tempfile.mkdtemp(prefix="benchmark-data-"))
    try:
        make_set(work / "set", rows, images)
        make_set(work / "quarter", rows // 4, images)
        quarter = measure("data_prep", work / "quarter", rows // 4)
        runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
        load = []
        for repeat in range(repeats):
            for arm in arms if repeat % 2 == 0 else reversed(arms):
                load.append(round(os.getloadavg()[0], 2))
                runs[arm].append(measure(arm, work / "set", rows))
                print(arm, runs[arm][-1], flush=True)
    finally:
        shutil.rmtree(work)
    results = {arm: summary(found) for arm, found in runs.items()}
    peak = results["data_prep"]["all_processes_mib"]
    return {
        "settings": {
            "rows": rows,
            "images": images,
            "image": f"{WIDTH} x {HEIGHT} JPEG",
            "repeats": repeats,
            "cores": cores,
        },
        "medians": results,
        "runs": runs,
        "a_quarter_of_the_rows": quarter,
        "peak_mib": peak,
        "peak_below_limit": bool(peak < LIMIT_MIB),
        "peak_growth_from_a_quarter": round(peak / quarter["all_processes_mib"], 3),
        "beside": {
            arm: {key: round(results["data_prep"][key] / found[key], 2) for key in COMPARED}
            for arm, found in results.items()
            if arm != "data_prep"
        },
        "load_before_runs": load,
        "busy_machine": bool(max(load) > 0.5 * cores + 1.0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=2, help="of every arm, at least 2")
    parser.add_argument("--peer", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        run_datasets(arguments.directory, arguments.out, arguments.peer)
        return 0
    if arguments.repeats < 2:
        parser.error("--repeats: at least 2, or one busy moment decides the result")
    measured = benchmark(arguments.rows, arguments.images, arguments.repeats)
    result = {"benchmark": "data", "code_version": code_version(), "versions": versions(), "machine": machine(), **measured}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("medians", "peak_mib", "beside", "busy_machine")}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
