"""Image and video tokens that a policy writes itself. In training they would stand for pictures that do not exist: the positions cannot be
computed, or the model's forward pass ends the run ("image features and image tokens do not match"), after hundreds of good steps.

They are taken out after the reward was given: another token stands in their place, and the loss does not see it. Can go when verl keeps
rollout servers from sampling them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# Words of Qwen-VL's vocabulary besides the placeholders that a processor names; a tokenizer without them gives None or its unknown token.
OPENING = ("<|vision_start|>",)


def media_ids(tokenizer: Any, placeholders: Iterable[int | None]) -> frozenset[int]:
    """Ids that a prompt may hold and a response may not: `placeholders` that are known, and what opens a picture."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    opening = [tokenizer.convert_tokens_to_ids(word) for word in OPENING]
    return frozenset(int(one) for one in (*placeholders, *opening) if one is not None and one != unknown)


def replaced(ids: Sequence[int], mask: Sequence[int], media: frozenset[int], stand_in: int) -> tuple[list[int], list[int], int]:
    """`ids` with `stand_in` in place of each of `media`, `mask` with 0 there, and how many there were.

    Args:
        ids, mask: of one response, equally long.
    """
    found = [one in media for one in ids]
    return (
        [stand_in if bad else one for one, bad in zip(ids, found, strict=True)],
        [0 if bad else one for one, bad in zip(mask, found, strict=True)],
        sum(found),
    )
