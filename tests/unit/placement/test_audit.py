"""What a cluster has against the estate: each drift is named, and a sound cluster has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cluster import cluster, node, pod, running

from ninelives.estate import Estate, load_estate
from ninelives.estate.kubernetes import Autoscale
from ninelives.placement.audit import Finding, State, audit, differences, facts, verdict

GOLDEN = load_estate(Path(__file__).parents[2] / "golden" / "kubernetes" / "estate.yaml")
SITES = ("paris", "dublin")
Lists = dict[str, list[dict[str, Any]]]


def scaled(**more: Any) -> Estate:
    """``late`` grows with its load, and is known to need something."""
    delay, late = GOLDEN.services
    pods = late.pods.model_copy(update={"autoscale": Autoscale(most=4), **more})
    late = late.model_copy(update={"pods": pods, "capacity": 10})
    return GOLDEN.model_copy(update={"services": (delay, late)})


def looked(spoil: Callable[[Lists], object], estate: Estate = GOLDEN, *, at: str = "paris") -> list[Finding]:
    seen = {site: running(estate, site) for site in SITES}
    spoil(seen[at])
    return audit(estate, {site: cluster(lists) for site, lists in seen.items()})


def drift(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(one.site, one.service, one.check) for one in findings if one.state is State.DRIFT]


@pytest.mark.parametrize("estate", [GOLDEN, scaled(), scaled(peak=20)], ids=["plain", "scaled", "with a peak"])
def test_a_cluster_that_is_as_compiled_has_no_drift(estate: Estate) -> None:
    findings = looked(lambda lists: None, estate)
    assert (verdict(findings), facts(findings)["drift"]) == ("met", [])
    assert {one.state for one in findings} == {State.MET}


def change(resource: str, name: str, way: str, value: Any) -> Callable[[Lists], None]:
    """Another value in one object; ``None`` removes it."""

    def spoil(lists: Lists) -> None:
        place: Any = next(one for one in lists[resource] if one["metadata"]["name"] == name)
        *before, last = (int(part) if part.isdigit() else part for part in way.split("/"))
        for part in before:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return spoil


SPEC = "spec/template/spec"


@pytest.mark.parametrize(
    ("spoil", "check", "says"),
    [
        (change("deployments", "delay-paris", f"{SPEC}/affinity", None), "affinity", "missing"),
        (change("deployments", "delay-paris", f"{SPEC}/topologySpreadConstraints/0/maxSkew", 3),
         "topologySpreadConstraints", "[0].maxSkew is 3, not 1"),
        (change("deployments", "delay-paris", f"{SPEC}/topologySpreadConstraints/0/whenUnsatisfiable",
                "ScheduleAnyway"), "topologySpreadConstraints", "ScheduleAnyway"),
        (change("deployments", "delay-paris", "spec/replicas", 1), "replicas", "1, not 3"),
        (change("deployments", "delay-paris", "spec/strategy", {"type": "Recreate"}), "strategy", "Recreate"),
        (change("pods", "delay-paris-0", "status/conditions/0/status", "False"), "ready", "2, not ready: delay-pa"),
        (change("pods", "delay-paris-0", "spec/nodeName", "n-b"), "nodes", "2 on n-b"),
        (change("poddisruptionbudgets", "delay-paris", "spec/maxUnavailable", "100%"), "disruption budget", "100%"),
        (change("poddisruptionbudgets", "delay-paris", "status/expectedPods", 0), "disruption budget", "counts no pod"),
        (lambda lists: lists["poddisruptionbudgets"].clear(), "disruption budget", "is not there"),
        (lambda lists: lists["deployments"].clear(), "deployment", "is not there"),
        (lambda lists: lists["horizontalpodautoscalers"].append(
            {"metadata": {"name": "by-hand"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "delay-paris"}}}
        ), "autoscaler", "by-hand scales it too"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_drift_is_named_where_it_is(spoil: Callable[[Lists], None], check: str, says: str) -> None:
    findings = looked(spoil)
    assert verdict(findings) == "missed"
    assert ("paris", "delay", check) in drift(findings)
    assert not [one for one in drift(findings) if one[0] == "dublin"]
    assert any(says in one.found for one in findings if one.check == check and one.state is State.DRIFT), findings


@pytest.mark.parametrize(
    ("way", "value", "check"),
    [
        ("spec/minReplicas", 1, "autoscaler minReplicas"),
        ("spec/maxReplicas", 2, "autoscaler maxReplicas"),
        ("spec/metrics/0/resource/target/averageUtilization", 95, "autoscaler metrics"),
        ("spec/behavior", None, "autoscaler behavior"),
        ("status/conditions/0", {"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric"},
         "autoscaler"),
    ],
)  # fmt: skip
def test_an_autoscaler_with_other_limits_or_without_its_metric_is_drift(way: str, value: Any, check: str) -> None:
    findings = looked(change("horizontalpodautoscalers", "late-paris", way, value), scaled())
    assert ("paris", "late", check) in drift(findings)


def test_an_empty_zone_counts_and_one_that_nothing_may_run_in_does_not() -> None:
    def all_in_one(lists: Lists) -> None:
        lists["nodes"] += [node("n-a2", "a"), node("n-a3", "a")]
        for number, one in enumerate(one for one in lists["pods"] if "delay" in one["metadata"]["name"]):
            one["spec"]["nodeName"] = ("n-a", "n-a2", "n-a3")[number]

    findings = looked(all_in_one)
    assert ("paris", "delay", "zones") in drift(findings)
    (zones,) = (one for one in findings if (one.site, one.service, one.check) == ("paris", "delay", "zones"))
    assert zones.found == "a: 3, b: 0, c: 0"
    (loss,) = (one for one in findings if (one.site, one.service, one.check) == ("paris", "delay", "loss of a zone"))
    assert (loss.state, loss.found) == (State.NOTE, "0 left")

    def one_zone_is_away(lists: Lists) -> None:
        all_in_one(lists)
        unreachable = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}
        for one in lists["nodes"]:
            if one["metadata"]["labels"] != lists["nodes"][0]["metadata"]["labels"]:
                one["spec"]["taints"] = [unreachable]

    assert ("paris", "delay", "zones") not in drift(looked(one_zone_is_away))


def test_old_and_new_replicas_may_meet_on_a_node_in_a_roll_out() -> None:
    def rolling(lists: Lists) -> None:
        new = pod("delay-paris-new", lists["pods"][0]["metadata"]["labels"], "n-a")
        new["metadata"]["labels"]["pod-template-hash"] = "2"
        lists["pods"].append(new)

    assert drift(looked(rolling)) == []


def test_what_is_left_must_bear_the_busiest_hour_when_a_site_is_lost() -> None:
    def none_ready(lists: Lists) -> None:
        for one in lists["pods"]:
            one["status"]["conditions"][0]["status"] = "False"

    assert ("dublin", "late", "loss of the site") in drift(looked(none_ready))
    assert ("dublin", "late", "loss of the site") in drift(looked(lambda lists: None, scaled(peak=30)))
    spare = [one for one in looked(lambda lists: None, scaled(peak=10)) if one.check == "spare"]
    assert [one.found for one in spare] == ["1 more than needed"] * 2


def test_a_site_that_cannot_be_read_is_unknown_and_never_met() -> None:
    findings = audit(GOLDEN, {"paris": cluster(running(GOLDEN, "paris")), "dublin": "it did not answer"})
    assert verdict(findings) == "unknown"
    assert ("paris", "loss of the site") in {(one.site, one.check) for one in findings if one.state is State.UNKNOWN}
    assert verdict([]) == "unknown"


JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(JSON, st.dictionaries(st.text(min_size=4, max_size=5), st.integers(), max_size=2))
def test_an_object_differs_from_itself_in_nothing_whatever_is_added_to_it(wanted: Any, added: dict[str, int]) -> None:
    live = {**wanted, **added} if isinstance(wanted, dict) else wanted
    assert list(differences(live, wanted)) == []
