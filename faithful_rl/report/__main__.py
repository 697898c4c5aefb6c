"""Reports and the rollout viewer.

  python -m faithful_rl.report run=[NAME=]DIR [run=...] [evaluation=[NAME=]DIR ...] out=report.html
                               [baseline=NAME] [markdown=table.md] [figure=front.png] [figures=DIR] [rollouts=10000]
  python -m faithful_rl.report view run=DIR [run=DIR ...] [evaluation=[NAME=]DIR ...] [port=8123 | out=viewer.html]

NAME= before a directory says which method it is of; directories of one name are seeds of one method. `view` serves a page to this
machine only until Ctrl-C, or writes it to a file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from faithful_rl.config import ConfigError
from faithful_rl.report import build, comparison, front, viewer
from faithful_rl.report.build import figures, method_groups
from faithful_rl.report.serve import ViewerServer
from faithful_rl.report.styles import PAPER_STYLE

USAGE = (__doc__ or "").split("\n\n", 1)[-1]
SEVERAL = ("run", "evaluation")  # keys that may be given more than once
REPORT_KEYS = (*SEVERAL, "out", "baseline", "markdown", "figure", "figures", "rollouts")
VIEW_KEYS = ("run", "evaluation", "port", "out")
Given = Mapping[str, Sequence[str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and the Markdown tables and pictures when asked; or show the viewer. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or any(word in ("-h", "--help", "help") for word in arguments):
        (sys.stdout if arguments else sys.stderr).write(USAGE)
        return 0 if arguments else 2
    views = arguments[0] == "view"
    try:
        if views:
            return view(read(arguments[1:], VIEW_KEYS))
        return report(read(arguments, REPORT_KEYS))
    except (FileNotFoundError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def read(arguments: Sequence[str], keys: Sequence[str]) -> Given:
    """key=value words by key.

    Raises:
        ConfigError: an unknown key, or one that was given twice and may not be.
    """
    given: dict[str, list[str]] = {key: [] for key in keys}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in keys or not value:
            raise ConfigError("argument", repr(argument), f"one of {', '.join(f'{name}=...' for name in keys)}", "See --help.")
        if given[key] and key not in SEVERAL:
            raise ConfigError(key, f"{len(given[key]) + 1} values", "one", "Give it once.")
        given[key].append(value)
    if not given["run"] and not given.get("evaluation"):
        raise ConfigError("run", "none", "at least one run=DIR", "Give the directory that a training command printed.")
    return given


def named(value: str) -> tuple[Path, str]:
    """(directory, name) of `NAME=DIR` or `DIR`; the name is "" where none is given. A directory that exists is never cut."""
    name, sign, directory = value.partition("=")
    return (Path(directory), name) if sign and not Path(value).exists() else (Path(value), "")


def report(given: Given) -> int:
    """`python -m faithful_rl.report run=...`."""
    if len(given["out"]) != 1:
        raise ConfigError("out", "none", "out=FILE", "Say where the page is to go.")
    runs = dict(map(named, given["run"]))
    names = {directory: name for directory, name in runs.items() if name}
    baseline = given["baseline"][0] if given["baseline"] else None
    limit = number("rollouts", given["rollouts"], viewer.REPORT_LIMIT)
    found = None
    if given["evaluation"]:
        from faithful_rl.report import evaluations

        pairs = evaluations.methods_of([named(value) for value in given["evaluation"]])
        found = evaluations.read(pairs, baseline if not runs or baseline in {one.method for one in pairs} else None)
    page = build(list(runs), Path(given["out"][0]), found, baseline=baseline, names=names, rollout_limit=limit)
    sys.stdout.write(f"Report: {page}\n")
    texts, pictures = [], {}
    if given["markdown"] or given["figure"] or given["figures"]:
        if len(runs) > 1 or (runs and (given["markdown"] or given["figure"])):
            ready, waiting = comparison.ready(list(runs))
            compared = comparison.compare(ready or list(runs), baseline, names)
            texts.append(comparison.markdown(compared))
            pictures["front"] = front.draw(compared, ready, PAPER_STYLE, names)
            for run_dir in waiting:
                sys.stderr.write(f"note: {run_dir} is not evaluated after training, and not in the tables\n")
        if found is not None:
            from faithful_rl.report.markdown import markdown

            texts.append(markdown(found))
    for value in given["markdown"]:
        Path(value).write_text("\n".join(texts), encoding="utf-8")
    for value in given["figure"]:
        if "front" not in pictures:
            raise ConfigError("figure", value, "a report of runs", "Use figures=DIR for the pictures of evaluations.")
        front.save(pictures["front"], Path(value))
    for value in given["figures"]:
        pictures |= {plot.name: plot.figure for plot in figures(method_groups(list(runs), names), PAPER_STYLE)} if runs else {}
        if found is not None:
            from faithful_rl.report.evaluation_bars import bars

            drawn = bars(found, PAPER_STYLE)
            pictures |= {drawn.name: drawn.figure} if drawn is not None else {}
        for name, figure in pictures.items():
            for kind in ("png", "svg"):
                front.save(figure, Path(value) / f"{name}.{kind}")
    return 0


def number(key: str, values: Sequence[str], default: int) -> int:
    """A whole number of at least 0.

    Raises:
        ConfigError: it is none.
    """
    if not values:
        return default
    if not values[0].isdecimal():
        raise ConfigError(key, repr(values[0]), "a whole number", f"Change {key}.")
    return int(values[0])


def view(given: Given) -> int:
    """`python -m faithful_rl.report view run=... evaluation=...`."""
    pairs = [named(value) for value in (*given["run"], *given["evaluation"])]
    directories, names = [directory for directory, _ in pairs], {directory: name for directory, name in pairs if name}
    if given["out"]:
        sys.stdout.write(f"Viewer: {viewer.write(directories, Path(given['out'][0]), names=names)}\n")
        return 0
    with ViewerServer(directories, number("port", given["port"], 0), names) as server:
        sys.stdout.write(f"Viewer: {server.url}  (Ctrl-C ends it; a reload reads new rollouts)\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
