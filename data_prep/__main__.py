"""`python -m data_prep SOURCE key=value ...`: prepare one data set.

python -m data_prep scenes out=DIR [seed=0] [train=6400] [val=200] [test=600]
                           [families=left_right,count] [shuffle_options=true] [system_prompt=TEXT]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from data_prep.scenes.dataset import SceneDataSettings, write_scenes


class UsageError(ValueError):
    """A command line that names no known source or key, or a value of the wrong form."""


def parse(arguments: list[str]) -> tuple[Path, SceneDataSettings]:
    """Output directory and settings of `scenes key=value ...`. Raises UsageError, naming the argument at fault."""
    if not arguments or arguments[0] != "scenes":
        raise UsageError(f"expected the source 'scenes' first, found {arguments[:1] or 'nothing'}")
    values: dict[str, Any] = {}
    for argument in arguments[1:]:
        key, separator, text = argument.partition("=")
        if not separator:
            raise UsageError(f"expected key=value, found {argument!r}")
        if key in values:
            raise UsageError(f"{key} is given twice")
        values[key] = _value(key, text)
    out = values.pop("out", None)
    if out is None:
        raise UsageError("out=DIR is missing")
    try:
        return out, SceneDataSettings(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _value(key: str, text: str) -> Any:
    match key:
        case "out" if text:
            return Path(text)
        case "seed" | "train" | "val" | "test":
            try:
                return int(text)
            except ValueError:
                raise UsageError(f"{key} must be a whole number, found {text!r}") from None
        case "families":
            return tuple(text.split(","))
        case "shuffle_options":
            if text not in ("true", "false"):
                raise UsageError(f"shuffle_options must be true or false, found {text!r}")
            return text == "true"
        case "system_prompt":
            return text
    known = "out, seed, train, val, test, families, shuffle_options, system_prompt"
    raise UsageError(f"unknown key {key!r} (or an empty value); known: {known}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done (or already there), 2 usage, 1 refused to overwrite."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        out, settings = parse(arguments)
        manifest = write_scenes(out, settings)
    except UsageError as error:
        print(f"{error}\n{__doc__}", file=sys.stderr)
        return 2
    except OSError as error:
        print(str(error), file=sys.stderr)
        return 1
    for name, entry in manifest["files"].items():
        print(f"{out / name}: {entry['rows']} rows, sha256 {entry['sha256'][:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
