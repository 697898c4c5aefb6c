"""The consistency model as a judge: backend `classifier` of a pool. Loads no torch before `start`."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.crm import files, pairs
from faithful_rl.crm.batcher import MicroBatcher
from faithful_rl.judges import options
from faithful_rl.judges.backend import JudgeFailure, Usage
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict

logger = logging.getLogger("faithful_rl.judges")

KEY = "classifier"
KEYS = ("model", "batch_size", "wait_milliseconds", "threshold", "temperature", "max_length", "threads", "device", "cache")
DEVICES = ("auto", "cpu", "cuda")
TELL_EVERY = 1000  # shortened texts: the first is logged, then each so many

Texts = tuple[str, str, str]  # question, thinking, answer


class ClassifierBackend:
    """A `JudgeBackend` for consistency alone: Score = P(the thinking entails the answer), calibrated, in [0, 1].

    Keys: `model` (a directory, required); `batch_size` (64) and `wait_milliseconds` (5): questions that come together are scored
    together; `threshold`: null gives the probability, a number gives 1.0 from it on and 0.0 below; `temperature` and
    `max_length` (tokens) in place of the manifest's; `threads` of torch on a CPU (1); `device` (auto, cpu, cuda).

    A blank thinking or answer scores 0.0 unasked: nothing entails, and nothing is entailed.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Check every key and the model's files; load nothing.

        Raises:
            ConfigError: a key is missing, unknown or wrong, or the model is not one that can serve.
        """
        options.refuse_unknown(settings, KEYS, KEY)
        if settings.get("judge", "consistency") != "consistency":
            raise ConfigError(
                "backend", KEY, "a backend that sees images, because this judge is for grounding", "Use it for consistency only."
            )
        path = options.text(settings, KEY, "model", "a directory with a trained consistency model")
        if path is None:
            raise ConfigError(f"{KEY}.model", "nothing", "a directory with a trained consistency model", f"Set {KEY}.model.")
        self._files = files.check(path, f"{KEY}.model")
        self._batch_size = options.whole(settings, KEY, "batch_size", 64, 1)
        self._wait = options.real(settings, KEY, "wait_milliseconds", 5.0, positive=False) / 1000.0
        self._threads = options.whole(settings, KEY, "threads", 1, 1)
        self._device = options.word(settings, KEY, "device", "auto", DEVICES)
        self._temperature = options.real(settings, KEY, "temperature", self._files.temperature)
        self._max_length = options.whole(settings, KEY, "max_length", self._files.max_length, 16)
        self._threshold = None if settings.get("threshold") is None else options.real(settings, KEY, "threshold", 0.5)
        if self._threshold is not None and self._threshold > 1.0:
            raise ConfigError(f"{KEY}.threshold", repr(self._threshold), "a number in (0, 1]", f"Change {KEY}.threshold.")
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(f"backend {KEY}", f"no package {package}", "torch and transformers", "Install them: the extra `crm`.")
        self._version: str | None = None
        self._model: Any = None
        self._batcher: MicroBatcher[Texts, float] | None = None
        self._usage = Usage()
        self._shortened = 0

    async def start(self) -> None:
        """Load the model in a thread and score one pair.

        Raises:
            ConfigError: its files do not load, or the device is not there.
        """
        module = options.require("faithful_rl.crm.model", f"backend {KEY}")
        self._model = await asyncio.to_thread(module.load, self._files, self._device, self._threads)
        await asyncio.to_thread(self._score, [("Is it?", "It is.", "yes")])
        self._batcher = MicroBatcher(self._score, self._batch_size, self._wait)
        self._usage, self._shortened = Usage(), 0

    async def close(self) -> None:
        """Give the model up. Safe to call again, and without `start`."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            await batcher.close()
        self._model = None

    async def healthy(self) -> bool:
        return self._batcher is not None

    async def consistency(self, request: JudgeRequest, deadline: float) -> Score:
        """P(consistent), or 1.0 and 0.0 where a threshold is set.

        Raises:
            JudgeFailure: not started, no verdict within `deadline` seconds, or the model failed.
        """
        if self._batcher is None:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "the consistency model is not loaded")
        texts = pairs.of_request(request)
        if not texts[1] or not texts[2]:
            return Score(0.0)
        try:
            async with asyncio.timeout(max(deadline, 0.0)):
                value = await self._batcher.ask(texts)
        except TimeoutError:
            raise JudgeFailure(Reason.JUDGE_TIMEOUT, "no verdict before the deadline") from None
        except RuntimeError as error:
            raise JudgeFailure(Reason.JUDGE_ERROR, f"the consistency model failed: {error}") from error
        return Score(value if self._threshold is None else float(value >= self._threshold))

    async def grounding(self, request: JudgeRequest, deadline: float) -> list[SentenceVerdict] | Score:
        raise JudgeFailure(Reason.JUDGE_ERROR, "the consistency model does not judge grounding", retryable=False)

    def version(self) -> str:
        """16 hexadecimal digits of weights, tokenizer, temperature, threshold and length; reads the files at its first call."""
        if self._version is None:
            decisive = {"temperature": self._temperature, "threshold": self._threshold, "max_length": self._max_length}
            self._version = files.version(self._files, kind=KEY, **decisive)
        return self._version

    def usage(self) -> Usage:
        return self._usage

    @property
    def shortened(self) -> int:
        """Thinkings since `start` whose beginning was cut off to fit `max_length`."""
        return self._shortened

    def _score(self, batch: Sequence[Texts]) -> list[float]:
        """Probabilities of a batch; runs in the batcher's thread."""
        found = self._model.probabilities(batch, self._temperature, self._max_length)
        self._usage.calls += len(batch)
        self._usage.prompt_tokens += found.tokens
        if found.shortened:
            before, self._shortened = self._shortened, self._shortened + found.shortened
            if before // TELL_EVERY != self._shortened // TELL_EVERY or before == 0:
                logger.warning(
                    "%d thinking(s) so far longer than max_length=%d tokens: their beginnings were cut off",
                    self._shortened,
                    self._max_length,
                )
        return [float(value) for value in found.values]
