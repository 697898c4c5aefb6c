"""`python -m data_prep mcts in=... out=...`: chains of thought by tree search over the questions of an RL file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from data_prep.mcts.chains import ChainSettings
from data_prep.mcts.chat_teacher import ChatTeacher, TeacherSettings
from data_prep.mcts.questions import Source, open_source
from data_prep.mcts.run import FINISHED, OUT_OF_BUDGET, TRAIN, Result, RunSettings, expected, prepare, run, spent_before
from data_prep.mcts.scene_teacher import SceneErrors, SceneTeacher
from data_prep.mcts.search import SearchSettings
from data_prep.mcts.teacher import Teacher
from data_prep.mcts.tree import Tree
from data_prep.sampling import endpoint_sampler
from faithful_rl.config import ConfigError

USAGE = """python -m data_prep mcts in=FILE_OR_DIR out=DIR teacher=scene|chat [key=value ...]

  in              RL parquet file, or a directory with train.parquet (scenes, or format=rl)
  out             trees/, html/, train.parquet for supervised training and, last, manifest.json; an unfinished run there continues
  teacher         scene: scripted, for synthetic scenes; chat: an OpenAI-compatible endpoint
  base_url, model, api_key_env, guided, coordinates=pixels|thousandths, zoom=true, step_tokens, rest_tokens, min_pixels, max_pixels
                  of a chat teacher; concurrency=64 requests at a time
  fact=0.45, quarter=0.1                                       error rates of the scene teacher
  simulations=8, branching=3, rollouts=2, depth=10, c_puct=2, seed=0      the search
  direct=8, corrected=2, wrong_steps=3                         chains of each question
  limit=0 (all), concurrent=64 trees, shard=0/1, pages=3 (HTML), max_unfinished=0.01
  budget_tokens=0 (none), accept_budget=false, dry_run=false   dry_run only prints the estimate
"""
EXIT_FINISHED, EXIT_UNFINISHED, EXIT_USAGE, EXIT_BUDGET, EXIT_STOPPED = 0, 1, 2, 3, 130


def main(arguments: list[str]) -> int:
    """Exit code: 0 finished, 1 too many trees unfinished or the system refuses (disk, rights), 2 usage, 3 the budget is spent, 130 stopped
    by Ctrl-C."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return EXIT_FINISHED if arguments else EXIT_USAGE
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        return _main(read(arguments))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"error: {error}. What is done is kept: the same command continues.", file=sys.stderr)
        return EXIT_UNFINISHED
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        return EXIT_STOPPED


