"""`faithful_rl.hardware` and `faithful_rl.reference_policy`: where a run takes place."""

from __future__ import annotations

from dataclasses import dataclass, field

from faithful_rl.config.checks import in_range, one_of

PLACEMENTS = ("colocated", "own_pool")
WORLDS = ("cpu", "gpu")
ATTENTIONS = ("auto", "flash_attention_2", "sdpa")


@dataclass
class ReferencePolicyConfig:
    placement: str = "colocated"  # colocated: inside the actor's workers | own_pool: workers of its own
    n_gpus_per_node: int = 1  # size of the own pool on each node, >= 1
    nnodes: int = 1  # nodes of the own pool, >= 1


@dataclass
class HardwareConfig:
    world: str = "cpu"  # cpu | gpu: which extra must be installed and which platform must be active
    environment: dict[str, str] = field(default_factory=dict)  # set before verl is imported, unless the shell sets them
    min_free_disk_gib: float = 1.0  # GiB, >= 0, on top of the estimate for checkpoints
    seeded_rollouts: bool = True  # a sampling seed for each training rollout (mode sync): repeatable, but drawn one by one by vLLM
    attention: str = "auto"  # auto: flash-attn where it is installed, else sdpa | flash_attention_2 | sdpa; read by the GPU recipes
    gpu_memory_gib: float = 80.0  # GiB, > 0: memory of one GPU, for preflight's estimate; unused on a CPU
    node_resource: str | None = None  # custom Ray resource of the nodes that train; null: TransferQueue's storage goes to any node
    cluster_wait_seconds: float = 30.0  # s, >= 0: how long a joined Ray cluster may take to offer what the run needs (nodes that start)


def validate_reference_policy(reference_policy: ReferencePolicyConfig) -> None:
    one_of("reference_policy.placement", reference_policy.placement, PLACEMENTS)
    in_range("reference_policy.n_gpus_per_node", reference_policy.n_gpus_per_node, 1)
    in_range("reference_policy.nnodes", reference_policy.nnodes, 1)


def validate_hardware(hardware: HardwareConfig) -> None:
    one_of("hardware.world", hardware.world, WORLDS)
    in_range("hardware.min_free_disk_gib", hardware.min_free_disk_gib, 0.0)
    one_of("hardware.attention", hardware.attention, ATTENTIONS)
    in_range("hardware.gpu_memory_gib", hardware.gpu_memory_gib, 0.0, open_low=True)
    in_range("hardware.cluster_wait_seconds", hardware.cluster_wait_seconds, 0.0)
