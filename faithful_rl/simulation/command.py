"""`python -m faithful_rl.constraints simulate`: tune step sizes, paces and thresholds on a toy policy before a run."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from faithful_rl.config import ConfigError, FaithfulRLConfig, from_node
from faithful_rl.config.run_size import RunSize, check_run_size, run_size_warnings
from faithful_rl.constraints import ConstrainedProblem
from faithful_rl.overrides import GROUP, is_file, merged, packaged, read_constraints
from faithful_rl.simulation.policy import ToySettings
from faithful_rl.simulation.traces import ADVICE, Summary, as_json, simulate, summarise

EXIT_USAGE = 2
OWN_KEYS = {"constraints": "fgrpo", "steps": "200", "seed": "0", "out": "outputs/simulation"}
HELP = """keys
  constraints=NAME         a file of faithful_rl/recipes/constraints (default: fgrpo), or the path of one of your own
  steps=200  seed=0        of the simulation
  out=DIR                  where traces.png, traces.svg and traces.json go (default: outputs/simulation)
  model.KEY=VALUE          the toy policy, see faithful_rl/simulation/policy.py: rate, drift, lag, start, accuracy, applicable, rollouts,
                           ceiling (of the judge), failures (of the judge)
  faithful_rl.KEY=VALUE    any key of the constraints, as for faithful_rl.main (also with + or ~ before it). Rollouts are spread evenly
                           over the sources that have thresholds of their own (by_source) and one other

examples
  python -m faithful_rl.constraints simulate
  python -m faithful_rl.constraints simulate faithful_rl.constraints.consistency.multiplier.step_size=0.5
  python -m faithful_rl.constraints simulate constraints=pid steps=400 model.ceiling=0.93
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m faithful_rl.constraints", usage="%(prog)s simulate [key=value ...]", description=__doc__, epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=["simulate"], metavar="simulate")
    parser.add_argument("words", nargs="*", metavar="key=value")
    options = parser.parse_args(argv)
    try:
        return run(options.words)
    except ConfigError as error:
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"error: {error}")
        return EXIT_USAGE


def run(words: Sequence[str]) -> int:
    """Simulate, print the table, write the traces.

    Raises:
        ConfigError: an unknown key, or a value out of its range.
    """
    own, model, overrides = _parse(words)
    typed = _typed(own["constraints"], overrides)
    toy = _toy(model)
    steps, seed = _whole("steps", own["steps"], 2), _whole("seed", own["seed"], 0)
    size = RunSize(steps, toy.rollouts, longer="raise steps", larger="raise model.rollouts")
    check_run_size(typed, size)
    constraints = {name: asdict(constraint) for name, constraint in typed.constraints.items()}
    problem = ConstrainedProblem.from_settings(constraints, typed.coverage_floor, typed.constraint_patience)
    problem.set_ceilings(dict.fromkeys(typed.constraints, toy.ceiling))
    traces = simulate(problem, toy, steps, seed)
    multipliers = {name: constraint.multiplier for name, constraint in typed.constraints.items()}
    summaries = [summarise(trace, multipliers[name].maximum, multipliers[name].kind) for name, trace in traces.items()]
    out = Path(own["out"])
    title = f"{own['constraints']}, toy policy. {' '.join(word for word in words if not word.startswith(('out=', 'constraints=')))}"
    _write(out, traces, title, as_json(traces, summaries, toy, seed))
    console = Console()
    console.print(table(summaries, steps))
    for verdict in dict.fromkeys(one.verdict for one in summaries if one.verdict in ADVICE):
        console.print(f"{verdict}: {ADVICE[verdict]}", markup=False, highlight=False, soft_wrap=True)
    told = [f"warning: {warning}" for warning in run_size_warnings(typed, size)]
    for message in [*told, *(message for trace in traces.values() for message in trace.messages)]:
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Traces: {out / 'traces.png'}, traces.svg and traces.json", markup=False, highlight=False, soft_wrap=True)
    return 0


