"""`python -m data_prep NAME key=value ...`: prepare one data set, mix several, or look at one.

python -m data_prep scenes out=DIR [seed=0] [train=6400] [val=200] [test=600]
                           [families=left_right,count] [shuffle_options=true] [system_prompt=TEXT]
python -m data_prep puzzles out=DIR [seed=0] [train=3200] [val=200] [test=400] [kinds=clock,maze,n_queens,move_box] [levels=1,2,3]
                           [answers=choice|open] [side=336] [prompt=think]
python -m data_prep mcts in=FILE_OR_DIR out=DIR teacher=scene|chat ...   chains of thought by tree search; `mcts --help` says more
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from data_prep import command, sources
from data_prep.mcts import command as mcts_command
from data_prep.puzzles import command as puzzles
from data_prep.scenes.dataset import SceneDataSettings, write_scenes


class UsageError(ValueError):
    """A command line that names no known source or key, or a value of the wrong form."""


def parse(arguments: list[str]) -> tuple[Path, SceneDataSettings]:
    """Output directory and settings of `scenes key=value ...`. Raises UsageError, naming the argument at fault."""
    if not arguments or arguments[0] != "scenes":
        known = ", ".join(["scenes", "puzzles", *sources.names()])
        raise UsageError(f"expected a source ({known}), recipe=NAME or inspect first, found {arguments[:1] or 'nothing'}")
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
        print(f"{__doc__}{command.usage()}")
        return 0
    if arguments and (arguments[0] in ("inspect", *sources.names()) or arguments[0].startswith("recipe=")):
        return command.main(arguments)
    if arguments and arguments[0] == "mcts":
        return mcts_command.main(arguments[1:])
    if arguments and arguments[0] == "puzzles":
        return puzzles.main(arguments[1:])
    try:
        out, settings = parse(arguments)
        manifest = write_scenes(out, settings)
    except UsageError as error:
        print(f"{error}\n{__doc__}{command.usage()}", file=sys.stderr)
        return 2
    except OSError as error:
        print(str(error), file=sys.stderr)
        return 1
    for name, entry in manifest["files"].items():
        print(f"{out / name}: {entry['rows']} rows, sha256 {entry['sha256'][:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
