"""Images of a prompt are processed once; verl's two places for it are still there."""

from __future__ import annotations

import inspect
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faithful_rl.verl_plugin import processor_memo

pytest.importorskip("verl")


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8))


def test_equal_pixels_have_equal_keys() -> None:
    assert processor_memo.image_key([picture(1)]) == processor_memo.image_key([picture(1)])
    assert processor_memo.image_key([picture(1)]) != processor_memo.image_key([picture(2)])
    assert processor_memo.image_key([picture(1)]) != processor_memo.image_key([picture(1), picture(1)])
    assert processor_memo.image_key([picture(1)]) != processor_memo.image_key([picture(1).resize((2, 8))])
    for other in (None, [], ["a path"]):
        assert processor_memo.image_key(other) is None


def test_threads_that_ask_for_the_same_prompt_share_one_computation() -> None:
    memo, calls, entered, leave = processor_memo.Memo(), [], threading.Event(), threading.Event()

    def compute() -> str:
        calls.append(1)
        entered.set()
        assert leave.wait(60)
        return "result"

    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(memo.get("key", compute))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(60)
    leave.set()
    for thread in threads:
        thread.join(60)
    assert (results, calls) == (["result"] * 4, [1])


def test_failures_are_raised_and_forgotten_and_old_keys_leave() -> None:
    memo = processor_memo.Memo(size=2)
    with pytest.raises(ZeroDivisionError):
        memo.get("a", lambda: 1 // 0)
    assert memo.get("a", lambda: 1) == 1
    memo.get("b", lambda: 2)
    memo.get("a", lambda: 10)
    memo.get("c", lambda: 3)
    assert memo.get("a", lambda: 10) == 1
    assert memo.get("b", lambda: 20) == 20


def test_tokenisation_is_remembered_per_prompt_and_handed_out_as_copies() -> None:
    from verl.utils.tokenizer import continuous_token

    assert callable(continuous_token.build_multimodal_processor_inputs)
    calls: list[Any] = []

    def original(processor: Any, *, text: Any, images: Any = None, videos: Any = None, **others: Any) -> dict[str, Any]:
        calls.append((text, images))
        return {"input_ids": [1], "pixel_values": [2]}

    module = SimpleNamespace(build_multimodal_processor_inputs=original)
    for _ in range(2):
        processor_memo.apply_to_tokenisation(module)  # type: ignore[arg-type]
    processor = object()
    build = module.build_multimodal_processor_inputs
    build(processor, text=["q"], images=[picture(1)], videos=None).pop("input_ids")
    assert build(processor, text=["q"], images=[picture(1)], videos=None) == {"input_ids": [1], "pixel_values": [2]}
    assert len(calls) == 1
    build(processor, text=["other"], images=[picture(1)])
    build(processor, text=["q"], images=[picture(2)])
    build(processor, text=["q"], images=[picture(1)], videos=["a video"])
    build(processor, text=["q"], images=None)
    assert len(calls) == 5


def test_image_tensors_are_remembered_per_prompt() -> None:
    from verl.experimental.agent_loop import agent_loop

    signature = inspect.signature(agent_loop.AgentLoopWorker._compute_multi_modal_inputs)
    own = [name for name in signature.parameters if name != "_ray_trace_ctx"]  # Ray adds it once a subclass became an actor class
    assert own == ["self", "output", "input_ids"]
    calls: list[Any] = []

    class Worker:
        processor = SimpleNamespace(get_rope_index=None)

        def _compute_multi_modal_inputs(self, output: Any, input_ids: Any) -> dict[str, Any]:
            calls.append(input_ids)
            return {"pixel_values": [2], "mm_token_type_ids": [0]}

    module = SimpleNamespace(AgentLoopWorker=Worker)
    for _ in range(2):
        processor_memo.apply_to_agent_loop(module)  # type: ignore[arg-type]
    worker = Worker()

    def rollout(value: int, **others: Any) -> Any:
        return SimpleNamespace(multi_modal_data={"images": [picture(value)], **others}, mm_processor_kwargs=None)

    worker._compute_multi_modal_inputs(rollout(1), "first").pop("mm_token_type_ids")
    assert worker._compute_multi_modal_inputs(rollout(1), "second") == {"pixel_values": [2], "mm_token_type_ids": [0]}
    assert calls == ["first"]
    worker._compute_multi_modal_inputs(rollout(1, videos=["a video"]), "third")
    worker._compute_multi_modal_inputs(rollout(3), "fourth")
    assert calls == ["first", "third", "fourth"]
