"""A trained consistency model on disk: what must be there, what its manifest says, and the hash of all that decides its scores."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError

MANIFEST = "manifest.json"
PROJECT_ROOT = Path(__file__).resolve().parents[2]
MAX_LENGTH = 1024  # tokens, for a model without a manifest
CONSISTENT = ("consistent", "entailment")  # names of the label whose probability is the reward


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A checked model directory."""

    path: Path
    positive: int  # index of the label "consistent"
    temperature: float
    threshold: float
    max_length: int  # tokens
    manifest: dict[str, Any]


def check(path: str, key: str) -> ModelFiles:
    """Look at a Hugging Face directory of a sequence classifier; loads nothing.

    A relative path that is not below the present folder is looked for in the project, where `models/crm_tiny` lies.

    Raises:
        ConfigError: naming `key`: no directory, no or another architecture, not two labels, no weights or tokenizer.
    """
    folder = located(path)
    if not folder.is_dir():
        raise ConfigError(
            key, f"{path}, which is not a directory", "a trained consistency model",
            "Train one with `python -m faithful_rl.main recipe=crm_tiny`, or correct the path.",
        )  # fmt: skip
    config = _json(folder / "config.json", key)
    names = config.get("architectures") or ["none"]
    if not str(names[0]).endswith("ForSequenceClassification"):
        raise ConfigError(
            key, f"{path} of architecture {names[0]}", "a sequence classifier such as ModernBertForSequenceClassification",
            "Give a model that recipe=crm_tiny or recipe=crm_large has trained.",
        )  # fmt: skip
    labels = {int(index): str(name).lower() for index, name in (config.get("id2label") or {0: "inconsistent", 1: "consistent"}).items()}
    if len(labels) != 2:
        raise ConfigError(
            key, f"{path} with {len(labels)} labels", "two labels, inconsistent and consistent", "Train a model on consistency pairs."
        )
    empty = [file.name for file in folder.glob("*.safetensors") if file.stat().st_size < 9]  # a file starts with an 8-byte header length
    if empty or not weights(folder):
        found = f"{path} {'with the empty file ' + empty[0] if empty else 'without weights'}"
        raise ConfigError(key, found, "weights in *.safetensors", "Copy the model again; pickled weights are not read.")
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(key, f"{path} without tokenizer.json", "the tokenizer that the model was trained with", "Copy the model again.")
    manifest = _json(folder / MANIFEST, key) if (folder / MANIFEST).is_file() else {}
    return ModelFiles(
        path=folder,
        positive=next((index for index, name in labels.items() if name in CONSISTENT), 1),
        temperature=float(manifest.get("temperature", 1.0)),
        threshold=float(manifest.get("threshold", 0.5)),
        max_length=int(manifest.get("max_length", min(MAX_LENGTH, int(config.get("max_position_embeddings", MAX_LENGTH))))),
        manifest=manifest,
    )


def located(path: str) -> Path:
    """The directory meant by a path, absolute."""
    folder = Path(path).expanduser()
    if not folder.is_absolute() and not folder.exists() and (PROJECT_ROOT / folder).exists():
        return PROJECT_ROOT / folder
    return folder.absolute()


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def version(files: ModelFiles, **decisive: Any) -> str:
    """16 hexadecimal digits of weights, tokenizer, configuration and `decisive` settings: everything that can change a score."""
    found = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for file in [*weights(files.path), files.path / "config.json", files.path / "tokenizer.json"]:
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:16]


def _json(file: Path, key: str) -> dict[str, Any]:
    try:
        node = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(key, f"{file.parent} without {file.name}", "a complete model directory", "Copy the model again.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(key, f"{file}, which is no JSON ({error})", "a JSON object", "Copy the model again.") from error
    if not isinstance(node, dict):
        raise ConfigError(key, f"{file}, which holds no JSON object", "a JSON object", "Copy the model again.")
    return node
