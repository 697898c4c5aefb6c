"""How hard each row is for the base model: rollouts through an endpoint, graded by the accuracy reward, kept line by line.

One line of `answers.jsonl` for every row, behind a first line that says what was asked of whom. A killed run loses the rows on their
way and continues after the last whole line.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO, Any

from data_prep.curation.settings import Difficulty
from data_prep.frames import Frame
from data_prep.images import encoded
from data_prep.mcts.views import whole
from data_prep.record import Image, Record, Unusable
from data_prep.sampling import Sampler, image_part, text_part
from data_prep.writers.rl import record_of
from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.response import parse
from faithful_rl.rewards.accuracy import accuracy_score

logger = logging.getLogger(__name__)

INFORMATIVE, ALWAYS, NEVER = "sometimes_right", "always_right", "never_right"
KEPT_TEXT = 2000  # characters of an answer in the file


@dataclass(frozen=True, slots=True)
class Answered:
    """Rollouts of one row: right (1) or wrong (0) each."""

    uid: str
    correct: tuple[int, ...]

    @property
    def mean(self) -> float:
        return sum(self.correct) / len(self.correct)

    @property
    def group(self) -> str:
        return ALWAYS if self.mean == 1 else NEVER if self.mean == 0 else INFORMATIVE


class Answers:
    """The file of answers, by row number."""

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Open or continue; `asked` is what decides the answers.

        Raises:
            ConfigError: the file holds answers to something else, or is damaged before its last line.
        """
        self.path = path
        self.rows: dict[int, Answered] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"asked": dict(asked)}, sort_keys=True)
        if path.is_file() and path.stat().st_size:
            self._read(header)
        if not path.is_file() or not path.stat().st_size:
            path.write_text(header + "\n", encoding="utf-8")
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def add(self, number: int, answered: Answered, texts: Iterable[str], tokens: int) -> None:
        line = {"row": number, "uid": answered.uid, "correct": list(answered.correct), "tokens": tokens, "texts": list(texts)}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        self.rows[number] = answered

    def close(self) -> None:
        self._file.close()

    def _read(self, header: str) -> None:
        data = self.path.read_bytes()
        whole_lines = data.rfind(b"\n") + 1
        if whole_lines < len(data):  # a line that the end of an earlier run cut off
            with self.path.open("r+b") as file:
                file.truncate(whole_lines)
        lines = data[:whole_lines].decode("utf-8", "replace").splitlines()
        if not lines:
            return
        if lines[0] != header:
            fix = "Remove the file to ask again, or repeat the earlier settings."
            raise ConfigError(str(self.path), "answers of another model, pool or settings", "answers to what is asked now", fix)
        for place, line in enumerate(lines[1:], 2):
            try:
                value = json.loads(line)
                self.rows[int(value["row"])] = Answered(str(value["uid"]), tuple(int(one) for one in value["correct"]))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{self.path}, line {place}", f"no answer ({error})", "a line of JSON", "Remove the line.") from error


async def measure(
    rows: Iterable[tuple[int, dict[str, Any]]],
    answers: Answers,
    sampler: Sampler,
    settings: Difficulty,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Ask for every row (number, RL row) that is not answered yet; returns uid -> problem for those that could not be.

    `progress(done)` counts rows. Raises what `Sampler.start` raises.
    """
    await sampler.start()
    failed: dict[str, str] = {}
    waiting: Iterator[tuple[int, dict[str, Any]]] = iter(rows)
    done = 0

    async def worker() -> None:
        nonlocal done
        for number, raw in waiting:
            if number not in answers.rows:
                record = record_of(raw)
                try:
                    await _answer(number, record, raw, answers, sampler, settings, seed)
                except (JudgeFailure, Unusable) as failure:
                    failed[record.uid] = str(failure)
                    logger.warning("no rollouts of %s: %s", record.uid, failure)
            done += 1
            if progress is not None:
                progress(done)

    workers = [asyncio.ensure_future(worker()) for _ in range(max(settings.concurrency // settings.rollouts, 1))]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await sampler.close()
    return failed


async def _answer(
    number: int, record: Record, raw: dict[str, Any], answers: Answers, sampler: Sampler, settings: Difficulty, seed: int
) -> None:
    messages = await asyncio.to_thread(chat_messages, record, raw)
    completions = await asyncio.gather(
        *(
            sampler.sample(messages, max_tokens=settings.max_tokens, seed=rollout_seed(seed, record.uid, rollout))
            for rollout in range(settings.rollouts)
        )
    )
    texts = [completion.text for completion in completions]
    correct = tuple(int(accuracy(text, record)) for text in texts)
    tokens = sum(completion.prompt_tokens + completion.completion_tokens for completion in completions)
    answers.add(number, Answered(record.uid, correct), (text[:KEPT_TEXT] for text in texts), tokens)


def accuracy(text: str, record: Record) -> float:
    """The accuracy reward of a rollout; without an answer block (a base model may write none) the last line counts as the answer."""
    answer = parse(text).answer
    if answer is None:
        answer = next((line for line in reversed(text.strip().splitlines()) if line.strip()), "")
    return accuracy_score(answer, record.gold_text, record.options, record.gold_index).value or 0.0


def rollout_seed(seed: int, uid: str, rollout: int) -> int:
    return int.from_bytes(hashlib.sha256(f"difficulty/{seed}/{uid}/{rollout}".encode()).digest()[:4], "big") >> 1


def chat_messages(record: Record, raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompt of an RL row as chat messages, its images as the model's frame has them.

    Raises:
        Unusable: an image that cannot be read.
    """
    extra = raw["extra_info"]
    frame = Frame(min_pixels=extra["min_pixels"], max_pixels=extra["max_pixels"])
    images = iter([image_part(_sized(image, frame)) for image in record.images])
    messages = []
    for message in raw["prompt"]:
        parts: list[dict[str, Any]] = []
        for number, piece in enumerate(message["content"].split("<image>")):
            if number:
                parts.append(next(images))
            if piece:
                parts.append(text_part(piece))
        plain = len(parts) == 1 and parts[0]["type"] == "text"
        messages.append({"role": message["role"], "content": parts[0]["text"] if plain else parts})
    return messages


def _sized(image: Image, frame: Frame) -> bytes:
    """The image's own bytes where its area is inside the limits; else as the frame resizes it."""
    if frame.min_pixels <= image.width * image.height <= frame.max_pixels:
        return encoded(image)
    return whole(image, frame.min_pixels, frame.max_pixels).png


def selected(answers: Mapping[int, Answered], keep_rest: float, seed: int) -> tuple[list[int], dict[str, int]]:
    """Row numbers that stay, ascending, and the counts by group: seen and kept.

    Rows that are sometimes right stay; of those that are always and of those that are never right a share each, drawn by `seed`.
    """
    groups: dict[str, list[int]] = {INFORMATIVE: [], ALWAYS: [], NEVER: []}
    for number in sorted(answers):
        groups[answers[number].group].append(number)
    kept = list(groups[INFORMATIVE])
    counts = {INFORMATIVE: len(kept), f"{INFORMATIVE}_kept": len(kept)}
    for name in (ALWAYS, NEVER):
        drawn = Random(f"difficulty/{seed}/{name}").sample(groups[name], round(keep_rest * len(groups[name])))
        kept += drawn
        counts |= {name: len(groups[name]), f"{name}_kept": len(drawn)}
    return sorted(kept), counts
