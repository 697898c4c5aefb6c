"""Dockerfiles, lock files, pyproject, script and manifests agree; hadolint is content; the build's context is small and clean."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from manifests import ROOT, cluster_specs, groups

DOCKER = ROOT / "docker"
WORLDS = ("cpu", "gpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()


def dockerfile(world: str) -> str:
    return (DOCKER / f"{world}.Dockerfile").read_text()


@pytest.mark.parametrize("world", WORLDS)
def test_hadolint_is_content(world: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint is not None, "pip install -e '.[dev]' brings it"
    done = subprocess.run([hadolint, str(DOCKER / f"{world}.Dockerfile")], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("world", WORLDS)
def test_versions_come_from_the_lock_and_pyproject_only(world: str) -> None:
    text = dockerfile(world)
    assert f"-c requirements/{world}.txt -e" in text
    assert "==" not in text
    assert re.search(r"\bpip install [^-]", text) is None
    assert (f"'.[{world}]'" in text) or ("ARG EXTRAS=gpu\n" in text and '".[${EXTRAS}]"' in text)
    assert world in PROJECT["optional-dependencies"]


@pytest.mark.parametrize(("world", "base"), [("cpu", r"python:(3\.\d+)\.\d+-slim"), ("gpu", r"python(3\.\d+)-venv")])
def test_an_image_has_the_python_that_its_lock_was_made_for(world: str, base: str) -> None:
    found = re.search(base, dockerfile(world))
    assert found is not None
    made_for = re.search(rf"--extra {world} [^\n]*--python-version (\S+)", MAKEFILE.replace("\\\n", " "))
    assert made_for is not None
    assert found.group(1) == made_for.group(1)


def test_the_gpu_image_has_the_cuda_of_its_lock() -> None:
    lock = (ROOT / "requirements" / "gpu.txt").read_text()
    (toolkit,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)", lock, re.MULTILINE)
    bases = re.findall(r"^ARG (?:BUILD_)?BASE=nvidia/cuda:(\d+\.\d+)\.", dockerfile("gpu"), re.MULTILINE)
    assert bases == [toolkit, toolkit]


@pytest.mark.parametrize("world", WORLDS)
def test_bases_have_whole_tags_and_the_script_pins_their_digests(world: str) -> None:
    bases = re.findall(r"^ARG (?:BUILD_)?BASE=(\S+)$", dockerfile(world), re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"[a-z/]+:[\w.-]*\d+\.\d+\.\d+[\w.-]*", base) for base in bases)
    script = (DOCKER / "build.sh").read_text()
    assert "RepoDigests" in script
    assert '--build-arg "$name=$tag@${digest#*@}"' in script


@pytest.mark.parametrize("world", WORLDS)
def test_an_image_runs_as_the_user_of_the_manifests_and_has_what_their_probes_call(world: str) -> None:
    text = dockerfile(world)
    users = {group["template"]["spec"]["securityContext"]["runAsUser"] for _, spec in cluster_specs() for _, group in groups(spec)}
    assert users == {1000}
    assert text.rindex("USER 1000") > text.rindex("COPY")
    assert "--uid 1000" in text
    assert " procps" in text
    assert " wget" in text


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("raylet", "answer", "healthy"),
    [("false", "false", True), ("true", "echo -n success", True), ("true", "echo refused", False), ("true", "exit 4", False)],
)
def test_health_is_that_of_the_ray_node_that_runs_here(world: str, raylet: str, answer: str, healthy: bool, tmp_path: Path) -> None:
    for name, does in {"pgrep": raylet, "wget": answer}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (words,) = re.findall(r"^ +CMD (\[.*\])$", dockerfile(world), re.MULTILINE)
    done = subprocess.run(json.loads(words), env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=60, check=False)
    assert (done.returncode == 0) == healthy


@pytest.mark.parametrize("world", WORLDS)
def test_no_secret_and_no_index_enters_a_layer(world: str) -> None:
    text = dockerfile(world)
    assert "--mount=type=secret,id=pip_conf" in text
    assert re.search(r"(?i)(password|api_key|_token=|index-url|https?://)", text) is None


def test_what_is_copied_is_in_the_context_and_the_context_is_small() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = {
        word
        for world in WORLDS
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(world), re.MULTILINE)
        for word in line.split()
    }
    for word in copied:
        assert (ROOT / word).exists(), word
        assert any(one == word or one.startswith(f"{word}/") or word.startswith(f"{one}/") for one in kept), word
    size = sum(
        path.stat().st_size
        for one in kept
        for path in ([ROOT / one] if (ROOT / one).is_file() else (ROOT / one).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    )
    assert size < 30 * 2**20


def test_the_script_is_sound_and_tries_what_it_builds() -> None:
    script = DOCKER / "build.sh"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
    text = script.read_text()
    assert "mode=check" in text
    assert "recipe=fgrpo_tiny" in text
    wrong = subprocess.run(["bash", str(script), "tpu"], capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: docker/build.sh cpu|gpu [pip.conf]\n")
    absent = subprocess.run(
        ["bash", str(script), "cpu"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "CONTAINER_ENGINE": "no_engine"},
    )
    assert absent.returncode == 2
    assert "found no no_engine" in absent.stderr


ENGINE = """#!/bin/sh
# A container engine that writes down what it is asked.
echo "$@" >> "$RECORD"
case "$1 $2" in
  "image inspect") echo "base@sha256:0a" ;;
  "build --file") for word; do case "$word" in id=pip_conf,src=*) cat "${word#id=pip_conf,src=}" >> "$RECORD" ;; esac; done ;;
