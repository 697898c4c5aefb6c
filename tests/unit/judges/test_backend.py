"""The registry of backends, the scene backend, the fake one, and failures that travel."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import Any

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeFailure, build_backend
from faithful_rl.judges.scene_world import SceneImage, SceneObject, write_scene
from faithful_rl.rewards.sentences import semantic_grounding_score
from faithful_rl.types import Box, Reason, Score, Verdict

SCENE = write_scene(
    [SceneImage(112, 112, (SceneObject("red", "circle", Box(2, 2, 26, 26)), SceneObject("blue", "square", Box(90, 6, 106, 22))))]
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "backend: found nothing, expected one of classifier, fake, openai, scene, vllm. Set the judge's backend."),
        ({"backend": "magic"}, "backend: found 'magic', expected one of classifier, fake, openai, scene, vllm. Set the judge's backend."),
        ({"backend": 3}, "backend: found 3, expected one of classifier, fake, openai, scene, vllm. Set the judge's backend."),
        ({"backend": "scene", "mode": "per_rollout"}, "scene.mode: found an unknown key, expected one of cache. Remove it."),
        (
            {"backend": "fake", "latency_seconds": -1},
            "fake.latency_seconds: found -1, expected a finite number >= 0. Change fake.latency_seconds.",
        ),
        ({"backend": "fake", "fail_every": 0.5}, "fake.fail_every: found 0.5, expected a whole number >= 0. Change fake.fail_every."),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_backend(settings)
    assert str(caught.value) == message


def test_the_core_loads_no_engine_and_no_client() -> None:
    program = (
        "import sys\n"
        "from faithful_rl.judges import backend, language_judge, openai_chat, fake\n"
        "backend.build_backend({'backend': 'scene'}); backend.build_backend({'backend': 'fake'})\n"
        "backend.build_backend({'backend': 'openai', 'base_url': 'http://127.0.0.1:1/v1', 'model': 'm'})\n"
        "heavy = {'ray', 'torch', 'vllm', 'verl', 'transformers', 'openai', 'diskcache'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_the_scene_backend_gives_exact_verdicts(ask: Any) -> None:
    async def run() -> Any:
        backend = build_backend({"backend": "scene", "workers": 1, "timeout_seconds": 60.0, "model": None, "cache": {"memory_entries": 3}})
        await backend.start()
        request = ask(
            reasoning="The red circle is in the upper left. The red circle is right of the blue square. So the answer is left.",
            scene_json=SCENE,
        )
        found = await backend.consistency(request, 60.0), await backend.grounding(request, 60.0), await backend.healthy()
        await backend.close()
        return *found, backend.usage().calls, backend.version()

    consistency, verdicts, healthy, calls, version = asyncio.run(run())
    assert consistency == Score(0.0)  # "right of" rules the conclusion "left" out
    assert [one.verdict for one in verdicts] == [Verdict.CORRECT, Verdict.INCORRECT]
    assert (healthy, calls) == (True, 2)
    assert version == build_backend({"backend": "scene"}).version()
    assert len(version) == 16


def test_failures_survive_the_way_between_processes() -> None:
    failure = pickle.loads(pickle.dumps(JudgeFailure(Reason.JUDGE_TIMEOUT, "late", retryable=False)))

    assert (failure.reason, failure.retryable, str(failure)) == (Reason.JUDGE_TIMEOUT, False, "late")


def test_when_to_ask_again_survives_it_too() -> None:
    failure = pickle.loads(pickle.dumps(JudgeFailure(Reason.JUDGE_UNAVAILABLE, "busy", retry_after=2.5)))
    assert (failure.reason, str(failure), failure.retryable, failure.retry_after) == (Reason.JUDGE_UNAVAILABLE, "busy", True, 2.5)


def test_a_failure_has_a_failure_s_reason() -> None:
    with pytest.raises(ValueError, match=r"one of JUDGE_ERROR, JUDGE_TIMEOUT, JUDGE_UNAVAILABLE, got <Reason.MASKED: 1>"):
        JudgeFailure(Reason.MASKED, "no")


@pytest.mark.parametrize("through_prompts", [False, True])
def test_the_fake_gives_the_same_valid_verdicts_every_time(ask: Any, through_prompts: bool) -> None:
    settings = {"backend": "fake", "latency_seconds": 0.0, "seed": 3, "through_prompts": through_prompts}
    request = ask(reasoning="The red circle is left. The blue square is right. The circle is red.")

    async def run() -> Any:
        backend = build_backend(settings)
        await backend.start()
        found = await backend.consistency(request, 60.0), await backend.grounding(request, 60.0), backend.usage().calls
        await backend.close()
        return found

    first, second = asyncio.run(run()), asyncio.run(run())
    assert first == second
    assert first[0].value in (0.0, 1.0)
    assert len(first[1]) == 3
    assert Verdict.UNSCORED not in [one.verdict for one in first[1]]
    assert first[2] == (4 if through_prompts else 2)


@pytest.mark.parametrize("mode", ["per_sentence", "per_rollout"])
def test_the_fake_speaks_both_modes(ask: Any, mode: str) -> None:
    backend = build_backend({"backend": "fake", "latency_seconds": 0.0, "through_prompts": True, "mode": mode})
    verdicts = asyncio.run(backend.grounding(ask(), 60.0))
    assert isinstance(verdicts, list)
    assert semantic_grounding_score(verdicts).reason in (Reason.SCORED, Reason.NOTHING_TO_JUDGE)


def test_the_fake_fails_in_turn(ask: Any) -> None:
    backend = build_backend({"backend": "fake", "latency_seconds": 0.0, "fail_every": 2})

    async def run() -> list[Reason]:
        found = []
        for _ in range(8):
            try:
                found.append((await backend.consistency(ask(), 60.0)).reason)
            except JudgeFailure as failure:
                found.append(failure.reason)
        return found

    scored = Reason.SCORED
    assert asyncio.run(run()) == [
        scored, Reason.JUDGE_ERROR, scored, Reason.JUDGE_UNAVAILABLE, scored, Reason.JUDGE_TIMEOUT, scored, Reason.JUDGE_ERROR,
    ]  # fmt: skip


def test_the_fake_keeps_the_deadline(ask: Any) -> None:
    backend = build_backend({"backend": "fake", "latency_seconds": 60.0})
    with pytest.raises(JudgeFailure) as caught:
        asyncio.run(backend.grounding(ask(), 0.01))
    assert caught.value.reason is Reason.JUDGE_TIMEOUT
