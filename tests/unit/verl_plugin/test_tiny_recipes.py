"""Every tiny RL recipe by its own configuration, from a response's text to report and checkpoint, without servers and weights."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("verl")
from data_prep.puzzles.dataset import PuzzleDataSettings, puzzle_records
from data_prep.scenes.dataset import SceneDataSettings, scene_rows
from faithful_rl import main, report, run_record
from faithful_rl.advantage import AdvantageSettings
from faithful_rl.compose import list_recipes
from faithful_rl.constraints import ConstrainedProblem
from faithful_rl.metrics import METRICS, MetricsWriter
from faithful_rl.rewards import designs
from faithful_rl.rewards.suite import columns
from faithful_rl.run_directory import write_json
from faithful_rl.verl_plugin import checkpoint, rollout_dump
from faithful_rl.verl_plugin.constrained_step import StepResult, constrained_step
from faithful_rl.verl_plugin.heldout import summarise
from faithful_rl.verl_plugin.reward_columns import RewardBatch, read_batch
from faithful_rl.verl_plugin.reward_manager import ExactJudge, RolloutScorer, details_json
from faithful_rl.verl_plugin.run_control import settings_of

RECIPES = [info.name for info in list_recipes() if info.name.endswith("_tiny") and not info.name.startswith(("sft", "crm"))]
PROMPTS, GROUP, STEPS = 4, 5, 3


def questions(source: str) -> list[dict[str, Any]]:
    """A few rows of the recipe's data, as verl hands them to the reward."""
    if source == "scenes":
        return list(scene_rows(SceneDataSettings(train=PROMPTS), "train"))
    settings = PuzzleDataSettings(train=PROMPTS, side=112, prompt="none")
    return [
        {
            "reward_model": {"ground_truth": record.gold_text},
            "extra_info": {"uid": record.uid, "question": record.question, "options": record.options, "gold_index": record.gold_index},
        }
        for record in puzzle_records(settings, "train")
    ]


def responses(row: dict[str, Any]) -> Iterator[str]:
    """Right and consistent with boxes, right against its own reasoning, wrong, right without thinking, and noise."""
    extra = row["extra_info"]
    options, gold = list(extra["options"]), int(extra["gold_index"])
    letters = "ABCD"
    other = (gold + 1) % len(options)
    boxes = " ".join(f"<bbox>{[int(side) for side in box]}</bbox>" for box in extra.get("gt_boxes") or [])
    yield f"<think>The things are here {boxes}. So the answer is {options[gold]}.</think><answer>{letters[gold]}</answer>"
    yield f"<think>So the answer is {options[other]}.</think><answer>{letters[gold]}</answer>"
    yield f"<think>So the answer is {options[other]}.</think><answer>{letters[other]}</answer>"
    yield f"<answer>{letters[gold]}</answer>"
    yield "noise <think> noise"


def scored(typed: Any) -> tuple[RewardBatch, list[dict[str, Any]]]:
    """The batch that the trainer would read, and lines for the viewer."""
    scorer = RolloutScorer(
        ExactJudge("consistency"), ExactJudge("grounding"), typed.judges.ask_masked, design=designs.get(typed.rewards.design)
    )
    keys, tags, extra, lines = [], [], [], []
    for prompt, row in enumerate(questions(typed.data.source)):
        for number, text in enumerate(itertools.islice(responses(row), GROUP)):
            parsed, rollout = asyncio.run(scorer.score(text, row["reward_model"], row["extra_info"], heldout=False))
            keys.append(f"{prompt:012d}_{number}_0")
            tags.append({"response_len": len(text)})
            extra.append({"reward_extra_info": columns(rollout)})
            fields = {"extra_info": row["extra_info"], "reward_model": row["reward_model"], "raw_prompt": []}
            lines.append(
                rollout_dump.record(
                    step=1, split="train", decoding=None, group=str(prompt), response=text, fields=fields, columns=columns(rollout),
                    judged_json=details_json(parsed, rollout),
                )
            )  # fmt: skip
    return read_batch(keys, tags, extra), lines


