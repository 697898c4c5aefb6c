"""Settings of `python -m faithful_rl.evaluate`, typed: `key=value` words, checked before anything is opened or started."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from data_prep.frames import MAX_PIXELS, MIN_PIXELS
from data_prep.prompts import system_prompt
from faithful_rl.config import ConfigError
from faithful_rl.evaluation.questions import MODES

PINS = ("strict", "note")
UNTAGGED = ("none", "text")
LOCAL, RAY = "local", "ray"
SERVERS = (LOCAL, RAY)
COLUMNS = ("uid", "response", "answer", "truncated", "response_tokens")
FIX = "See python -m faithful_rl.evaluate --help."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass
class ScenesSettings:
    """The benchmark `scenes`: the held-out split that a training run of the same seed uses."""

    seed: int = 0
    questions: int = 600


@dataclass
class RaySettings:
    """With servers=ray: the cluster, and what is set aside for each of `replicas` servers, all on one node."""

    address: str = "auto"  # of a running cluster; auto: RAY_ADDRESS, else the one on this machine; local: start one that ends with this
    num_gpus: float | None = None  # null: tensor_parallel_size, 0 where the installed vLLM is its CPU build
    num_cpus: float = 1.0  # > 0
    resources: dict[str, float] = field(default_factory=dict)  # names of the cluster's own, such as those of a kind of node
    nodes_seconds: float = 0.0  # to wait for nodes that an autoscaler brings, or for others to end; 0: refuse what does not fit now
    restarts: int = 2  # times that a server which has ended is started again, on another node where its own is gone


@dataclass
class EvaluationSettings:
    """What to evaluate, on what, and who judges. Ranges are checked by `validate`."""

    model: str = ""  # directory or hub id; with base_url the endpoint's name for it; with predictions any name, or none
    name: str = ""  # with predictions: what the responses' model is called; empty: model, else the files' name
    benchmarks: list[str] = field(default_factory=list)  # names, or parquet files in verl's format
    out: str = ""  # directory of the evaluation; an unfinished one of the same settings goes on
    data: str = "data/benchmarks"  # folder that holds a file or folder named as each benchmark's source
    locations: dict[str, str] = field(default_factory=dict)  # benchmark -> file, folder, or hub id OWNER/NAME@REVISION
    options: dict[str, Any] = field(default_factory=dict)  # benchmark -> options of its source, such as mmvp.fix_labels
    scenes: ScenesSettings = field(default_factory=ScenesSettings)
    pins: str = "strict"  # strict: a benchmark that differs from its pinned rows or hashes is refused | note: it is noted
    limit: int | None = None  # questions of each benchmark at most, spread evenly, groups whole
    mode: str = "reasoning"  # reasoning | no_reasoning | text_instead_of_image
    prompt: str = "think"  # system prompt that the model was trained with, by name (data_prep.prompts)
    max_new_tokens: int = 4096
    context: int = 32768  # tokens of prompt and response
    min_pixels: int | None = MIN_PIXELS  # of the image processor, pixels of the resized image; null with max_pixels: the model's own
    max_pixels: int | None = MAX_PIXELS
    replicas: int = 1  # servers of the model
    servers: str = LOCAL  # local: processes of this machine | ray: actors on the nodes of a cluster
    ray: RaySettings = field(default_factory=RaySettings)
    gpus: list[str] = field(default_factory=list)  # devices that the servers share out; empty: the first ones
    server: dict[str, Any] = field(default_factory=dict)  # further keys of faithful_rl.judge_pool.vllm_settings, such as dtype
    base_url: list[str] = field(default_factory=list)  # endpoints that serve the model already, instead of servers of our own
    api_key_env: str | None = None  # name of the variable that holds their key
    concurrency: int = 64  # requests on their way at each server
    request_seconds: float = 600.0  # for one response
    judges: Any = "none"  # none | scene | {pool: NAME} | {backend: ..., KEY: ..., consistency: {...}, grounding: {...}}
    judge_seconds: float = 120.0  # for one response
    judge_concurrency: int = 64
    extractor: dict[str, Any] = field(default_factory=dict)  # {backend: openai | vllm, ...}: a text model reads the answers too
    predictions: dict[str, str] = field(default_factory=dict)  # benchmark -> file of responses that exist already
    columns: dict[str, str] = field(default_factory=dict)  # of those files: uid, response, answer, truncated, response_tokens
    questions: str | None = None  # write the questions to this file, for other tools, and do nothing else
    untagged: str = "none"  # reasoning of a response without <think>: none, as in training | text: all before its answer
    against: str | None = None  # directory of another evaluation: paired comparison with it
    rollouts: bool = True  # keep each response with its shrunk images for the viewer, about 30 KB a question
    progress: bool = True


def parse(words: Sequence[str]) -> EvaluationSettings:
    """Settings of `key=value` words.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, or keys that contradict each other.
    """
    wrong = next((word for word in words if "=" not in word or word.startswith("=")), None)
    if wrong is not None:
        raise ConfigError("command line", repr(wrong), "key=value", FIX)
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError("command line", f"a value that cannot be read ({str(error).splitlines()[0]})", "YAML values", FIX) from error
    assert isinstance(given, dict)  # from_dotlist makes nothing else
    return from_mapping({str(key): value for key, value in given.items()})


def from_mapping(given: Mapping[str, Any]) -> EvaluationSettings:
    """As `parse`, from plain data. One name stands for a list of one."""
    plain = dict(given)
    for name in ("benchmarks", "base_url", "gpus"):
        if isinstance(plain.get(name), str | int):
            plain[name] = [str(plain[name])]
    if isinstance(plain.get("gpus"), list):
        plain["gpus"] = [str(one) for one in plain["gpus"]]
    if isinstance(plain.get("predictions"), str):
        names = plain.get("benchmarks") or []
        if not names:
            expected = "benchmarks=NAME, whose questions the file answers"
            raise ConfigError("benchmarks", "nothing beside predictions=FILE", expected, "Add benchmarks=.")
        if len(names) != 1:
            found = f"one file for {len(names)} benchmarks"
            raise ConfigError("predictions", found, "predictions.BENCHMARK=FILE for each", "Name the benchmark of each file.")
        plain["predictions"] = {benchmark_name(names[0]): plain["predictions"]}
    judges = plain.pop("judges", "none")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(EvaluationSettings), OmegaConf.create(plain))
        typed = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(
            str(error.full_key or "settings"), f"a problem ({reason})", "a known key with a value of its type", FIX
        ) from error
    assert isinstance(typed, EvaluationSettings)
    typed.judges = "none" if judges is None else judges
    return validate(typed)


def benchmark_name(word: str) -> str:
    """What a benchmark is called in files: its name, or that of its parquet file."""
    return Path(word).stem if word.endswith(".parquet") else word


def validate(settings: EvaluationSettings) -> EvaluationSettings:
    """Check what types cannot say; returns `settings` unchanged. Raises ConfigError."""
    needed = {} if settings.questions else {"model": "models/tiny_warm_start", "out": "outputs/evaluation"}
    for key, example in needed.items():
        if not getattr(settings, key) and not (key == "model" and settings.predictions):
            raise ConfigError(key, "nothing", f"{key}={example}", FIX)
    if settings.name and not settings.predictions:
        raise ConfigError("name", f"{settings.name!r} without predictions=", "model=, which has a name", "Remove name=.")
    if settings.questions and settings.predictions:
        raise ConfigError("questions", "a file beside predictions=", "one of the two", "Write the questions first, then score.")
    if not settings.benchmarks:
        raise ConfigError("benchmarks", "none", "benchmarks=[scenes,mmvp,...]", FIX)
    names = [benchmark_name(word) for word in settings.benchmarks]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError("benchmarks", repr(name), "letters, digits, dots, dashes and underscores", "Rename the file.")
    if len(set(names)) != len(names):
        raise ConfigError("benchmarks", ", ".join(names), "each benchmark once", "Remove one, or rename its file.")
    for key, allowed in (("mode", MODES), ("pins", PINS), ("untagged", UNTAGGED), ("servers", SERVERS)):
        if getattr(settings, key) not in allowed:
            raise ConfigError(key, repr(getattr(settings, key)), f"one of {', '.join(allowed)}", f"Change {key}.")
    system_prompt(settings.prompt)
    for key in ("max_new_tokens", "context", "replicas", "concurrency", "judge_concurrency"):
        if getattr(settings, key) < 1:
            raise ConfigError(key, repr(getattr(settings, key)), "a whole number >= 1", f"Change {key}.")
    for key in ("request_seconds", "judge_seconds"):
        if not 0 < getattr(settings, key) < 1e6:
            raise ConfigError(key, repr(getattr(settings, key)), "seconds > 0", f"Change {key}.")
    if settings.limit is not None and settings.limit < 1:
        raise ConfigError("limit", str(settings.limit), "a whole number >= 1, or null", "Change limit.")
    if settings.scenes.questions < 1 or settings.scenes.seed < 0:
        raise ConfigError("scenes", f"{settings.scenes.questions} questions, seed {settings.scenes.seed}", ">= 1 and >= 0", "Change it.")
    if settings.max_new_tokens >= settings.context:
        found = f"{settings.max_new_tokens} of context={settings.context}"
        raise ConfigError("max_new_tokens", found, "less than the context, which holds the prompt too", "Lower it, or raise context.")
    _check_pixels(settings)
    _check_names(settings, names)
    _check_servers(settings)
    return settings


def _check_pixels(settings: EvaluationSettings) -> None:
    low, high = settings.min_pixels, settings.max_pixels
    if (low is None) != (high is None) or (low is not None and high is not None and not 0 < low <= high):
        raise ConfigError("min_pixels, max_pixels", f"{low} and {high}", "0 < minimum <= maximum, or null for both", "Correct the limits.")


def _check_servers(settings: EvaluationSettings) -> None:
    own = settings.ray
    if settings.servers != RAY:
        changed = next((name for name, value in vars(RaySettings()).items() if getattr(own, name) != value), None)
        if changed is not None:
            raise ConfigError(
                f"ray.{changed}", f"a value beside servers={settings.servers}", "servers=ray", "Set servers=ray, or remove it."
            )
        return
    for key in ("gpus", "base_url", "predictions"):
        if getattr(settings, key):
            raise ConfigError(key, "a value beside servers=ray", "nothing: Ray chooses nodes and devices of new servers", f"Remove {key}.")
    if not own.address:
        raise ConfigError("ray.address", "nothing", "auto, local, or an address such as 10.0.0.1:6379", "Set it, or leave it out.")
    amounts = {
        "num_gpus": own.num_gpus or 0.0,
        "num_cpus": own.num_cpus,
        **{f"resources.{name}": own.resources[name] for name in own.resources},
    }
    for key, amount in amounts.items():
        if not 0 <= amount < math.inf or (amount > 1 and not amount.is_integer()) or (key == "num_cpus" and amount <= 0):
            expected = f"a number {'>' if key == 'num_cpus' else '>='} 0, a whole one above 1"
            raise ConfigError(f"ray.{key}", f"{amount:g}", expected, f"Change ray.{key}.")
    for name in ("CPU", "GPU"):
        if name in own.resources:
            raise ConfigError(f"ray.resources.{name}", "a second value", f"ray.num_{name.lower()}s, which decides it", "Use that key.")
    if not 0 <= own.nodes_seconds < 1e6:
        raise ConfigError("ray.nodes_seconds", f"{own.nodes_seconds:g}", "seconds >= 0", "Change it.")
    if own.restarts < 0:
        raise ConfigError("ray.restarts", str(own.restarts), "a whole number >= 0", "Change it.")


def _check_names(settings: EvaluationSettings, names: Sequence[str]) -> None:
    for key in ("locations", "options", "predictions"):
        unknown = [name for name in getattr(settings, key) if name not in names]
        if unknown:
            raise ConfigError(f"{key}.{unknown[0]}", "no such benchmark here", f"one of {', '.join(names)}", "Correct the name.")
    if settings.predictions and len(settings.predictions) != len(names):
        missing = [name for name in names if name not in settings.predictions]
        raise ConfigError(f"predictions.{missing[0]}", "nothing", "a file for every benchmark, or for none", "Add it, or leave it out.")
    for name in settings.columns:
        if name not in COLUMNS:
            raise ConfigError(f"columns.{name}", "an unknown column", f"one of {', '.join(COLUMNS)}", FIX)
