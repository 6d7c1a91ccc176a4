"""What a cluster has against what the estate compiles: where replicas run, what may take them away, how many come.

Affinity and spread act only when a pod is scheduled. Nodes are drained, zones come back and people change objects
afterwards, so what was applied once is looked at again. The objects are the API's own JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ninelives.compilers.kubernetes import Document, backend, compile_site
from ninelives.estate import Estate, Mode, Service
from ninelives.ports import Ledger, Record

KIND = "placement"
ZONE, ROLL_OUT = "topology.kubernetes.io/zone", "pod-template-hash"
SKEW = 1
"""By how many replicas two zones may differ, as the compiled constraint says."""
RULES = ("affinity", "topologySpreadConstraints")


class State(StrEnum):
    MET = "met"
    DRIFT = "drift"
    """It is not as the estate has it, or would not bear the loss."""
    NOTE = "note"
    """Worth a look, and no promise of the estate's."""
    UNKNOWN = "unknown"
    """It could not be read, which says nothing good."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    site: str
    service: str
    check: str
    state: State
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.state} {self.site} {self.service} {self.check}: {self.found} (wanted: {self.wanted})"


@dataclass(frozen=True)
class Cluster:
    """What one site's API server lists, as JSON."""

    nodes: Sequence[Document] = ()
    pods: Sequence[Document] = ()
    deployments: Sequence[Document] = ()
    budgets: Sequence[Document] = ()
    autoscalers: Sequence[Document] = ()


def audit(estate: Estate, seen: Mapping[str, Cluster | str]) -> list[Finding]:
    """Every check of every service at every site.

    :param seen: by site what its cluster has, or why it could not be read
    :raises Refused: the estate does not say how it runs on Kubernetes
    """
    found: list[Finding] = []
    ready: dict[str, dict[str, int]] = {}
    for site, cluster in seen.items():
        compiled = compile_site(estate, site)["replicas.yaml"]
        for service in estate.services_at(site):
            if isinstance(cluster, str):
                found.append(Finding(site, service.name, "cluster", State.UNKNOWN, cluster, "it answers"))
                continue
            look = _Look(service, site, cluster, compiled)
            found += look.findings()
            ready.setdefault(service.name, {})[site] = len(look.ready)
    for service in estate.services:
        found += _losses(service, ready.get(service.name, {}))
    return found


def verdict(findings: Sequence[Finding]) -> str:
    """``missed`` where anything drifted, ``unknown`` where anything could not be read."""
    states = {one.state for one in findings}
    return "missed" if State.DRIFT in states else "unknown" if State.UNKNOWN in states or not states else "met"


def facts(findings: Sequence[Finding]) -> dict[str, Any]:
    """For JSON and the ledger; the drift in sentences, because that is what people look for."""
    told = [one for one in findings if one.state is not State.MET]
    return {
        "verdict": verdict(findings),
        "drift": [str(one) for one in findings if one.state in (State.DRIFT, State.UNKNOWN)],
        "findings": [asdict(one) for one in told],
        "met": len(findings) - len(told),
    }


def record_audit(ledger: Ledger, estate: Estate, findings: Sequence[Finding], *, run: str = "") -> Record:
    """Leave it in the ledger, sound or not: what was well yesterday is half of an explanation."""
    return ledger.append(KIND, estate.name, {**facts(findings), **({"run": run} if run else {})})


