"""The manifests: valid by KubeRay's and Kubernetes' own schemas, closed, and in agreement with recipes, images and versions."""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import CLUSTER, OVERLAYS, ROOT, cluster_specs, documents, groups, mounts, training_job
from yamllint import linter
from yamllint.config import YamlLintConfig

from faithful_rl import main
from faithful_rl.judge_pool import settings as pool_settings
from faithful_rl.preflight import cluster, machine
from faithful_rl.preflight.stack import PINS

SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay-crds"
DOCUMENTS = dict(documents())
RAY = {name: document for name, document in DOCUMENTS.items() if document["apiVersion"].startswith("ray.io/")}
CORE = {
    name: document
    for name, document in DOCUMENTS.items()
    if name not in RAY and not document["apiVersion"].startswith("monitoring.coreos.com/")  # the Prometheus operator's: no schema here
}
SPECS = dict(cluster_specs())
KUBERNETES = "1.33"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_overlay_and_kind_that_was_promised_is_there() -> None:
    assert OVERLAYS == ["h100-1x8", "h100-2x8-judge-pool", "kind-cpu", "spot"]
    kinds = {document["kind"] for document in DOCUMENTS.values()}
    assert kinds >= {"RayCluster", "RayJob", "PersistentVolumeClaim", "NetworkPolicy", "PriorityClass", "PodMonitor", "Namespace"}
    assert kinds >= {"Deployment", "PodDisruptionBudget"}


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown fields refused, as the API server does with strict validation."""
    if isinstance(schema, dict):
        schema = {name: closed(value) for name, value in schema.items()}
        free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if schema.get("type") == "object" and "properties" in schema and not free:
            schema["additionalProperties"] = False
        return schema
    return [closed(one) for one in schema] if isinstance(schema, list) else schema


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    definition = yaml.load((SCHEMAS / f"ray.io_{kind.lower()}s.yaml").read_text(), yaml.CSafeLoader)  # a megabyte each
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server checks it, and the schema leaves it open
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", RAY)
def test_rays_objects_fit_kuberays_own_schemas(name: str) -> None:
    if not SCHEMAS.is_dir():
        pytest.skip(f"KubeRay's schemas are not in {SCHEMAS}")
    document = RAY[name]
    errors = [f"{error.json_path}: {error.message}" for error in validator(document["kind"]).iter_errors(document)]
    assert errors == []


def test_the_check_against_kuberays_schemas_sees_a_typing_error() -> None:
    if not SCHEMAS.is_dir():
        pytest.skip(f"KubeRay's schemas are not in {SCHEMAS}")
    document = copy.deepcopy(next(one for one in RAY.values() if one["kind"] == "RayCluster"))
    document["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    (error,) = validator("RayCluster").iter_errors(document)
    assert "imagee" in error.message


@pytest.mark.parametrize("name", CORE)
def test_kubernetes_own_objects_fit_its_schemas(name: str) -> None:
    kubernetes_validate.validate(CORE[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", SPECS)
def test_pod_templates_fit_kubernetes_schema(overlay: str) -> None:
    for group_name, group in groups(SPECS[overlay]):
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group_name, **template["metadata"]}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_yamllint_is_content() -> None:
    config = YamlLintConfig((CLUSTER / ".yamllint.yaml").read_text())
    problems = [
        f"{path.relative_to(ROOT)}:{problem.line}: {problem.message}"
        for path in sorted(CLUSTER.rglob("*.yaml"))
        for problem in linter.run(path.read_text(), config)
    ]
    assert problems == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_renders_the_overlay_without_losing_an_object(overlay: str) -> None:
    kubectl = shutil.which("kubectl") or shutil.which("kustomize")
    if kubectl is None:
        pytest.skip("neither kubectl nor kustomize is installed; every document is written out in full and checked above")
    command = [kubectl, "kustomize"] if Path(kubectl).name == "kubectl" else [kubectl, "build"]
    done = subprocess.run([*command, str(CLUSTER / "overlays" / overlay)], capture_output=True, text=True, timeout=60, check=True)
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    kinds = {document["kind"] for document in rendered}
    assert kinds >= {
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PriorityClass",
        "RayJob" if overlay == "spot" else "RayCluster",
    }
    for document in rendered:
        if document["kind"] not in ("Namespace", "PriorityClass"):
            assert document["metadata"]["namespace"] == "faithful-rl"
    world = training_job(overlay).typed.hardware.world
    assert set(re.findall(r"image: (\S+)", done.stdout)) == {f"faithful-rl:{VERSION}-{world}"}  # the loader's too
    if overlay == "kind-cpu":
        claims = [document for document in rendered if document["kind"] == "PersistentVolumeClaim"]
        assert {tuple(claim["spec"]["accessModes"]) for claim in claims} == {("ReadWriteOnce",)}


# --- agreement ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", SPECS)
def test_images_and_rays_version_are_those_of_this_release(overlay: str) -> None:
    world = training_job(overlay).typed.hardware.world
    images = {group["template"]["spec"]["containers"][0]["image"] for _, group in groups(SPECS[overlay])}
    assert images == {f"faithful-rl:{VERSION}-{world}"}
    lock = (ROOT / "requirements" / f"{world}.txt").read_text().splitlines()
    assert f"ray=={SPECS[overlay]['rayVersion']}" in lock
    assert PINS["cpu"]["ray"] == SPECS[overlay]["rayVersion"]


def nodes(spec: dict[str, Any], at_least: bool = True) -> list[cluster.Node]:
    """The Ray nodes that the manifest starts at first (or at most), with the resources that Ray will see in them."""
    found = []
    for name, group in groups(spec):
        container = group["template"]["spec"]["containers"][0]
        params, resources = group["rayStartParams"], container["resources"]["requests"]
        offer = {
            "CPU": float(params.get("num-cpus", resources["cpu"])),
            "GPU": float(params.get("num-gpus", container["resources"]["limits"].get("nvidia.com/gpu", 0))),
        }
        if "resources" in params:
            offer |= yaml.safe_load(yaml.safe_load(params["resources"]))
        count = 1 if name == "head" else group["minReplicas" if at_least else "maxReplicas"]
        found += [cluster.Node(f"{name}-{number}", dict(offer), dict(offer)) for number in range(count)]
    return found


@pytest.mark.parametrize("overlay", SPECS)
def test_the_pods_offer_exactly_the_gpus_that_the_recipe_asks_for(overlay: str) -> None:
    job = training_job(overlay)
    need = machine.required_slots(main.resolved(job.composed), job.typed)
    offered = nodes(SPECS[overlay])
    assert sum(node.free["GPU"] for node in offered) == need.gpus
    cluster.check_fit(need, offered, waited=0.0)
    cluster.check_storage(offered, job.typed.hardware.node_resource)


@pytest.mark.parametrize("overlay", SPECS)
def test_requests_equal_limits_where_it_matters(overlay: str) -> None:
    for _, group in groups(SPECS[overlay]):
        resources = group["template"]["spec"]["containers"][0]["resources"]
        for name in ("memory", "nvidia.com/gpu"):
            assert resources["requests"].get(name) == resources["limits"].get(name)


def test_the_autoscaled_judges_fit_the_group_that_serves_them() -> None:
    overlay = "h100-2x8-judge-pool"
    file = CLUSTER / "overlays" / overlay / "judges.yaml"
    pool = pool_settings.load(file)
    spec = SPECS[overlay]
    assert spec["enableInTreeAutoscaling"] is True
    (group,) = [group for name, group in groups(spec) if name == "judges"]
    assert (group["minReplicas"], pool.nodes_seconds > 0) == (0, True)
    assert pool.start_seconds == 1800  # 60 GB from shared storage
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert group["maxReplicas"] * gpus == sum(one.replicas * one.num_gpus for one in pool.judges.values())  # no node too many, none missing
    offered = [node for node in nodes(spec, at_least=False) if "judges" in node.free]
    wanted = [
        machine.Group(f"{name} judge", one.replicas, one.num_cpus, one.num_gpus, tuple(one.resources.items()))
        for name, one in pool.judges.items()
    ]
    cluster.check_fit(machine.Slots(0, 0, (), tuple(wanted)), offered, waited=0.0)
    assert training_job(overlay).typed.judges.pool == pool.name
    with pytest.raises(main.ConfigError):  # never on the policy's node
        cluster.check_fit(machine.Slots(0, 0, (), tuple(wanted)), [one for one in nodes(spec) if "judges" not in one.free], waited=0.0)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_say_which_cluster_and_which_attempt(overlay: str) -> None:
    for name, document in RAY.items():
        if document["kind"] != "RayJob" or f"overlays/{overlay}/" not in name:
            continue
        spec = document["spec"]
        if "clusterSelector" in spec:
            own = next(one for key, one in RAY.items() if one["kind"] == "RayCluster" and f"overlays/{overlay}/" in key)
            assert spec["clusterSelector"] == {"ray.io/cluster": own["metadata"]["name"]}
            assert document["metadata"]["name"] == spec["jobId"]  # one word to change for a second attempt, as the README does
            assert spec["jobId"].endswith("-1")
        else:
            assert spec["backoffLimit"] > 0
            assert "jobId" not in spec  # each attempt is a job of its own, on a cluster of its own


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "kind-cpu"])
def test_every_model_is_read_from_the_claim_and_copied_by_the_readme(overlay: str) -> None:
    """A hub's name would be loaded by each judge into its pod at each start."""
    job = training_job(overlay)
    models = {str(job.composed.actor_rollout_ref.model.path)}
    if job.typed.judges.pool:
        pool = pool_settings.load(CLUSTER / "overlays" / overlay / "judges.yaml")
        models |= {one.options["model"] for one in pool.judges.values()}
    else:
        models |= {one.options["model"] for one in (job.typed.judges.consistency, job.typed.judges.grounding)}
        assert job.typed.judges.start_seconds == 1800
    guide = (CLUSTER / "README.md").read_text()
    for model in models:
        assert model.startswith("/models/")
        assert model in guide


