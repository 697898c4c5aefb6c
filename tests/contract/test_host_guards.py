"""Each guard: the seam it patches is still what it was written for, and the guard repairs it.

A failure of a `seam` test after an upgrade means: read the guard's "can go when" and decide.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import inspect
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from faithful_rl.verl_plugin.guards import position_ids, process_group, torchcodec, torchvision_schema, trl_value_head, vllm_distribution

pytest.importorskip("verl")


def jagged(samples: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(samples, layout=torch.jagged)


# --- position ids -----------------------------------------------------------------------------------------------------------


def test_seam_torch_takes_the_wrong_dimension_as_ragged_when_all_lengths_are_equal() -> None:
    equal = [torch.arange(12).view(4, 3), torch.arange(12, 24).view(4, 3)]
    different = [torch.arange(12).view(4, 3), torch.arange(20).view(4, 5)]
    assert jagged(equal)._ragged_idx == 1, "as_nested_tensor now picks the last dimension: the guard on position ids can go"
    assert jagged(different)._ragged_idx == 2


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_equal_lengths_come_out_as_different_lengths_do(samples: int) -> None:
    tensors = [torch.arange(12).view(4, 3) + 100 * i for i in range(samples)]
    repaired = position_ids.with_ragged_length(jagged(tensors))
    assert repaired._ragged_idx == 2
    assert repaired.values().shape == (4, 3 * samples)
    assert repaired.offsets().tolist() == list(range(0, 3 * samples + 1, 3))
    for got, expected in zip(repaired.unbind(0), tensors, strict=True):
        assert torch.equal(got, expected)


def test_sound_and_foreign_tensors_are_left_alone() -> None:
    sound = jagged([torch.zeros(4, 3), torch.zeros(4, 5)])
    tokens = jagged([torch.zeros(3), torch.zeros(3)])
    dense = torch.zeros(2, 4, 3)
    for tensor in (sound, tokens, dense):
        assert position_ids.with_ragged_length(tensor) is tensor


def test_the_actor_can_split_a_repaired_batch_where_it_could_not_before() -> None:
    """What `DataProto`-less verl does with the field: declare dimension 2 ragged, pad, and use (4, B, L)."""
    from verl.utils.tensordict_utils import maybe_fix_3d_position_ids

    samples = [torch.arange(12).view(4, 3), torch.arange(12, 24).view(4, 3)]

    def as_the_actor_does(ids: torch.Tensor) -> torch.Tensor:
        data = TensorDict({"position_ids": ids}, batch_size=[2])
        maybe_fix_3d_position_ids(data)
        return torch.nested.to_padded_tensor(data["position_ids"], padding=0, output_size=(2, 4, 3))

    with pytest.raises(RuntimeError):
        as_the_actor_does(jagged(samples))
    assert torch.equal(as_the_actor_does(position_ids.with_ragged_length(jagged(samples))), torch.stack(samples))


def test_every_transfer_queue_client_hands_out_repaired_batches() -> None:
    import transfer_queue.client as real

    assert inspect.iscoroutinefunction(inspect.unwrap(real.AsyncTransferQueueClient.async_get_data))
    assert list(inspect.signature(real.AsyncTransferQueueClient.async_get_data).parameters) == ["self", "metadata"]
    assert issubclass(real.TransferQueueClient, real.AsyncTransferQueueClient)

    class Client:
        async def async_get_data(self, metadata: Any) -> TensorDict:
            return TensorDict({"position_ids": jagged([torch.zeros(4, 3), torch.zeros(4, 3)])}, batch_size=[2])

    module = SimpleNamespace(AsyncTransferQueueClient=Client)
    for _ in range(2):  # idempotent
        position_ids.apply(module)  # type: ignore[arg-type]
    fetched = asyncio.run(Client().async_get_data(None))
    assert fetched["position_ids"]._ragged_idx == 2


# --- process group ----------------------------------------------------------------------------------------------------------


def test_seam_verl_builds_a_backend_string_that_torch_refuses_on_cpu() -> None:
    from verl.utils import distributed

    source = inspect.getsource(inspect.unwrap(distributed.initialize_global_process_group_ray))
    assert 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in source
    assert list(inspect.signature(distributed.initialize_global_process_group_ray).parameters) == ["timeout_second", "backend"]
    with pytest.raises(ValueError, match="uplicate"):
        torch.distributed.distributed_c10d.BackendConfig("cpu:gloo,cpu:gloo")  # type: ignore[arg-type]


def test_process_groups_use_gloo_once_unless_told_otherwise() -> None:
    calls: list[Any] = []

    def original(timeout_second: int | None = None, backend: str | None = None) -> None:
        calls.append((timeout_second, backend))

    module = SimpleNamespace(initialize_global_process_group_ray=original)
    for _ in range(2):
        process_group.apply(module)
    module.initialize_global_process_group_ray(timeout_second=5)
    module.initialize_global_process_group_ray(backend="mpi")
    assert calls == [(5, "cpu:gloo"), (None, "mpi")]


# --- the name of vLLM's distribution ----------------------------------------------------------------------------------------


@pytest.fixture
def no_vllm_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is not vllm_distribution.VllmCpuFinder])


@pytest.mark.usefixtures("no_vllm_finder")
def test_the_cpu_build_answers_for_vllm() -> None:
    try:
        build = importlib.metadata.version(vllm_distribution.CPU_BUILD)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("vLLM's CPU build is not installed")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm")
    listed = {dist.metadata["Name"] for dist in importlib.metadata.distributions()}
    for _ in range(2):
        vllm_distribution.apply()
    assert importlib.metadata.version("vllm") == f"{build}+cpu"
    assert importlib.metadata.metadata("vllm")["Name"] == "vllm"
    assert sys.meta_path.count(vllm_distribution.VllmCpuFinder) == 1
    importlib.invalidate_caches()  # calls every finder that stands there
    assert {dist.metadata["Name"] for dist in importlib.metadata.distributions()} == listed, "listings must not show vLLM twice"


def test_seam_verl_asks_for_the_distribution_by_name() -> None:
    from pathlib import Path

    import verl

    root = Path(verl.__file__).parent
    assert 'package_name = "vllm"' in (root / "third_party/vllm/__init__.py").read_text()
    assert 'vllm_package_name = "vllm"' in (root / "workers/rollout/vllm_rollout/__init__.py").read_text()


# --- torchvision and torchcodec ---------------------------------------------------------------------------------------------


def test_torchvision_imports_and_its_operators_still_refuse_to_run_where_they_were_missing() -> None:
    declared = torchvision_schema.apply()
    assert torchvision_schema.apply() == declared
    import torchvision

    assert hasattr(torchvision, "transforms")
    assert set(declared) <= set(torchvision_schema.SCHEMAS)
    if declared:
        with pytest.raises(NotImplementedError):
            torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    else:
        assert torch.ops.torchvision.nms(torch.zeros(1, 4), torch.ones(1), 0.5).tolist() == [0]


def test_nothing_is_declared_where_torchvision_brings_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_schema, "_loads", lambda library: True)
    monkeypatch.setattr(torchvision_schema, "_library", lambda: pytest.fail("declared an operator that is there"))
    torchvision_schema.apply.__wrapped__()


def test_a_torchcodec_that_cannot_load_counts_as_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise OSError('libnvrtc')")
    (tmp_path / "torchcodec" / "libtorchcodec_image.so").write_bytes(b"not a library")
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert torchcodec.apply()
    assert torchcodec.apply()
    with pytest.raises(ImportError):  # what vLLM catches
        __import__("torchcodec")
    monkeypatch.delitem(sys.modules, "torchcodec")


def test_a_torchcodec_without_that_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("answer = 1")
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not torchcodec.apply()
    assert __import__("torchcodec").answer == 1
    monkeypatch.delitem(sys.modules, "torchcodec")


# --- TRL --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trl_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(at_root: bool, experimental: bool) -> None:
        root, sub, ppo = ModuleType("trl"), ModuleType("trl.experimental"), ModuleType("trl.experimental.ppo")
        root.__path__ = sub.__path__ = []  # type: ignore[attr-defined]
        if at_root:
            root.AutoModelForCausalLMWithValueHead = object  # type: ignore[attr-defined]
        if experimental:
            ppo.AutoModelForCausalLMWithValueHead = object  # type: ignore[attr-defined]
        for module in (root, sub, ppo):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


@pytest.mark.parametrize(("at_root", "experimental"), [(True, False), (False, True), (False, False)])
def test_trl_counts_as_available_only_with_the_class(trl_with: Any, at_root: bool, experimental: bool) -> None:
    trl_with(at_root, experimental)
    assert trl_value_head.has_value_head_model() is (at_root or experimental)


def test_seam_verl_patches_trl_whenever_it_is_available() -> None:
    from verl.models.transformers import monkey_patch
    from verl.utils import import_utils

    assert callable(import_utils.is_trl_available)
    source = inspect.getsource(monkey_patch)
    assert "if is_trl_available():" in source
    assert "from trl import AutoModelForCausalLMWithValueHead" in source
