"""`faithful_rl.sft`: supervised fine-tuning through verl's SFT trainer (method sft_verl)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SftConfig:
    """Where chains come from and where the finished model goes; the training itself is in verl's own keys."""

    model_dir: str = ""  # Hugging Face directory of the finished model, which RL recipes name; empty: <output_dir>/model
    chains_directory: str = "outputs/data/scene_chains"  # of the recipes on synthetic scenes: chains are made there at first use
