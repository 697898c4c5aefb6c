"""Image tokens in a response never reach training; everything else is left as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")
from faithful_rl.verl_plugin import media_tokens, rollout_workers

MODEL = Path(__file__).resolve().parents[3] / "models" / "tiny_warm_start"


class Tokenizer:
    unk_token_id, pad_token_id, eos_token_id = 0, None, 2

    def convert_tokens_to_ids(self, word: str) -> int:
        return {"<|vision_start|>": 7}.get(word, self.unk_token_id)


def test_what_a_response_may_not_hold() -> None:
    assert media_tokens.media_ids(Tokenizer(), (8, None)) == {7, 8}


def test_tokens_are_replaced_and_left_out_of_the_loss() -> None:
    assert media_tokens.replaced([5, 8, 7, 6], [1, 1, 1, 0], frozenset({7, 8}), 2) == ([5, 2, 2, 6], [1, 0, 0, 0], 2)
    assert media_tokens.replaced([5, 6], [1, 1], frozenset({7, 8}), 2) == ([5, 6], [1, 1], 0)


def scored(response: list[int], monkeypatch: pytest.MonkeyPatch, processor: Any) -> Any:
    """A response after the worker's `_compute_score`, with verl's own part left out."""

    async def nothing(self: Any, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        return None

    monkeypatch.setattr(rollout_workers._HostWorker, "_compute_score", nothing)
    worker = object.__new__(rollout_workers.FaithfulAgentLoopWorker)
    worker.processor, worker.tokenizer = processor, processor.tokenizer
    output = SimpleNamespace(response_ids=list(response), response_mask=[1] * len(response), extra_fields={})
    asyncio.run(worker._compute_score([output], {"uid": "000000000001"}))
    return output


def test_the_worker_takes_them_out_with_the_models_own_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils import hf_processor

    processor = hf_processor(str(MODEL), trust_remote_code=False)
    words = processor.tokenizer.convert_tokens_to_ids
    bad = [words("<|vision_start|>"), words("<|image_pad|>"), words("<|video_pad|>")]
    end = words("<|im_end|>")
    output = scored([*bad, end], monkeypatch, processor)
    assert not set(output.response_ids) & set(bad)
    assert output.response_ids[3] == end
    assert output.response_mask == [0, 0, 0, 1]
    untouched = scored([end, end], monkeypatch, processor)
    assert (untouched.response_ids, untouched.response_mask) == ([end, end], [1, 1])
