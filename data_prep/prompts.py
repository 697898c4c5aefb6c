"""What the model is asked, the same words for supervised training, reinforcement learning and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from faithful_rl.config import ConfigError
from faithful_rl.rewards.designs import DESIGNS

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# By name, so that a recipe says `prompt: think` and a manifest repeats it. The tags are those that faithful_rl.response reads.
SYSTEM_PROMPTS: dict[str, str] = {
    "none": "",
    "think": (
        "You are a careful visual reasoner. First reason step by step inside <think> and </think>. Whenever you rely on something in the "
        "image, name it and cite where it is as <bbox>[x1,y1,x2,y2]</bbox>, in pixels of the image you see. "
        "Then give only the final answer inside <answer> and </answer>: the letter of the right option, or a short phrase if there are "
        "no options."
    ),
    **{name: design.instruction for name, design in DESIGNS.items()},  # of the six reward designs
}


def system_prompt(name: str) -> str:
    """Text of a named system prompt, "" for none. Raises ConfigError for an unknown name."""
    if name not in SYSTEM_PROMPTS:
        raise ConfigError("prompt", repr(name), f"one of {', '.join(sorted(SYSTEM_PROMPTS))}", "Choose one of them.")
    return SYSTEM_PROMPTS[name]


def letter(index: int) -> str:
    """`A` for 0, ..., `Z` for 25."""
    return LETTERS[index]


def user_text(question: str, options: Sequence[str]) -> str:
    """A question and its lettered options, one a line, as the scenes write them: `A) left`."""
    return "\n".join([question, *(f"{letter(index)}) {option}" for index, option in enumerate(options))])


def user_content(question: str, options: Sequence[str], images: int) -> str:
    """The user's message with one `<image>` for every image, in front."""
    return "<image>" * images + user_text(question, options)