# `constraint/<k>/score` and the like, as patterns.
DOCUMENTED = re.compile("|".join(re.sub(r"<[^>]+>", "[a-z_]+", metric.name) for metric in METRICS))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_of_each_tiny_recipe_gives_advantages_metrics_a_report_and_a_checkpoint(recipe: str, tmp_path: Path) -> None:
    job = main.prepare([f"recipe={recipe}"])
    typed, config = job.typed, job.composed
    batch, lines = scored(typed)
    settings = AdvantageSettings.from_settings(settings_of(config.faithful_rl.advantage))

    def problem() -> ConstrainedProblem:
        return ConstrainedProblem.from_settings(
            settings_of(config.faithful_rl.constraints), typed.coverage_floor, typed.constraint_patience
        )

    def steps(own: ConstrainedProblem, numbers: range) -> list[StepResult]:
        return [constrained_step(batch, own, settings, number) for number in numbers]

    straight = steps(problem(), range(1, 2 * STEPS + 1))
    for result in straight:
        assert result.rejected == ""
        assert np.isfinite(result.advantages).all()
        assert all(math.isfinite(value) and DOCUMENTED.fullmatch(name) for name, value in result.metrics.items())
    groups = straight[-1].advantages.reshape(PROMPTS, GROUP)
    assert (groups[:, 0] > groups[:, 4] + 1e-3).all()  # right, consistent and well-formed against noise, whatever the method

    before = problem()
    steps(before, range(1, STEPS + 1))
    folder = tmp_path / "checkpoints" / f"global_step_{STEPS}"
    checkpoint.write_state(
        folder, {"problem": before.state_dict(), "identity": checkpoint.identity(typed, checkpoint.training_facts(config))}
    )
    checkpoint.mark_complete(folder, STEPS)
    after = problem()
    after.load_state_dict(checkpoint.read_usable(folder, checkpoint.identity(typed, checkpoint.training_facts(config)))["problem"])
    resumed = steps(after, range(STEPS + 1, 2 * STEPS + 1))
    assert all(np.array_equal(one.advantages, other.advantages) for one, other in zip(resumed, straight[STEPS:], strict=True))
    assert [one.metrics for one in resumed] == [one.metrics for one in straight[STEPS:]]

    page = written_report(tmp_path / "run", job, straight, lines)
    assert recipe in page


def written_report(run_dir: Path, job: main.Job, results: list[StepResult], lines: list[dict[str, Any]]) -> str:
    """The report of a run that left these steps, with the step's own rollouts as its held-out questions."""
    config = main.resolved(job.composed)
    run_record.start_run(run_record.RunDirectory(run_dir, run_record.fingerprint(config), resumes=False), config, job.argv)
    with MetricsWriter(run_dir / "metrics.jsonl") as writer:
        for number, result in enumerate(results, start=1):
            writer.append(number, {**result.metrics, "time_s": float(number)})
    rows = [{"uid": str(index), "response_tokens": 9, **line["columns"]} for index, line in enumerate(lines)]
    for when in ("before", "after"):
        for decoding in job.typed.evaluation.decodings:
            rollout_dump.write_lines(run_dir / "heldout" / f"{when}_{decoding}.jsonl", rows)
    summary = {decoding: summarise(rows) for decoding in job.typed.evaluation.decodings}
    write_json(run_dir / "heldout" / "summary.json", {"before": {"step": 0, **summary}, "after": {"step": len(results), **summary}})
    rollout_dump.write_lines(run_dir / "rollouts" / "step_000001.jsonl", lines)
    json.dumps(summary, allow_nan=False)
    run_record.end_run(run_dir, "finished")
    report.build([run_dir], run_dir / "report.html")
    return (run_dir / "report.html").read_text(encoding="utf-8")
