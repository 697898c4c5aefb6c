"""`python -m faithful_rl.judges calibrate`: measure judges on labelled cases.

  data=shipped|FILE            labelled cases: those of the package, or a .jsonl or .parquet file
  backend=NAME key=value ...   the judge (scene, openai, vllm, ...) and its settings, for both judges;
                               consistency.KEY=... and grounding.KEY=... for one of them
  pool=NAME                    instead of backend: a pool that is serving
  judges=consistency,grounding which to measure (default: both)
  out=DIR                      default calibrations: calibration.json, calibration.html, verdicts.jsonl, and calibrations.json, in
                               which training's preflight looks the judge's version up (faithful_rl.judges.calibrations=DIR)
  threshold.consistency=0.95   threshold.semantic_grounding=0.95: of the constraints, in [0, 1]
  concurrency=64               cases asked at a time
  timeout_seconds=60           for one case
  limit=N                      only N cases, spread over the file
  price.prompt=P               price.completion=P: of a million tokens, in any currency
  --attacks                    also run the red-team corpus

Exit codes: 0 done, 1 a judge or pool failed to start, 2 the command line, data or a judge's settings are wrong.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from yaml import YAMLError

from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeBackend, Usage, build_backend
from faithful_rl.judges.calibration.attacks import attack_judges, load_attacks
from faithful_rl.judges.calibration.cases import SHIPPED, LabelledCase, fingerprint, read_cases
from faithful_rl.judges.calibration.present import Calibration, show, write
from faithful_rl.judges.calibration.records import DEFAULT_DIRECTORY, calibration_of, record
from faithful_rl.judges.calibration.results import COUNTERS, DEFAULT_THRESHOLD, SIGNALS, JudgeUnderTest, Prices, calibrate
from faithful_rl.judges.calibration.running import JUDGES, ask_backend

EXIT_FAILED, EXIT_USAGE = 1, 2
FIX = "See python -m faithful_rl.judges calibrate --help."
OWN_KEYS = ("data", "pool", "judges", "out", "concurrency", "timeout_seconds", "limit", "price.prompt", "price.completion")
THRESHOLDS = tuple(f"threshold.{signal}" for signal in SIGNALS.values())


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, checked. `backends` holds the settings of each judge to build, empty when `pool` is asked."""

    data: str
    out: Path
    judges: tuple[str, ...]
    backends: Mapping[str, Mapping[str, Any]]
    pool: str | None
    thresholds: Mapping[str, float]  # by judge
    concurrency: int
    timeout_seconds: float
    limit: int | None
    prices: Prices
    attacks: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate and write the results; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["-h"], ["--help"]):
        sys.stdout.write(__doc__ or "")
        return 0
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        options = parse(words)
        cases = _chosen(read_cases(options.data), options.limit)
        _make_folder(options.out)
        calibration_of("", options.out)  # a damaged file is said before a judge is asked
        found = asyncio.run(run(options, cases))
        place = write(found, options.out)
        records = record(found.judges, found.data, found.data_sha256, options.out)
    except (ConfigError, ValueError, OSError) as error:
        errors.print(f"error: {error}")
        return EXIT_USAGE
    except RuntimeError as error:  # a judge that does not start, a pool that does not answer
        errors.print(f"error: {error}")
        return EXIT_FAILED
    console = Console(highlight=False)
    show(found, console)
    console.print(f"\nPage: {place}\nRecorded in {records}", markup=False, soft_wrap=True)
    return 0


def parse(words: Sequence[str]) -> Options:
    """Options of `key=value ...`.

    Raises:
        ConfigError: an argument of another form, a key twice, a value out of range, neither or both of backend and pool.
    """
    own: dict[str, str] = {}
    settings: list[str] = []
    attacks = False
    for word in words:
        key, separator, value = word.partition("=")
        if word == "--attacks":
            attacks = True
        elif not separator or not key or not value:
            raise ConfigError("command line", repr(word), "key=value or --attacks", FIX)
        elif key in own or any(other.partition("=")[0] == key for other in settings):
            raise ConfigError(key, "two values", "one value", "Remove one.")
        elif key in (*OWN_KEYS, *THRESHOLDS):
            own[key] = value
        elif key.partition(".")[0] in ("threshold", "price"):
            raise ConfigError(key, "an unknown key", f"one of {', '.join((*THRESHOLDS, 'price.prompt', 'price.completion'))}", FIX)
        else:
            settings.append(word)
    judges = tuple(own.get("judges", ",".join(JUDGES)).split(","))
    if not set(judges) <= set(JUDGES) or len(set(judges)) != len(judges):
        raise ConfigError("judges", repr(own["judges"]), f"some of {', '.join(JUDGES)}, comma between them", FIX)
    backends = _backends(judges, settings, own.get("pool"))
    limit = own.get("limit")
    return Options(
        data=own.get("data", SHIPPED),
        out=Path(own.get("out", str(DEFAULT_DIRECTORY))),
        judges=judges,
        backends=backends,
        pool=own.get("pool"),
        thresholds={judge: _in_unit(f"threshold.{signal}", own) for judge, signal in SIGNALS.items()},
        concurrency=_whole("concurrency", own.get("concurrency", "64")),
        timeout_seconds=_positive("timeout_seconds", own.get("timeout_seconds", "60")),
        limit=None if limit is None else _whole("limit", limit),
        prices=Prices(*(_price(f"price.{name}", own) for name in ("prompt", "completion"))),
        attacks=attacks,
    )


