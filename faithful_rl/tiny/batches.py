"""Batches for the warm start: pixels as Qwen2.5-VL's image processor makes them, token ids and labels.

All prompts begin with one image of 112 x 112, so the 16 image tokens stand at the same places in every row; the fast path
for pixels and prompts is held equal to the processor's by a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from data_prep.scenes.world import CELL, GRID, Scene, render

IMAGE_TOKENS = GRID * GRID
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_PATCH = CELL // 2
IGNORED = -100

PROMPT_HEAD = "<|im_start|>user\n<|vision_start|>"
PROMPT = PROMPT_HEAD + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids and labels (B, L), right padded; `pixels` (B * 64, 1176)."""

    input_ids: Tensor
    labels: Tensor
    pixels: Tensor


def pixel_values(scenes: Sequence[Scene]) -> Tensor:
    """Patches (B * 64, 1176) of rendered scenes, in the order and scale of Qwen2VLImageProcessor."""
    images = torch.from_numpy(np.stack([np.asarray(render(scene)) for scene in scenes])).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)
    blocks = images.view(len(scenes), 3, GRID, 2, _PATCH, GRID, 2, _PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    blocks = blocks.unsqueeze(6).expand(*blocks.shape[:6], 2, *blocks.shape[6:])  # the same frame twice in time
    return blocks.reshape(len(scenes) * IMAGE_TOKENS * 4, -1)


def image_grid(count: int) -> Tensor:
    """`image_grid_thw` (count, 3) of images of 112 x 112."""
    return torch.tensor([[1, GRID * 2, GRID * 2]]).repeat(count, 1)


def make_batch(tokenizer: PreTrainedTokenizerFast, scenes: Sequence[Scene], prompts: Sequence[str], responses: Sequence[str]) -> Batch:
    """One training batch; the loss is on the response and the end marker only."""
    prompt_ids = tokenizer([PROMPT.format(text=text) for text in prompts], add_special_tokens=False)["input_ids"]
    response_ids = tokenizer([text + END for text in responses], add_special_tokens=False)["input_ids"]
    length = max(len(prompt) + len(response) for prompt, response in zip(prompt_ids, response_ids, strict=True))
    input_ids = torch.full((len(prompts), length), tokenizer.pad_token_id)
    labels = torch.full((len(prompts), length), IGNORED)
    for row, (prompt, response) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return Batch(input_ids, labels, pixel_values(scenes))


def position_ids(head: int, length: int) -> Tensor:
    """M-RoPE positions (3, 1, length) of a prompt whose image tokens begin at `head`: time, row, column.

    Text before the image counts up; the image's tokens share one time and spread over rows and columns; text after it
    continues behind the largest position used.
    """
    text = torch.arange(head).expand(3, -1)
    grid = torch.arange(GRID)
    image = torch.stack([torch.zeros(IMAGE_TOKENS, dtype=torch.long), grid.repeat_interleave(GRID), grid.repeat(GRID)]) + head
    after = torch.arange(max(length - head - IMAGE_TOKENS, 0)).expand(3, -1) + head + GRID
    return torch.cat([text, image, after], dim=1)[:, :length].unsqueeze(1)
