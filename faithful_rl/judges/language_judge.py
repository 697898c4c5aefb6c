"""Judges that are chat models: R_C from a text model, R_S from a vision model, sentence by sentence or a rollout at once.

What is never asked, because the answer is known:
- an empty reasoning or an empty answer is inconsistent (0.0): nothing entails anything;
- a reasoning without a sentence worth judging has no verdicts.
What cannot be judged is unscored, JUDGE_ERROR, with a line in the log, because asking again would not help: an image that cannot be
decoded, no image at all, a reasoning longer than `max_reasoning_characters` or with more than `max_sentences` sentences to judge. A
long text is not cut: the part left out would be where a policy puts what must not be read.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from faithful_rl.config import ConfigError
from faithful_rl.judges import options
from faithful_rl.judges.asking import Asker, Question
from faithful_rl.judges.backend import JudgeFailure, Usage
from faithful_rl.judges.cache import VerdictCache, build_cache
from faithful_rl.judges.chat import Chat
from faithful_rl.judges.fencing import neutralise
from faithful_rl.judges.images import EncodedImage, ImageError, digest_of, encode_image
from faithful_rl.judges.prompts import Prompts
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.verdicts import CONSISTENCY_CHOICES, SENTENCE_CHOICES, parse_consistency, parse_rollout, parse_sentence
from faithful_rl.rewards.sentences import Sentence, split
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

logger = logging.getLogger("faithful_rl.judges")

MODES = ("per_sentence", "per_rollout")
WORD_TOKENS = 16  # enough for the longest verdict, also when a tokenizer spells it letter by letter
ROLLOUT_TOKENS = 24  # for one entry of the JSON object, and once more for its frame
RAW_FACTOR = 8  # reasonings longer than this many limits are not even cleaned
TRIAL_SECONDS = 60.0
TRIAL_SIDE = 56  # pixels: two patches of 28, the smallest picture that every processor takes
IMAGE_MEMORY_BYTES = 64 * 2**20  # of encoded images, for rollouts of the same question


@dataclass(frozen=True)
class LanguageSettings:
    """How a language judge asks. Everything here but the cache is part of its version."""

    mode: str = "per_sentence"  # per_sentence, as in the paper | per_rollout: one call, one JSON object
    max_reasoning_characters: int = 32_000  # after cleaning, >= 1
    max_sentences: int = 256  # to judge in one rollout, >= 1
    prompt_directory: str | None = None  # templates to use instead of ours

    @classmethod
    def take(cls, settings: Mapping[str, Any], backend: str) -> LanguageSettings:
        """From a backend's settings. Raises ConfigError, with `backend` before the key."""
        plain = cls()
        return cls(
            options.word(settings, backend, "mode", plain.mode, MODES),
            options.whole(settings, backend, "max_reasoning_characters", plain.max_reasoning_characters, 1),
            options.whole(settings, backend, "max_sentences", plain.max_sentences, 1),
            options.text(settings, backend, "prompt_directory", "a directory with prompt templates, or null"),
        )


LANGUAGE_KEYS = ("mode", "max_reasoning_characters", "max_sentences", "prompt_directory", "cache")


def build_language_judge(chat: Chat, settings: Mapping[str, Any], backend: str, identity: Mapping[str, Any] | None = None) -> LanguageJudge:
    """A judge on `chat` from the keys `LANGUAGE_KEYS` of a backend's settings; other keys are not looked at.

    Raises:
        ConfigError: one of them is wrong.
    """
    own = LanguageSettings.take(settings, backend)
    prompts = Prompts.load(None if own.prompt_directory is None else Path(own.prompt_directory).expanduser())
    cache = build_cache(options.mapping(settings, backend, "cache"))
    looks_at = f"{backend}.model" if settings.get("judge") == "grounding" else None
    return LanguageJudge(chat, prompts, cache, own.mode, own.max_reasoning_characters, own.max_sentences, identity, looks_at)


