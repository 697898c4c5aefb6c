"""`python -m data_prep puzzles key=value ...`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from data_prep.puzzles.dataset import PuzzleDataSettings, write_puzzles
from faithful_rl.config import ConfigError

_NUMBERS = ("seed", "train", "val", "test", "side")
_LISTS = ("kinds", "levels")
_TEXTS = ("answers", "prompt")


def parse(arguments: list[str]) -> tuple[Path, PuzzleDataSettings]:
    """Output directory and settings.

    Raises:
        ConfigError: an argument that is no key=value, an unknown key, or a value that is not allowed.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not text:
            raise ConfigError("arguments", repr(argument), "KEY=VALUE", "Correct the argument.")
        if key in values:
            raise ConfigError(key, "two values", "one", "Leave one out.")
        values[key] = _value(key, text)
    out = values.pop("out", None)
    if out is None:
        raise ConfigError("out", "nothing", "a directory", "Add out=DIR.")
    try:
        return out, PuzzleDataSettings(**values)
    except ValueError as error:
        raise ConfigError("puzzles", f"a setting out of its range ({error})", "a setting within it", "Correct it.") from error


def _value(key: str, text: str) -> Any:
    if key == "out":
        return Path(text).expanduser()
    try:
        if key in _NUMBERS:
            return int(text)
        if key == "levels":
            return tuple(int(one) for one in text.split(","))
    except ValueError:
        raise ConfigError(key, repr(text), "whole numbers", "Correct it.") from None
    if key in _LISTS:
        return tuple(text.split(","))
    if key in _TEXTS:
        return text
    raise ConfigError(key, "an unknown key", f"one of out, {', '.join((*_NUMBERS, *_LISTS, *_TEXTS))}", "Correct its name.")


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done (or already there), 2 for a user's mistake, 1 when it refuses to overwrite or the disk is full."""
    try:
        out, settings = parse(arguments)
        manifest = write_puzzles(out, settings)
    except (ConfigError, ValueError) as error:
        print(str(error), file=sys.stderr)
        return 2
    except OSError as error:
        print(str(error), file=sys.stderr)
        return 1
    for name, entry in manifest["files"].items():
        print(f"{out / name}: {entry['rows']} rows, sha256 {entry['sha256'][:12]}")
    return 0