def table(summaries: Sequence[Summary], steps: int) -> Table:
    """One row per constraint, 80 columns wide; what was not measured is a dash."""
    result = Table(
        title=f"{steps} steps; means over the last quarter", title_justify="left", box=None, collapse_padding=True, pad_edge=False
    )
    for heading in ("constraint", "score", "τ", "held", "from", "λ", "swing", "highest", ""):
        words = heading in ("constraint", "")
        result.add_column(heading, justify="left" if words else "right", no_wrap=heading != "constraint", overflow="fold")
    for one in summaries:
        result.add_row(
            one.name, _number(one.score, ".3g"), _number(one.threshold, ".3g"), _number(one.held, ".0%"), str(one.first_held or "–"),
            f"{one.multiplier:.2f}", f"{one.swing:.2f}", f"{one.highest:.2f}", one.verdict,
        )  # fmt: skip
    return result


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _parse(words: Sequence[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    own, model, overrides = dict(OWN_KEYS), dict[str, str](), list[str]()
    for word in words:
        key, separator, value = word.partition("=")
        if not separator and not word.startswith("~"):
            raise ConfigError("command line", repr(word), "key=value", "See --help.")
        if key.startswith("model."):
            model[key.removeprefix("model.")] = value
        elif key.lstrip("+~").startswith("faithful_rl."):
            overrides.append(word)
        elif key in own:
            own[key] = value
        else:
            raise ConfigError(key, "an unknown key", f"one of {', '.join(OWN_KEYS)}, model.KEY, faithful_rl.KEY", "See --help.")
    return own, model, overrides


def _typed(choice: str, words: Sequence[str]) -> FaithfulRLConfig:
    """The `faithful_rl` node with one file of constraints and the user's words. Needs no verl, unlike a whole recipe."""
    node = OmegaConf.merge(OmegaConf.structured(FaithfulRLConfig), _group(choice), {"recipe": "simulation", "method": "fgrpo"})
    if not isinstance(node, DictConfig):
        raise TypeError("the faithful_rl node is a mapping")
    for word in [word for word in words if word.startswith("~")]:
        name = word.removeprefix("~faithful_rl.constraints.")
        if name not in node.constraints:
            raise ConfigError(word, "nothing to leave out", f"~faithful_rl.constraints.NAME with one of {', '.join(node.constraints)}", "")
        del node.constraints[name]
    return from_node(merged(node, [word for word in words if not word.startswith("~")]))


def _group(choice: str) -> Any:
    """A file of constraints, the package's by name or the user's by path, on top of those that it names in its defaults."""
    if is_file(choice):
        found = read_constraints(Path(choice).expanduser())
    else:
        known = [name for name in packaged() if name != "none"]
        if choice not in known:
            fix = "See faithful_rl/recipes/constraints."
            raise ConfigError("constraints", repr(choice), f"one of {', '.join(known)}, or the path of a file of your own", fix)
        found = yaml.safe_load((GROUP / f"{choice}.yaml").read_text(encoding="utf-8"))
    defaults = [entry for entry in found.pop("defaults", []) if entry not in ("_self_", "none")]
    return OmegaConf.merge(*(_group(entry) for entry in defaults), found)


def _toy(model: Mapping[str, str]) -> ToySettings:
    types = {field.name: field.type for field in fields(ToySettings)}
    for name, value in model.items():
        if name not in types:
            raise ConfigError(f"model.{name}", "an unknown key", "one of " + ", ".join(types), "See faithful_rl/simulation/policy.py.")
        try:
            float(value)
        except ValueError:
            raise ConfigError(f"model.{name}", repr(value), "a number", "Change it.") from None
    numbers: dict[str, Any] = {name: int(float(value)) if types[name] == "int" else float(value) for name, value in model.items()}
    try:
        return ToySettings(**numbers)
    except ValueError as error:
        raise ConfigError("model", f"a problem ({error})", "numbers in their ranges", "Change it.") from error


def _whole(key: str, text: str, low: int) -> int:
    if not text.isdigit() or int(text) < low:
        raise ConfigError(key, repr(text), f"a whole number >= {low}", "Change it.")
    return int(text)


def _write(out: Path, traces: Any, title: str, content: Mapping[str, Any]) -> None:
    from faithful_rl.simulation.plots import draw  # matplotlib takes a second

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "out", f"{out}, which cannot be made ({error.strerror})", "a writable directory", "Choose another one."
        ) from error
    figure = draw(traces, title)
    figure.savefig(out / "traces.png", dpi=130, facecolor="white", metadata={"Software": None})
    figure.savefig(out / "traces.svg", metadata={"Date": None})
    (out / "traces.json").write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
