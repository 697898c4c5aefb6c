"""Settings of a vLLM judge server: what is refused and how, and what becomes of the rest. No vLLM is started."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import vllm_settings
from faithful_rl.judge_pool.vllm_server import VllmBackend
from faithful_rl.judge_pool.vllm_settings import VllmSettings, fingerprint, runs_on_cpu
from faithful_rl.judges.backend import JudgeFailure, Usage
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason


def model_directory(folder: Path, weights: bytes = b"12345678weights") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def value_after(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_smallest_settings_on_a_gpu_give_the_defaults_as_arguments(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "judge")
    words = VllmSettings(model=str(folder)).command(8123, "judge@0", on_cpu=False)
    assert words == [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder.resolve()), "--served-model-name", "judge@0"),
        *("--host", "127.0.0.1", "--port", "8123", "--seed", "0", "--dtype", "auto"),
        *("--tensor-parallel-size", "1", "--enable-prefix-caching", "--generation-config", "vllm"),
        *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}', "--disable-uvicorn-access-log"),
        *("--gpu-memory-utilization", "0.9"),
    ]


def test_every_setting_reaches_the_command_line() -> None:
    settings = VllmSettings(
        model="Qwen/Qwen3-VL-30B-A3B-Instruct",
        revision="0123abc",
        dtype="bfloat16",
        max_model_len=8192,
        gpu_memory_utilization=0.4,
        tensor_parallel_size=4,
        limit_mm_per_prompt={"video": 0, "image": 4},
        extra_args=["--max-num-seqs", "64", "--quantization=fp8"],
        trust_remote_code=True,
        seed=7,
    )
    words = settings.command(1, "name", on_cpu=False)
    expected = {
        "--model": "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "--revision": "0123abc",
        "--dtype": "bfloat16",
        "--max-model-len": "8192",
        "--gpu-memory-utilization": "0.4",
        "--tensor-parallel-size": "4",
        "--limit-mm-per-prompt": '{"image": 4, "video": 0}',
        "--seed": "7",
    }
    assert {name: value_after(words, name) for name in expected} == expected
    assert "--trust-remote-code" in words
    assert words[-3:] == ["--max-num-seqs", "64", "--quantization=fp8"]


def test_on_a_cpu_one_process_holds_engine_and_worker_unless_there_are_several() -> None:
    one = VllmSettings(model="org/name", cpu_kv_cache_gib=0.25).command(1, "name", on_cpu=True)
    assert value_after(one, "--distributed-executor-backend") == "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    assert value_after(one, "--kv-cache-memory-bytes") == str(256 * 2**20)
    assert "--enforce-eager" in one
    assert "--gpu-memory-utilization" not in one
    two = VllmSettings(model="org/name", tensor_parallel_size=2).command(1, "name", on_cpu=True)
    assert "--distributed-executor-backend" not in two


def test_nothing_of_training_reaches_the_server() -> None:
    training = {
        "VLLM_CPU_KVCACHE_SPACE": "40",
        "VLLM_API_KEY": "sesame",
        "VERL_PLATFORM": "cpu",
        "RAY_ADDRESS": "10.0.0.1:6379",
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "OMP_NUM_THREADS": "16",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OPENAI_API_KEY": "sk-1",
        "WANDB_API_KEY": "1",
        "GITHUB_TOKEN": "1",
    }
    kept = {"PATH": "/bin", "HF_HOME": "/models", "HF_TOKEN": "hf", "CUDA_VISIBLE_DEVICES": "5", "NCCL_SOCKET_IFNAME": "eth1"}
    ours = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    assert VllmSettings(model="org/name").server_environment(training | kept, on_cpu=False) == kept | ours


def test_environment_of_a_cpu_server(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "judge")
    settings = VllmSettings(model=str(folder), threads=2, environment={"VLLM_LOGGING_LEVEL": "DEBUG", "OMP_WAIT_POLICY": "ACTIVE"})
    variables = settings.server_environment({}, on_cpu=True)
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert variables["OMP_WAIT_POLICY"] == "ACTIVE", "what the user sets comes last"
    assert VllmSettings(model="org/name").server_environment({}, on_cpu=True)["OMP_NUM_THREADS"] == "1"


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"model": ""},
        "vllm.model: found '', expected a model directory or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct. Set it.",
    ),
    (
        {"dtype": "int3"},
        "vllm.dtype: found 'int3', expected one of auto, float32, bfloat16, float16, half, float. Change vllm.dtype.",
    ),
    (
        {"max_model_len": 0},
        "vllm.max_model_len: found 0, expected a whole number >= 1, or null. Change vllm.max_model_len.",
    ),
    (
        {"tensor_parallel_size": "2"},
        "vllm.tensor_parallel_size: found '2', expected a whole number >= 1. Change vllm.tensor_parallel_size.",
    ),
    (
        {"gpu_memory_utilization": 1.5},
        "vllm.gpu_memory_utilization: found 1.5, expected a number > 0 and <= 1. Change vllm.gpu_memory_utilization.",
    ),
    (
        {"cpu_kv_cache_gib": 0},
        "vllm.cpu_kv_cache_gib: found 0, expected a finite number of GiB > 0. Change vllm.cpu_kv_cache_gib.",
    ),
    (
        {"threads": True},
        "vllm.threads: found True, expected a whole number >= 1, or null. Change vllm.threads.",
    ),
    (
        {"start_timeout_seconds": float("inf")},
        "vllm.start_timeout_seconds: found inf, expected a finite number of seconds > 0. Change vllm.start_timeout_seconds.",
    ),
    (
        {"trust_remote_code": "yes"},
        "vllm.trust_remote_code: found 'yes', expected true or false. Change vllm.trust_remote_code.",
    ),
    (
        {"limit_mm_per_prompt": {"image": "4"}},
        "vllm.limit_mm_per_prompt: found {'image': '4'}, expected a mapping of modalities to whole numbers >= 0. Write for example {image: 4}.",
    ),
    (
        {"environment": {"VLLM_LOGGING_LEVEL": 1}},
        "vllm.environment: found {'VLLM_LOGGING_LEVEL': 1}, expected a mapping of names to text. Put numbers in quotes.",
    ),
    (
        {"extra_args": "--max-num-seqs 64"},
        "vllm.extra_args: found '--max-num-seqs 64', expected a list of words. Write for example ['--max-num-seqs', '64'].",
    ),
    (
        {"extra_args": ["--port=80"]},
        "vllm.extra_args: found '--port=80', expected arguments that no other setting decides. Remove it, and set the key of that name.",
    ),
    (
        {"extra_args": ["--structured-outputs-config.backend", "guidance"]},
        "vllm.extra_args: found '--structured-outputs-config.backend', expected arguments that no other setting decides. Remove it, and set the key of that name.",
    ),
    (
        {"extra_args": ["--max_model_len", "9"]},
        "vllm.extra_args: found '--max_model_len', expected arguments that no other setting decides. Remove it, and set the key of that name.",
    ),
    (
        {"revision": ""},
        "vllm.revision: found '', expected text, or null. Change vllm.revision.",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED, ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_a_wrong_value_is_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        VllmSettings(**{"model": "org/name", **wrong})
    assert str(refused.value) == message


def test_own_keys_are_taken_and_the_others_left() -> None:
    given = {"backend": "vllm", "model": "org/name", "dtype": None, "mode": "per_rollout", "cache": {"memory_entries": 1}, "threads": 2}
    settings, others = VllmSettings.take(given, "vllm")
    assert settings == VllmSettings(model="org/name", threads=2)
    assert others == {"backend": "vllm", "mode": "per_rollout", "cache": {"memory_entries": 1}}
    with pytest.raises(ConfigError, match=r"^vllm\.model: found None, expected a model directory"):
        VllmSettings.take({"backend": "vllm"}, "vllm")


def test_a_model_that_is_neither_directory_nor_hub_id(tmp_path: Path) -> None:
    missing = tmp_path / "absent"
    with pytest.raises(ConfigError) as refused:
        VllmSettings(model=str(missing)).local_directory()
    assert str(refused.value) == (
        f"vllm.model: found {missing}, which is not a directory, expected a model directory with config, weights and tokenizer, "
        "or a hub id (organisation/name). Download the model, or correct the path."
    )
    assert VllmSettings(model="Qwen/Qwen2.5-VL-7B-Instruct").local_directory() is None


@pytest.mark.parametrize(
    ("absent", "lack"),
    [
        ("config.json", "without config.json, expected a complete model directory"),
        ("tokenizer.json", "without a tokenizer, expected one of tokenizer.json, vocab.json, tokenizer.model, tekken.json in it"),
        ("model.safetensors", "without weights, expected weights in *.safetensors; pickled ones (*.bin, *.pt) are not read"),
    ],
)
def test_an_incomplete_directory_says_what_it_lacks(tmp_path: Path, absent: str, lack: str) -> None:
    folder = model_directory(tmp_path / "judge")
    (folder / absent).unlink()
    with pytest.raises(ConfigError) as refused:
        VllmSettings(model=str(folder)).served_name()
    assert str(refused.value) == f"vllm.model: found {folder.resolve()} {lack}. Copy the model again, or correct the path."


def test_every_shard_of_an_index_must_be_there(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "judge")
    shards = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ConfigError, match=r"without model-2\.safetensors, expected every shard that model\.safetensors\.index\.json names"):
        fingerprint(folder, "vllm.model")
    (folder / "model-2.safetensors").write_bytes(b"12345678")
    assert len(fingerprint(folder, "vllm.model")) == 64
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json, which is no JSON"):
        fingerprint(folder, "vllm.model")


def test_the_served_name_follows_content_and_settings_not_place(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "judge")
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "judge"
    shutil.copytree(folder, copy)
    name = VllmSettings(model=str(folder)).served_name()
    assert name.startswith("judge@")
    assert len(name) == len("judge@") + 12
    assert VllmSettings(model=str(copy), gpu_memory_utilization=0.3, threads=4, log_directory="logs").served_name() == name
    others = [
        VllmSettings(model=str(folder), dtype="float16"),
        VllmSettings(model=str(folder), extra_args=["--quantization", "fp8"]),
        VllmSettings(model=str(folder), trust_remote_code=True),
    ]
    assert name not in {one.served_name() for one in others}
    (copy / "model.safetensors").write_bytes(b"12345678weightz")
    assert VllmSettings(model=str(copy)).served_name() != name


def test_large_files_count_by_their_ends_and_size(tmp_path: Path) -> None:
    mib = 2**20
    folder = model_directory(tmp_path / "judge", b"a" * 3 * mib)
    before = fingerprint(folder, "vllm.model")
    (folder / "model.safetensors").write_bytes(b"a" * (3 * mib - 1) + b"b")
    assert fingerprint(folder, "vllm.model") != before


def test_a_hub_model_is_named_by_its_revision() -> None:
    main = VllmSettings(model="org/name").served_name()
    assert main.startswith("org/name@")
    assert VllmSettings(model="org/name", revision="main").served_name() == main
    assert VllmSettings(model="org/name", revision="v2").served_name() != main


def test_the_backend_checks_every_key_without_looking_at_files() -> None:
    given = {"backend": "vllm", "model": "/nowhere/judge", "mode": "per_rollout", "concurrency": 8, "cache": {}, "replicas": 2}
    backend = VllmBackend(given)
    assert backend.usage() == Usage()
    assert backend.log is None
    with pytest.raises(ConfigError, match=r"^vllm\.model: found /nowhere/judge, which is not a directory"):
        backend.version()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"dtyp": "float32"}, r"^vllm\.dtyp: found an unknown key, .* Did you mean dtype\?$"),
        ({"mode": "all"}, r"^vllm\.mode: found 'all', expected one of per_sentence, per_rollout"),
        ({"concurrency": 0}, r"^vllm\.concurrency: found 0, expected a whole number >= 1"),
        ({"extra_body": {"temperature": 1}}, r"^vllm\.extra_body: found temperature, expected fields that no other setting decides"),
    ]
    for more, message in wrong:
        with pytest.raises(ConfigError, match=message):
            VllmBackend({**given, **more})


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs an installed vLLM")
def test_a_judge_that_was_not_started_is_unavailable_and_unhealthy() -> None:
    backend = VllmBackend({"backend": "vllm", "model": "/nowhere/judge"})

    async def use() -> None:
        assert not await backend.healthy()
        request = JudgeRequest("q", "What?", ("a", "b"), "So the answer is a.", "A")
        for ask in (backend.consistency, backend.grounding):
            with pytest.raises(JudgeFailure, match="not started") as failure:
                await ask(request, 1.0)
            assert failure.value.reason is Reason.JUDGE_UNAVAILABLE
        await backend.close()
        with pytest.raises(ConfigError, match=r"^vllm\.model: found /nowhere/judge, which is not a directory"):
            await backend.start()

    asyncio.run(use())


def test_which_vllm_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(vllm_settings.importlib.metadata, "version", version)
    with pytest.raises(ConfigError) as refused:
        runs_on_cpu()
    assert str(refused.value) == "backend: found vllm, expected an installed vLLM. Install the extra cpu or gpu, or use backend: openai."
    installed["vllm"] = "0.24.0"
    assert not runs_on_cpu()
    installed["vllm"] = "0.24.0+cpu"
    assert runs_on_cpu()
    installed["vllm-cpu"] = "0.28.0"
    assert runs_on_cpu()
