"""Dockerfiles, lock files, pyproject, script and manifests agree; hadolint is content; the build's context is small and clean."""

from __future__ import annotations

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
    assert "HEALTHCHECK" in text
    assert " wget" in text


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
