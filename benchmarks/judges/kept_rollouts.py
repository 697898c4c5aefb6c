"""What judges would be asked about the rollouts that a run has kept: calls saved, and one call per sentence against one per rollout."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faithful_rl import response
from faithful_rl.judges.backend import JudgeBackend, build_backend
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.fake import Behaviour, FakeChat
from faithful_rl.judges.language_judge import build_language_judge
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards.sentences import non_trivial

TIMEOUT = 600.0  # seconds for one rollout; all of them are asked at once


@dataclass(frozen=True)
class Step:
    """The rollouts of one step that a run has kept, as judges see them, and whether each answer is right."""

    name: str
    requests: list[JudgeRequest]
    right: list[bool]


def read_steps(run_dir: Path) -> list[Step]:
    """Training rollouts of a run directory in the order of their steps; held-out ones are left out."""
    steps = []
    for file in sorted((run_dir / "rollouts").glob("step_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if row["split"] == "train"]
        if rows:
            steps.append(Step(file.stem, [_request(row) for row in rows], [row["columns"]["accuracy"] > 0 for row in rows]))
    if not steps:
        raise SystemExit(f"--run-dir: found no training rollouts in {run_dir / 'rollouts'}, expected step_*.jsonl of a run")
    return steps


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


def savings(steps: Sequence[Step]) -> dict[str, Any]:
    """Calls of `per_sentence` judges: asked without any saving, and what took how many of them away."""
    return asyncio.run(_savings(steps))


async def _savings(steps: Sequence[Step]) -> dict[str, Any]:
    judges = {what: fake_judge()[1] for what in ("consistency", "grounding")}
    counts: dict[str, Counter[str]] = {what: Counter() for what in judges}
    for step in steps:
        applicable = [one for one, right in zip(step.requests, step.right, strict=True) if right]
        for what, backend in judges.items():
            before = backend.usage()
            await _judge(backend, applicable, what)
            after = backend.usage()
            size = _consistency_calls if what == "consistency" else _grounding_calls
            counts[what] += Counter(
                {
                    "without_saving": sum(map(size, step.requests)),
                    "saved_by_mask": sum(map(size, step.requests)) - sum(map(size, applicable)),
                    "saved_by_duplicates": after.shared - before.shared,
                    "saved_by_cache": after.cache_hits - before.cache_hits,
                    "made": after.calls - before.calls,
                }
            )
    for what, one in counts.items():
        answered = one["made"] + one["saved_by_mask"] + one["saved_by_duplicates"] + one["saved_by_cache"]
        if answered != one["without_saving"]:
            raise SystemExit(f"{what}: {answered} calls are accounted for, expected {one['without_saving']}")
    rollouts = sum(len(step.requests) for step in steps)
    return {
        "steps": len(steps),
        "rollouts": rollouts,
        "accuracy": sum(sum(step.right) for step in steps) / rollouts,
        "note": "only what the run has dumped: with all of its rollouts more of them would be duplicates or kept",
        "calls": {what: dict(one) for what, one in counts.items()},
        "made_share": {what: one["made"] / max(1, one["without_saving"]) for what, one in counts.items()},
    }


def _consistency_calls(request: JudgeRequest) -> int:
    return int(bool(request.reasoning.strip()) and bool(request.answer.strip()))


def _grounding_calls(request: JudgeRequest) -> int:
    return len(non_trivial(request.reasoning))


def modes(steps: Sequence[Step], model: str | None) -> dict[str, Any]:
    """Both modes on the different rollouts of a run whose answer is right."""
    different = {
        (one.images, one.question, one.reasoning): one
        for step in steps
        for one, right in zip(step.requests, step.right, strict=True)
        if right and non_trivial(one.reasoning)
    }
    requests = list(different.values())
    result: dict[str, Any] = {"rollouts": len(requests), "sentences": sum(map(_grounding_calls, requests))}
    for mode in ("per_sentence", "per_rollout"):
        chat, backend = fake_judge(mode)
        asyncio.run(_judge(backend, requests, "grounding"))
        usage = backend.usage()
        result[mode] = {"calls": usage.calls, "equal_questions": usage.shared + usage.cache_hits, "characters_sent": chat.characters}
    result["agreement"] = asyncio.run(_agreement(requests, model)) if model else "not measured: needs --model"
    return result


async def _agreement(requests: Sequence[JudgeRequest], model: str) -> dict[str, Any]:
    found, cost = {}, {}
    for mode in ("per_sentence", "per_rollout"):
        async with vllm_judge(model, mode) as backend:
            began = time.monotonic()
            found[mode] = [one.verdict.name for verdicts in await _judge(backend, requests, "grounding") for one in verdicts]
            usage = backend.usage()
            cost[mode] = {
                "seconds": time.monotonic() - began,
                "calls": usage.calls,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
            }
    pairs = Counter(zip(found["per_sentence"], found["per_rollout"], strict=True))
    number = sum(pairs.values())
    same = sum(count for (one, other), count in pairs.items() if one == other) / number
    rows, columns = Counter(found["per_sentence"]), Counter(found["per_rollout"])
    chance = sum(rows[word] * columns[word] for word in rows) / number**2
    return {
        "model": Path(model).name,
        "sentences": number,
        "same_verdict": same,
        "cohens_kappa": (same - chance) / (1 - chance) if chance < 1 else None,
        "verdicts_per_sentence_then_per_rollout": {f"{one} {other}": count for (one, other), count in sorted(pairs.items())},
        "cost": cost,
    }


@asynccontextmanager
async def vllm_judge(model: str, mode: str) -> AsyncIterator[JudgeBackend]:
    backend = build_backend({"backend": "vllm", "model": model, "mode": mode})
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()