class _Look:
    """One service at one site."""

    def __init__(self, service: Service, site: str, cluster: Cluster, compiled: Sequence[Document]) -> None:
        self.service, self.site, self.cluster = service, site, cluster
        self.name = backend(service, site)
        self._compiled = {one["kind"]: one for one in compiled if one["metadata"]["name"] == self.name}
        labels = self._compiled["Deployment"]["spec"]["selector"]["matchLabels"]
        self.pods = [one for one in cluster.pods if labels.items() <= _labels(one).items() and _lives(one)]
        self.ready = [one for one in self.pods if _is_true(one, "Ready")]
        self.zones = {one["metadata"]["name"]: _labels(one).get(ZONE, "") for one in cluster.nodes}

    def findings(self) -> Iterator[Finding]:
        deployment = self._named(self.cluster.deployments)
        if deployment is None:
            yield self._finding("deployment", State.DRIFT, "is not there", "as replicas.yaml has it")
            return
        yield from self._manifest(deployment)
        yield from self._places()
        yield from self._budget()
        yield from self._autoscaler()

    def _manifest(self, deployment: Document) -> Iterator[Finding]:
        wanted, live = self._compiled["Deployment"]["spec"], deployment["spec"]
        pod, here = wanted["template"]["spec"], live["template"]["spec"]
        for rule in RULES:
            yield self._same(rule, here.get(rule), pod[rule])
        yield self._same("strategy", live.get("strategy"), wanted["strategy"])
        least = self.service.pods.replicas
        if "replicas" in wanted:
            yield self._same("replicas", live.get("replicas"), wanted["replicas"])
        state = State.MET if len(self.ready) >= least else State.DRIFT
        waiting = [one["metadata"]["name"] for one in self.pods if one not in self.ready]
        why = f", not ready: {', '.join(waiting)}" if waiting else ""
        yield self._finding("ready", state, f"{len(self.ready)}{why}", f"at least {least}")

    def _places(self) -> Iterator[Finding]:
        on = Counter(one["spec"].get("nodeName", "") for one in self.ready)
        # Of one roll-out: a new replica may stand beside an old one until that is gone.
        pairs = Counter((_labels(one).get(ROLL_OUT), one["spec"].get("nodeName", "")) for one in self.ready)
        together = [f"{count} on {node}" for (_, node), count in sorted(pairs.items(), key=str) if count > 1]
        state = State.DRIFT if together else State.MET
        yield self._finding("nodes", state, "; ".join(together) or f"{len(on)} nodes", "no two on one node")
        zones = {_labels(one).get(ZONE, "") for one in self.cluster.nodes if self._usable(one)}
        in_zone = Counter(dict.fromkeys(zones, 0))
        in_zone.update(self.zones.get(node, "") for node in on.elements())
        text = ", ".join(f"{zone or 'no zone'}: {count}" for zone, count in sorted(in_zone.items()))
        counted = [in_zone[zone] for zone in zones] or [0]
        even = State.MET if max(counted) - min(counted) <= SKEW else State.DRIFT
        yield self._finding("zones", even, text or "no node", f"not more than {SKEW} apart, empty zones too")
        if self.ready:
            for what, places in (("node", on), ("zone", in_zone)):
                left = len(self.ready) - max(places.values())
                # A site of one zone, or of one node, goes with it: that is what the other sites are for.
                state = State.MET if left else State.NOTE
                yield self._finding(f"loss of a {what}", state, f"{left} left", "at least 1")

    def _budget(self) -> Iterator[Finding]:
        live = self._named(self.cluster.budgets)
        if live is None:
            yield self._finding("disruption budget", State.DRIFT, "is not there", "as replicas.yaml has it")
            return
        yield self._same("disruption budget", live["spec"], self._compiled["PodDisruptionBudget"]["spec"])
        status = live.get("status", {})
        if self.pods and not status.get("expectedPods"):
            yield self._finding("disruption budget", State.DRIFT, "it counts no pod", f"{len(self.pods)} pods")

    def _autoscaler(self) -> Iterator[Finding]:
        wanted = self._compiled.get("HorizontalPodAutoscaler")
        aimed = [one for one in self.cluster.autoscalers if one["spec"]["scaleTargetRef"].get("name") == self.name
                 and one["spec"]["scaleTargetRef"].get("kind") == "Deployment"]  # fmt: skip
        for one in aimed:
            if wanted is None or one["metadata"]["name"] != self.name:
                name = one["metadata"]["name"]
                yield self._finding("autoscaler", State.DRIFT, f"{name} scales it too", "what the estate says alone")
        if wanted is None:
            return
        live = self._named(self.cluster.autoscalers)
        if live is None:
            yield self._finding("autoscaler", State.DRIFT, "is not there", "as replicas.yaml has it")
            return
        for part in ("scaleTargetRef", "minReplicas", "maxReplicas", "metrics", "behavior"):
            yield self._same(f"autoscaler {part}", live["spec"].get(part), wanted["spec"][part])
        status = live.get("status", {})
        for one in status.get("conditions", ()):
            if one["type"] in ("ScalingActive", "AbleToScale") and one["status"] != "True":
                yield self._finding("autoscaler", State.DRIFT, one.get("message") or one["reason"], "it can scale")
        if status.get("currentReplicas", 0) >= wanted["spec"]["maxReplicas"]:
            yield self._finding("autoscaler", State.NOTE, f"at its most, {status['currentReplicas']}", "room above")

    def _named(self, documents: Sequence[Document]) -> Document | None:
        return next((one for one in documents if one["metadata"]["name"] == self.name), None)

    def _usable(self, node: Document) -> bool:
        """Whether the scheduler counts the node's zone: a taint that its pods do not bear leaves it out."""
        taints = node["spec"].get("taints", ())
        borne = self.service.pods.accelerator  # whose tolerations the API server adds to pods that ask for the device
        hard = [one for one in taints if one["effect"] in ("NoSchedule", "NoExecute") and one["key"] != borne]
        return not hard and not node["spec"].get("unschedulable") and _is_true(node, "Ready")

    def _same(self, check: str, live: Any, wanted: Any) -> Finding:
        if differ := list(differences(live, wanted)):
            return self._finding(check, State.DRIFT, "; ".join(differ), "as replicas.yaml has it")
        return self._finding(check, State.MET, "as compiled", "as replicas.yaml has it")

    def _finding(self, check: str, state: State, found: str, wanted: str) -> Finding:
        return Finding(self.site, self.service.name, check, state, found, wanted)


