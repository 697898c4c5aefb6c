"""`python -m faithful_rl.evaluate`: evaluate a model on benchmarks, score another tool's responses, or compare two evaluations.

  python -m faithful_rl.evaluate model=PATH_OR_ID benchmarks=[NAME,...] judges=... out=DIR [key=value ...]
  python -m faithful_rl.evaluate predictions=FILE benchmarks=NAME judges=... out=DIR [name=NAME]
  python -m faithful_rl.evaluate questions=FILE benchmarks=[NAME,...]
  python -m faithful_rl.evaluate compare a=DIR[,DIR...] b=DIR[,DIR...] [out=FILE.json]

  model=PATH_OR_ID       a model directory or hub id, served here by vLLM; with base_url=URL the endpoint's name for it
  benchmarks=[...]       cvbench_2d cvbench_3d mindcube mmvp omnispatial realworldqa sat_real algopuzzlevqa scenes, or FILE.parquet
  data=DIR               folder that holds each benchmark's files; locations.NAME=PATH or a hub id for one of them
  judges=none|scene|...  none; the exact judge of scenes; FILE.yaml; judges.pool=NAME; or judges.backend=openai judges.base_url=...
  mode=reasoning         reasoning, no_reasoning or text_instead_of_image
  predictions=FILE       score responses that exist already (JSON or parquet; columns.uid=..., columns.response=...)
  questions=FILE         write the questions with their ids and images as JSON Lines, for the tool that makes such predictions
  extractor.backend=...  a text model that reads answers beside the rules (extractor.base_url=..., extractor.model=...)
  servers=ray            start the model's servers on a Ray cluster (replicas=N, ray.address=..., ray.num_gpus=..., ray.num_cpus=...)
  against=DIR            another evaluation: paired tests with it
Every key with its default: faithful_rl/evaluation/settings.py and docs/evaluation.md.

Exit codes: 0 done, 1 done in part (coverage below 100%) or the model's servers were lost, 2 settings, files, model or judges are not right
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from faithful_rl.cluster_token import show_token
from faithful_rl.config import ConfigError
from faithful_rl.evaluation import comparison, export, present, settings
from faithful_rl.evaluation.generation import GenerationError
from faithful_rl.evaluation.run import Evaluation
from faithful_rl.run_directory import EVALUATION, write_json

EXIT_PARTIAL, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    if not words or words in (["-h"], ["--help"]):
        sys.stdout.write(__doc__ or "")
        return 0 if words else EXIT_USAGE
    show_token()
    try:
        return compare(words[1:]) if words[0] == "compare" else evaluate(words)
    except ConfigError as error:
        errors.print(f"error: {error}")
        return EXIT_USAGE
    except GenerationError as error:
        errors.print(f"error: {error}\nWhat was generated is kept; the same command goes on with the rest.")
        return EXIT_PARTIAL
    except OSError as error:
        errors.print(f"error: {error}\nThe system refused; what was done is kept, and the same command goes on with the rest.")
        return EXIT_PARTIAL
    except KeyboardInterrupt:
        errors.print("Stopped. The same command goes on where it was.")
        return EXIT_INTERRUPTED


def evaluate(words: Sequence[str]) -> int:
    """Evaluate, show, and say where the files are. Raises ConfigError."""
    chosen = settings.parse(words)
    console = Console(highlight=False)
    if chosen.questions:
        return EXIT_PARTIAL if export.write_questions(chosen, console) else 0
    summary = asyncio.run(Evaluation(chosen, console).run())
    present.show(summary, console)
    console.print(f"\nFigures: {Path(chosen.out) / EVALUATION}; one row per question: {Path(chosen.out) / 'rows'}", soft_wrap=True)
    return EXIT_PARTIAL if present.partial(summary) else 0


def compare(words: Sequence[str]) -> int:
    """Compare, show, and write the entries where `out` says so. Raises ConfigError."""
    given: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not value or key not in ("a", "b", "out") or key in given:
            raise ConfigError("command line", repr(word), "a=DIR b=DIR [out=FILE.json], each once", settings.FIX)
        given[key] = value
    missing = [key for key in ("a", "b") if key not in given]
    if missing:
        raise ConfigError(missing[0], "nothing", "the directory of an evaluation; several with commas between them are seeds", settings.FIX)
    sides = [[comparison.read_evaluation(Path(one)) for one in given[key].split(",")] for key in ("a", "b")]
    entries = comparison.compare(sides[0], sides[1])
    console = Console(highlight=False)
    console.print(f"a: {given['a']}\nb: {given['b']}", markup=False, soft_wrap=True)
    for one in (*sides[0], *sides[1]):
        if present.partial(one.summary):
            console.print(f"note: {one.directory} is a PARTIAL evaluation", markup=False, soft_wrap=True)
    present.show_pairs(entries, console)
    if "out" in given:
        write_json(Path(given["out"]), {"format": 1, "a": given["a"].split(","), "b": given["b"].split(","), "paired": entries})
    return 0


if __name__ == "__main__":
    sys.exit(main())
