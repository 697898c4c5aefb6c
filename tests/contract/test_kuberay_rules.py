"""Our manifests break no rule of KubeRay's operator that its schemas cannot see, and each rule is seen when it is broken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from kuberay_rules import problems
from manifests import documents

RAY = {name: document for name, document in documents() if document["apiVersion"].startswith("ray.io/")}
POOL = next(one for name, one in RAY.items() if one["kind"] == "RayCluster" and "judge-pool" in name)
PLAIN = next(one for name, one in RAY.items() if one["kind"] == "RayCluster" and "h100-1x8" in name)
SELECTING = next(one for name, one in RAY.items() if one["kind"] == "RayJob" and "h100-1x8" in name)
SPOT = next(one for name, one in RAY.items() if one["kind"] == "RayJob" and "spot" in name)


@pytest.mark.parametrize("name", RAY)
def test_the_operator_takes_every_object(name: str) -> None:
    assert problems(RAY[name]) == []


HEAD = "spec.headGroupSpec"
WORKERS = "spec.workerGroupSpecs.0"
POD = "template.spec"


@pytest.mark.parametrize(
    ("document", "path", "value", "told"),
    [
        (POOL, f"{HEAD}.{POD}.restartPolicy", "Always", "head: restartPolicy must be Never or absent beside autoscaler v2"),
        (POOL, f"{WORKERS}.{POD}.restartPolicy", "OnFailure", "policy: restartPolicy must be Never or absent beside autoscaler v2"),
        (
            POOL,
            f"{HEAD}.{POD}.containers.0.env",
            [{"name": "RAY_enable_autoscaler_v2", "value": "1"}],
            "autoscalerOptions.version and RAY_enable_autoscaler_v2 at once",
        ),
        (POOL, "spec.autoscalerOptions.idleTimeoutSeconds", -1, "autoscalerOptions.idleTimeoutSeconds is negative"),
        (POOL, f"{WORKERS}.suspend", True, "policy: suspended, which needs a feature gate and no autoscaler"),
        (POOL, "metadata.name", "a" * 54, f"the name {'a' * 54!r} is not a DNS label of at most 53 characters"),
        (PLAIN, "spec.rayVersion", "2.51.2", "authOptions.mode token needs a rayVersion of 2.52.0 or later"),
        (PLAIN, "spec.rayVersion", "", "authOptions.mode token needs a rayVersion of 2.52.0 or later"),
        (PLAIN, "spec.authOptions", {"enableK8sTokenAuth": True}, "authOptions.enableK8sTokenAuth needs the mode token"),
        (PLAIN, f"{HEAD}.resources", {"CPU": "4"}, "head: resources both of the group and in rayStartParams"),
        (PLAIN, f"{WORKERS}.resources", {"CPU": "4"}, "policy-and-judges: resources both of the group and in rayStartParams"),
        (PLAIN, f"{WORKERS}.rayStartParams.labels", "a=b", "policy-and-judges: labels in rayStartParams"),
        (PLAIN, f"{WORKERS}.labels", {"a": "b c"}, "policy-and-judges: a label that Kubernetes would not take"),
        (PLAIN, f"{WORKERS}.minReplicas", None, "policy-and-judges: minReplicas and maxReplicas are both needed without an autoscaler"),
        (PLAIN, f"{WORKERS}.minReplicas", 2, "policy-and-judges: minReplicas above maxReplicas"),
        (PLAIN, f"{WORKERS}.maxReplicas", -1, "policy-and-judges: a negative number of replicas"),
        (PLAIN, f"{WORKERS}.idleTimeoutSeconds", 60, "policy-and-judges: idleTimeoutSeconds is negative, or there is no autoscaler"),
        (
            PLAIN,
            f"{HEAD}.{POD}.containers.0.env",
            [{"name": "RAY_enable_autoscaler_v2", "value": "true"}],
            "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling",
        ),
        (
            PLAIN,
            f"{HEAD}.{POD}.containers.0.env",
            [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}],
            "RAY_REDIS_ADDRESS belongs into gcsFaultToleranceOptions",
        ),
        (PLAIN, f"{HEAD}.rayStartParams.redis-username", "ray", "Redis' user belongs into gcsFaultToleranceOptions"),
        (PLAIN, f"{HEAD}.{POD}.containers", [], "head: no container"),
        (SELECTING, "metadata.name", "Train", "the name 'Train' is not a DNS label of at most 47 characters"),
        (SELECTING, "metadata.name", "a" * 48, f"the name {'a' * 48!r} is not a DNS label of at most 47 characters"),
        (SELECTING, "spec.clusterSelector", {}, "neither rayClusterSpec nor clusterSelector"),
        (SELECTING, "spec.clusterSelector", {"app": "ray"}, "clusterSelector without ray.io/cluster"),
        (SELECTING, "spec.submissionMode", "SidecarMode", "clusterSelector with SidecarMode"),
        (SELECTING, "spec.backoffLimit", 3, "backoffLimit is negative, or with clusterSelector or InteractiveMode"),
        (SELECTING, "spec.suspend", True, "suspend needs shutdownAfterJobFinishes, and a cluster of the job's own"),
        (SELECTING, "spec.ttlSecondsAfterFinished", 60, "ttlSecondsAfterFinished is negative, or without shutdownAfterJobFinishes"),
        (SELECTING, "spec.activeDeadlineSeconds", 0, "activeDeadlineSeconds must be positive"),
        (SELECTING, "spec.runtimeEnvYAML", "[a]", "runtimeEnvYAML is not a mapping"),
        (SPOT, "spec.shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished is negative, or without shutdownAfterJobFinishes"),
        (SPOT, "spec.backoffLimit", -1, "backoffLimit is negative, or with clusterSelector or InteractiveMode"),
        (SPOT, "spec.submissionMode", "SidecarMode", "head: restartPolicy must be Never or absent with SidecarMode"),
        (SPOT, "spec.deletionStrategy", {"onSuccess": {}}, "deletionStrategy needs a feature gate"),
        (
            SPOT,
            "spec.rayClusterSpec.rayVersion",
            "2.50.0",
            "authOptions.mode token needs a rayVersion of 2.52.0 or later",
        ),
    ],
)
def test_a_broken_rule_is_seen(document: dict[str, Any], path: str, value: Any, told: str) -> None:
    broken = copy.deepcopy(document)
    *way, last = path.split(".")
    node: Any = broken
    for step in way:
        node = node[int(step)] if isinstance(node, list) else node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    assert told in problems(broken)