def read(arguments: list[str]) -> dict[str, Any]:
    """`key=value` arguments with the type of each key. Raises ConfigError for an unknown, repeated or malformed one."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or key not in _READERS:
            raise ConfigError("command line", repr(argument), f"key=value with a key of {', '.join(_READERS)}", "See --help.")
        if key in values:
            raise ConfigError(key, "two values", "one", "Leave one of them out.")
        try:
            values[key] = _READERS[key](text)
        except ValueError:
            raise ConfigError(key, repr(text), f"a {_READERS[key].__name__.strip('_')}", f"Change {key}.") from None
    for key in ("in", "out", "teacher"):
        if key not in values:
            raise ConfigError(key, "nothing", "a value", f"Add {key}=...")
    return values


def _main(values: dict[str, Any]) -> int:
    source = open_source(values["in"])
    settings = RunSettings(
        search=SearchSettings(**_take(values, SearchSettings)),
        chains=ChainSettings(**_take(values, ChainSettings)),
        **{key: value for key, value in _take(values, RunSettings).items() if key not in ("search", "chains")},
    )
    teacher, described = _teacher(values)
    console = Console()
    most = expected(source, teacher, settings)
    if values.get("dry_run"):
        console.print(*most.lines(settings.budget_tokens, 0), sep="\n", highlight=False)
        return EXIT_FINISHED
    spent = spent_before(source, values["out"], prepare(source, values["out"], settings, described), settings)
    console.print(*most.lines(settings.budget_tokens, spent), sep="\n", highlight=False)
    return _report(_run(source, values["out"], teacher, settings, described, most.questions, console), values["out"], console)


def _run(
    source: Source, out: Path, teacher: Teacher, settings: RunSettings, described: dict[str, Any], questions: int, console: Console
) -> Result:
    """`run` under a bar that shows finished trees and their tokens, those of earlier starts among them."""
    columns = (TextColumn("trees"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[tokens]:,} tokens"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("trees", total=questions, tokens=0)

        tokens = 0

        def finished(tree: Tree) -> None:
            nonlocal tokens
            tokens += tree.tokens
            progress.update(task, advance=1, tokens=tokens)

        return run(source, out, teacher, settings, described, finished)


def _teacher(values: Mapping[str, Any]) -> tuple[Teacher, dict[str, Any]]:
    """The teacher, and what decides its replies (for the manifest)."""
    if values["teacher"] == "scene":
        errors = SceneErrors(**_take(values, SceneErrors))
        return SceneTeacher(errors), {"kind": "scene", **asdict(errors)}
    if values["teacher"] != "chat":
        raise ConfigError("teacher", repr(values["teacher"]), "scene or chat", "Change teacher.")
    settings = TeacherSettings(**_take(values, TeacherSettings))
    keys = ("api_key_env", "guided", "concurrency")
    own = {key: values[key] for key in keys if key in values}
    sampler = endpoint_sampler(values.get("base_url", ""), values.get("model", ""), attempts=1, **own)  # the budget makes further ones
    return ChatTeacher(sampler, settings), {"kind": "chat", "model": sampler.model, "temperature": 1.0, **asdict(settings)}


def _take(values: Mapping[str, Any], owner: Any) -> dict[str, Any]:
    return {name: values[name] for name in owner.__dataclass_fields__ if name in values}


def _report(result: Result, out: Path, console: Console) -> int:
    for uid, problem in list(result.outcome.failed.items())[:5]:
        console.print(f"unfinished: {uid}: {problem}", highlight=False, markup=False)
    if result.status == FINISHED:
        table = Table("count", "number")
        for name, number in result.counts.items():
            table.add_row(name.replace("_", " "), f"{number:,}")
        table.add_row("tokens", f"{result.spent:,}")
        console.print(table)
        console.print(f"{out / TRAIN}; the manifest is beside it.", highlight=False, soft_wrap=True)
        return EXIT_FINISHED
    if result.status == OUT_OF_BUDGET:
        fix = "Raise budget_tokens to continue, or add accept_budget=true for a data set from the finished trees."
        console.print(f"The budget is spent ({result.outcome.budget}). {result.outcome.grown:,} trees are finished. {fix}", highlight=False)
        return EXIT_BUDGET
    console.print(
        f"{len(result.outcome.failed):,} trees are unfinished: no data set was written. The same command continues.", highlight=False
    )
    return EXIT_UNFINISHED


def _whole_number(text: str) -> int:
    return int(text.replace("_", ""))


def _number(text: str) -> float:
    return float(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    return int(part), int(parts)


def _text(text: str) -> str:
    return text


_WHOLE = ("simulations", "branching", "rollouts", "depth", "seed", "direct", "corrected", "wrong_steps", "limit", "concurrent", "pages")
_READERS: dict[str, Callable[[str], Any]] = {
    "in": Path,
    "out": Path,
    **dict.fromkeys(("teacher", "base_url", "model", "api_key_env", "guided", "coordinates"), _text),
    **dict.fromkeys((*_WHOLE, "budget_tokens", "concurrency", "step_tokens", "rest_tokens", "min_pixels", "max_pixels"), _whole_number),
    **dict.fromkeys(("c_puct", "fact", "quarter", "max_unfinished"), _number),
    **dict.fromkeys(("zoom", "accept_budget", "dry_run"), _truth),
    "shard": _part,
}
