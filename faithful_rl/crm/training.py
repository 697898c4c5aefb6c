"""Train a consistency model with transformers' Trainer: pairs in, weights and a manifest out.

python -m faithful_rl.main recipe=crm_tiny
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faithful_rl.crm import model as crm_model  # first: it readies torchvision for transformers  # isort: skip
import numpy as np
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from faithful_rl.config import ConfigError, CrmConfig
from faithful_rl.crm import fitting, measures
from faithful_rl.crm.files import MANIFEST, weights
from faithful_rl.crm.fitting import Progress
from faithful_rl.crm.model import LABELS, CrossEncoder, Encoded
from faithful_rl.crm.pairs import Pair, content_hash, read_pairs, split_of
from faithful_rl.crm.scene_pairs import scene_pairs
from faithful_rl.crm.tokenizer import train_tokenizer

logger = logging.getLogger(__name__)

TINY = "tiny"
SCENE_SPLITS = {"train": "train", "valid": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class PairSplits:
    """Pairs to learn from, to fit temperature and threshold on, and to report on. No question is in two of them."""

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]


def run(settings: CrmConfig, seed: int, recipe: str, output_dir: Path | str, progress: Progress | None = None) -> dict[str, Any]:
    """Train into `output_dir`, which must not hold a model already; returns the manifest, which is written last.

    Deterministic on a CPU: one seed, one number of threads and one version of torch give the same weights.

    Raises:
        FileExistsError: the directory holds a manifest.
        ConfigError: the base model or the pairs cannot be used.
    """
    output_dir = Path(output_dir)
    if (output_dir / MANIFEST).exists():
        raise FileExistsError(f"{output_dir} already holds a model ({MANIFEST}); choose another output directory or remove it")
    started = time.monotonic()
    torch.set_num_threads(settings.threads)
    report = progress or (lambda stage, step, steps, loss: None)
    splits = load_splits(settings, seed, report)
    model, tokenizer = base_model(settings, seed)
    losses = {}
    if settings.base == TINY and settings.reading_epochs > 0:
        losses["reading"] = fitting.pretrain(model, tokenizer, splits.train, settings, seed, report)
    losses["training"] = fitting.fit(model, tokenizer, splits.train, settings, seed, report)
    model.set_attn_implementation("sdpa")
    encoder = CrossEncoder(model, tokenizer)
    output_dir.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    manifest = {
        "recipe": recipe,
        "seed": seed,
        "settings": asdict(settings),
        "data": {
            "source": list(settings.pairs) or "scenes",
            **{name: {"pairs": len(pairs), "sha256": content_hash(pairs)} for name, pairs in _named(splits)},
        },
        "final_losses": losses,
        "weights_sha256": {file.name: _sha256(file) for file in weights(output_dir)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "max_length": settings.max_length,
        **measure(encoder, splits, settings.max_length),
        "seconds": round(time.monotonic() - started, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
    }
    (output_dir / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def load_splits(settings: CrmConfig, seed: int, report: Progress) -> PairSplits:
    """Pairs of the named files, split by question; or of fresh synthetic scenes, split as scenes are.

    Raises:
        ConfigError: a file is missing or damaged, or a split is empty or has one class only.
    """
    if settings.pairs:
        found: dict[str, list[Pair]] = {name: [] for name in SCENE_SPLITS}
        for pair in read_pairs(settings.pairs):
            found[split_of(pair.uid)].append(pair)
    else:
        found = {}
        for name, split in SCENE_SPLITS.items():
            number = getattr(settings, f"{name}_pairs")
            found[name] = list(_counted(scene_pairs(number, seed, split), number, f"{name} pairs", report))
    for name, pairs in found.items():
        classes = {pair.consistent >= 0.5 for pair in pairs}
        if len(classes) != 2:
            raise ConfigError(
                "faithful_rl.crm.pairs", f"{len(pairs)} pairs for {name}, {len(classes)} class(es) among them",
                "consistent and inconsistent pairs of at least a few hundred questions", "Add pairs; `swap=true` makes inconsistent ones.",
            )  # fmt: skip
    return PairSplits(**found)


def base_model(settings: CrmConfig, seed: int) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """The small model with random weights, or a checkpoint with a new head.

    Raises:
        ConfigError: the checkpoint does not load.
    """
    if settings.base == TINY:
        tokenizer = train_tokenizer(settings.max_length)
        return crm_model.tiny_model(crm_model.tiny_config(tokenizer, settings.max_length), seed), tokenizer
    transformers.set_seed(seed)  # the new head's weights
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.base)
        model = AutoModelForSequenceClassification.from_pretrained(
            settings.base, id2label=LABELS, label2id={name: index for index, name in LABELS.items()}, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ConfigError(
            "faithful_rl.crm.base",
            f"{settings.base}, which does not load ({reason})",
            "tiny, or a ModernBERT checkpoint",
            "Download it first.",
        ) from error
    return model, tokenizer


def measure(encoder: CrossEncoder, splits: PairSplits, max_length: int) -> dict[str, Any]:
    """Temperature and threshold fitted on `valid`, and the model's quality on `test`, in all and by origin."""
    logits, labels = _scored(encoder, splits.valid, max_length)
    temperature = round(measures.fit_temperature(logits, labels), 4)
    threshold = measures.best_threshold(measures.probabilities(logits, temperature), labels)
    return {
        "temperature": temperature,
        "threshold": threshold,
        "metrics": evaluate(encoder, splits.test, max_length, temperature, threshold),
    }


def evaluate(encoder: CrossEncoder, pairs: Sequence[Pair], max_length: int, temperature: float, threshold: float) -> dict[str, Any]:
    """`measures.Quality` of a model on pairs, in all and for each origin."""
    logits, labels = _scored(encoder, pairs, max_length)
    whole = measures.quality(logits, labels, [pair.uid for pair in pairs], temperature, threshold).as_dict()
    origins = sorted({pair.origin for pair in pairs})
    by_origin = {}
    for origin in origins if len(origins) > 1 else []:
        rows = [index for index, pair in enumerate(pairs) if pair.origin == origin]
        by_origin[origin] = measures.quality(logits[rows], labels[rows], [pairs[row].uid for row in rows], temperature, threshold).as_dict()
    return {**whole, "by_origin": by_origin}


def _scored(encoder: CrossEncoder, pairs: Sequence[Pair], max_length: int) -> tuple[measures.Array, measures.Array]:
    texts: list[Encoded] = crm_model.encode(encoder.tokenizer, [(pair.question, pair.thinking, pair.answer) for pair in pairs], max_length)
    return encoder.logits(texts), np.array([pair.consistent for pair in pairs])


def _named(splits: PairSplits) -> list[tuple[str, list[Pair]]]:
    return [("train", splits.train), ("valid", splits.valid), ("test", splits.test)]


def _counted(pairs: Iterable[Pair], number: int, stage: str, report: Progress) -> Iterable[Pair]:
    for index, pair in enumerate(pairs):
        if (index + 1) % 20_000 == 0 or index + 1 == number:
            report(stage, index + 1, number, 0.0)
        yield pair


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
