"""The pods of the manifests: closed, with what Ray needs, protected while a run needs them, and gone in time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import CLUSTER, OVERLAYS, ROOT, cluster_specs, documents, groups, mounts, training_job

from faithful_rl import run_lock

DOCUMENTS = dict(documents())
SPECS = dict(cluster_specs())


def gib(quantity: str) -> float:
    """Kubernetes' words for memory, those that stand in our manifests."""
    return float(quantity.removesuffix("Gi")) if quantity.endswith("Gi") else float(quantity.removesuffix("Mi")) / 1024


def check_closed(pod: dict[str, Any]) -> None:
    """Fits the namespace's `restricted` pod security, and more."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000  # the images' user
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("overlay", SPECS)
def test_pods_are_not_root_cannot_write_their_root_and_keep_no_privileges(overlay: str) -> None:
    for _, group in groups(SPECS[overlay]):
        pod = group["template"]["spec"]
        check_closed(pod)
        assert {"/tmp", "/dev/shm", "/models", "/data", "/checkpoints"} <= mounts(pod).keys()


@pytest.mark.parametrize("overlay", SPECS)
def test_only_a_head_with_an_autoscaler_may_talk_to_kubernetes(overlay: str) -> None:
    for name, group in groups(SPECS[overlay]):
        scales = name == "head" and SPECS[overlay].get("enableInTreeAutoscaling", False)
        assert group["template"]["spec"].get("automountServiceAccountToken", True) is scales


@pytest.mark.parametrize("overlay", SPECS)
def test_a_pod_that_asks_for_no_gpu_sees_none(overlay: str) -> None:
    """The GPU image says NVIDIA_VISIBLE_DEVICES=all, and a head may share a node with GPU pods."""
    for _, group in groups(SPECS[overlay]):
        (container,) = group["template"]["spec"]["containers"]
        if container["image"].endswith("-gpu") and "nvidia.com/gpu" not in container["resources"]["limits"]:
            assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]
            assert group["rayStartParams"]["num-gpus"] == "0"


def test_models_and_data_can_be_written_by_one_closed_pod_that_runs_only_when_wanted() -> None:
    (loader,) = [document for document in DOCUMENTS.values() if document["kind"] == "Deployment"]
    assert loader["spec"]["replicas"] == 0
    pod = loader["spec"]["template"]["spec"]
    check_closed(pod)
    assert pod["automountServiceAccountToken"] is False
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in pod["containers"][0]["env"]
    found = mounts(pod)
    for claim in ("models", "data", "checkpoints"):
        assert found[f"/{claim}"]["persistentVolumeClaim"] == {"claimName": claim}
    assert not any(mount.get("readOnly") for mount in pod["containers"][0]["volumeMounts"])
    assert "readOnlyRootFilesystem" in pod["containers"][0]["securityContext"]
    assert found["/tmp"] == {"name": "tmp", "emptyDir": {}}  # what a download writes beside the model, below HOME


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "kind-cpu"])
def test_a_drain_takes_no_pod_that_a_run_needs(overlay: str) -> None:
    (budget,) = [one for name, one in DOCUMENTS.items() if one["kind"] == "PodDisruptionBudget" and f"overlays/{overlay}/" in name]
    kustomization = yaml.safe_load((CLUSTER / "overlays" / overlay / "kustomization.yaml").read_text())
    assert "disruption.yaml" in kustomization["resources"]
    selector = budget["spec"]["selector"]
    ((expression),) = selector["matchExpressions"]
    pods = 0
    for name, group in groups(SPECS[overlay]):
        labels = group["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == overlay
        chosen = labels.items() >= selector["matchLabels"].items() and labels[expression["key"]] in expression["values"]
        assert chosen == (
            name == "head" or (overlay != "spot" and group["template"]["spec"]["priorityClassName"] == "faithful-rl-training")
        )
        pods += chosen * (1 if name == "head" else group["minReplicas"])
    assert budget["spec"]["minAvailable"] == pods  # none may go


@pytest.mark.parametrize("overlay", SPECS)
def test_ray_asks_for_its_token_and_secrets_are_references(overlay: str) -> None:
    assert SPECS[overlay]["authOptions"] == {"mode": "token"}
    for _, group in groups(SPECS[overlay]):
        (container,) = group["template"]["spec"]["containers"]
        assert all("KEY" not in one["name"] and "TOKEN" not in one["name"] for one in container["env"])
        assert [one["secretRef"]["name"] for one in container["envFrom"]] == ["faithful-rl-keys"]


def test_other_namespaces_reach_neither_the_client_port_nor_the_workers() -> None:
    policy = next(document for document in DOCUMENTS.values() if document["kind"] == "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/part-of": "faithful-rl"}
    for rule in policy["ingress"]:
        outside = [peer for peer in rule["from"] if "namespaceSelector" in peer]
        if outside:
            assert {port["port"] for port in rule["ports"]} <= {8265, 8080}  # the operator's and Prometheus' own ports
            assert all(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in outside)
    labelled = [group["template"]["metadata"]["labels"] for spec in SPECS.values() for _, group in groups(spec)]
    assert all(labels["app.kubernetes.io/part-of"] == "faithful-rl" for labels in labelled)


@pytest.mark.parametrize("overlay", SPECS)
def test_probes_shared_memory_metrics_and_priority_are_there(overlay: str) -> None:
    claims = {document["metadata"]["name"] for document in DOCUMENTS.values() if document["kind"] == "PersistentVolumeClaim"}
    priorities = {document["metadata"]["name"] for document in DOCUMENTS.values() if document["kind"] == "PriorityClass"}
    for _, group in groups(SPECS[overlay]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
        shared, store = gib(volumes["shared-memory"]["emptyDir"]["sizeLimit"]), int(group["rayStartParams"]["object-store-memory"]) / 2**30
        assert store <= 0.5 * shared < gib(container["resources"]["limits"]["memory"])  # else Ray would put it on a disk
        assert {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "persistentVolumeClaim" in volume} <= claims
        annotations = group["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == group["rayStartParams"]["metrics-export-port"] == "8080"
        assert {"name": "metrics", "containerPort": 8080} in container["ports"]
        assert pod["priorityClassName"] in priorities


HOOK = re.compile(r"python -m faithful_rl\.stop run=(?P<folder>\S+) wait_seconds=(?P<wait>\d+); ray stop")


@pytest.mark.parametrize("overlay", SPECS)
def test_a_pod_that_goes_waits_longer_than_a_step_and_its_checkpoint(overlay: str) -> None:
    """And no longer than Kubernetes lets it. It asks the runs of this cluster only: each overlay's lie in a folder of its own."""
    typed = training_job(overlay).typed
    for _, group in groups(SPECS[overlay]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        *shell, stop = container["lifecycle"]["preStop"]["exec"]["command"]
        assert shell == ["/bin/bash", "-c"]
        if pod["priorityClassName"] == "faithful-rl-judges":
            assert stop == "ray stop"  # their rollouts are asked again elsewhere
            continue
        hook = HOOK.fullmatch(stop)
        assert hook is not None
        assert hook["folder"] == f"/checkpoints/{overlay}"
        assert str(Path(typed.output_dir).parent) == hook["folder"]
        (wait,) = [int(one["value"]) for one in container["env"] if one["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
        assert typed.step_timeout_seconds < wait <= int(hook["wait"]) <= pod["terminationGracePeriodSeconds"] - 120


def test_a_pod_goes_at_once_where_no_run_lives(tmp_path: Path) -> None:
    """The hook's own words, with what a killed run leaves: "running" in `run.json`, and an owner who is no more."""
    left = tmp_path / "left"
    left.mkdir()
    (left / "run.json").write_text('{"status": "running"}')
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, timeout=60, check=True)
    owner = replace(run_lock.this_process(), pid=int(gone.stdout))
    (left / run_lock.OWNER_FILE).write_text(json.dumps({"owner": asdict(owner), "beat": 3}))
    _, _, stop = SPECS["h100-1x8"]["headGroupSpec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    words = stop.replace("run=/checkpoints/h100-1x8", f"run={tmp_path}").removesuffix("; ray stop").replace("python", sys.executable, 1)
    done = subprocess.run(["/bin/bash", "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, sorted(one.name for one in left.iterdir())) == (0, ["run.json", run_lock.OWNER_FILE]), done.stderr
