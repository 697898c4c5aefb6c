"""Reading a backend's own keys out of plain settings, and the optional packages that some backends need."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Collection, Mapping
from typing import Any

from faithful_rl.config import ConfigError

# Keys that belong to whoever runs the backend (a pool, a training run); a backend neither reads nor refuses them.
HOST_KEYS = frozenset({"backend", "judge", "replicas", "workers", "timeout_seconds", "limits", "num_cpus", "num_gpus", "resources"})


def require(module: str, purpose: str) -> Any:
    """The module, imported now.

    Raises:
        ConfigError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            purpose, f"no usable package {module} ({error})", "the extra `judges`", "Install it: pip install 'faithful_rl[judges]'."
        ) from error


def refuse_unknown(settings: Mapping[str, Any], known: Collection[str], backend: str) -> None:
    """Raises ConfigError for the first key that the backend does not know. A key without a value (None) counts as absent."""
    for key, value in settings.items():
        if value is None or key in known or key in HOST_KEYS:
            continue
        close = difflib.get_close_matches(key, sorted(known), n=1)
        fix = f"Did you mean {close[0]}?" if close else "Remove it."
        raise ConfigError(f"{backend}.{key}", "an unknown key", "one of " + ", ".join(sorted(known)), fix)


def whole(settings: Mapping[str, Any], backend: str, key: str, default: int, low: int) -> int:
    """A whole number >= `low`, or ConfigError."""
    value = _given(settings, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{backend}.{key}", repr(value), f"a whole number >= {low}", f"Change {backend}.{key}.")
    return value


def real(settings: Mapping[str, Any], backend: str, key: str, default: float, positive: bool = True) -> float:
    """A finite number, > 0 if `positive` and >= 0 otherwise, or ConfigError."""
    value = _given(settings, key, default)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or value < 0 or (positive and value == 0):
        expected = "a finite number > 0" if positive else "a finite number >= 0"
        raise ConfigError(f"{backend}.{key}", repr(value), expected, f"Change {backend}.{key}.")
    return float(value)


def flag(settings: Mapping[str, Any], backend: str, key: str, default: bool) -> bool:
    """true or false, or ConfigError."""
    value = _given(settings, key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{backend}.{key}", repr(value), "true or false", f"Change {backend}.{key}.")
    return value


def word(settings: Mapping[str, Any], backend: str, key: str, default: str, allowed: Collection[str]) -> str:
    """One of `allowed`, or ConfigError."""
    value = _given(settings, key, default)
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{backend}.{key}", repr(value), f"one of {', '.join(allowed)}", f"Change {backend}.{key}.")
    return value


def text(settings: Mapping[str, Any], backend: str, key: str, expected: str) -> str | None:
    """Non-empty text, None where it is not set, or ConfigError."""
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{backend}.{key}", repr(value), expected, f"Change {backend}.{key}.")
    return value


def mapping(settings: Mapping[str, Any], backend: str, key: str) -> dict[str, Any]:
    """A mapping with text keys, empty where it is not set, or ConfigError."""
    value = settings.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{backend}.{key}", repr(value), "a mapping of names to values", f"Change {backend}.{key}.")
    return dict(value)


def _given(settings: Mapping[str, Any], key: str, default: Any) -> Any:
    value = settings.get(key)
    return default if value is None else value
