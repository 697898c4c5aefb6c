"""Tiny judges for the tests: a random text model and the shipped vision model, both with room for a judge's prompts.

The tokenizer is that of the shipped model. It knows the words of the scene language and spells others byte by byte, so a prompt in
English takes about one token per character.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / "models" / "tiny_warm_start"
TOKENS = 16384  # of prompt and verdict together
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

WIDTH, INNER, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD_WIDTH = 64, 128, 2, 2, 1, 32  # 32: the narrowest head of vLLM's CPU attention


def text_judge(directory: Path, seed: int = 0) -> Path:
    """Write a random Qwen3 text model; the same seed gives the same bytes. Returns the directory."""
    shipped = json.loads((SHIPPED / "config.json").read_text())["text_config"]
    directory.mkdir(parents=True)
    _tokenizer(directory)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "dtype": "float32",
        "vocab_size": shipped["vocab_size"],
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HEAD_WIDTH,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": TOKENS,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": shipped["bos_token_id"],
        "eos_token_id": shipped["eos_token_id"],
        "pad_token_id": shipped["pad_token_id"],
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    save_file(_text_weights(shipped["vocab_size"], np.random.default_rng(seed)), directory / "model.safetensors", {"format": "pt"})
    return directory


def vision_judge(directory: Path) -> Path:
    """Copy the shipped Qwen2.5-VL, which was trained on scenes and never as a judge, with longer prompts allowed."""
    shutil.copytree(SHIPPED, directory)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = TOKENS
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    _tokenizer(directory)
    return directory


def _tokenizer(directory: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copyfile(SHIPPED / name, directory / name)
    settings: dict[str, Any] = json.loads((directory / "tokenizer_config.json").read_text())
    settings["model_max_length"] = TOKENS
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def _text_weights(vocabulary: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    def matrix(rows: int, columns: int) -> np.ndarray:
        return generator.normal(0.0, columns**-0.5, (rows, columns)).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(vocabulary, WIDTH), "model.norm.weight": np.ones(WIDTH, np.float32)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        weights |= {
            f"{name}.input_layernorm.weight": np.ones(WIDTH, np.float32),
            f"{name}.post_attention_layernorm.weight": np.ones(WIDTH, np.float32),
            f"{name}.self_attn.q_proj.weight": matrix(HEADS * HEAD_WIDTH, WIDTH),
            f"{name}.self_attn.k_proj.weight": matrix(KEY_VALUE_HEADS * HEAD_WIDTH, WIDTH),
            f"{name}.self_attn.v_proj.weight": matrix(KEY_VALUE_HEADS * HEAD_WIDTH, WIDTH),
            f"{name}.self_attn.o_proj.weight": matrix(WIDTH, HEADS * HEAD_WIDTH),
            f"{name}.self_attn.q_norm.weight": np.ones(HEAD_WIDTH, np.float32),
            f"{name}.self_attn.k_norm.weight": np.ones(HEAD_WIDTH, np.float32),
            f"{name}.mlp.gate_proj.weight": matrix(INNER, WIDTH),
            f"{name}.mlp.up_proj.weight": matrix(INNER, WIDTH),
            f"{name}.mlp.down_proj.weight": matrix(WIDTH, INNER),
        }
    return weights