async def run(options: Options, cases: Sequence[LabelledCase]) -> Calibration:
    """Start the judges, ask them, close them.

    Raises:
        ConfigError: a judge cannot be built or started, the pool has not got it, or no case is labelled for it.
    """
    for judge in options.judges:
        if not any((case.consistency if judge == "consistency" else case.grounding) is not None for case in cases):
            raise ConfigError("data", f"no case with a {judge} label", "at least one", f"Label some, or leave {judge} out of judges=.")
    results = []
    async with AsyncExitStack() as stack:
        tested = {}
        for judge in options.judges:
            tested[judge] = await (_from_pool(options, judge) if options.pool else _from_backend(options, judge, stack))
        for judge, one in tested.items():
            results.append(
                await calibrate(cases, one, threshold=options.thresholds[judge], concurrency=options.concurrency, prices=options.prices)
            )
        report = None
        if options.attacks:
            report = await attack_judges(load_attacks(), {judge: one.ask for judge, one in tested.items()}, options.concurrency)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Calibration(options.data, fingerprint(options.data), len(cases), created, tuple(results), report)


async def _from_backend(options: Options, judge: str, stack: AsyncExitStack) -> JudgeUnderTest:
    settings = options.backends[judge]
    backend: JudgeBackend = build_backend({**settings, "judge": judge})  # as a pool says it: a grounding judge must show that it can see
    stack.push_async_callback(backend.close)
    await backend.start()
    description = " ".join(str(settings[key]) for key in ("backend", "model", "mode") if settings.get(key) is not None)
    return JudgeUnderTest(judge, ask_backend(backend, judge, options.timeout_seconds), backend.version(), description, backend.usage)


async def _from_pool(options: Options, judge: str) -> JudgeUnderTest:
    # by name: the pool's packages know Ray, this one does not
    try:
        pool = importlib.import_module("faithful_rl.judge_pool.pool")
        client = importlib.import_module("faithful_rl.judge_pool.client")
    except ImportError as error:
        raise ConfigError("pool", f"no Ray ({error})", "an installation with Ray", "Install the extra cpu or gpu.") from error
    name = str(options.pool)

    def replicas() -> list[Any]:
        return [one for one in pool.status(name).replicas if one.name.startswith(f"{name}-{judge}-")]

    def usage() -> Usage:
        counted = [one.counts for one in replicas()]
        return Usage(**{key: sum(int(counts.get(key, 0)) for counts in counted) for key in COUNTERS})

    await asyncio.to_thread(pool.connect)
    versions = sorted({one.version for one in await asyncio.to_thread(replicas) if one.version})
    if len(versions) != 1:
        raise ConfigError(
            "pool", f"{len(versions)} versions of the {judge} judge in pool {name}", "one", "Serve the judge, or serve the pool anew."
        )
    asker = client.PoolClient(name, judge, options.timeout_seconds, "calibrate")
    return JudgeUnderTest(judge, asker.ask, versions[0], f"pool {name}", usage)


def _backends(judges: Sequence[str], settings: Sequence[str], pool: str | None) -> dict[str, dict[str, Any]]:
    """Each judge's settings: those without a prefix, then its own."""
    if pool is not None:
        if settings:
            raise ConfigError(
                settings[0].partition("=")[0], "a setting of a judge beside pool=", "pool= alone", "The pool has its own settings."
            )
        return {}
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(list(settings)))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError("command line", f"a value that cannot be read ({str(error).splitlines()[0]})", "YAML values", FIX) from error
    assert isinstance(given, dict)  # from_dotlist makes nothing else
    shared = {str(key): value for key, value in given.items() if key not in JUDGES}
    found = {}
    for judge in judges:
        own = given.get(judge) or {}
        if not isinstance(own, Mapping):
            raise ConfigError(judge, repr(own), f"{judge}.KEY=VALUE", FIX)
        found[judge] = {**shared, **{str(key): value for key, value in own.items()}}
        if not found[judge].get("backend"):
            raise ConfigError("backend", "nothing", "backend=NAME (scene, openai, vllm, ...) or pool=NAME", FIX)
    return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("out", f"{folder}, which cannot be made ({error})", "a folder that can be written", "Change out.") from error


def _chosen(cases: Sequence[LabelledCase], limit: int | None) -> Sequence[LabelledCase]:
    """At most `limit` cases, evenly spread, so that a file in order of kinds keeps them all."""
    if limit is None or limit >= len(cases):
        return cases
    return [cases[index * len(cases) // limit] for index in range(limit)]


def _number(key: str, text: str, expected: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise ConfigError(key, repr(text), expected, f"Change {key}.")
    return value


def _whole(key: str, text: str) -> int:
    return int(_number(key, text, "a whole number >= 1", lambda value: value >= 1 and value == value // 1 and math.isfinite(value)))


def _positive(key: str, text: str) -> float:
    return _number(key, text, "a finite number > 0", lambda value: value > 0 and math.isfinite(value))


def _in_unit(key: str, own: Mapping[str, str]) -> float:
    return _number(key, own.get(key, str(DEFAULT_THRESHOLD)), "a number in [0, 1]", lambda value: 0 <= value <= 1)


def _price(key: str, own: Mapping[str, str]) -> float | None:
    if key not in own:
        return None
    return _number(key, own[key], "a finite number >= 0", lambda value: value >= 0 and math.isfinite(value))
