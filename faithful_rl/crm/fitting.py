"""The two stages of training, both by transformers' Trainer: a model from scratch reads answers off reasonings, then learns labels."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from faithful_rl.crm import model as crm_model  # first: it readies torchvision for transformers  # isort: skip
import torch
from transformers import (
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from faithful_rl.config import CrmConfig
from faithful_rl.crm.pairs import Pair, hypothesis

IGNORED = -100  # label of a token that the loss leaves out
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
    """Reading the answer off the reasoning, in place; returns the mean loss of the last tenth, in nats a token of the answer.

    A language model's head is asked for the answer of consistent pairs where the hypothesis hides it, names another option, or names
    it. Only the lower layers take part: what they read stands at the answer's place before the upper ones compare it with what is
    given there. The labels alone teach this far more slowly: neither reasoning nor answer says anything about them by itself.
    """
    rows = reading_rows(tokenizer, pairs, settings.max_length, Random(f"{seed}/reading"))
    layers = model.model.layers
    model.model.layers = layers[: crm_model.READING_LAYERS]
    try:
        language_model = ModernBertForMaskedLM._from_config(model.config, dtype=torch.float32)
        language_model.model, language_model.head = model.model, model.head
        language_model.tie_weights()
        rate, watcher = 2 * settings.learning_rate, _Losses("reading", report)
        return _train(language_model, rows, _Collator(int(tokenizer.pad_token_id)), settings, settings.reading_epochs, rate, seed, watcher)
    finally:
        model.model.layers = layers


def reading_rows(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_length: int, rng: Random) -> list[dict[str, Any]]:
    """Three rows for every consistent pair whose answer is one of the listed options: answer hidden, exchanged, and as it is.

    `labels` hold the right answer's tokens at its place and `IGNORED` elsewhere. An option of another length is hidden instead.
    """
    chosen = [pair for pair in pairs if pair.consistent >= 0.5 and pair.answer in _options(pair.question)]
    encoded = crm_model.encode(tokenizer, [(pair.question, pair.thinking, pair.answer) for pair in chosen], max_length)
    rows = []
    for pair, one in zip(chosen, encoded, strict=True):
        right = _answer_ids(tokenizer, pair.answer)
        hidden = [int(tokenizer.mask_token_id)] * len(right)
        others = [option for option in _options(pair.question) if option != pair.answer]
        other = _answer_ids(tokenizer, rng.choice(others)) if others else hidden
        place = slice(len(one.ids) - 1 - len(right), len(one.ids) - 1)  # before the last separator
        for given in (hidden, other if len(other) == len(right) else hidden, right):
            ids, labels = list(one.ids), [IGNORED] * len(one.ids)
            ids[place], labels[place] = given, right
            rows.append({"input_ids": ids, "labels": labels})
    return rows


def _options(question: str) -> list[str]:
    """The lettered options that a pair's question lists, as `pairs.asked` writes them."""
    return re.findall(r"^[A-Z]\) .*$", question, re.MULTILINE)


def _answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Tokens of the hypothesis that are the answer's."""
    whole, start = tokenizer([hypothesis(answer), hypothesis("").rstrip()], add_special_tokens=False)["input_ids"]
    return list(whole[len(start) :])


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
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[watcher])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    tail = watcher.losses[-max(1, len(watcher.losses) // 10) :]
    return round(sum(tail) / len(tail), 4) if tail else float("nan")


class _Collator:
    """Rows of ids, and labels for each row or for each token, as padded tensors."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = crm_model.padded([row["input_ids"] for row in rows], self._pad)
        labels = [row["labels"] for row in rows]
        if isinstance(labels[0], list):
            labels = [[*label, *[IGNORED] * (ids.shape[1] - len(label))] for label in labels]
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(labels)}


class _Losses(TrainerCallback):
    """Keeps the losses that Trainer logs and tells them on."""

    def __init__(self, stage: str, report: Progress) -> None:
        self.losses: list[float] = []
        self._stage, self._report = stage, report

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **others: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self._report(self._stage, state.global_step, state.max_steps, self.losses[-1])
