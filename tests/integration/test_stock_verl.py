"""Stock verl, none of our algorithm, on the CPU host: actor, reference policy, rollout server, weight sync, and our judges as its reward.

Two runs against one serving pool; the second, shorter one finds its verdicts in the cache: sampling is greedy, so both write the same. In
the first, log-probabilities of the rollout server equal the actor's, before the first update and after it. A stale or wrongly loaded weight
shows there and nowhere else. Two ranks against one are compared with our trainer, in `test_training_resume`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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
    "trainer.save_freq=-1",
    "trainer.resume_mode=disable",
    "trainer.val_before_train=true",
    "trainer.logger=[file]",
    "data.train_batch_size=16",
    "data.max_response_length=64",
    "actor_rollout_ref.actor.ppo_mini_batch_size=16",
    "actor_rollout_ref.actor.optim.lr=2e-3",  # large, so that a rollout server with the weights before would be far off
    "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
    "actor_rollout_ref.rollout.top_k=1",  # both runs write the same, so that the second one asks what was asked before
    "actor_rollout_ref.rollout.logprobs_mode=raw_logprobs",  # after a top-k of 1 every probability would be 1
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


def run(run_dir: Path, scenes: Path, address: str, steps: int) -> list[dict[str, Any]]:
    """One stock run to its end; its metrics, validation before the first step included."""
    overrides = [
        *SMALL,
        f"trainer.total_training_steps={steps}",
        *(f"actor_rollout_ref.{role}.log_prob_micro_batch_size_per_gpu=8" for role in ("ref", "rollout")),
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
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


STEPS_OF = {"first": STEPS, "second": 1}


@dataclass(frozen=True)
class Runs:
    """Both runs: folder and metrics of each by name, the pool's counters and the model's calls after each."""

    folders: dict[str, Path]
    metrics: dict[str, list[dict[str, Any]]]
    counted: list[dict[str, int]]
    calls: list[int]

    def steps(self, name: str) -> list[dict[str, Any]]:
        """Metrics of the training steps, without validation."""
        return [row for row in self.metrics[name] if "actor/grad_norm" in row]


@pytest.fixture(scope="module")
def runs(address: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("stock")
    found = Runs({}, {}, [], [])
    with endpoint() as server:
        start_pool(server)
        for name, steps in STEPS_OF.items():
            found.folders[name] = root / name
            found.metrics[name] = run(found.folders[name], root / "scenes", address, steps)
            found.counted.append(counted())
            found.calls.append(server.calls["ok"])
        pool.stop("stock", 10.0)
    return found


def test_two_stock_runs_share_one_pool(runs: Runs) -> None:
    (first, second), (first_calls, all_calls) = runs.counted, runs.calls
    assert first["requests"] > 0
    assert first_calls - 1 <= first["calls"] <= first_calls, "the endpoint was asked once more when the pool started"
    assert first["verdicts"] == first["requests"]
    assert first["unscored"] == second["unscored"] == 0
    assert second["requests"] > first["requests"], "the second run asked the pool that the first one had used"
    assert second["cache_hits"] > first["cache_hits"]
    assert all_calls - first_calls < first_calls / 2, (
        f"{all_calls - first_calls} calls of the model in the second run, {first_calls} in the first"
    )


@pytest.mark.parametrize("name", STEPS_OF)
def test_the_judges_columns_are_in_what_verl_writes(name: str, runs: Runs) -> None:
    assert sum("critic/rewards/mean" in row or "critic/score/mean" in row for row in runs.metrics[name]) == STEPS_OF[name]
    (dump,) = (runs.folders[name] / "validation").glob("0.jsonl")
    rows = [json.loads(line) for line in dump.read_text().splitlines()]
    assert len(rows) == 8
    for row in rows:
        assert set(COLUMNS) <= set(row)
        assert row["score"] == row["task"]
        assert row["consistency_scored"] == 1.0
    assert any(row["semantic_grounding_scored"] == 1.0 for row in rows)


def test_actor_and_rollout_server_agree_before_and_after_an_update(runs: Runs) -> None:
    steps = runs.steps("first")
    assert len(steps) == STEPS
    for step in steps:
        # Outdated weights give a correlation near zero. The server never samples an image placeholder, to which the actor gives a little.
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.999
        assert step["training/rollout_probs_diff_max"] < 0.005
        assert math.isfinite(step["actor/grad_norm"])
        assert step["actor/grad_norm"] > 0
    assert steps[0]["actor/kl_loss"] < 1e-6, "actor and reference start from the same weights"
    assert steps[-1]["actor/kl_loss"] > 1e-3, "the update must have moved the actor"
