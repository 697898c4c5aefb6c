"""The two stages of training, both by transformers' Trainer: a model from scratch reads sentences, then learns labels."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from faithful_rl.crm import model as crm_model  # first: it readies torchvision for transformers  # isort: skip
import torch
from transformers import (
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from faithful_rl.config import ConfigError, CrmConfig
from faithful_rl.crm import reading
from faithful_rl.crm.pairs import Pair

LOG_STEPS = 20

Progress = Callable[[str, int, int, float], None]  # stage, step from 1, steps, loss


def pretrain(
    model: ModernBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    settings: CrmConfig,
    seed: int,
    report: Progress,
) -> float:
    """Read sentences (`faithful_rl.crm.reading`), in place; returns the mean loss of the last tenth, in nats a target.

    Only the lower layers take part: what they read stands at the sentences' ends before the upper ones compare it with the answer.

    Raises:
        ConfigError: not one pair is short enough and has a sentence.
    """
    rows = reading.reading_rows(tokenizer, pairs, settings.max_length)
    if not rows:
        raise ConfigError(
            "faithful_rl.crm.max_length", f"{settings.max_length} tokens, which hold none of {len(pairs)} pairs with a sentence to read",
            "room for whole pairs (about 70 tokens for scenes)", "Raise it, or set faithful_rl.crm.reading_epochs=0.",
        )  # fmt: skip
    config = copy.deepcopy(model.config)
    config.num_labels = len(reading.TARGETS)
    layers = model.model.layers
    model.model.layers = layers[: crm_model.READING_LAYERS]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reader = ModernBertForTokenClassification._from_config(config, dtype=torch.float32)
        reader.model = model.model
        watcher, collator = _Losses("reading", report), reading.ReadingCollator(int(tokenizer.pad_token_id))
        rate, epochs = settings.reading_learning_rate, settings.reading_epochs
        return _train(reader, rows, collator, settings, epochs, rate, seed, watcher, reading.loss)
    finally:
        model.model.layers = layers


def fit(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], settings: CrmConfig, seed: int, report: Progress
) -> float:
    """Train on the labels, in place; returns the mean loss of the last tenth, in nats a pair."""
    encoded = crm_model.encode(tokenizer, [(pair.question, pair.thinking, pair.answer) for pair in pairs], settings.max_length)
    rows = [{"input_ids": one.ids, "labels": int(pair.consistent >= 0.5)} for one, pair in zip(encoded, pairs, strict=True)]
    collator = _Collator(int(tokenizer.pad_token_id))
    return _train(model, rows, collator, settings, settings.epochs, settings.learning_rate, seed, _Losses("training", report))


def _train(
    model: torch.nn.Module,
    rows: list[dict[str, Any]],
    collator: Any,
    settings: CrmConfig,
    epochs: float,
    learning_rate: float,
    seed: int,
    watcher: _Losses,
    loss: Callable[..., torch.Tensor] | None = None,
) -> float:
    use_gpu = torch.cuda.is_available()
    if not use_gpu:
        # Measured on two cores: plain matrix products train this small a model in half the time of torch's fused CPU attention.
        model.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as folder:  # Trainer wants one; nothing of it is kept
        arguments = TrainingArguments(
            output_dir=folder, seed=seed, data_seed=seed, num_train_epochs=epochs, per_device_train_batch_size=settings.batch_size,
            learning_rate=learning_rate, weight_decay=settings.weight_decay, warmup_steps=settings.warm_up, adam_beta2=0.98,
            lr_scheduler_type="cosine", train_sampling_strategy="group_by_length", bf16=settings.bfloat16, use_cpu=not use_gpu,
            logging_steps=LOG_STEPS, save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=use_gpu,
            remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[watcher], compute_loss_func=loss
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    tail = watcher.losses[-max(1, len(watcher.losses) // 10) :]
    return round(sum(tail) / len(tail), 4) if tail else float("nan")


class _Collator:
    """Rows of ids, each with its label, as padded tensors."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = crm_model.padded([row["input_ids"] for row in rows], self._pad)
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


class _Losses(TrainerCallback):
    """Keeps the losses that Trainer logs and tells them on."""

    def __init__(self, stage: str, report: Progress) -> None:
        self.losses: list[float] = []
        self._stage, self._report = stage, report

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **others: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self._report(self._stage, state.global_step, state.max_steps, self.losses[-1])
