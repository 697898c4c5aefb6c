"""How often `per_sentence` and `per_rollout` say the same of a sentence, asked of one model about the same rollouts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from faithful_rl.judges.backend import JudgeBackend, build_backend
from faithful_rl.judges.calibration.running import GROUNDING, ask_backend
from faithful_rl.judges.calibration.statistics import kappa, rate
from faithful_rl.judges.language_judge import MODES
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.verdicts import SENTENCE_CHOICES
from faithful_rl.types import Score, SentenceVerdict, Verdict

TIMEOUT = 3600.0  # seconds for one rollout; all of them are asked at once
Said = list[SentenceVerdict] | Score


async def measured(requests: Sequence[JudgeRequest], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Both modes of the grounding judge with these settings (`build_backend`), one after the other, each started anew with an empty cache.

    Raises:
        ConfigError: the judge cannot be built or does not start.
    """
    said: dict[str, list[Said]] = {}
    cost = {}
    for mode in MODES:
        async with _judge({**settings, "judge": GROUNDING, "mode": mode}) as backend:
            ask = ask_backend(backend, GROUNDING, TIMEOUT)
            began, before = time.monotonic(), asdict(backend.usage())  # it was shown one image when it started
            said[mode] = list(await asyncio.gather(*(ask(one) for one in requests)))
            seconds, after = time.monotonic() - began, asdict(backend.usage())
            cost[mode] = {"seconds": seconds, **{name: number - before[name] for name, number in after.items()}}
    model = str(settings.get("model", ""))
    return {
        "backend": settings["backend"],
        "model": Path(model).name if Path(model).is_absolute() else model,
        "settings": {name: value for name, value in settings.items() if name not in ("backend", "model")},
        **compared(*(said[mode] for mode in MODES)),
        "cost": cost,
    }


def compared(per_sentence: Sequence[Said], per_rollout: Sequence[Said]) -> dict[str, Any]:
    """Agreement over the sentences of rollouts that both modes judged: Cohen's kappa over CORRECT, INCORRECT and SKIP, and the share of
    equal verdicts, each as [value, low, high] with its 95% interval over rollouts."""
    both = [(one, other) for one, other in zip(per_sentence, per_rollout, strict=True) if isinstance(one, list) and isinstance(other, list)]
    counts = np.zeros((len(both), len(SENTENCE_CHOICES), len(SENTENCE_CHOICES)))
    pairs: Counter[str] = Counter()
    for number, (one, other) in enumerate(both):
        for first, second in zip(one, other, strict=True):
            if Verdict.UNSCORED in (first.verdict, second.verdict):
                continue
            counts[number, SENTENCE_CHOICES.index(first.verdict.name), SENTENCE_CHOICES.index(second.verdict.name)] += 1
            pairs[f"{first.verdict.name} {second.verdict.name}"] += 1
    same = np.trace(counts, axis1=1, axis2=2)
    return {
        "rollouts_judged_by_both": len(both),
        "rollouts_without_a_verdict": {
            mode: sum(not isinstance(one, list) for one in said) for mode, said in zip(MODES, (per_sentence, per_rollout), strict=True)
        },
        "sentences_judged_by_both": int(counts.sum()),
        "same_verdict": rate(same, counts.sum(axis=(1, 2))).as_list(),
        "cohens_kappa": kappa(counts).as_list(),
        "verdicts_per_sentence_then_per_rollout": dict(sorted(pairs.items())),
    }


@asynccontextmanager
async def _judge(settings: Mapping[str, Any]) -> AsyncIterator[JudgeBackend]:
    backend = build_backend(settings)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()
