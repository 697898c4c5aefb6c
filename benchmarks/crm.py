"""Pairs per second of the small consistency model, and how well it agrees with the exact judge on scenes it has not seen.

    python -m benchmarks.crm [--model models/crm_tiny] [--pairs 2000] [--repeats 5] [--threads 2]

Speed: texts in, probabilities out, tokenising included, once by whole batches (`CrossEncoder.probabilities`) and once through the
judge's backend, where every pair is a question of its own that waits for company. Agreement: pairs of the test split from seeds and
wordings that training did not draw. Medians count; processor time is recorded beside wall time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faithful_rl.crm import training
from faithful_rl.crm.backend import ClassifierBackend
from faithful_rl.crm.files import check
from faithful_rl.crm.model import load
from faithful_rl.crm.scene_pairs import scene_pairs
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.run_record import code_version, machine, versions

RESULTS = Path(__file__).parent / "results" / "crm.json"
TARGET_PAIRS_PER_SECOND = 200.0
TARGET_KAPPA = 0.9
SEED = 7001  # no training run draws from it
BATCH = 64


def times(call: Callable[[], object], repeats: int, pairs: int) -> dict[str, float]:
    """Seconds and pairs per second of some calls."""
    wall, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    median = statistics.median(wall)
    return {
        "pairs_per_second": pairs / median,
        "wall_median": median,
        "wall_min": min(wall),
        "wall_max": max(wall),
        "processor_median": statistics.median(processor),
        "runs": repeats,
    }


async def served(backend: ClassifierBackend, requests: list[JudgeRequest]) -> None:
    await asyncio.gather(*(backend.consistency(one, 600.0) for one in requests))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="models/crm_tiny")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    files = check(arguments.model, "--model")
    encoder = load(files, "cpu", arguments.threads)
    pairs = list(scene_pairs(arguments.pairs, SEED, "test"))
    texts = [(pair.question, pair.thinking, pair.answer) for pair in pairs]

    def batched() -> None:
        for start in range(0, len(texts), BATCH):
            encoder.probabilities(texts[start : start + BATCH], files.temperature, files.max_length)

    batched()  # the first call of an operator is slower
    alone = times(batched, arguments.repeats, len(texts))
    requests = [JudgeRequest(pair.uid, pair.question, (), pair.thinking or "-", pair.answer or "-") for pair in pairs]
    through_backend = asyncio.run(_through_backend(arguments, requests))
    quality = training.evaluate(encoder, pairs, files.max_length, files.temperature, files.threshold)
    result = report(arguments, files.manifest, alone, through_backend, quality)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    kappa = quality["kappa"]
    print(
        f"{arguments.model}: {alone['pairs_per_second']:.0f} pairs/s by batches, {through_backend['pairs_per_second']:.0f} through the "
        f"backend, {arguments.threads} threads; kappa {kappa[0]:.3f} [{kappa[1]:.3f}, {kappa[2]:.3f}] against the scenes; "
        f"written to {RESULTS}"
    )
    if alone["pairs_per_second"] < TARGET_PAIRS_PER_SECOND or kappa[0] < TARGET_KAPPA:
        raise SystemExit(f"missed: expected at least {TARGET_PAIRS_PER_SECOND:.0f} pairs/s and a kappa of at least {TARGET_KAPPA}")


async def _through_backend(arguments: argparse.Namespace, requests: list[JudgeRequest]) -> dict[str, float]:
    backend = ClassifierBackend({"model": arguments.model, "threads": arguments.threads, "device": "cpu"})
    await backend.start()
    try:
        wall = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            await served(backend, requests)
            wall.append(time.perf_counter() - start)
    finally:
        await backend.close()
    median = statistics.median(wall)
    return {"pairs_per_second": len(requests) / median, "wall_median": median, "wall_min": min(wall), "runs": len(wall)}


def report(
    arguments: argparse.Namespace,
    manifest: dict[str, Any],
    alone: dict[str, float],
    through_backend: dict[str, float],
    quality: dict[str, Any],
) -> dict[str, Any]:
    return {
        "what": "the small consistency model: speed on a CPU, agreement with the exact judge on held-out scenes",
        "model": arguments.model,
        "model_seed": manifest.get("seed"),
        "weights_sha256": manifest.get("weights_sha256"),
        "pairs": arguments.pairs,
        "pairs_seed": SEED,
        "batches": alone,
        "backend": through_backend,
        "quality": quality,
        "target": {"pairs_per_second_at_least": TARGET_PAIRS_PER_SECOND, "kappa_at_least": TARGET_KAPPA},
        "machine": {**machine(), "threads": arguments.threads, "load_average_1min": os.getloadavg()[0]},
        "code_version": code_version(),
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
