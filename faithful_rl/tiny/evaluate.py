"""Held-out quality of a tiny model with transformers' own generation: what the warm start's manifest reports.

python -m faithful_rl.tiny.evaluate MODEL_DIRECTORY [questions]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoProcessor, PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from data_prep.scenes.dataset import sample_uid, user_text
from data_prep.scenes.questions import LEARNABLE, Sample, draw_sample
from data_prep.scenes.splits import in_split
from data_prep.scenes.world import scene_image
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.judges.scene_language import write_question
from faithful_rl.judges.scene_world import write_scene
from faithful_rl.response import parse
from faithful_rl.rewards.suite import Reference, assemble, columns, rule_scores
from faithful_rl.tiny.batches import PROMPT, image_grid, pixel_values

MAX_NEW_TOKENS = 96


def held_out(count: int, seed: int, split: str = "val") -> list[Sample]:
    """`count` different questions of a split, the learnable families in turn."""
    rng = Random(f"held out/{split}/{seed}")
    samples: dict[str, Sample] = {}
    while len(samples) < count:
        sample = draw_sample(rng, LEARNABLE[len(samples) % len(LEARNABLE)])
        if in_split(sample.scenes, split):
            samples.setdefault(sample_uid(sample), sample)
    return list(samples.values())


@torch.no_grad()
def respond(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    greedy: bool,
    seed: int = 0,
    batch_size: int = 128,
) -> list[str]:
    """One response a sample, sampled at temperature 1 or greedy; draws from torch's global RNG, seeded here."""
    torch.manual_seed(seed)
    responses: list[str] = []
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        texts = [PROMPT.format(text=user_text(write_question(sample.question), sample.options)) for sample in part]
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        ids = inputs["input_ids"]
        output = model.generate(
            input_ids=ids,
            attention_mask=inputs["attention_mask"],
            pixel_values=pixel_values([sample.scenes[0] for sample in part]),
            image_grid_thw=image_grid(len(part)),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=not greedy,
        )
        responses += tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return responses


def score(sample: Sample, response: str) -> dict[str, float]:
    """The reward columns of one response, judged exactly."""
    parsed = parse(response)
    boxes = tuple(shape.box for shape in sample.relevant)
    reference = Reference(sample.letter, sample.options, sample.gold_index, boxes)
    request = JudgeRequest(
        uid=sample_uid(sample),
        question=write_question(sample.question),
        options=sample.options,
        reasoning=parsed.reasoning,
        answer=parsed.answer or "",
        scene_json=write_scene(scene_image(scene) for scene in sample.scenes),
        dataset="scenes",
    )
    judge = SceneJudge()
    return columns(assemble(parsed, reference, rule_scores(parsed, reference), judge.consistency(request), judge.grounding(request)))


def summarise(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the rows, each signal over its scored rows; rates in [0, 1]."""

    def mean(name: str, among: Sequence[Mapping[str, float]]) -> float:
        scored = [row[name] for row in among if row.get(f"{name}_scored", 1.0)]
        return round(sum(scored) / len(scored), 4) if scored else float("nan")

    consistent = [row for row in rows if row["consistency"]]
    return {
        "accuracy": mean("accuracy", rows),
        "inconsistency_rate": round(1 - mean("consistency", rows), 4),
        "semantic_grounding": mean("semantic_grounding", rows),
        "spatial_grounding": mean("spatial_grounding", rows),
        "format": mean("format", rows),
        "sentence_count": mean("sentence_count", rows),
        "accuracy_if_consistent": mean("accuracy", consistent),
        "accuracy_if_inconsistent": mean("accuracy", [row for row in rows if not row["consistency"]]),
    }


def evaluate(directory: Path | str, questions: int = 400, seed: int = 0, split: str = "val") -> dict[str, Any]:
    """Summaries of a saved model by decoding: `{"T=1": {...}, "greedy": {...}}`; greedy also by question family."""
    processor = AutoProcessor.from_pretrained(directory)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    samples = held_out(questions, seed, split)
    result: dict[str, Any] = {}
    for name, greedy in (("T=1", False), ("greedy", True)):
        rows = [score(sample, text) for sample, text in zip(samples, respond(model, processor.tokenizer, samples, greedy), strict=True)]
        result[name] = summarise(rows)
    by_family = {family: [row for row, sample in zip(rows, samples, strict=True) if sample.question.kind == family] for family in LEARNABLE}
    result["greedy accuracy by family"] = {family: summarise(part)["accuracy"] for family, part in by_family.items() if part}
    return result


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv[1:]))
    sys.stdout.write(json.dumps(evaluate(arguments[0], int(arguments.get(1, "400"))), indent=2) + "\n")
