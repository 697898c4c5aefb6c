"""Checks of single values below `faithful_rl:`; each raises a `ConfigError` that names the whole key."""

from __future__ import annotations

import math

from faithful_rl.config.errors import ConfigError


def require(ok: bool, key: str, found: object, expected: str, fix: str) -> None:
    if not ok:
        raise ConfigError(f"faithful_rl.{key}", repr(found), expected, fix)


def one_of(key: str, found: str, allowed: tuple[str, ...]) -> None:
    require(found in allowed, key, found, "one of " + ", ".join(allowed), f"Set faithful_rl.{key} to one of them.")


def in_range(key: str, found: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    inside = math.isfinite(found) and (found > low if open_low else found >= low) and found <= high
    if high < math.inf:
        expected = f"a number in {'(' if open_low else '['}{low:g}, {high:g}]"
    else:
        expected = f"a finite number {'>' if open_low else '>='} {low:g}"
    require(inside, key, found, expected, f"Change faithful_rl.{key}.")
