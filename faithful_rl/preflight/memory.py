"""How much GPU memory each role takes: an estimate with its formula, and a refusal where even the certain part does not fit.

Per GPU of the training pool, for P parameters of which T train, N workers that share them, in bytes:

    weights      w * P / N        w = 4 (FSDP2 keeps fp32 masters) or 2 (actor.fsdp_config.model_dtype: bf16; Megatron)
    gradients    4 * T / N
    AdamW        8 * T / N        two fp32 moments
    one layer    2 * P / L        FSDP2 gathers a layer at a time in bf16, L layers
    activations  m * S * h * 2 * L        m rollouts of S tokens, hidden size h; with gradient checkpointing one bf16 value per layer
    logits       m * S * V * 6            V words, bf16 logits and their fp32 copy

`param_offload` and `optimizer_offload` move weights and moments to host memory while the server generates (`host_gib`); during the update
they are on the GPU. The rollout server takes `gpu_memory_utilization` of the GPU and gives it back for the update (mode sync, sleep mode).
A judge takes its weights: 2 bytes per parameter, shared among the GPUs of one replica.
What CUDA's contexts, fragmentation and communication buffers take comes on top: about 3 GiB.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import gpus
from faithful_rl.preflight.machine import GIB, joins_cluster

CONTEXT_GIB = 3.0


@dataclass(frozen=True)
class Shape:
    """What the formulas need of a model. All counts; `language` is the number of parameters outside the vision tower."""

    parameters: int
    language: int
    layers: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Part:
    """One role on one GPU: `certain` GiB are states whose size is arithmetic, `estimated` GiB are activations and buffers."""

    role: str
    certain: float
    estimated: float
    formula: str


def shape(folder: Path) -> Shape:
    """Counts of the model in `folder`, from its config and the headers of its safetensors files; no weight is read.

    Raises:
        ConfigError: a config without the sizes of a language model.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    try:
        layers, hidden, words = (
            int(text["num_hidden_layers"]),
            int(text["hidden_size"]),
            int(text.get("vocab_size") or config["vocab_size"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "actor_rollout_ref.model.path",
            f"{folder / 'config.json'} without {error}",
            "num_hidden_layers, hidden_size and vocab_size",
            "Copy the model again.",
        ) from error
    sizes = [one for file in sorted(folder.glob("*.safetensors")) for one in _tensors(file)]
    total = sum(size for _, size in sizes)
    return Shape(total, total - sum(size for name, size in sizes if "visual." in name), layers, hidden, words)


def _tensors(file: Path) -> list[tuple[str, int]]:
    """Names and element counts of one safetensors file: an 8-byte length, then a JSON header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    found = []
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for side in entry["shape"]:
                count *= side
            found.append((name, count))
    return found


def trainable(model: Mapping[str, Any], shape: Shape) -> int:
    """Parameters that train: LoRA's (rank * 2 * hidden for about seven matrices a layer, MLPs counted four times as wide), else the
    language model's where the vision tower is frozen, else all."""
    if model["lora_rank"] > 0:
        return int(model["lora_rank"] * shape.hidden * shape.layers * (4 * 2 + 3 * 5))
    return shape.language if model["override_config"].get("freeze_vision_tower") else shape.parameters


def room_gib(typed: FaithfulRLConfig) -> tuple[float, str]:
    """GiB of the smallest GPU of the run, and who says so: this machine where Ray starts here and NVML answers, else the recipe."""
    here = () if joins_cluster() else gpus.found().memory
    if here:
        return min(here) / GIB, "of this machine"
    return typed.hardware.gpu_memory_gib, "faithful_rl.hardware.gpu_memory_gib"


def host_gib(config: Mapping[str, Any], shape: Shape) -> float:
    """GiB of host memory that one training node holds while states are offloaded: the actor's weights and moments (Megatron's optimizer
    keeps fp32 masters too), and a colocated reference policy's weights; shared among the nodes."""
    actor, ref = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["ref"]
    megatron = actor["strategy"] == "megatron"
    engine, reference = (node.get("megatron" if megatron else "fsdp_config") or {} for node in (actor, ref))
    wide = 2 if megatron or engine.get("model_dtype") == "bf16" else 4
    held = wide * shape.parameters * (bool(engine.get("param_offload")) + bool(actor["use_kl_loss"] and reference.get("param_offload")))
    if engine.get("optimizer_offload"):
        held += (12 if megatron else 8) * trainable(config["actor_rollout_ref"]["model"], shape)
    return float(held / config["trainer"]["nnodes"] / GIB)


def estimate(config: Mapping[str, Any], typed: FaithfulRLConfig, shape: Shape) -> list[Part]:
    """Roles of the run and what each takes of one GPU."""
    policy, data = config["actor_rollout_ref"], config["data"]
    actor, rollout = policy["actor"], policy["rollout"]
    workers = config["trainer"]["n_gpus_per_node"] * config["trainer"]["nnodes"]
    tokens = data["max_prompt_length"] + data["max_response_length"]
    micro = actor["ppo_micro_batch_size_per_gpu"] or 1
    training = trainable(policy["model"], shape)
    megatron = actor["strategy"] == "megatron"
    wide = 2 if megatron or actor.get("fsdp_config", {}).get("model_dtype") == "bf16" else 4
    shards = workers if not megatron else min(workers, actor["megatron"]["tensor_model_parallel_size"])
    states = (wide * shape.parameters / shards + 4 * training / shards + 8 * training / workers) / GIB
    layer = 2 * shape.parameters / shape.layers
    passing = (layer + micro * tokens * (2 * shape.hidden * shape.layers + 6 * shape.vocabulary)) / GIB
    parts = [
        Part(
            "actor, during the update",
            states,
            passing + CONTEXT_GIB,
            f"({wide} P + 4 T) / {shards} + 8 T / {workers} + 2 P / {shape.layers} + {micro} x {tokens} tokens of activations and logits",
        ),
        Part("rollout server, while it generates", rollout["gpu_memory_utilization"] * room_gib(typed)[0], 0.0, "its share"),
    ]
    if actor["use_kl_loss"]:
        own = typed.reference_policy
        group = own.n_gpus_per_node * own.nnodes if own.placement == "own_pool" else workers
        where = "own pool" if own.placement == "own_pool" else "on the actor's GPUs, one after the other"
        parts.append(
            Part(f"reference policy ({where})", wide * shape.parameters / group / GIB, layer / GIB + CONTEXT_GIB, f"{wide} P / {group}")
        )
    return parts + _judges(typed)


def _judges(typed: FaithfulRLConfig) -> list[Part]:
    if typed.judges.pool:
        return []
    found = []
    for name, judge in (("consistency", typed.judges.consistency), ("grounding", typed.judges.grounding)):
        if judge.backend == "vllm" and judge.num_gpus > 0:
            size = _billions(str(judge.options.get("model", "")))
            gib = 2e9 * size / max(1.0, judge.num_gpus) / GIB
            found.append(Part(f"judge {name}", gib, 0.0, f"2 bytes x {size:g} billion parameters / {max(1.0, judge.num_gpus):g} GPUs"))
    return found


def _billions(model: str) -> float:
    """Size of a model in billions of parameters: counted where it is a directory, else read from its name (0 where it says nothing)."""
    folder = Path(model).expanduser()
    if folder.is_dir() and (folder / "config.json").is_file():
        return sum(size for file in folder.glob("*.safetensors") for _, size in _tensors(file)) / 1e9
    named = re.search(r"(\d+(?:\.\d+)?)B", model)
    return float(named.group(1)) if named else 0.0


def check(config: Mapping[str, Any], typed: FaithfulRLConfig, model: Path) -> None:
    """Refuse a GPU run whose weights, gradients and optimizer states alone are larger than a GPU.

    Raises:
        ConfigError: naming the role, its gibibytes and the formula.
    """
    if typed.hardware.world != "gpu":
        return
    room, says = room_gib(typed)
    for part in estimate(config, typed, shape(model)):
        if part.certain > room:
            raise ConfigError(
                says if "." in says else f"GPUs {says}",
                f"{room:.4g} GiB for the role {part.role}, which takes {part.certain:.1f} GiB of states alone ({part.formula})",
                "a GPU that holds them",
                "Use more GPUs, train with LoRA (recipe=fgrpo_7b_lora), or set the memory that your GPUs have.",
            )


def table(config: Mapping[str, Any], typed: FaithfulRLConfig, model: Path) -> list[str]:
    """Lines for the plan; empty on a CPU."""
    if typed.hardware.world != "gpu":
        return []
    if not (model / "config.json").is_file():
        return ["", f"GPU memory  not estimated: {model} is not on this machine"]
    sizes = shape(model)
    training = trainable(config["actor_rollout_ref"]["model"], sizes)
    counts = f"P = {sizes.parameters / 1e9:.2f} billion parameters, T = {training / 1e9:.2f} train"
    room, _ = room_gib(typed)
    lines = ["", f"GPU memory of {room:.4g} GiB, estimated ({counts})"]
    for part in estimate(config, typed, sizes):
        total = part.certain + part.estimated
        note = "  MORE THAN THERE IS" if total > room else ""
        lines.append(f"  {part.role:<52}{total:>7.1f} GiB   {part.formula}{note}")
    held = host_gib(config, sizes)
    if held:
        short = not joins_cluster() and config["trainer"]["nnodes"] == 1 and held > _host_memory_gib()
        note = f"  MORE THAN THE {_host_memory_gib():.0f} GiB OF THIS MACHINE" if short else ""
        lines.append(f"Host memory of a training node for what is offloaded: {held:.1f} GiB{note}")
    return lines


def _host_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
