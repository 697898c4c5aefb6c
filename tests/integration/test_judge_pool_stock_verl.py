"""Stock verl with our judges as its custom reward function: two runs on the CPU against one serving pool, the second one from the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")
pytest.importorskip("openai")
from judge_endpoint import MODEL, Endpoint, endpoint
from judge_pool_cluster import PROJECT, cluster

from faithful_rl.judge_pool import pool
from faithful_rl.judge_pool.settings import from_mapping
from faithful_rl.rewards.suite import COLUMNS

SECONDS = 1500.0  # for one run on a busy machine
pytestmark = [pytest.mark.integration, pytest.mark.timeout(2 * SECONDS + 300)]
STEPS = 2
FOLDER = Path(__file__).parent

SMALL = (
    "recipe=grpo_tiny",
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=-1",
    "trainer.resume_mode=disable",
    "trainer.val_before_train=true",
    "trainer.logger=[file]",
    "data.train_batch_size=4",
    "data.max_response_length=64",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=10",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=20",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=20",
    "actor_rollout_ref.rollout.top_k=1",  # both runs write the same, so that the second one asks what was asked before
    "faithful_rl.data.scenes.train=48",
    "faithful_rl.data.scenes.val=8",
    "faithful_rl.data.scenes.test=8",
    # What makes it stock, and what brings the judges in.
    "reward.reward_manager.source=register",
    "reward.reward_manager.name=naive",
    "reward.reward_manager.module.path=null",
    "reward.custom_reward_function.path=pkg://faithful_rl.judges.reward",
    "reward.custom_reward_function.name=compute_score",
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    # verl takes the machine's environment for its workers from the cluster's, which is started here.
    chosen = {"VERL_PLATFORM": "cpu", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
              "OMP_WAIT_POLICY": "PASSIVE", "TQ_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false",
              "VERL_USE_EXTERNAL_MODULES": "faithful_rl.verl_plugin.plugin"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.items():
            patch.setenv(name, value)
        with cluster(num_cpus=24, num_gpus=1) as found:
            yield found


def run(run_dir: Path, scenes: Path, address: str) -> list[dict[str, Any]]:
    """One stock run to its end; its metrics, validation before the first step included."""
    overrides = [
        *SMALL,
        f"trainer.validation_data_dir={run_dir / 'validation'}",
        f"faithful_rl.data.scenes.directory={scenes}",
    ]
    run_dir.mkdir()
    log = run_dir / "log.txt"
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{FOLDER}"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / "stock_verl_run.py"), str(run_dir), address, "stock", *overrides],
            cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
    assert code == 0, log.read_text(errors="replace")[-6000:]
    return [json.loads(line)["data"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def counted() -> dict[str, int]:
    """Counters of the pool `stock`: failures of both judges, the rest of the one with the model."""
    found: dict[str, int] = {"verdicts": 0, "unscored": 0}
    for one in pool.status("stock").replicas:
        found["unscored"] += sum(number for reason, number in one.counts["unscored"].items() if reason.startswith("judge_"))
        if one.name.startswith("stock-consistency"):
            found["verdicts"] += sum(one.counts["verdicts"].values())
            for name in ("requests", "calls", "cache_hits", "shared"):
                found[name] = found.get(name, 0) + one.counts[name]
    return found


def start_pool(server: Endpoint) -> None:
    model = {"backend": "openai", "base_url": server.base_url, "model": MODEL}
    # Stock verl hands no images to a reward function; the exact judge needs none.
    pool.serve(from_mapping({"name": "stock", "consistency": model, "grounding": {"backend": "scene"}, "start_seconds": 300.0}))


def test_two_stock_runs_share_one_pool(address: str, tmp_path: Path) -> None:
    with endpoint() as server:
        start_pool(server)
        first_metrics = run(tmp_path / "first", tmp_path / "scenes", address)
        first, first_calls = counted(), server.calls["ok"]
        second_metrics = run(tmp_path / "second", tmp_path / "scenes", address)
        second, second_calls = counted(), server.calls["ok"] - first_calls
        pool.stop("stock", 10.0)
    assert first["requests"] > 0
    assert first_calls - 1 <= first["calls"] <= first_calls, "the endpoint was asked once more when the pool started"
    assert first["verdicts"] == first["requests"]
    assert first["unscored"] == second["unscored"] == 0
    assert second["requests"] > first["requests"], "the second run asked the pool that the first one had used"
    assert second["cache_hits"] > first["cache_hits"]
    assert second_calls < first_calls / 2, f"{second_calls} calls of the model in the second run, {first_calls} in the first"
    for metrics in (first_metrics, second_metrics):
        assert sum("critic/rewards/mean" in row or "critic/score/mean" in row for row in metrics) == STEPS
    for name in ("first", "second"):
        (dump,) = (tmp_path / name / "validation").glob("0.jsonl")
        rows = [json.loads(line) for line in dump.read_text().splitlines()]
        assert len(rows) == 8
        for row in rows:
            assert set(COLUMNS) <= set(row)
            assert row["score"] == row["task"]
            assert row["consistency_scored"] == 1.0
        assert any(row["semantic_grounding_scored"] == 1.0 for row in rows)
