"""What judges would be asked about the rollouts that a run has kept: calls saved, and one call per sentence against one per rollout."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.judges import agreement
from faithful_rl import response, run_directory
from faithful_rl.judges.backend import JudgeBackend
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.fake import Behaviour, FakeChat
from faithful_rl.judges.language_judge import MODES, build_language_judge
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards.ranges import RESPONSE_TOKENS
from faithful_rl.rewards.sentences import non_trivial

TIMEOUT = 600.0  # seconds for one rollout; all of them are asked at once


@dataclass(frozen=True)
class Step:
    """The rollouts of one step that a run has kept, as judges see them, whether each answer is right, and how long each text is: in
    tokens where the run counted them, else in characters."""

    name: str
    requests: list[JudgeRequest]
    right: list[bool]
    lengths: list[float]


def read_steps(run_dir: Path) -> list[Step]:
    """Training rollouts of a run directory in the order of their steps; held-out ones are left out."""
    steps = []
    for file in sorted((run_dir / "rollouts").glob("step_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if row["split"] == "train"]
        if rows:
            right = [row["columns"]["accuracy"] > 0 for row in rows]
            steps.append(Step(file.stem, [_request(row) for row in rows], right, _lengths(rows)))
    if not steps:
        raise SystemExit(f"--run-dir: found no training rollouts in {run_dir / 'rollouts'}, expected step_*.jsonl of a run")
    return steps


def kept_share(run_dir: Path, steps: Sequence[Step]) -> float | None:
    """Rollouts that the run has kept over all that it has generated up to its last kept step; None where its configuration is not there.
    `faithful_rl.ui.rollouts_every=1 faithful_rl.ui.rollouts_per_step=80` keeps every rollout of a tiny run."""
    file = run_dir / run_directory.CONFIG
    if not file.is_file():
        return None
    config = OmegaConf.load(file)
    per_step = OmegaConf.select(config, "data.train_batch_size"), OmegaConf.select(config, "actor_rollout_ref.rollout.n")
    if None in per_step:
        return None
    last = max(int(step.name.removeprefix("step_")) for step in steps)
    return sum(len(step.requests) for step in steps) / (math.prod(map(int, per_step)) * last)


def _lengths(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    tokens = [float(row["columns"].get(RESPONSE_TOKENS, math.nan)) for row in rows]
    return tokens if all(math.isfinite(one) for one in tokens) else [float(len(row["response"])) for row in rows]


def _request(row: dict[str, Any]) -> JudgeRequest:
    parsed = response.parse(row["response"])
    image = row.get("image_png_base64")
    return JudgeRequest(
        uid=row["uid"],
        question=row["question"],
        options=tuple(row["options"]),
        reasoning=parsed.reasoning,
        answer=parsed.answer or "",
        images=(base64.b64decode(image),) if image else (),
    )


class CountingChat(FakeChat):
    """A fake that also counts the characters that it is sent, images aside."""

    characters = 0

    async def complete(self, messages: list[dict[str, Any]], **more: Any) -> Completion:
        parts = [part for message in messages for part in _parts(message["content"])]
        self.characters += sum(len(part.get("text", "")) for part in parts)
        return await super().complete(messages, **more)


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"text": content}] if isinstance(content, str) else content


def fake_judge(mode: str = "per_sentence") -> tuple[CountingChat, JudgeBackend]:
    chat = CountingChat(Behaviour(latency_seconds=0.01))
    return chat, build_language_judge(chat, {"mode": mode}, "fake")


async def _judge(backend: JudgeBackend, requests: Sequence[JudgeRequest], what: str) -> list[Any]:
    ask: Callable[[JudgeRequest, float], Awaitable[Any]] = getattr(backend, what)
    return list(await asyncio.gather(*(ask(one, TIMEOUT) for one in requests)))


async def _calls(backend: JudgeBackend, requests: Sequence[JudgeRequest], what: str, expected: int) -> int:
    """Calls that the judge makes of its model for these rollouts, after checking that all of the `expected` questions were asked."""
    before = backend.usage()
    await _judge(backend, requests, what)
    after = backend.usage()
    calls = after.calls - before.calls
    asked = calls + after.shared - before.shared + after.cache_hits - before.cache_hits
    if asked != expected:
        raise SystemExit(f"{what}: {asked} questions are accounted for, expected {expected}")
    return calls


def savings(steps: Sequence[Step], share: float | None = None) -> dict[str, Any]:
    """Calls of `per_sentence` judges: asked without any saving, and what took how many of them away. `share`: `kept_share` of the run."""
    return {**asyncio.run(_savings(steps)), "share_of_all_rollouts": share}


async def _savings(steps: Sequence[Step]) -> dict[str, Any]:
    judges = {what: fake_judge()[1] for what in ("consistency", "grounding")}
    counts: dict[str, Counter[str]] = {what: Counter() for what in judges}
    for step in steps:
        applicable = [one for one, right in zip(step.requests, step.right, strict=True) if right]
        for what, backend in judges.items():
            size = _consistency_calls if what == "consistency" else _grounding_calls
            every, asked = sum(map(size, step.requests)), sum(map(size, applicable))
            # Whether a sibling's question is still on its way or just answered is chance: a judge that knows this step only tells both
            # apart from what is kept.
            different = await _calls(fake_judge()[1], applicable, what, asked)
            made = await _calls(backend, applicable, what, asked)
            counts[what].update(
                {
                    "without_saving": every,
                    "saved_by_mask": every - asked,
                    "saved_by_duplicates": asked - different,
                    "saved_by_cache": different - made,
                    "made": made,
                }
            )
    rollouts = sum(len(step.requests) for step in steps)
    return {
        "steps": len(steps),
        "rollouts": rollouts,
        "accuracy": sum(sum(step.right) for step in steps) / rollouts,
        "calls": {what: dict(one) for what, one in counts.items()},
        "made_share": {what: one["made"] / max(1, one["without_saving"]) for what, one in counts.items()},
    }


def _consistency_calls(request: JudgeRequest) -> int:
    return int(bool(request.reasoning.strip()) and bool(request.answer.strip()))


def _grounding_calls(request: JudgeRequest) -> int:
    """Without an image nothing is asked: such a rollout is unscored."""
    return len(non_trivial(request.reasoning)) if request.images else 0


def modes(steps: Sequence[Step], judge: Mapping[str, Any]) -> dict[str, Any]:
    """Both modes on the different rollouts of a run whose answer is right; with the settings of a judge also how far they agree."""
    different = {
        (one.images, one.question, one.reasoning): one
        for step in steps
        for one, right in zip(step.requests, step.right, strict=True)
        if right and _grounding_calls(one)
    }
    requests = list(different.values())
    result: dict[str, Any] = {"rollouts": len(requests), "sentences": sum(map(_grounding_calls, requests))}
    for mode in MODES:
        chat, backend = fake_judge(mode)
        asyncio.run(_judge(backend, requests, "grounding"))
        usage = backend.usage()
        result[mode] = {"calls": usage.calls, "equal_questions": usage.shared + usage.cache_hits, "characters_sent": chat.characters}
    result["agreement"] = asyncio.run(agreement.measured(requests, judge)) if judge else "not measured: needs --model"
    return result
