"""The `curation:` node of a data recipe, typed. A step that is not named is not taken, and neither is one that is `none`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError

QUESTIONS = ("count", "drop")
NONE = "none"  # a step of the recipe that is not wanted


@dataclass(frozen=True, slots=True)
class Contamination:
    """Rows whose image is one of a benchmark's.

    Attributes:
        benchmarks: name -> RL parquet file of the benchmark, or its directory; at least one (`ready` asks for it).
        distance: bits of 64 in which two perceptual hashes may differ, in [0, 16].
        questions: what a question that a benchmark asks too, about another image, means: count it, or drop the row. Templates such as
            "How many chairs are there?" repeat everywhere, so the default only counts. The same holds of a question whose stem of at
            least eight words a benchmark asks with other options or without them.
    """

    benchmarks: Mapping[str, str] = field(default_factory=dict)
    distance: int = 4
    questions: str = "count"

    def __post_init__(self) -> None:
        _check("contamination.distance", self.distance, 0, 16)
        if self.questions not in QUESTIONS:
            raise ConfigError("curation.contamination.questions", repr(self.questions), f"one of {', '.join(QUESTIONS)}", "Change it.")


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Rollouts of the base model: rows with a mean accuracy strictly between 0 and 1 stay, and a share of the others.

    Attributes:
        rollouts: per row, >= 2 (four in the paper).
        keep_rest: share of the rows that are always or never answered rightly, in [0, 1] (a tenth in the paper).
        candidates: rows tried, as a multiple of the amount, chosen as the amount is; 0: every row.
        max_failed: share of rows that may stay without rollouts, in [0, 1].
    """

    base_url: str = ""
    model: str = ""
    api_key_env: str = ""
    rollouts: int = 4
    keep_rest: float = 0.1
    candidates: float = 0.0
    max_tokens: int = 1024
    temperature: float = 1.0
    concurrency: int = 64
    max_failed: float = 0.01

    def __post_init__(self) -> None:
        _check("difficulty.rollouts", self.rollouts, 2, 1024)
        _check("difficulty.keep_rest", self.keep_rest, 0, 1)
        _check("difficulty.max_tokens", self.max_tokens, 1, 1_000_000)
        _check("difficulty.concurrency", self.concurrency, 1, 100_000)
        _check("difficulty.max_failed", self.max_failed, 0, 1)
        if self.candidates and self.candidates < 1:
            raise ConfigError("curation.difficulty.candidates", self.candidates, "0, or a multiple >= 1 of the amount", "Change it.")

    def deciding(self) -> dict[str, Any]:
        """What decides the answers and which rows stay."""
        return {name: getattr(self, name) for name in ("model", "rollouts", "max_tokens", "temperature")}


@dataclass(frozen=True, slots=True)
class Representative:
    """Rows spread over clusters of question embeddings instead of drawn at random.

    Attributes:
        clusters: at most, >= 1.
        embeddings: pool -> .npy file of shape (rows, dimensions), in the order of the pool; others get TF-IDF.
    """

    clusters: int = 200
    embeddings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("representative.clusters", self.clusters, 1, 100_000)


@dataclass(frozen=True, slots=True)
class Curation:
    """The steps, in the order in which they are taken."""

    duplicates: bool = False
    contamination: Contamination | None = None
    difficulty: Difficulty | None = None
    representative: Representative | None = None


def read_settings(node: Mapping[str, Any]) -> Curation:
    """Raises ConfigError for an unknown key, a value of another type, or one out of range."""
    known = ("duplicates", "contamination", "difficulty", "representative")
    _unknown("", node, known)
    duplicates = node.get("duplicates", False)
    if not isinstance(duplicates, bool):
        raise ConfigError("curation.duplicates", repr(duplicates), "true or false", "Change it.")
    return Curation(
        duplicates,
        _part("contamination", node.get("contamination"), Contamination),
        _part("difficulty", node.get("difficulty"), Difficulty),
        _part("representative", node.get("representative"), Representative),
    )


def ready(settings: Curation) -> None:
    """What the steps need besides the pools, so that it is asked for before the pools are made.

    Raises:
        ConfigError: a package, the base model's address or a benchmark's file is missing.
    """
    needed = [("imagehash", "imagehash"), *([("sklearn", "scikit-learn")] if settings.representative else [])]
    for package, name in needed:
        if importlib.util.find_spec(package) is None:
            raise ConfigError("curation", f"no package {name}", "the extra `data`", "pip install 'faithful_rl[data]'.")
    _complete(settings)
    for name, location in settings.contamination.benchmarks.items() if settings.contamination else ():
        benchmark_file(name, location)


def _complete(settings: Curation) -> None:
    """One message for everything that only the user knows."""
    missing = []
    if settings.contamination and not settings.contamination.benchmarks:
        missing.append(("contamination", "benchmarks", "'{cvbench: data/cv_bench}'"))
    for key, example in (("base_url", "http://127.0.0.1:8000/v1"), ("model", "Qwen/Qwen2.5-VL-7B-Instruct")):
        if settings.difficulty and not getattr(settings.difficulty, key):
            missing.append(("difficulty", key, example))
    if missing:
        keys = [f"curation.{step}.{key}" for step, key, _ in missing]
        steps = dict.fromkeys(step for step, _, _ in missing)
        raise ConfigError(
            ", ".join(keys),
            "nothing",
            "the benchmarks' RL files and the base model's endpoint that these steps need, or a step left out on purpose",
            f"Add {' '.join(f'curation.{step}.{key}={example}' for step, key, example in missing)}, "
            f"or say {' '.join(f'curation.{step}=none' for step in steps)}.",
        )


def benchmark_file(name: str, location: str) -> Path:
    """The RL parquet file of a benchmark. Raises ConfigError where there is none."""
    path = Path(location).expanduser()
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if len(found) != 1 or not found[0].is_file():
        raise ConfigError(f"curation.contamination.benchmarks.{name}", location, "one RL parquet file", "Make it with format=rl.")
    return found[0]


def _part(name: str, node: Any, kind: type[Any]) -> Any:
    if node is None or node == NONE:
        return None
    if not isinstance(node, Mapping):
        raise ConfigError(f"curation.{name}", repr(node), f"a mapping, or {NONE}", "See data_prep/curation/settings.py for its keys.")
    fields = kind.__dataclass_fields__
    _unknown(f"{name}.", node, tuple(fields))
    values = {}
    for key, value in node.items():
        default = fields[key].default
        default = {} if not isinstance(default, str | int | float) else default
        wanted: Any = Mapping if default == {} else (int, float) if isinstance(default, float) else type(default)
        if isinstance(value, bool) or not isinstance(value, wanted):
            words = {str: "text", int: "a whole number"}.get(type(default), "a number" if isinstance(default, float) else "a mapping")
            raise ConfigError(f"curation.{name}.{key}", repr(value), words, "Change it.")
        values[key] = value
    return kind(**values)


def _unknown(prefix: str, node: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in node:
        if key not in known:
            raise ConfigError(f"curation.{prefix}{key}", "an unknown key", f"one of {', '.join(known)}", "Correct its name.")


def _check(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"curation.{key}", value, f"a number in [{low:g}, {high:g}]", "Change it.")