def test_the_readme_applies_everything_else_before_the_ray_cluster() -> None:
    """By a label: while models are copied no GPU waits."""
    for name, document in DOCUMENTS.items():
        labels = document["metadata"].get("labels", {})
        makes_pods = document["kind"] == "RayCluster" or "rayClusterSpec" in document["spec"] if name in RAY else False
        assert (labels.get("app.kubernetes.io/component") == "ray") == makes_pods
    assert "-l 'app.kubernetes.io/component!=ray'" in (CLUSTER / "README.md").read_text()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_file_that_a_job_names_is_mounted_where_it_runs(overlay: str) -> None:
    """Jobs run on the head. A file of a config map must be one that the overlay's kustomization puts into it."""
    kustomization = yaml.safe_load((CLUSTER / "overlays" / overlay / "kustomization.yaml").read_text())
    generated = {one["name"]: set(one["files"]) for one in kustomization.get("configMapGenerator", [])}
    found = mounts(SPECS[overlay]["headGroupSpec"]["template"]["spec"])
    for name, document in RAY.items():
        if document["kind"] != "RayJob" or f"overlays/{overlay}/" not in name:
            continue
        for path in re.findall(r"=(/\S+)", document["spec"]["entrypoint"]):
            volume = next((found[str(parent)] for parent in Path(path).parents if str(parent) in found), None)
            assert volume is not None, f"{name}: nothing is mounted at {path}"
            if "configMap" in volume:
                assert Path(path).name in generated[volume["configMap"]["name"]]
                assert (CLUSTER / "overlays" / overlay / Path(path).name).is_file()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_training_writes_to_the_shared_volume(overlay: str) -> None:
    typed = training_job(overlay).typed
    assert typed.output_dir.startswith("/checkpoints/")


def test_every_file_says_whether_it_was_run() -> None:
    for path in sorted((CLUSTER / "overlays").glob("*/*.yaml")):
        if path.name not in ("kustomization.yaml", "judges.yaml"):
            assert "Not run yet" in path.read_text().split("apiVersion")[0], path
