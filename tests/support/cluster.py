"""A site's cluster as its API server lists it, made of what the estate compiles: sound until a test spoils it."""

from __future__ import annotations

import copy
from typing import Any

from ninelives.compilers.kubernetes import compile_site
from ninelives.estate import Estate
from ninelives.placement.audit import ZONE, Cluster

ZONES = ("a", "b", "c")
KINDS = {
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
}


def node(name: str, zone: str, **spec: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True"}
    return {"metadata": {"name": name, "labels": {ZONE: zone}}, "spec": spec, "status": {"conditions": [ready]}}


def pod(name: str, labels: dict[str, str], on: str, *, ready: bool = True) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name, "labels": {**labels, "pod-template-hash": "1"}},
        "spec": {"nodeName": on},
        "status": {"phase": "Running", "conditions": conditions},
    }


def running(estate: Estate, site: str) -> dict[str, list[dict[str, Any]]]:
    """By resource: one node a zone, and each service's replicas on as many nodes."""
    found: dict[str, list[dict[str, Any]]] = {"nodes": [node(f"n-{zone}", zone) for zone in ZONES], "pods": []}
    found |= {resource: [] for resource in KINDS.values()}
    for one in copy.deepcopy(compile_site(estate, site)["replicas.yaml"]):
        if (kind := one["kind"]) not in KINDS:
            continue
        found[KINDS[kind]].append(one)
        if kind == "Deployment":
            labels = one["spec"]["selector"]["matchLabels"]
            count = estate.service_by_name[labels["ninelives/service"]].pods.replicas
            found["pods"] += [pod(f"{one['metadata']['name']}-{n}", labels, f"n-{ZONES[n]}") for n in range(count)]
            # What an API server adds by itself is no drift.
            one["spec"] |= {"revisionHistoryLimit": 10, "replicas": count}
            one["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = "Honor"
        if kind == "PodDisruptionBudget":
            one["status"] = {"expectedPods": 2, "disruptionsAllowed": 1}
        if kind == "HorizontalPodAutoscaler":
            one["status"] = {"currentReplicas": 2, "conditions": [{"type": "ScalingActive", "status": "True"}]}
    return found


def cluster(lists: dict[str, list[dict[str, Any]]]) -> Cluster:
    return Cluster(lists["nodes"], lists["pods"], *(lists[one] for one in KINDS.values()))
