"""The CPU platform, engine and rollout server stand where verl looks for them, and only where they were asked for."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

ASK = """
import json, sys, dataclasses
from faithful_rl.verl_plugin.plugin import active, register
before = active()
register()
after = active(load=True)
assert before.guards == after.guards, "registering twice changed something"
print("ANSWER" + json.dumps(dataclasses.asdict(after)))
"""


def active_elsewhere(**environment: str) -> dict[str, Any]:
    """`active(load=True)` of a fresh process with exactly the given platform choice."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES")}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env={**inherited, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ANSWER")).removeprefix("ANSWER"))
    return answer


def test_on_the_cpu_everything_is_ours() -> None:
    activity = active_elsewhere(VERL_PLATFORM="cpu", VERL_USE_EXTERNAL_MODULES="faithful_rl.verl_plugin.plugin")
    assert activity["platform"] == "cpu"
    assert activity["engine"] == "faithful_rl.verl_plugin.fsdp_engine.CpuFSDPEngineWithLMHead"
    assert activity["replica"] == "faithful_rl.verl_plugin.vllm_server.CpuVllmReplica"
    assert {"position_ids", "trl_value_head", "weight_sender", "weight_receiver", "vllm_distribution", "process_group"} <= set(
        activity["guards"]
    )
    assert activity["versions"]["verl"] == "0.9.1"


def test_without_the_cpu_platform_only_guards_that_no_platform_can_do_without() -> None:
    """In a process of its own: `set_platform` would otherwise outlive the test."""
    script = "import sys, json\nimport faithful_rl.verl_plugin.plugin as plugin\n"
    script += "from verl.plugin.platform import PlatformRegistry\n"
    script += "from verl.workers.rollout.replica import RolloutReplicaRegistry\n"
    script += "heavy = [name for name in ('vllm', 'faithful_rl.verl_plugin.fsdp_engine') if name in sys.modules]\n"
    script += (
        "print('ANSWER' + json.dumps([plugin._registered, PlatformRegistry.get('cpu') is None, heavy, "
        "RolloutReplicaRegistry._registry['vllm'].__module__]))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "VERL_PLATFORM"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    registered, no_cpu_platform, heavy, replica_loader = json.loads(done.stdout.split("ANSWER")[1])
    beside_cpu_torch = {"vllm_distribution", "torchvision_schema", "torchcodec"} if torch.version.cuda is None else set()
    assert registered[:4] == ["position_ids", "trl_value_head", "weight_sender", "weight_receiver"]
    assert registered[-1] == "gpu_engine"  # verl's own engine, with the switch for the vision tower
    assert set(registered[4:-1]) <= beside_cpu_torch
    assert no_cpu_platform
    assert heavy == []
    assert replica_loader == "verl.workers.rollout.replica"


def test_on_cuda_the_fsdp_engine_is_verls_with_our_switch() -> None:
    script = "import faithful_rl.verl_plugin.plugin\nfrom verl.workers.engine import EngineRegistry\n"
    script += "engine = EngineRegistry.get_engine_cls('language_model', 'fsdp2')\n"
    script += "print('ANSWER', engine.__module__, [cls.__name__ for cls in engine.__mro__[:2]])"
    environment = {key: value for key, value in os.environ.items() if key != "VERL_PLATFORM"}
    environment |= {"VERL_ENGINE_DEVICE": "cuda", "VERL_ENGINE_VENDOR": "nvidia"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = done.stdout.split("ANSWER ")[1].strip()
    assert answer == "faithful_rl.verl_plugin.gpu_engine ['GpuFSDPEngineWithLMHead', 'FSDPEngineWithLMHead']"


def test_the_platform_answers_everything_verl_may_ask() -> None:
    from verl.plugin.platform import PlatformBase

    from faithful_rl.verl_plugin.platform import CpuPlatform

    platform = CpuPlatform()
    assert not getattr(CpuPlatform, "__abstractmethods__", None)
    public = {name for name, _ in inspect.getmembers(PlatformBase) if not name.startswith("_")}
    assert public <= set(dir(platform))
    assert (platform.device_name, platform.communication_backend_name(), platform.ray_resource_name()) == ("cpu", "gloo", "GPU")
    assert platform.ray_resource_options(2) == {"num_gpus": 2}
    assert torch.zeros(1).to(platform.current_device()).device.type == "cpu"
    assert not platform.is_ipc_supported()


def test_the_platform_is_never_detected_only_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from faithful_rl.verl_plugin.platform import CpuPlatform

    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert not CpuPlatform().is_platform_available(use_smi_check=True)
    monkeypatch.setenv("VERL_PLATFORM", " CPU ")
    assert CpuPlatform().is_platform_available()


def test_the_device_module_has_what_verl_calls_on_one() -> None:
    from faithful_rl.verl_plugin import cpu_device

    for name in cpu_device.__all__:
        assert callable(getattr(cpu_device, name)), name
    assert 0 < cpu_device.memory_allocated() <= cpu_device.max_memory_allocated()
    available, total = cpu_device.mem_get_info()
    assert 0 < available <= total
    state = cpu_device.get_rng_state()
    first = torch.rand(3)
    cpu_device.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)


# --- engine -----------------------------------------------------------------------------------------------------------------


def test_seam_verl_pins_the_reference_policy_through_a_module_global() -> None:
    from verl.workers.engine.fsdp import transformer_impl

    from faithful_rl.verl_plugin.guards.pinned_memory import without_pinned_memory

    source = inspect.getsource(transformer_impl.FSDPEngine._build_fsdp_module)
    assert "CPUOffloadPolicy(pin_memory=True)" in source
    original = transformer_impl.CPUOffloadPolicy
    with without_pinned_memory():
        assert transformer_impl.CPUOffloadPolicy(pin_memory=True).pin_memory is False
    assert transformer_impl.CPUOffloadPolicy is original
    with pytest.raises(KeyError), without_pinned_memory():
        raise KeyError
    assert transformer_impl.CPUOffloadPolicy is original


def test_seam_the_engine_methods_we_extend() -> None:
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    assert list(inspect.signature(FSDPEngine._build_module).parameters) == ["self"]
    assert list(inspect.signature(FSDPEngine._build_fsdp_module).parameters) == ["self", "module"]
    assert list(inspect.signature(FSDPEngine._build_optimizer).parameters) == ["self", "module"]
    assert "build_optimizer(module.parameters(), self.optimizer_config)" in inspect.getsource(FSDPEngine._build_optimizer)


def test_seam_no_fsdp_engine_reads_verls_own_switch_for_the_vision_tower() -> None:
    from pathlib import Path

    from verl.workers.engine import fsdp

    sources = "".join(path.read_text() for path in Path(fsdp.__file__).parent.glob("*.py"))
    assert "freeze_vision_tower" not in sources, "verl freezes the vision tower itself now: our switch can go"


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.ModuleDict({"visual": torch.nn.Linear(2, 3), "language_model": torch.nn.Linear(3, 1)})


def test_only_the_vision_tower_is_frozen() -> None:
    from faithful_rl.verl_plugin.vision_tower import freeze_vision_tower, wants_frozen_vision_tower

    tiny = Tiny()
    assert freeze_vision_tower(tiny) == 2 * 3 + 3
    trainable = [name for name, parameter in tiny.named_parameters() if parameter.requires_grad]
    assert trainable == ["model.language_model.weight", "model.language_model.bias"]
    with pytest.raises(ValueError, match="no parameter below a module named 'visual'"):
        freeze_vision_tower(torch.nn.Linear(1, 1))
    assert not wants_frozen_vision_tower({})
    with pytest.raises(ValueError, match="'yes'"):
        wants_frozen_vision_tower({"freeze_vision_tower": "yes"})


def test_threads_of_a_training_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from faithful_rl.verl_plugin.threads import training_threads

    monkeypatch.delenv("FAITHFUL_RL_TRAIN_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [training_threads(ranks) for ranks in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("FAITHFUL_RL_TRAIN_THREADS", "3")
    assert training_threads(16) == 3
    for wrong in ("0", "-1", "two", "²"):
        monkeypatch.setenv("FAITHFUL_RL_TRAIN_THREADS", wrong)
        with pytest.raises(ValueError, match="FAITHFUL_RL_TRAIN_THREADS"):
            training_threads(1)


# --- rollout server -----------------------------------------------------------------------------------------------------------


def test_seam_the_server_names_its_worker_extension_and_bans_image_placeholders() -> None:
    from pathlib import Path

    import verl

    source = (Path(verl.__file__).parent / "workers/rollout/vllm_rollout/vllm_async_server.py").read_text()
    assert "def _get_worker_extension_cls(self) -> str:" in source
    assert '"worker_extension_cls": self._get_worker_extension_cls()' in source
    assert "self.server_class = ray.remote(vLLMHttpServer)" in source
    assert '"banned_token_ids": get_vision_placeholder_token_ids(self.model_config.processor)' in source


def test_image_and_video_placeholders_are_what_is_banned() -> None:
    from verl.workers.rollout.utils import get_vision_placeholder_token_ids

    assert get_vision_placeholder_token_ids(SimpleNamespace(image_token_id=7, video_token_id=9)) == [7, 9]
    assert get_vision_placeholder_token_ids(None) == []


def test_seam_vllm_packs_heads_and_reloads_layer_by_layer() -> None:
    pytest.importorskip("vllm")
    from pathlib import Path

    import vllm

    root = Path(vllm.__file__).parent
    runner = (root / "v1/worker/gpu_model_runner.py").read_text()
    assert "def reload_weights(" in runner
    assert "weights_iterator: Iterable[tuple[str, torch.Tensor]] | None = None" in runner
    embedding = (root / "model_executor/layers/vocab_parallel_embedding.py").read_text()
    assert "dispatch_cpu_unquantized_gemm(layer, remove_weight=False)" in embedding
    assert "layer.weight = embed_tokens.weight" in embedding, "a tied head shares the embedding's parameter"
    reload = (root / "model_executor/model_loader/reload/layerwise.py").read_text()
    assert '"%s: Failed to load weights"' in reload, "layers without weights of their own are put back as they were"
