"""`python -m faithful_rl.judges serve|status|stop|calibrate|score`: the judges from a shell."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from faithful_rl.cluster_token import show_token
from faithful_rl.config import ConfigError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
HELP = """
  serve config=FILE [key=value ...]    start a pool of judges in the running Ray cluster; it outlives this command
  status [name=POOL]                   how the pools are; --json for scripts
  stop [name=default] [drain=30]       take nothing new, finish what is queued for at most `drain` seconds, end the pool
  calibrate data=FILE ...              how far verdicts can be trusted; see `calibrate --help`
  score data=FILE [out=FILE] [pool=default] [timeout=SECONDS] [ask_masked=false]
                                       score rollouts of a JSON Lines or parquet file with a serving pool. A row holds
                                       `response` and `ground_truth`, and where they exist `uid`, `question`, `options`,
                                       `image_png_base64` or `images`, `scene_json`; or verl's `reward_model` and `extra_info`

options: --address ADDRESS   the Ray cluster (default: RAY_ADDRESS, else the one on this machine)
         --foreground        serve: stay, and stop the pool at the end; --address local then needs no running cluster
         --json              status, stop: machine-readable

exit codes: 0 done, 1 the pool failed or gave no verdict, 2 command, settings or cluster are not right
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    show_token()
    try:
        if words[:1] == ["calibrate"]:
            from faithful_rl.judges import calibration

            return int(calibration.main(words[1:]) or 0)
        return _run(words)
    except ConfigError as error:
        errors.print(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _run(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m faithful_rl.judges", usage="%(prog)s COMMAND [key=value ...]", epilog=HELP, exit_on_error=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("--address")
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("words", nargs="*", metavar="key=value")
    try:
        options = parser.parse_intermixed_args(words)
    except argparse.ArgumentError as error:
        raise ConfigError("command line", str(error), "a command and key=value words", "See --help.") from error
    if options.foreground and options.command != "serve":
        raise ConfigError("--foreground", options.command, "the command serve", "Leave it out.")
    if options.address == "local" and not options.foreground:
        raise ConfigError(
            "--address", "local", "a running cluster, which outlives this command", "Add --foreground, or `ray start --head`."
        )
    try:
        return COMMANDS[options.command](options)
    except _pool("pool").PoolError as error:
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"error: {error}")
        return EXIT_FAILED


def _pool(module: str) -> Any:
    """A module of the pool, by name and only when it is needed: the judges' core does not know Ray.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        return importlib.import_module(f"faithful_rl.judge_pool.{module}")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("Ray", "no such package", "an installation with Ray", "Install the extra cpu or gpu.") from error


def _words(options: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
    """`key=value` words over `defaults`; None as a default means that it must be given.

    Raises:
        ConfigError: an unknown key or a missing one.
    """
    given = dict(defaults)
    for word in options.words:
        key, separator, value = word.partition("=")
        if not separator or key not in defaults:
            raise ConfigError("command line", repr(word), "key=value with one of " + ", ".join(defaults), "See --help.")
        given[key] = value
    missing = [key for key, value in given.items() if value is None]
    if missing:
        raise ConfigError("command line", f"no {missing[0]}=", f"{missing[0]}=VALUE after {options.command}", "See --help.")
    return given


def _seconds(key: str, value: str, low: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not low <= number < 1e9:
        raise ConfigError(key, repr(value), f"seconds >= {low:g}", f"Change {key}.")
    return number


def _serve(options: argparse.Namespace) -> int:
    pool, settings, status_view = _pool("pool"), _pool("settings"), _pool("status_view")
    files = [word.removeprefix("config=") for word in options.words if word.startswith("config=")]
    if len(files) != 1:
        raise ConfigError("command line", f"{len(files)} config= words", "config=FILE once", "See --help.")
    typed = settings.load(files[0], [word for word in options.words if not word.startswith("config=")])
    console = Console(highlight=False)
    pool.connect(options.address)
    with console.status(f"starting pool {typed.name}") as spinner:
        found = pool.serve(
            typed,
            lambda replicas: spinner.update(f"starting pool {typed.name}: " + ", ".join(f"{one.name} {one.state}" for one in replicas)),
        )
    console.print(status_view.table(found))
    if not options.foreground:
        console.print(
            f"Serving. How it is: python -m faithful_rl.judges status; end it: python -m faithful_rl.judges stop name={typed.name}"
        )
        return 0
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    console.print("Serving in the foreground. Ctrl-C ends the pool.")
    end.wait()
    _show_stopped(pool.stop(typed.name), as_json=False)
    return 0


def _status(options: argparse.Namespace) -> int:
    pool, status_view = _pool("pool"), _pool("status_view")
    name = _words(options, {"name": ""})["name"]
    pool.connect(options.address)
    found = [pool.status(one) for one in ([name] if name else pool.pools())]
    console = Console(highlight=False, soft_wrap=options.json)
    if options.json:
        console.print(json.dumps([status_view.plain(one) for one in found]), markup=False)
        return 0
    for one in found:
        console.print(status_view.table(one))
    if not found:
        console.print("No pool is served in this cluster.")
    return 0


def _stop(options: argparse.Namespace) -> int:
    pool = _pool("pool")
    given = _words(options, {"name": "default", "drain": "30"})
    seconds = _seconds("drain", given["drain"], 0.0)
    pool.connect(options.address)
    _show_stopped(pool.stop(given["name"], seconds), options.json)
    return 0


def _show_stopped(stopped: Any, as_json: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        console.print(json.dumps({"name": stopped.name, "left": stopped.left}), markup=False)
        return
    left = sum(number for number in stopped.left.values() if number > 0)
    silent = [name for name, number in stopped.left.items() if number < 0]
    console.print(f"Stopped pool {stopped.name}. Rollouts given up: {left}.", markup=False)
    if silent:
        console.print(f"Ended without an answer: {', '.join(silent)}.", markup=False)


def _score(options: argparse.Namespace) -> int:
    pool, scoring = _pool("pool"), _pool("scoring")
    given = _words(options, {"data": None, "out": "", "pool": "default", "timeout": "", "ask_masked": "false"})
    if given["ask_masked"] not in ("true", "false"):
        raise ConfigError("ask_masked", repr(given["ask_masked"]), "true or false", "Change ask_masked.")
    rows = scoring.read_rows(given["data"])
    out = given["out"] or f"{given['data']}.scored.jsonl"
    scoring.check_writable(out)
    timeout = _seconds("timeout", given["timeout"], 1e-3) if given["timeout"] else None
    pool.connect(options.address)
    description = pool.status(given["pool"]).description  # says so at once when there is no pool
    began = time.monotonic()
    scored = asyncio.run(scoring.score_rows(rows, given["pool"], timeout, given["ask_masked"] == "true"))
    seconds = time.monotonic() - began
    scoring.write(scored, out)
    console = Console(highlight=False)
    console.print(scoring.summary(scored))
    console.print(f"{len(rows)} rollouts in {seconds:.1f} s; verdicts in {out}", markup=False, soft_wrap=True)
    problems = scoring.silent(scored, description.replicas if description else ())
    if problems:
        raise pool.PoolError("; ".join(problems))
    return 0


def _calibrate(_: argparse.Namespace) -> int:
    raise ConfigError("command line", "a word before calibrate", "calibrate as the first word", "It has options of its own.")


COMMANDS = {"serve": _serve, "status": _status, "stop": _stop, "score": _score, "calibrate": _calibrate}

if __name__ == "__main__":
    sys.exit(main())
