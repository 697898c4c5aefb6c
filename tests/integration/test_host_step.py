"""Stock verl, none of our algorithm, on the CPU host: actor, reference policy, rollout server and weight sync for real.

What is checked is agreement: log-probabilities of the rollout server equal the actor's, before the first update and after it.
A stale or wrongly loaded weight shows there and nowhere else. And two FSDP2 ranks with two rollout servers compute what one rank does:
sampling is greedy, rewards depend on the row alone, so both runs see the same numbers.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("verl")
pytest.importorskip("vllm")

SECONDS = 1200  # minutes are enough on an idle machine with two cores
pytestmark = [pytest.mark.integration, pytest.mark.timeout(SECONDS + 60)]

QUESTION = "<image>Is the red circle left of the blue square? (A) yes (B) no"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from faithful_rl.tiny.model import random_tiny_model

    return random_tiny_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for index in range(16):
        buffer = io.BytesIO()
        Image.new("RGB", (112, 112), (16 * index, 120, 255 - 16 * index)).save(buffer, "PNG")
        rows.append(
            {
                "data_source": "host",
                "prompt": [{"role": "user", "content": QUESTION}],
                "images": [{"bytes": buffer.getvalue(), "path": ""}],
                "reward_model": {"style": "rule", "ground_truth": "A"},
                "extra_info": {"index": index, "split": "train"},
            }
        )
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def overrides(model: Path, parquet: Path, directory: Path, ranks: int, steps: int) -> list[str]:
    """verl's defaults, changed where a CPU or the size of this test needs it."""
    reward = directory / "reward.py"
    reward.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info, **others):\n    return (extra_info['index'] % 7) / 7\n"
    )
    micro_batch = 8 // ranks  # 8 prompts, one rollout each; must divide a rank's share
    actor, ref, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.ref", "actor_rollout_ref.rollout"
    return [
        f"data.train_files={parquet}",
        f"data.val_files={parquet}",
        "data.train_batch_size=8",
        "data.max_prompt_length=128",
        "data.max_response_length=12",
        "data.dataloader_num_workers=0",
        "data.filter_overlong_prompts=False",
        "data.return_raw_chat=True",
        "data.shuffle=False",
        "algorithm.adv_estimator=reinforce_plus_plus",  # compares prompts of the batch: groups of equal rewards would have no advantage
        f"actor_rollout_ref.model.path={model}",
        "actor_rollout_ref.model.use_remove_padding=False",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "+actor_rollout_ref.model.override_config.freeze_vision_tower=True",
        f"{actor}.strategy=fsdp2",
        f"{ref}.strategy=fsdp2",
        f"{actor}.fsdp_config.model_dtype=fp32",
        f"{ref}.fsdp_config.model_dtype=fp32",
        f"+{actor}.fsdp_config.mixed_precision.param_dtype=fp32",
        f"+{ref}.fsdp_config.mixed_precision.param_dtype=fp32",
        f"{actor}.fsdp_config.use_torch_compile=False",
        f"{ref}.fsdp_config.use_torch_compile=False",
        f"{actor}.use_torch_compile=False",
        f"{actor}.ppo_mini_batch_size=8",
        f"{actor}.ppo_micro_batch_size_per_gpu={micro_batch}",
        f"{actor}.use_kl_loss=True",
        f"{actor}.optim.lr=1e-2",  # large, so that a rollout server with the weights before would be far off
        f"{ref}.log_prob_micro_batch_size_per_gpu={micro_batch}",
        f"{rollout}.log_prob_micro_batch_size_per_gpu={micro_batch}",
        f"{rollout}.name=vllm",
        f"{rollout}.load_format=safetensors",
        f"{rollout}.dtype=float32",
        f"{rollout}.enforce_eager=True",
        f"{rollout}.free_cache_engine=False",
        f"++{rollout}.enable_sleep_mode=False",
        f"++{rollout}.engine_kwargs.vllm.kv_cache_memory_bytes={32 << 20}",
        f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.n=1",
        f"{rollout}.top_k=1",
        f"{rollout}.logprobs_mode=raw_logprobs",  # after a top-k of 1 every probability would be 1
        f"{rollout}.max_num_seqs=8",
        f"{rollout}.max_model_len=192",
        f"{rollout}.ignore_eos=True",  # equal lengths: the case of the guard on position ids
        f"{rollout}.agent.num_workers=1",
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes=16",
        "reward.num_workers=1",
        f"reward.custom_reward_function.path={reward}",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "trainer.device=cpu",
        f"trainer.n_gpus_per_node={ranks}",
        "trainer.nnodes=1",
        "trainer.logger=[file]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.resume_mode=disable",
        f"trainer.total_training_steps={steps}",
        f"trainer.default_local_dir={directory / 'checkpoints'}",
        "ray_kwargs.ray_init.num_cpus=24",
        f"+ray_kwargs.ray_init.num_gpus={ranks}",
        "+ray_kwargs.ray_init.include_dashboard=False",
        "+ray_kwargs.ray_init.address=local",  # never a cluster that happens to run on this machine
    ]


def run_stock_verl(arguments: list[str], directory: Path) -> list[dict[str, Any]]:
    """Run verl's own entry point in a session of its own; return its metrics, one mapping per step."""
    metrics = directory / "metrics.jsonl"
    environment = {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "OMP_NUM_THREADS": "1",
        "TQ_NUM_THREADS": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TOKENIZERS_PARALLELISM": "false",
    }
    log = directory / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "verl.trainer.main_ppo", *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no end after {SECONDS} s; last lines:\n{log.read_text()[-3000:]}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the driver; a local Ray cluster ends with its driver
    assert code == 0, log.read_text()[-5000:]
    return [json.loads(line)["data"] for line in metrics.read_text().splitlines()]


RANKS = {"one rank": 1, "two FSDP2 ranks, two vLLM replicas": 2}
STEPS = 2


@pytest.fixture(scope="module")
def runs(model: Path, parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for name, ranks in RANKS.items():
        directory = tmp_path_factory.mktemp(f"ranks{ranks}")
        found[name] = run_stock_verl(overrides(model, parquet, directory, ranks, STEPS), directory)
    return found


@pytest.mark.parametrize("name", RANKS)
def test_actor_and_rollout_server_agree_before_and_after_an_update(name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    metrics = runs[name]
    assert len(metrics) == STEPS
    for step in metrics:
        # The server never samples an image placeholder, the actor gives them some probability: an untrained model's
        # log-probabilities differ by that much. Outdated weights give a correlation near zero.
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.999
        assert step["training/rollout_probs_diff_max"] < 0.005
        assert math.isfinite(step["actor/grad_norm"])
        assert step["actor/grad_norm"] > 0
        assert step["response_length/mean"] == 12
    assert metrics[0]["actor/kl_loss"] < 1e-6, "actor and reference start from the same weights"
    assert metrics[-1]["actor/kl_loss"] > 1e-3, "the update must have moved the actor"


@pytest.mark.parametrize("step", range(STEPS))
def test_two_ranks_and_two_servers_compute_what_one_does(step: int, runs: dict[str, list[dict[str, Any]]]) -> None:
    one, two = (runs[name][step] for name in RANKS)
    for name in ("critic/rewards/mean", "critic/advantages/max", "critic/advantages/min"):
        assert two[name] == pytest.approx(one[name], abs=1e-6), name
    for name in ("actor/pg_loss", "actor/kl_loss", "actor/entropy", "actor/grad_norm"):
        if name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
