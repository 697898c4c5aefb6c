"""The manifests below cluster/, read as they are, and the commands of faithful_rl that stand in them."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from faithful_rl import main

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
NOT_MANIFESTS = ("kustomization.yaml", "judges.yaml", ".yamllint.yaml")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """(path and kind, document) of every manifest, all of them written out in full."""
    for path in sorted(CLUSTER.rglob("*.yaml")):
        if path.name in NOT_MANIFESTS:
            continue
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.relative_to(CLUSTER)} {document['kind']} {document['metadata']['name']}", document


def cluster_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """(overlay, specification) of every Ray cluster, those inside of jobs included."""
    for name, document in documents():
        overlay = name.split("/")[1] if name.startswith("overlays/") else ""
        if document["kind"] == "RayCluster":
            yield overlay, document["spec"]
        elif document["kind"] == "RayJob" and "rayClusterSpec" in document["spec"]:
            yield overlay, document["spec"]["rayClusterSpec"]


def groups(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, group) of the head and of each worker group."""
    yield "head", spec["headGroupSpec"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["groupName"], group


def mounts(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Path in the pod's container -> its volume."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (container,) = pod["containers"]
    return {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}


def training_words(overlay: str) -> list[str]:
    """What the overlay's training job hands to `python -m faithful_rl.main`."""
    job = next(document for name, document in documents() if name.startswith(f"overlays/{overlay}/train.yaml"))
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:4] == ["exec", "python", "-m", "faithful_rl.main"]
    return words[4:]


@functools.cache
def training_job(overlay: str) -> main.Job:
    """The overlay's training job, composed and typed."""
    return main.prepare(training_words(overlay))


OVERLAYS = sorted(path.name for path in (CLUSTER / "overlays").iterdir() if path.is_dir())
