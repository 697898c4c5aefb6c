"""An evaluation directory as `python -m faithful_rl.evaluate` leaves it, with invented answers: every rate is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import picture, put_lines

from faithful_rl.run_directory import write_json

QUESTIONS = 80


def put_evaluation(
    path: Path, model: str, right: float, contradicting: float, benchmarks: tuple[str, ...] = ("scenes", "mmvp"), missing: int = 0
) -> Path:
    """Write a whole evaluation and return its directory; the last `missing` questions of each benchmark were not answered."""
    rows_of = pytest.importorskip("faithful_rl.evaluation.rows")
    figures = pytest.importorskip("faithful_rl.evaluation.figures")
    entries = {}
    for benchmark in benchmarks:
        rows = [
            {**row(benchmark, number, right, contradicting, number < QUESTIONS - missing), "response": f"{path.name} says {number}"}
            for number in range(QUESTIONS)
        ]
        rows_of.write_rows(path, benchmark, rows)
        answered = [one for one in rows if one["generated"]]
        entries[benchmark] = {
            "questions": QUESTIONS, "pinned": None, "generated": len(answered), "scored": len(answered), "coverage": len(answered) / QUESTIONS,
            "metrics": figures.metrics(answered), "cells": figures.cells(answered), "by_task_type": {}, "conventions": {},
            "notes": ["its images are small"] if benchmark == "mmvp" else [],
        }  # fmt: skip
    write_json(path / "evaluation.json", {"format": 1, "model": f"models/{model}", "mode": "reasoning", "decoding": {}, "versions": {}, "benchmarks": entries, "paired": []})  # fmt: skip
    return path


def put_responses(path: Path, benchmark: str, response: str, question: str) -> None:
    """Write the viewer's lines of one benchmark: every question with the same words and one image."""
    viewing = pytest.importorskip("faithful_rl.evaluation.viewing")
    columns = {f"{name}_scored": 1.0 for name in ("accuracy", "format", "consistency", "semantic_grounding")}
    columns |= {"accuracy": 1.0, "format": 1.0, "consistency": 0.0, "semantic_grounding": 0.5}
    image, boxes, _ = picture(0)
    lines = [
        {"uid": f"{benchmark}-{number}", "group": f"{benchmark}-{number // 2}", "step": 0, "split": "benchmark", "benchmark": benchmark, "question": question,
         "options": ["a", "b"], "ground_truth": "A", "response": response, "answer": "A", "image_base64": image, "image_wh": [112, 112],
         "image_resized_wh": [112, 112], "boxes_predicted": boxes, "boxes_reference": boxes, "sentences": [], "columns": columns, "advantage": None}
        for number in range(QUESTIONS)
    ]  # fmt: skip
    put_lines(viewing.rollouts_file(path, benchmark), lines)


def row(benchmark: str, number: int, right: float, contradicting: float, answered: bool) -> dict[str, Any]:
    """One question; `right` of the questions are answered right, and `contradicting` of them against their own reasoning."""
    correct = number / QUESTIONS < right
    consistent = (number * 37 % QUESTIONS) / QUESTIONS >= contradicting
    sentences = [{"text": "It is red.", "start": 0, "end": 10, "verdict": "CORRECT" if consistent else "INCORRECT", "why": ""}]
    found: dict[str, Any] = {
        "uid": f"{benchmark}-{number}", "benchmark": benchmark, "task_type": "colour", "group": f"{benchmark}-{number}", "stratum": "", "question": f"Q{number}",
        "options": ["a", "b"], "gold": "A", "gold_index": 0, "generated": answered, "failure": "" if answered else "timeout", "response": "text",
        "answer": "A", "choice": 0, "place": "tag", "parsed": True, "correct": correct, "rule_correct": correct, "llm_correct": None, "format": True,
        "truncated": False, "response_tokens": 50, "sentence_count": 1, "correct_sentence_count": int(consistent), "judged_sentence_count": 1,
        "sentences": json.dumps(sentences), "boxes": "{}",
    }  # fmt: skip
    for signal, value in (("consistent", float(consistent)), ("semantic_grounding", float(consistent)), ("spatial_grounding", None)):
        found |= {
            signal: value,
            f"{signal}_scored": value is not None,
            f"{signal}_reason": "scored" if value is not None else "no_reference",
        }
    return found
