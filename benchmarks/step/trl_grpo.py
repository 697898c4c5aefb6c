"""One run of TRL's GRPOTrainer with generation by transformers, on the recipe's model, data and settings.

    python -m benchmarks.step.trl_grpo RUN_DIRECTORY recipe=grpo_tiny [key=value ...]

One step is what verl calls one: a batch of prompts, their rollouts, and every optimiser update on them (two in the tiny recipes).
TRL writes its own timers to trackers only, so its methods are timed from outside. `update_actor` is all that is not generation and
scoring: forward and backward passes, optimiser, data loader, TRL's bookkeeping.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from PIL import Image

from benchmarks.step.task_reward import compute_score
from faithful_rl import main as command
from faithful_rl.verl_plugin.guards import torchvision_schema

torchvision_schema.apply()  # before transformers imports a torchvision that may have been built for another torch

from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

METRICS = "metrics.jsonl"


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer whose parts add their seconds to `seconds`, by phase."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens = 0.0
        self.response_tokens = 0.0
        self._scoring = False
        super().__init__(*arguments, **options)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - begin

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._scoring = True
        with self._timed("all_but_update"):
            batch = super()._generate_and_score_completions(inputs)
        self._scoring = False
        self.response_tokens = float(batch["completion_mask"].sum(dim=1).float().mean())
        self.tokens = float(batch["completion_mask"].sum() + batch["prompt_mask"].sum())
        return batch

    def _generate(self, *arguments: Any, **options: Any) -> Any:
        with self._timed("gen"):
            return super()._generate(*arguments, **options)

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> Any:
        with self._timed("reward"):
            return super()._calculate_rewards(*arguments, **options)

    def _get_per_token_logps_and_entropies(self, model: Any, *arguments: Any, **options: Any) -> Any:
        if not self._scoring:  # part of the loss
            return super()._get_per_token_logps_and_entropies(model, *arguments, **options)
        with self._timed("old_log_prob" if model is self.model else "ref"):
            return super()._get_per_token_logps_and_entropies(model, *arguments, **options)


class StepRows(TrainerCallback):
    """Writes one row whenever `updates` optimiser updates are done."""

    def __init__(self, path: Path, updates: int) -> None:
        self.trainer: TimedTrainer | None = None
        self._path, self._updates = path, updates
        self._begin = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._begin = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step % self._updates or self.trainer is None:
            return
        now = time.perf_counter()
        seconds, self.trainer.seconds = dict(self.trainer.seconds), defaultdict(float)
        whole = now - self._begin
        seconds["update_actor"] = whole - seconds.pop("all_but_update", 0.0)
        row = {"step": state.global_step // self._updates, **{f"timing_s/{phase}": value for phase, value in seconds.items()}}
        row |= {"timing_s/step": whole, "response_length/mean": self.trainer.response_tokens, "perf/total_num_tokens": self.trainer.tokens}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._begin = now


def rows_of(parquet: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` rows of a file in verl's format."""
    return pq.read_table(parquet).slice(0, count).to_pylist()


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    """TRL's conversational prompts with their images; TRL puts the image where verl's `<image>` tag stands, at the beginning."""
    prompts = [[{"role": turn["role"], "content": turn["content"].replace("<image>", "")} for turn in row["prompt"]] for row in rows]
    images = [[Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in row["images"]] for row in rows]
    return Dataset.from_dict({"prompt": prompts, "images": images, "row": list(range(len(rows)))})


def settings(config: dict[str, Any], run_dir: Path) -> GRPOConfig:
    """The recipe's numbers under TRL's names."""
    actor, rollout, data = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["rollout"], config["data"]
    optim, group = actor["optim"], rollout["n"]
    updates = data["train_batch_size"] // actor["ppo_mini_batch_size"]
    return GRPOConfig(
        output_dir=str(run_dir / "trainer"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_steps=config["trainer"]["total_training_steps"] * updates,
        per_device_train_batch_size=actor["ppo_micro_batch_size_per_gpu"],
        gradient_accumulation_steps=actor["ppo_mini_batch_size"] * group // actor["ppo_micro_batch_size_per_gpu"],
        generation_batch_size=data["train_batch_size"] * group,
        num_generations=group,
        max_completion_length=data["max_response_length"],
        temperature=rollout["temperature"],
        beta=actor["kl_loss_coef"],
        epsilon=actor["clip_ratio_low"],
        epsilon_high=actor["clip_ratio_high"],
        loss_type="bnpo",  # mean over the tokens of a batch, as verl's token-mean
        learning_rate=optim["lr"],
        weight_decay=optim["weight_decay"],
        max_grad_norm=optim["clip_grad"],
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": optim["min_lr_ratio"]},
        warmup_steps=optim["lr_warmup_steps"] * updates,
        seed=data["seed"],
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def main(run_dir: Path, arguments: list[str]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    job = command.prepare(arguments)
    config = command.resolved(job.composed)
    path = config["actor_rollout_ref"]["model"]["path"]
    rows = rows_of(Path(config["data"]["train_files"]), config["data"]["train_batch_size"] * config["trainer"]["total_training_steps"])

    def task_reward(completions: list[Any], row: list[int], **others: Any) -> list[float]:
        texts = [turns[0]["content"] if isinstance(turns, list) else turns for turns in completions]
        facts = [rows[index] for index in row]
        return [
            compute_score(fact["data_source"], text, fact["reward_model"]["ground_truth"], fact["extra_info"])
            for text, fact in zip(texts, facts, strict=True)
        ]

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.model.visual.requires_grad_(False)  # as the recipe freezes it
    arguments_of_trl = settings(config, run_dir)
    updates = config["data"]["train_batch_size"] // config["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"]
    callback = StepRows(run_dir / METRICS, updates)
    trainer = TimedTrainer(
        model=model,
        reward_funcs=task_reward,
        args=arguments_of_trl,
        train_dataset=dataset(rows),
        processing_class=AutoProcessor.from_pretrained(path, padding_side="left"),
        callbacks=[callback],
    )
    callback.trainer = trainer
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
