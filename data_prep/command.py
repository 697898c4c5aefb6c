"""The command line of every source but the scenes: `NAME in=... out=...`, `recipe=NAME out=...` and `inspect FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from data_prep import recipe, sources
from data_prep.formats import get_format
from data_prep.frames import MAX_PIXELS, MIN_PIXELS, Frame, check_model
from data_prep.inspection import inspect
from data_prep.prepare import Job, prepare
from data_prep.prepare import Progress as Report
from data_prep.rejects import DEFAULT_SHARE
from faithful_rl.config import ConfigError

_JOB_KEYS = ("in", "out", "format", "seed", "limit", "sample", "prompt", "reject_share", "revision", "min_pixels", "max_pixels", "model")


def usage() -> str:
    """Help text with every source, format and recipe."""
    lines = ["", "python -m data_prep NAME in=PATH_OR_HUB_ID out=DIR [format=rl|sft|llama_factory] [limit=N] [sample=N] [seed=0]"]
    lines += ["                         [reject_share=0.01] [prompt=think] [min_pixels=] [max_pixels=] [revision=COMMIT]"]
    lines += ["                         [model=DIR: check boxes against its real processor first] [OPTION=...]"]
    for name in sources.names():
        source = sources.get(name)
        own = "".join(f" [{key}=]" for key in source.options)
        lines.append(f"  {name:<15} {source.describe}{own}")
    lines.append("  any source:" + "".join(f" [{key}=]" for key in sources.COMMON_OPTIONS))
    lines += ["", "python -m data_prep recipe=NAME out=DIR [limit=N] [SOURCE.in=...] [SOURCE.images=...] [KEY=...]"]
    lines += [f"  {name:<15} {recipe.read_recipe(name).description}" for name in recipe.names()]
    lines += ["", "python -m data_prep inspect FILE [rows=12] [seed=N: random rows] [out=page.html or sheet.png]", ""]
    return "\n".join(lines)


def main(arguments: list[str], console: Console | None = None) -> int:
    """Run one command. Returns 0 when done, 2 for a user's mistake or too many rejects, 1 when the system refuses (disk, rights), 130 when
    it was stopped by Ctrl-C."""
    console = console or Console()
    try:
        if arguments[0] == "inspect":
            return _inspect(arguments[1:], console)
        values = _values(arguments)
        made = _recipe(values, console) if "recipe" in values else _source(arguments[0], values, console)
    except ConfigError as error:
        print(str(error), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error}. What is done is kept: the same command continues.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. What is done is kept: the same command continues.", file=sys.stderr)
        return 130
    _summary(made, Path(values["out"]), console)
    return 0


def _values(arguments: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for argument in arguments if "=" in arguments[0] else arguments[1:]:
        key, separator, text = argument.partition("=")
        if not separator or not key:
            raise ConfigError("arguments", repr(argument), "KEY=VALUE", "Correct the argument.")
        if key in values:
            raise ConfigError(key, "two values", "one", "Leave one out.")
        values[key] = text
    if not values.get("out"):
        raise ConfigError("out", "nothing", "a directory", "Add out=DIR.")
    return values


def _source(name: str, values: dict[str, str], console: Console) -> dict[str, Any]:
    source = sources.get(name)
    if not values.get("in"):
        raise ConfigError(
            "in", "nothing", "a local path or a hub id", f"Add in=PATH{f' (or in={source.home}@COMMIT)' if source.home else ''}."
        )
    form = get_format(values.get("format", "rl"))
    low, high = _number(values, "min_pixels"), _number(values, "max_pixels")
    frame = Frame(chain=form.chain, min_pixels=low or MIN_PIXELS, max_pixels=high or MAX_PIXELS)
    if values.get("model"):
        check_model(values["model"], frame)
    job = Job(
        source=name,
        location=values["in"],
        out=Path(values["out"]).expanduser(),
        format=form.name,
        options={key: value for key, value in values.items() if key not in _JOB_KEYS},
        seed=_number(values, "seed") or 0,
        limit=_number(values, "limit"),
        sample=_number(values, "sample"),
        prompt=values.get("prompt", "think"),
        frame=frame,
        reject_share=_share(values),
        revision=values.get("revision") or None,
    )
    with _progress(console) as report:
        return prepare(job, report(name))


def _recipe(values: dict[str, str], console: Console) -> dict[str, Any]:
    overrides = {key: value for key, value in values.items() if key not in ("recipe", "out", "limit")}
    chosen = recipe.read_recipe(values["recipe"], overrides)
    with _progress(console) as report:
        return recipe.run(chosen, Path(values["out"]).expanduser(), limit=_number(values, "limit"), progress=report)


def _inspect(arguments: list[str], console: Console) -> int:
    if not arguments or "=" in arguments[0]:
        raise ConfigError("inspect", "no file", "a data file or the directory of one", "Say inspect FILE.")
    values = _values([arguments[0], *arguments[1:], *([] if any(a.startswith("out=") for a in arguments) else ["out=-"])])
    unknown = sorted(set(values) - {"rows", "seed", "out"})
    if unknown:
        raise ConfigError(unknown[0], values[unknown[0]], "rows=, seed= or out=", "Correct its name.")
    out = None if values["out"] == "-" else Path(values["out"])
    rows, seed = _number(values, "rows"), _number(values, "seed")
    drawn = inspect(Path(arguments[0]).expanduser(), rows=12 if rows is None else rows, out=out, seed=seed, console=console)
    if drawn:
        console.print(f"Drawn to {drawn}")
    return 0


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def report(name: str) -> Report:
            task = bars.add_task(name, total=None)

            def show(done: int, total: int | None) -> None:
                bars.update(task, completed=done, total=total)

            return show

        yield report


def _summary(made: dict[str, Any], out: Path, console: Console) -> None:
    table = Table(title=f"{out}", title_justify="left")
    for name in ("source", "read", "kept", "left out", "rejected", "noted", "chosen"):
        table.add_column(name, justify="left" if name == "source" else "right")
    chosen = made.get("chosen", {})
    for name, entry in made["sources"].items():
        rejected, notes = entry["rejected"], entry["notes"]
        why = "".join(f"\n{number} {reason}" for reason, number in rejected.items())
        noted = "\n".join(f"{number} {note}" for note, number in notes.items())
        counts = [entry["rows_read"], entry["kept"], entry["filtered"]]
        table.add_row(name, *map(str, counts), f"{sum(rejected.values())}{why}", noted or "0", str(chosen.get(name, entry["kept"])))
    console.print(table)
    for name, pool in (made.get("curation") or {}).get("pools", {}).items():
        console.print(f"curation of {name}: {_curation(pool)}", highlight=False, soft_wrap=True)
    for name, entry in made["files"].items():
        rows = made["rows"].get(name)
        console.print(f"{out / name}: {f'{rows} rows, ' if rows is not None else ''}sha256 {entry['sha256'][:12]}", highlight=False)


def _curation(pool: dict[str, Any]) -> str:
    """What the steps did to one pool, in words: rows, why the others were left out, how hard the tried ones are."""
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in pool["dropped"].items()) or "none"
    told = f"{pool['kept']} of {pool['pool']} rows; left out: {dropped}"
    tried = pool.get("difficulty")
    if tried:
        counts = ", ".join(
            f"{tried[name]} {name.replace('_', ' ')} ({tried[f'{name}_kept']} kept)" for name in tried if f"{name}_kept" in tried
        )
        told += f"; tried: {counts}, mean accuracy {tried['mean_accuracy']:.3f}"
    return told


def _number(values: dict[str, str], key: str) -> int | None:
    text = values.get(key, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ConfigError(key, repr(text), "a whole number", f"Correct {key}=.")
    return int(text)


def _share(values: dict[str, str]) -> float:
    try:
        return float(values.get("reject_share", DEFAULT_SHARE))
    except ValueError:
        raise ConfigError("reject_share", repr(values["reject_share"]), "a share in [0, 1]", "Correct reject_share=.") from None
