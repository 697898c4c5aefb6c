"""Judges on real vLLM servers, on the CPU: a tiny random text model for consistency, a tiny Qwen2.5-VL for grounding."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("vllm")
pytest.importorskip("openai")
from judge_models import TOKENS, text_judge, vision_judge
from judge_pool_cluster import cluster

from data_prep.scenes.dataset import SceneDataSettings, scene_rows
from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import pool
from faithful_rl.judge_pool.client import PoolClient
from faithful_rl.judge_pool.messages import State
from faithful_rl.judge_pool.settings import from_mapping
from faithful_rl.judge_pool.vllm_server import VllmBackend
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene_language import LETTERS
from faithful_rl.rewards.sentences import non_trivial
from faithful_rl.types import Reason, Score, Verdict

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

SECONDS = 600.0  # for a start or a batch, on a busy machine
ROLLOUTS = 64
VALID = {Verdict.CORRECT, Verdict.INCORRECT, Verdict.SKIP}


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_judge(tmp_path_factory.mktemp("judges") / "text")


@pytest.fixture(scope="module")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_judge(tmp_path_factory.mktemp("judges") / "vision")


@pytest.fixture(autouse=True)
def one_thread_for_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training run sets for its own vLLM; a judge's server must not see it."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    monkeypatch.setenv("WORLD_SIZE", "8")


def settings(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "backend": "vllm",
        "model": str(model),
        "dtype": "float32",
        "max_model_len": TOKENS,
        "cpu_kv_cache_gib": 0.25,
        "extra_args": ["--max-num-seqs", "64"],
        "start_timeout_seconds": SECONDS,
        **more,
    }


def rollouts(number: int = ROLLOUTS) -> list[JudgeRequest]:
    """Rollouts about different scenes: the truth of each box, and an answer that is right in every second one."""
    requests = []
    for index, row in enumerate(scene_rows(SceneDataSettings(train=number, families=("left_right", "above_below")), "train")):
        facts = row["extra_info"]
        said = [f"The {name} is at <bbox>{box}</bbox>." for name, box in zip(facts["box_labels"], facts["gt_boxes"], strict=True)]
        option = (facts["gold_index"] + index) % len(facts["options"])
        said.append(f"The {facts['box_labels'][0]} is {facts['options'][option]}. So the answer is {facts['options'][option]}.")
        requests.append(
            JudgeRequest(
                uid=facts["uid"],
                question=facts["question"],
                options=tuple(facts["options"]),
                reasoning=" ".join(said),
                answer=LETTERS[option],
                images=tuple(image["bytes"] for image in row["images"]),
                scene_json=facts["scene_json"],
                dataset="scenes",
            )
        )
    return requests


def check_verdicts(asked: list[JudgeRequest], consistency: list[Any], grounding: list[Any]) -> None:
    assert len(consistency) == len(grounding) == len(asked)
    assert all(isinstance(score, Score) and score.value in (0.0, 1.0) for score in consistency)
    for request, verdicts in zip(asked, grounding, strict=True):
        assert [one.text for one in verdicts] == [sentence.text for sentence in non_trivial(request.reasoning)]
        assert {one.verdict for one in verdicts} <= VALID
        assert len(verdicts) >= 2


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; empty where it has just ended, or waits to be reaped."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a ZombieProcess is one
        return []


def group_of(process: psutil.Process) -> int:
    """0 where it has just ended."""
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0


def gone(processes: list[psutil.Process]) -> bool:
    psutil.wait_procs(processes, timeout=SECONDS)
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


async def until(happens: Callable[[], Awaitable[bool]]) -> None:
    """Poll; the deadline is generous, nothing depends on how long it takes."""
    end = time.monotonic() + SECONDS
    while not await happens():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.1)


def test_two_judges_score_64_rollouts_and_leave_nothing_behind(text_model: Path, vision_model: Path, tmp_path: Path) -> None:
    text = VllmBackend(settings(text_model, log_directory=str(tmp_path / "logs")))
    vision = VllmBackend(settings(vision_model, limit_mm_per_prompt={"image": 2, "video": 0}))
    asked = rollouts()
    before = {process.pid for process in children()}

    async def run() -> list[psutil.Process]:
        await asyncio.gather(text.start(), vision.start())
        started = [process for process in children() if process.pid not in before]
        await until(text.healthy)
        await until(vision.healthy)
        assert text.version() != vision.version()
        consistency = await asyncio.gather(*(text.consistency(one, SECONDS) for one in asked))
        grounding = await asyncio.gather(*(vision.grounding(one, SECONDS) for one in asked))
        check_verdicts(asked, list(consistency), list(grounding))
        assert text.usage().calls == ROLLOUTS, "one question each"
        assert vision.usage().calls == len(
            {(request.uid, one.start) for request, judged in zip(asked, grounding, strict=True) for one in judged}
        )
        assert text.usage().prompt_tokens > 100 * ROLLOUTS

        again = await asyncio.gather(*(text.consistency(one, SECONDS) for one in asked))
        assert again == consistency
        assert text.usage().cache_hits == ROLLOUTS
        await asyncio.gather(text.close(), vision.close())
        return started

    started = asyncio.run(run())
    assert len(started) >= 6, "a keeper, an API server and an engine each"
    assert gone(started)
    (log,) = (tmp_path / "logs").iterdir()  # the other one, in a temporary folder, is gone
    assert not list(Path(tempfile.gettempdir()).glob(f"faithful-judges-*/vllm-{os.getpid()}-*.log"))
    words = log.read_text(errors="replace")
    assert "UniProcExecutor" in words
    assert "verl" not in words.replace("faithful_rl.verl_plugin.vllm_plugin", ""), "of ours only the guards of the packaging are loaded"


def test_a_killed_server_makes_the_judge_unavailable_and_a_new_one_is_the_same_judge(text_model: Path) -> None:
    *asked, never_asked = rollouts(5)

    async def run() -> None:
        first = VllmBackend(settings(text_model))
        await first.start()
        version = first.version()
        before = [await first.consistency(one, SECONDS) for one in asked]
        server = next(process for process in children() if "vllm.entrypoints" in " ".join(words_of(process)[1:4]))
        members = [process for process in children() if group_of(process) == group_of(server)]
        server.kill()

        async def unhealthy() -> bool:
            return not await first.healthy()

        await until(unhealthy)
        with pytest.raises(JudgeFailure) as failure:
            await first.consistency(never_asked, SECONDS)
        assert failure.value.reason is Reason.JUDGE_UNAVAILABLE
        assert failure.value.retryable
        assert gone(members), "the engine does not outlive its API server"
        await first.close()

        second = VllmBackend(settings(text_model))
        await second.start()
        try:
            assert second.version() == version
            assert [await second.consistency(one, SECONDS) for one in asked] == before
        finally:
            await second.close()

    asyncio.run(run())


def test_a_server_that_does_not_start_says_why(text_model: Path, tmp_path: Path) -> None:
    backend = VllmBackend(settings(text_model, log_directory=str(tmp_path), extra_args=["--quantization", "no_such_method"]))
    before = {process.pid for process in children()}
    with pytest.raises(ConfigError) as failure:
        asyncio.run(backend.start())
    assert failure.value.key == "vllm.model"
    assert "with which vLLM ended while it started" in str(failure.value)
    assert "(Value error, Unknown quantization method: no_such_method" in str(failure.value)
    assert gone([process for process in children() if process.pid not in before])


def test_a_pool_with_two_vllm_judges_scores_64_rollouts_and_replaces_a_killed_server(text_model: Path, vision_model: Path) -> None:
    pytest.importorskip("ray")
    asked = rollouts()
    with cluster(num_cpus=2):
        served = pool.serve(
            from_mapping(
                {
                    "name": "vllm",
                    "start_seconds": SECONDS,
                    "health_seconds": 0.5,
                    "consistency": settings(text_model, timeout_seconds=SECONDS),
                    "grounding": settings(vision_model, timeout_seconds=SECONDS, mode="per_rollout"),
                }
            )
        )
        servers: list[psutil.Process] = []
        try:
            versions = {one.name: one.version for one in served.replicas}
            replicas = {one.name: psutil.Process(one.pid) for one in served.replicas}
            servers = [child for one in replicas.values() for child in one.children(recursive=True)]
            assert len(servers) >= 6
            ask = {judge: PoolClient("vllm", judge) for judge in ("consistency", "grounding")}

            async def all_of(judge: str, requests: list[JudgeRequest]) -> list[Any]:
                return list(await asyncio.gather(*(ask[judge].ask(one) for one in requests)))

            async def score() -> tuple[list[Any], list[Any]]:
                consistency, grounding = await asyncio.gather(all_of("consistency", asked), all_of("grounding", asked))
                return consistency, grounding

            consistency, grounding = asyncio.run(score())
            check_verdicts(asked, consistency, grounding)
            assert {one: client.counts()["scored"] for one, client in ask.items()} == {"consistency": ROLLOUTS, "grounding": ROLLOUTS}

            owner = replicas["vllm-consistency-0"]
            (keeper,) = owner.children()
            keeper.children()[0].kill()

            def replaced() -> bool:
                now = {one.name: one for one in pool.status("vllm").replicas}["vllm-consistency-0"]
                again = [child for child in owner.children() if child.pid != keeper.pid]
                return now.state is State.READY and bool(again) and now.version == versions[now.name]

            end = time.monotonic() + SECONDS
            while not replaced():
                assert time.monotonic() < end, "the server was not replaced"
                time.sleep(0.1)
            servers += owner.children(recursive=True)
            assert asyncio.run(all_of("consistency", asked)) == consistency, "after the outage the same judge gives the same verdicts"
        finally:
            pool.stop("vllm", 0.0)
        assert gone(servers), "stopping the pool ends its servers"