class LanguageJudge:
    """A `JudgeBackend` on one chat model, which it owns: `start` and `close` reach through to it."""

    def __init__(
        self,
        chat: Chat,
        prompts: Prompts,
        cache: VerdictCache,
        mode: str = "per_sentence",
        max_reasoning_characters: int = 32_000,
        max_sentences: int = 256,
        identity: Mapping[str, Any] | None = None,
        looks_at: str | None = None,
    ) -> None:
        """
        Args:
            identity: what besides `chat.model` decides its answers (guidance, revision, further request fields); JSON data.
            looks_at: the key that names the model, of a judge that must take images: `start` shows it one. None: none is shown.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        self._chat, self._prompts, self._cache, self._mode = chat, prompts, cache, mode
        self._max_characters, self._max_sentences = max_reasoning_characters, max_sentences
        self._looks_at = looks_at
        decoding = {"temperature": 0, **(identity or {})}
        self._decoding = decoding
        self._asker = Asker(chat, cache, prompts.version, decoding)
        # Counted in characters of URLs; one large image may fill it alone or be left out.
        lru = options.require("cachetools", "the cache of images").LRUCache
        self._images: dict[str, EncodedImage] = lru(IMAGE_MEMORY_BYTES, getsizeof=lambda image: len(image.url))

    async def consistency(self, request: JudgeRequest, deadline: float) -> Score:
        """R_C: 1.0 for YES, 0.0 for NO, or unscored (see the module). Raises JudgeFailure."""
        text = self._cleaned(request)
        if text is None:
            return Score(None, Reason.JUDGE_ERROR)
        if not text or not neutralise(request.answer):
            return Score(0.0)
        question = Question(
            "consistency",
            self._prompts.consistency(request),
            lambda answer: parse_consistency(answer).scored,
            WORD_TOKENS,
            choices=CONSISTENCY_CHOICES,
        )
        return parse_consistency(await self._asker.ask(question, deadline))

    async def grounding(self, request: JudgeRequest, deadline: float) -> list[SentenceVerdict] | Score:
        """Verdicts on the non-trivial sentences, in order, or unscored (see the module). Raises JudgeFailure."""
        end = asyncio.get_running_loop().time() + deadline
        if self._cleaned(request) is None:
            return Score(None, Reason.JUDGE_ERROR)
        sentences = split(request.reasoning)
        judged = [index for index, sentence in enumerate(sentences) if not sentence.trivial]
        if not judged:
            return []
        if len(judged) > self._max_sentences:
            return _unscored(request, f"{len(judged)} sentences to judge, more than max_sentences {self._max_sentences}")
        try:
            images = await self._encoded(request.images)
        except ImageError as error:
            return _unscored(request, str(error))
        if not images:
            return _unscored(request, "no image in the request: grounding is judged on images")
        left = end - asyncio.get_running_loop().time()
        ask = self._per_sentence if self._mode == "per_sentence" else self._per_rollout
        verdicts = await ask(request, sentences, judged, images, left)
        return [
            SentenceVerdict(sentences[index].text, sentences[index].start, sentences[index].end, verdict)
            for index, verdict in zip(judged, verdicts, strict=True)
        ]

    async def start(self) -> None:
        """Start the model and, for a judge of grounding, show it one image: a text model would fail at each rollout instead.

        Raises:
            ConfigError: it does not start, or refuses the image.
        """
        await self._chat.start()
        if self._looks_at is None:
            return
        try:
            await self.grounding(_trial(), TRIAL_SECONDS)
        except JudgeFailure as failure:
            if failure.retryable:  # busy, slow or vague: no sign that it cannot see
                logger.warning("%s", json.dumps({"event": "trial_image_unanswered", "message": str(failure)}))
                return
            await self._chat.close()
            found = f"{self._chat.model}, which refuses a question with an image ({failure})"
            raise ConfigError(
                self._looks_at, found, "a model that reads images", "Name a vision-language model for grounding."
            ) from failure

    async def close(self) -> None:
        await self._asker.close()
        await self._chat.close()
        await asyncio.to_thread(self._cache.close)

    async def healthy(self) -> bool:
        return await self._chat.healthy()

    def version(self) -> str:
        content = [self._chat.model, self._prompts.version, self._mode, self._max_characters, self._max_sentences, self._decoding]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def usage(self) -> Usage:
        """A copy: what a caller holds does not move."""
        return replace(self._asker.usage)

    async def _per_sentence(
        self, request: JudgeRequest, sentences: Sequence[Sentence], judged: Sequence[int], images: Sequence[EncodedImage], left: float
    ) -> list[Verdict]:
        digests = {image.url: image.digest for image in images}

        async def one(index: int) -> Verdict:
            question = Question(
                "sentence",
                self._prompts.grounding_sentence(request, sentences, index, images),
                lambda answer: parse_sentence(answer) is not Verdict.UNSCORED,
                WORD_TOKENS,
                choices=SENTENCE_CHOICES,
                digests=digests,
            )
            return parse_sentence(await self._asker.ask(question, left))

        tasks = [asyncio.ensure_future(one(index)) for index in judged]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            # One sentence without a verdict leaves the rollout without one: the others need not be waited for.
            for task in tasks:
                task.cancel()

    async def _per_rollout(
        self, request: JudgeRequest, sentences: Sequence[Sentence], judged: Sequence[int], images: Sequence[EncodedImage], left: float
    ) -> list[Verdict]:
        messages, schema = self._prompts.grounding_rollout(request, sentences, images)
        number = len(judged)
        question = Question(
            "rollout",
            messages,
            lambda answer: Verdict.UNSCORED not in parse_rollout(answer, number),
            ROLLOUT_TOKENS * (number + 1),
            json_schema=schema,
            digests={image.url: image.digest for image in images},
        )
        return parse_rollout(await self._asker.ask(question, left), number)

    async def _encoded(self, files: Sequence[bytes]) -> list[EncodedImage]:
        """In order. Decoding happens in a thread, once per image as long as it is remembered."""
        found = []
        for number, data in enumerate(files, 1):
            digest = digest_of(data)
            image = self._images.get(digest)
            if image is None:
                try:
                    image = await asyncio.to_thread(encode_image, data)
                except ImageError as error:
                    raise ImageError(f"image {number} of {len(files)}: {error}") from error
                if len(image.url) <= IMAGE_MEMORY_BYTES:
                    self._images[digest] = image
            found.append(image)
        return found

    def _cleaned(self, request: JudgeRequest) -> str | None:
        """The reasoning as prompts will show it; None, and a line in the log, where it is too long to be judged."""
        length = len(request.reasoning)
        if length <= RAW_FACTOR * self._max_characters:
            text = neutralise(request.reasoning)
            if len(text) <= self._max_characters:
                return text
            length = len(text)
        _unscored(request, f"a reasoning of {length} characters, more than max_reasoning_characters {self._max_characters}")
        return None


def _trial() -> JudgeRequest:
    """A question about a white picture, for a model that must show that it takes images."""
    buffer = io.BytesIO()
    Image.new("RGB", (TRIAL_SIDE, TRIAL_SIDE), "white").save(buffer, "PNG")
    return JudgeRequest("trial", "Which colour is the image?", (), "The whole image is white.", "white", images=(buffer.getvalue(),))


def _unscored(request: JudgeRequest, message: str) -> Score:
    """JUDGE_ERROR, and one line of JSON in the log, without any text of the policy."""
    line = {"event": "not_judgeable", "uid": request.uid, "dataset": request.dataset, "message": message, "images": len(request.images)}
    logger.warning("%s", json.dumps(line, sort_keys=True))
    return Score(None, Reason.JUDGE_ERROR)
