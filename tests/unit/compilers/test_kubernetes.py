"""The estate as Kubernetes manifests: the bytes, the published schemas, and what no state may ever do to a route."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import core_problems, problems, schemas
from typer.testing import CliRunner

from ninelives.cli import app
from ninelives.compilers.kubernetes import (
    DECIDED,
    MAX_RULES,
    STEERING,
    beginning,
    compile_route,
    compile_site,
    format_manifests,
    remember,
    remembered,
    site_weights,
)
from ninelives.errors import Refused
from ninelives.estate import Estate, load_estate
from ninelives.estate.kubernetes import Autoscale
from ninelives.ports import GatewayState, VersionSplit

GOLDEN = Path(__file__).parents[2] / "golden" / "kubernetes"
ESTATE = load_estate(GOLDEN / "estate.yaml")
SITES = ("paris", "dublin")
DELAY, LATE = ESTATE.services
BEGINNING = beginning(ESTATE)


def documents(estate: Estate = ESTATE) -> list[dict[str, Any]]:
    return [one for site in SITES for file in compile_site(estate, site).values() for one in file]


@pytest.mark.parametrize("site", SITES)
def test_the_manifests_are_these_to_the_byte(site: str) -> None:
    for name, compiled in compile_site(ESTATE, site).items():
        assert format_manifests(name, compiled) == (GOLDEN / site / name).read_text("utf-8"), (
            f"{site}/{name} changed: read the difference, then write it by `ninelives kubernetes compile --to "
            "tests/golden/kubernetes --estate tests/golden/kubernetes/estate.yaml`"
        )


def test_every_object_of_an_extension_is_valid_by_its_published_schema() -> None:
    extended = [one for one in documents() if (one["apiVersion"], one["kind"]) in schemas()]
    assert {one["kind"] for one in extended} == {kind for _, kind in schemas()}
    assert {one["metadata"]["name"]: found for one in extended if (found := problems(one))} == {}


def test_every_object_of_the_core_is_valid_by_its_published_schema() -> None:
    core = [one for one in documents() if (one["apiVersion"], one["kind"]) not in schemas()]
    assert len(core) > 10
    assert {one["metadata"]["name"]: found for one in core if (found := core_problems(one))} == {}
    budget = next(one for one in core if one["kind"] == "PodDisruptionBudget")
    assert core_problems(budget | {"spec": budget["spec"] | {"maxUnavailabel": 1}}) != []


def test_the_schemas_find_a_misspelt_field_and_a_wrong_value() -> None:
    route = compile_route(ESTATE, DELAY, BEGINNING)
    assert problems(route | {"spec": route["spec"] | {"ruless": []}}) != []
    assert problems(route | {"spec": route["spec"] | {"rules": [{"timeouts": {"request": "1.5s"}}]}}) != []


def test_a_site_gets_only_what_serves_there_and_every_gateway_gets_every_route() -> None:
    alone = ESTATE.model_copy(update={"services": (DELAY, LATE.model_copy(update={"sites": ("dublin",)}))})
    here, there = compile_site(alone, "paris"), compile_site(alone, "dublin")
    assert [one["metadata"]["name"] for one in here["replicas.yaml"] if one["kind"] == "Deployment"] == ["delay-paris"]
    assert here["routes.yaml"] == there["routes.yaml"]
    assert here["gateway.yaml"] == there["gateway.yaml"]


def test_replicas_may_not_share_a_node_nor_ask_for_more_than_declared_nor_act_in_the_cluster() -> None:
    replicas = compile_site(ESTATE, "paris")["replicas.yaml"]
    pod = next(one for one in replicas if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    (apart,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (container,) = pod["containers"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "1"}
    assert pod["automountServiceAccountToken"] is False
    roles = {one["metadata"]["name"]: one["rules"] for one in replicas if one["kind"] in ("Role", "ClusterRole")}
    verbs = {name: {resource: rule["verbs"] for rule in rules for resource in rule["resources"]}
             for name, rules in roles.items()}  # fmt: skip
    assert verbs.pop(STEERING) == {
        "httproutes": ["create", "get", "list", "patch", "watch"],
        "endpointslices": ["list"],
    }
    assert {verb for found in verbs.values() for allowed in found.values() for verb in allowed} == {"list"}
    assert not any("secrets" in found for found in verbs.values())


def test_replicas_that_come_with_the_load_have_an_autoscaler_and_their_number_is_its_alone() -> None:
    pods = LATE.pods.model_copy(update={"autoscale": Autoscale(most=6, cpu=60)})
    scaled = ESTATE.model_copy(update={"services": (DELAY, LATE.model_copy(update={"pods": pods}))})
    found = {one["kind"]: one for one in compile_site(scaled, "paris")["replicas.yaml"]
             if one["metadata"]["name"] == "late-paris"}  # fmt: skip
    autoscaler = found["HorizontalPodAutoscaler"]
    assert core_problems(autoscaler) == []
    assert "replicas" not in found["Deployment"]["spec"], "an apply would take back what the autoscaler has added"
    assert (autoscaler["spec"]["minReplicas"], autoscaler["spec"]["maxReplicas"]) == (2, 6)
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "late-paris"
    assert "HorizontalPodAutoscaler" not in {one["kind"] for one in documents()}


def test_who_starts_pods_that_look_at_accelerators_can_read_no_secret_of_the_replicas() -> None:
    sites = [{"name": site, "accelerators": [{"name": f"gpu-{site}"}]} for site in SITES]
    estate = Estate.model_validate(ESTATE.model_dump(mode="json") | {"sites": sites})
    with_some = compile_site(estate, "paris")["replicas.yaml"]
    more = [one for one in with_some if one not in compile_site(ESTATE, "paris")["replicas.yaml"]]
    assert {one["metadata"].get("namespace", one["metadata"]["name"]) for one in more} == {"ninelives-looks"}
    assert {one["kind"] for one in more} == {"Namespace", "NetworkPolicy", "ServiceAccount", "Role", "RoleBinding"}
    assert {one["metadata"]["name"]: found for one in more if (found := core_problems(one))} == {}
    (role,) = (one for one in more if one["kind"] == "Role")
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == {"pods", "pods/log"}


def rules(service: Any, state: GatewayState) -> dict[str, Any]:
    found = compile_route(ESTATE, service, state)["spec"]["rules"]
    return {rule.get("name", rule["matches"][0]["path"]["value"]): rule for rule in found}


def weights(rule: dict[str, Any]) -> dict[tuple[str, str], int]:
    def version(one: dict[str, Any]) -> str:
        (told,) = (
            (each["requestHeaderModifier"]["set"] for each in one.get("filters", [])) if "filters" in one else ([],)
        )
        return next((each["value"] for each in told if each["name"] == "x-ninelives-wanted-version"), "")

    return {(one["name"], version(one)): one["weight"] for one in rule.get("backendRefs", ())}


def test_a_move_and_a_canary_are_weights() -> None:
    assert weights(rules(DELAY, BEGINNING)["inference"]) == {("delay-paris", ""): 100}
    moved = replace(BEGINNING, active={**BEGINNING.active, "delay": ("dublin",)})
    assert weights(rules(DELAY, moved)["inference"]) == {("delay-dublin", ""): 100}
    canary = replace(BEGINNING, versions={"late": VersionSplit("7", {"7": 95, "8": 5})})
    assert weights(rules(LATE, canary)["inference"]) == {
        ("late-paris", "7"): 4750, ("late-dublin", "7"): 4750, ("late-paris", "8"): 250, ("late-dublin", "8"): 250,
    }  # fmt: skip


def test_where_no_site_may_answer_users_get_the_default_and_batch_is_shed() -> None:
    for state in (
        replace(BEGINNING, closed_sites=frozenset({"paris"})),
        replace(BEGINNING, open_breakers=frozenset({"delay"})),
    ):
        found = rules(DELAY, state)
        answers = {name: rule["filters"][0]["extensionRef"]["name"] for name, rule in found.items()}
        assert answers == {"inference": "delay.default", "batch": "delay.shed", "ready": "delay.shed"}


@pytest.mark.parametrize(
    ("split", "field"),
    [
        (VersionSplit("7", {"7": 100}, shadow="8", shadow_percent=20), "requestMirror"),
        (VersionSplit("7", {"7": 100}, beside=tuple(map(str, range(8, 8 + MAX_RULES)))), "spec.rules"),
    ],
)
def test_what_the_gateway_api_cannot_say_is_refused_by_the_name_of_its_field(split: VersionSplit, field: str) -> None:
    with pytest.raises(Refused, match=field):
        compile_route(ESTATE, LATE, replace(BEGINNING, versions={"late": split}))


SUBSETS = st.sets(st.sampled_from(SITES))


@st.composite
def states(draw: st.DrawFn) -> GatewayState:
    first = draw(st.integers(1, 99))
    share = draw(st.integers(0, 100))
    shares = {"dublin": first, "paris": 100 - first} if draw(st.booleans()) else None
    split = VersionSplit("7", {"7": 100 - share, "8": share}, beside=("6",)) if draw(st.booleans()) else None
    active = {"delay": tuple(shares or draw(st.sampled_from([("paris",), ("dublin",)]))), "late": SITES}
    return GatewayState(
        active=active,
        closed_sites=frozenset(draw(SUBSETS)),
        tokens=draw(st.dictionaries(st.sampled_from(["service:delay", "site:paris"]), st.integers(1, 10**9))),
        shares={"delay": shares} if shares else {},
        versions={"delay": split, "late": split} if split else {},
        open_breakers=frozenset(draw(st.sets(st.sampled_from(["delay", "late"])))),
    )


@settings(max_examples=15, deadline=None)
@given(states())
def test_in_every_state_a_rule_asks_somebody_or_answers_itself_and_weights_add_up(state: GatewayState) -> None:
    for service in (DELAY, LATE):
        route = compile_route(ESTATE, service, state)
        assert problems(route) == []
        split = state.versions.get(service.name)
        for name, rule in rules(service, state).items():
            found = [one["weight"] for one in rule.get("backendRefs", ())]
            answers = any(one["type"] == "ExtensionRef" for one in rule["filters"])
            assert answers != bool(found)
            assert not found or (min(found) > 0 and sum(found) == (10_000 if split and name in ("inference", "batch")
                                                                  else 100))  # fmt: skip
        serving = {site for site in state.active[service.name] if site not in state.closed_sites}
        assert set(site_weights(service, state)) == serving
        asked = {one["name"] for rule in route["spec"]["rules"] for one in rule.get("backendRefs", ())}
        assert asked <= {f"{service.name}-{site}" for site in serving}


@settings(max_examples=40, deadline=None)
@given(states())
def test_a_route_remembers_all_that_was_decided_about_its_service(state: GatewayState) -> None:
    for service in (DELAY, LATE):
        written = remember(service, state)
        again = remember(service, remembered(service, written))
        assert again == written


def test_a_spoilt_memory_is_no_state() -> None:
    written = remember(DELAY, BEGINNING)
    for spoilt in ({**written, DECIDED: "{}"}, {**written, DECIDED: "no JSON"}, {}):
        with pytest.raises(ValueError, match=r"."):
            remembered(DELAY, spoilt)


def test_the_command_writes_a_folder_a_site_and_says_when_it_is_stale(tmp_path: Path) -> None:
    arguments = ["kubernetes", "compile", "--to", str(tmp_path), "--estate", str(GOLDEN / "estate.yaml"), "--json"]
    runner = CliRunner()
    missing = runner.invoke(app, [*arguments, "--check"])
    assert (missing.exit_code, list(tmp_path.iterdir())) == (3, [])
    assert runner.invoke(app, arguments).exit_code == 0
    assert runner.invoke(app, [*arguments, "--check"]).exit_code == 0
    (tmp_path / "paris" / "gateway.yaml").write_text("spoilt")
    stale = runner.invoke(app, [*arguments, "--check"])
    assert (stale.exit_code, json.loads(stale.stdout)["differs"]) == (3, ["paris/gateway.yaml"])


def test_an_estate_that_does_not_say_how_it_runs_there_is_refused() -> None:
    with pytest.raises(Refused, match="no part kubernetes"):
        compile_site(ESTATE.model_copy(update={"kubernetes": None}), "paris")
    with pytest.raises(Refused, match=r"rome is not in kubernetes\.sites"):
        compile_site(ESTATE, "rome")