esac
case "$*" in *recipe=fgrpo_7b*mode=check*) echo "$ANSWER"; exit "$CODE" ;; esac
"""


def built(tmp_path: Path, *words: str, **variables: str) -> tuple[int, str, str]:
    """(exit code, stderr, what the engine was asked) of the script with a stand-in for the engine."""
    engine, record = tmp_path / "engine", tmp_path / "record"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "CONTAINER_ENGINE": str(engine), "RECORD": str(record), "ANSWER": "", "CODE": "0", **variables}
    command = ["bash", str(DOCKER / "build.sh"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr, record.read_text() if record.exists() else ""


def test_without_an_index_for_the_cpu_build_of_torch_nothing_is_built(tmp_path: Path) -> None:
    code, told, asked = built(tmp_path, "cpu")
    assert (code, asked) == (2, "")
    assert told.startswith("error: pip would not find torch's CPU build: set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index")


def test_the_index_reaches_pip_as_a_secret_and_by_no_argument(tmp_path: Path) -> None:
    code, _, asked = built(tmp_path, "cpu", PIP_EXTRA_INDEX_URL="https://wheels.example/cpu")
    assert code == 0
    assert "[global]\nextra-index-url = https://wheels.example/cpu\n" in asked
    assert asked.count("wheels.example") == 1
    assert "--build-arg BASE=python:3.11.14-slim-bookworm@sha256:0a" in asked


@pytest.mark.parametrize(
    ("answer", "code", "expected"),
    [
        ("Plan", 0, 0),
        ("error: GPUs of this machine: found 1 (nvidia-smi), expected 8. Use more.", 2, 0),
        ("error: actor_rollout_ref.model.path: found models/x, which is not a directory, expected y. Z.", 2, 0),
        ("error: installation (hardware world gpu): found torch 2.13, expected torch 2.11. Install it.", 2, 2),
        ("Traceback", 1, 1),
    ],
)
def test_the_gpu_image_may_lack_gpus_and_a_model_and_nothing_else(answer: str, code: int, expected: int, tmp_path: Path) -> None:
    found, _, asked = built(tmp_path, "gpu", ANSWER=answer, CODE=str(code))
    assert found == expected
    assert "recipe=fgrpo_7b faithful_rl.output_dir=/tmp/run mode=check" in asked


SAME_VERSIONS = """
import sys
from faithful_rl.preflight import stack
stack.check = lambda *words: None
from faithful_rl import main
sys.exit(main.main(["recipe=fgrpo_7b", "mode=check", "faithful_rl.output_dir=" + sys.argv[1]]))
"""


def test_what_the_script_lets_pass_is_what_preflight_says_where_versions_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAME_VERSIONS, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    (pattern,) = re.findall(r"grep -Eq '(.*)' \|\|", (DOCKER / "build.sh").read_text())
    assert done.returncode == 2
    assert re.match(pattern, done.stderr.splitlines()[-1])
