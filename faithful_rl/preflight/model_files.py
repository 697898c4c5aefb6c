"""Whether a model directory holds everything that transformers and vLLM will open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError

KEY = "actor_rollout_ref.model.path"
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def check(path: str) -> int:
    """Check a Hugging Face model directory; returns the size of its weights in bytes.

    Raises:
        ConfigError: no directory, no readable config, no or incomplete weights, no tokenizer or image processor.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            KEY,
            f"{path}, which is not a directory",
            "a model directory with config, weights and tokenizer",
            "Download the model, or correct the path.",
        )
    config = _json(folder / "config.json")
    if "vision_config" not in config:
        raise ConfigError(
            KEY,
            f"{path} of type {config.get('model_type')!r} without a vision_config",
            "a vision-language model such as qwen2_5_vl",
            "Choose another model.",
        )
    _require_any(folder, TOKENIZERS, "a tokenizer")
    _require_any(folder, PROCESSORS, "an image processor")
    return sum(file.stat().st_size for file in _weights(folder))


def _json(file: Path) -> dict[str, Any]:
    try:
        node = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        node = None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"no JSON ({error})", "a JSON object", "Copy the model again.") from error
    if not isinstance(node, dict):
        raise ConfigError(
            KEY, f"{file.parent} without {file.name}", "a complete model directory", "Copy the model again, or correct the path."
        )
    return node


def _require_any(folder: Path, names: tuple[str, ...], what: str) -> None:
    if not any((folder / name).is_file() for name in names):
        raise ConfigError(
            KEY, f"{folder} without {what}", f"one of {', '.join(names)} in it", "Copy the file(s) from the model that it was trained from."
        )


def _weights(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({folder / name for name in _json(index).get("weight_map", {}).values()})
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing or not shards:
            raise ConfigError(
                KEY,
                f"{folder} without {', '.join(missing) or 'any shard'}",
                f"every shard that {index.name} names",
                "Copy the model again.",
            )
        return shards
    found = sorted(folder.glob("*.safetensors"))
    empty = [file.name for file in found if file.stat().st_size < 9]  # a safetensors file starts with an 8-byte header length
    if not found or empty:
        raise ConfigError(
            KEY,
            f"{folder} {'with the empty file ' + empty[0] if empty else 'without weights'}",
            "weights in *.safetensors",
            "Copy the model again; pickled weights (*.bin, *.pt) are not read.",
        )
    return found