def _losses(service: Service, ready: Mapping[str, int]) -> Iterator[Finding]:
    """Whether what is ready at the other sites bears the loss of each, and how much more there is than that takes."""
    for lost in service.sites:
        others = [site for site in service.sites if site != lost]
        if missing := [site for site in others if site not in ready]:
            text = f"nobody knows what is ready at {', '.join(missing)}"
            yield Finding(lost, service.name, "loss of the site", State.UNKNOWN, text, "the others bear it")
            continue
        left = [ready[site] for site in others]
        if service.mode is Mode.ACTIVE_ACTIVE:
            bears, needed = sum(left), (service.needed or 0) * max(1, len(others))
        else:
            bears, needed = max(left, default=0), service.needed or 0
        wanted = max(needed, 1)
        known = "" if service.needed else "; how many the busiest hour takes is not declared"
        state = State.MET if bears >= wanted else State.DRIFT if others else State.NOTE
        where = "together" if service.mode is Mode.ACTIVE_ACTIVE else "at the best of them"
        text = f"{bears} ready at the other sites, {where}{known}"
        yield Finding(lost, service.name, "loss of the site", state, text, f"at least {wanted}")
        if service.needed and bears > wanted:
            yield Finding(lost, service.name, "spare", State.NOTE, f"{bears - wanted} more than needed", f"{wanted}")


def differences(live: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """What of ``wanted`` is not in ``live``, by its path; what an API server adds as its default is no drift."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for key, one in wanted.items():
            path = f"{where}.{key}" if where else str(key)
            if key not in live:
                yield f"{path} is missing"
            else:
                yield from differences(live[key], one, path)
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        for number, (was, one) in enumerate(zip(live, wanted, strict=True)):
            yield from differences(was, one, f"{where}[{number}]")
    elif live != wanted:
        yield f"{where} is {_short(live)}, not {_short(wanted)}".strip()


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _labels(document: Document) -> dict[str, str]:
    found: dict[str, str] = document["metadata"].get("labels") or {}
    return found


def _lives(pod: Document) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["metadata"].get("deletionTimestamp")


def _is_true(document: Document, condition: str) -> bool:
    found = document.get("status", {}).get("conditions") or ()
    return any(one["type"] == condition and one["status"] == "True" for one in found)
