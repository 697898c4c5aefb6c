"""Stage 0 of the warm start: the vision tower learns to say what is in each cell, in the language model's own embeddings.

Trained through the language model's loss alone, the tower stays blind for minutes. Regressing each merged visual token onto
the sum of the word embeddings of its shape and codes for its place and size takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from data_prep.scenes.splits import in_split
from data_prep.scenes.world import GRID, SIZES, Scene, random_scene
from faithful_rl.judges.scene_world import COLOURS, SHAPES
from faithful_rl.tiny.batches import IMAGE_TOKENS, image_grid, pixel_values


class CellCodes:
    """What each merged visual token should be: (B, 16, width) targets for scenes."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, generator: torch.Generator) -> None:
        table = model.get_input_embeddings().weight.detach()
        self.words = {word: table[_single_token(tokenizer, " " + word)].clone() for word in (*COLOURS, *SHAPES)}
        scale = float(table.std())
        draw = torch.randn(2 * GRID + len(SIZES), table.shape[1], generator=generator) * scale
        self.rows, self.columns, sizes = draw[:GRID], draw[GRID : 2 * GRID], draw[2 * GRID :]
        self.sizes = dict(zip(SIZES, sizes, strict=True))

    def targets(self, scenes: list[Scene]) -> Tensor:
        places = (self.rows[:, None] + self.columns[None, :]).reshape(IMAGE_TOKENS, -1)
        targets = places.repeat(len(scenes), 1, 1)
        for index, scene in enumerate(scenes):
            for shape in scene:
                code = self.words[shape.colour] + self.words[shape.shape] + self.sizes[shape.size]
                targets[index, shape.row * GRID + shape.column] += code
        return targets


def visual_tokens(model: Qwen2_5_VLForConditionalGeneration, pixels: Tensor, count: int) -> Tensor:
    """Merged visual tokens (count, 16, width)."""
    output = model.model.visual(pixels, grid_thw=image_grid(count), return_dict=True).pooler_output
    return output.view(count, IMAGE_TOKENS, -1)


def align_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    rng: Random,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    report: Callable[[str, int, int, float], None] | None = None,
) -> float:
    """Train the vision tower; returns the last loss as a share of the targets' variance, in [0, 1] when it learns at all."""
    codes = CellCodes(model, tokenizer, torch.Generator().manual_seed(rng.getrandbits(32)))
    optimizer = torch.optim.AdamW(model.model.visual.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.05)
    share = 1.0
    for step in range(steps):
        # More shapes than a question's scene has: more to learn from each image.
        scenes = [_training_scene(rng) for _ in range(batch_size)]
        targets = codes.targets(scenes)
        loss = (visual_tokens(model, pixel_values(scenes), batch_size) - targets).square().mean() / targets.var()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.model.visual.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        share = float(loss.detach())
        if report is not None:
            report("alignment", step + 1, steps, share)
    return share


def _training_scene(rng: Random) -> Scene:
    while not in_split([scene := random_scene(rng, rng.randint(2, 8))], "train"):
        pass
    return scene


def _single_token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"the tokenizer splits {text!r} into {len(ids)} tokens, expected 1: it was not trained on the scene language")
    return int(ids[0])
