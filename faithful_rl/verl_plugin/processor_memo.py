"""Process each prompt's images once, not twice per rollout.

verl's agent loop runs the Hugging Face processor twice for every rollout: to tokenise the prompt, and
after generation to get the image tensors again. With five rollouts a prompt that is ten times the same
work; on a machine with few cores it takes longer than the tiny policy's generation. Both results depend
on the prompt alone, so the worker remembers the last ones.

Installed on the CPU platform only. Can go when verl reuses the prompt's processor output.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

MAX_PROMPTS = 64  # enough for the prompts in flight; a prompt comes back an epoch later


class Memo:
    """The results of the last `size` distinct keys, oldest use forgotten first. Safe to use from several threads.

    The rollouts of one prompt ask at the same moment: one of them computes, the others wait for it.
    """

    def __init__(self, size: int = MAX_PROMPTS) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._results: OrderedDict[Hashable, Future[Any]] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it returned for this key before. A failure is raised to all who wait and is not remembered."""
        with self._lock:
            result = self._results.get(key)
            first = result is None
            if result is None:
                result = self._results[key] = Future()
                if len(self._results) > self._size:
                    self._results.popitem(last=False)
            else:
                self._results.move_to_end(key)
        if first:
            try:
                result.set_result(compute())
            except BaseException as error:  # noqa: BLE001  (re-raised below, to everybody who waits)
                with self._lock:
                    self._results.pop(key, None)
                result.set_exception(error)
        return result.result()


def image_key(images: Any) -> Hashable | None:
    """A key that is equal for equal pixels; None where `images` is not a list of PIL images."""
    from PIL.Image import Image

    if not images or not all(isinstance(image, Image) for image in images):
        return None
    return tuple((image.mode, image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest()) for image in images)


def apply_to_tokenisation(continuous_token: ModuleType) -> None:
    """Remember the processor's output of prompts in `verl.utils.tokenizer.continuous_token`."""
    original = continuous_token.build_multimodal_processor_inputs
    if getattr(original, "faithful_rl_guard", False):
        return
    memo = Memo()

    @functools.wraps(original)
    def build(processor: Any, *, text: Any, images: Any = None, **others: Any) -> Any:
        key = image_key(images)
        if key is None or any(value is not None for value in others.values()):
            return original(processor, text=text, images=images, **others)
        found = memo.get((id(processor), tuple(text), key), lambda: original(processor, text=text, images=images, **others))
        return type(found)(dict(found))  # callers may remove entries; the tensors are shared

    build.faithful_rl_guard = True  # type: ignore[attr-defined]
    continuous_token.build_multimodal_processor_inputs = build  # type: ignore[attr-defined]


def apply_to_agent_loop(agent_loop: ModuleType) -> None:
    """Remember the image tensors in `AgentLoopWorker._compute_multi_modal_inputs`.

    They are computed from the decoded prompt and response, yet what is kept of them depends on the
    images only: token ids are dropped, and token types are recomputed from the ids when the processor
    knows M-RoPE.
    """
    worker = agent_loop.AgentLoopWorker
    original = worker._compute_multi_modal_inputs
    if getattr(original, "faithful_rl_guard", False):
        return
    memo = Memo()

    @functools.wraps(original)
    def compute(self: Any, output: Any, input_ids: Any) -> Any:
        data = output.multi_modal_data or {}
        key = image_key(data.get("images"))
        others = any(data.get(name) is not None for name in ("videos", "audios")) or bool(output.mm_processor_kwargs)
        if key is None or others or not hasattr(self.processor, "get_rope_index"):
            return original(self, output, input_ids)
        return dict(memo.get((id(self.processor), key), lambda: original(self, output, input_ids)))

    compute.faithful_rl_guard = True  # type: ignore[attr-defined]
    worker._compute_multi_modal_inputs = compute
