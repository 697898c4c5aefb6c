"""What KubeRay's operator refuses although its schemas allow it, for the fields that our manifests use or might come to use.

The rules are those of `ValidateRayClusterSpec`, `ValidateRayJobSpec` and the checks of names in the operator's `validation.go`, read
in a copy later than KubeRay 1.5.1. An object that breaks one is accepted by the API server and then stays without a pod; the reason stands in its events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

LONGEST_CLUSTER_NAME = 53  # characters; the longest suffix of a service's name makes it 63
LONGEST_JOB_NAME = 47  # a job's cluster is named after it, with six characters more
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
TOKEN_SINCE = (2, 52, 0)
OWN_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
V2_VARIABLE = "RAY_enable_autoscaler_v2"


def problems(document: Mapping[str, Any]) -> list[str]:
    """Every rule that a RayCluster or a RayJob breaks, in words; empty where the operator takes it."""
    name, spec = document["metadata"].get("name", document["metadata"].get("generateName", "")), document["spec"]
    longest = LONGEST_JOB_NAME if document["kind"] == "RayJob" else LONGEST_CLUSTER_NAME
    found = []
    if len(name) > longest or not NAME.fullmatch(name.removesuffix("-") if "name" not in document["metadata"] else name):
        found.append(f"the name {name!r} is not a DNS label of at most {longest} characters")
    return found + list(_job(spec) if document["kind"] == "RayJob" else _cluster(spec))


def _cluster(spec: Mapping[str, Any]) -> Iterator[str]:
    head = spec["headGroupSpec"]
    groups = [("head", head), *((group["groupName"], group) for group in spec.get("workerGroupSpecs", []))]
    scaled = bool(spec.get("enableInTreeAutoscaling"))
    for name, group in groups:
        yield from _group(name, group)
        if name != "head":
            yield from _replicas(name, group, scaled)
    yield from _autoscaler(spec, groups, scaled)
    yield from _redis(spec, head)
    yield from _authentication(spec)


def _group(name: str, group: Mapping[str, Any]) -> Iterator[str]:
    if not group["template"]["spec"].get("containers"):
        yield f"{name}: no container"
    params = group.get("rayStartParams", {})
    if group.get("resources") and any(params.get(key) for key in OWN_RESOURCES):
        yield f"{name}: resources both of the group and in rayStartParams"
    if "labels" in params:
        yield f"{name}: labels in rayStartParams"
    if not all(LABEL.fullmatch(str(value)) for value in group.get("labels", {}).values()):
        yield f"{name}: a label that Kubernetes would not take"


def _replicas(name: str, group: Mapping[str, Any], scaled: bool) -> Iterator[str]:
    low, high = group.get("minReplicas"), group.get("maxReplicas")
    if not scaled and (low is None or high is None):
        yield f"{name}: minReplicas and maxReplicas are both needed without an autoscaler"
    if (low or 0) < 0 or (high or 0) < 0:
        yield f"{name}: a negative number of replicas"
    if low is not None and high is not None and low > high:
        yield f"{name}: minReplicas above maxReplicas"
    if group.get("suspend"):
        yield f"{name}: suspended, which needs a feature gate and no autoscaler"
    idle = group.get("idleTimeoutSeconds")
    if idle is not None and (idle < 0 or not scaled):
        yield f"{name}: idleTimeoutSeconds is negative, or there is no autoscaler"


def _autoscaler(spec: Mapping[str, Any], groups: list[tuple[str, Mapping[str, Any]]], scaled: bool) -> Iterator[str]:
    options = spec.get("autoscalerOptions", {})
    variables = {one["name"]: one.get("value") for one in _container(spec["headGroupSpec"]).get("env", [])}
    if scaled and options.get("version") == "v2":
        for name, group in groups:
            if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield f"{name}: restartPolicy must be Never or absent beside autoscaler v2"
    if scaled and "version" in options and V2_VARIABLE in variables:
        yield f"autoscalerOptions.version and {V2_VARIABLE} at once"
    if not scaled and variables.get(V2_VARIABLE) in ("1", "true"):
        yield f"{V2_VARIABLE} without enableInTreeAutoscaling"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds is negative"


def _redis(spec: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[str]:
    variables = {one["name"] for one in _container(head).get("env", [])}
    params, tolerant = head.get("rayStartParams", {}), "gcsFaultToleranceOptions" in spec
    if "RAY_REDIS_ADDRESS" in variables:
        yield "RAY_REDIS_ADDRESS belongs into gcsFaultToleranceOptions"
    if tolerant and ("redis-password" in params or "REDIS_PASSWORD" in variables):
        yield "Redis' password belongs into gcsFaultToleranceOptions"
    if "redis-username" in params or "REDIS_USERNAME" in variables:
        yield "Redis' user belongs into gcsFaultToleranceOptions"


def _authentication(spec: Mapping[str, Any]) -> Iterator[str]:
    options = spec.get("authOptions", {})
    if options.get("mode") == "token":
        version = tuple(int(part) for part in re.findall(r"\d+", spec.get("rayVersion", ""))[:3])
        if len(version) < 3 or version < TOKEN_SINCE:
            yield "authOptions.mode token needs a rayVersion of 2.52.0 or later"
    elif options.get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth needs the mode token"


def _job(spec: Mapping[str, Any]) -> Iterator[str]:
    selected, shuts_down = spec.get("clusterSelector", {}), bool(spec.get("shutdownAfterJobFinishes"))
    mode, backoff = spec.get("submissionMode", "K8sJobMode"), spec.get("backoffLimit", 0)
    if spec.get("suspend") and (not shuts_down or selected):
        yield "suspend needs shutdownAfterJobFinishes, and a cluster of the job's own"
    if spec.get("ttlSecondsAfterFinished", 0) < 0 or (spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down):
        yield "ttlSecondsAfterFinished is negative, or without shutdownAfterJobFinishes"
    if "deletionStrategy" in spec:
        yield "deletionStrategy needs a feature gate"
    if "rayClusterSpec" not in spec and not selected:
        yield "neither rayClusterSpec nor clusterSelector"
    if selected and not selected.get("ray.io/cluster"):
        yield "clusterSelector without ray.io/cluster"
    if selected and mode == "SidecarMode":
        yield "clusterSelector with SidecarMode"
    if backoff < 0 or (backoff > 0 and (selected or mode == "InteractiveMode")):
        yield "backoffLimit is negative, or with clusterSelector or InteractiveMode"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode has no submitter of its own"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "activeDeadlineSeconds must be positive"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML is not a mapping"
    if "rayClusterSpec" in spec:
        own = spec["rayClusterSpec"]
        if mode == "SidecarMode" and own["headGroupSpec"]["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "head: restartPolicy must be Never or absent with SidecarMode"
        yield from _cluster(own)


def _container(group: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = group["template"]["spec"].get("containers") or [{}]
    first: Mapping[str, Any] = containers[0]
    return first
