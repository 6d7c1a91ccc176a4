import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.models import estate_of_two_sites
from support.processes import program

from ninelives.adapters.envoy import EnvoyGateway
from ninelives.compilers.envoy import CLUSTERS, LISTENERS, ROUTES, compile_gateway, serving_sites, version_of
from ninelives.estate import Estate
from ninelives.ports import GatewayState

ENDPOINTS = {"paris": [("127.0.0.1", 1001), ("127.0.0.1", 1002)], "dublin": [("127.0.0.1", 2001), ("127.0.0.1", 2002)]}


def state(alpha: str = "paris", closed: tuple[str, ...] = ()) -> GatewayState:
    both = ("paris", "dublin")
    return GatewayState({"alpha": (alpha,), "beta": both, "gamma": both}, frozenset(closed), {})


def compiled(state: GatewayState, estate: Estate | None = None, folder: Path = Path("/gateway")) -> dict[str, Any]:
    return compile_gateway(
        estate or estate_of_two_sites(),
        state,
        ENDPOINTS,
        folder=folder,
        listen=("127.0.0.1", 80),
        admin=("127.0.0.1", 81),
    )


def takes_traffic(files: Mapping[str, Any], service: str) -> dict[str, set[str]]:
    """Health that the file gives each site's replicas."""
    localities = files[f"eds-{service}.yaml"]["resources"][0]["endpoints"]
    return {
        locality["locality"]["zone"]: {endpoint["health_status"] for endpoint in locality["lb_endpoints"]}
        for locality in localities
    }


def test_only_the_active_site_of_an_active_passive_service_gets_traffic_and_the_standby_is_still_checked() -> None:
    files = compiled(state("dublin"))
    assert takes_traffic(files, "alpha") == {"paris": {"UNHEALTHY"}, "dublin": {"HEALTHY"}}
    assert takes_traffic(files, "beta") == {"paris": {"HEALTHY"}, "dublin": {"HEALTHY"}}


def test_a_closed_site_gets_traffic_of_no_service_even_where_it_is_the_active_one() -> None:
    files = compiled(state("paris", closed=("paris",)))
    assert {takes_traffic(files, service)["paris"].pop() for service in ("alpha", "beta", "gamma")} == {"UNHEALTHY"}
    assert takes_traffic(files, "alpha")["dublin"] == {"UNHEALTHY"}  # a move needs a gate; nothing moves by itself
    assert serving_sites(estate_of_two_sites().service_by_name["alpha"], state("paris", closed=("paris",))) == ()


def test_a_move_changes_one_file() -> None:
    before, after = compiled(state("paris")), compiled(state("dublin"))
    assert [name for name in before if before[name] != after[name]] == ["eds-alpha.yaml"]
    assert version_of(before["eds-alpha.yaml"]) != version_of(after["eds-alpha.yaml"])


def test_closing_a_site_leaves_listener_routes_and_clusters_alone() -> None:
    before, after = compiled(state()), compiled(state(closed=("dublin",)))
    assert all(before[name] == after[name] for name in (LISTENERS, ROUTES, CLUSTERS))


def test_only_infer_and_ready_of_the_services_own_model_are_routed() -> None:
    routes = compiled(state())[ROUTES]["resources"][0]["virtual_hosts"][0]["routes"]
    assert {(route["match"]["path"], route["match"]["headers"][0]["string_match"]["exact"]) for route in routes} == {
        (f"/services/{name}/v2/models/{name}/{what}", method)
        for name in ("alpha", "beta", "gamma")
        for what, method in (("infer", "POST"), ("ready", "GET"))
    }


def test_a_request_is_tried_once_more_than_a_whole_site_has_replicas() -> None:
    routes = compiled(state())[ROUTES]["resources"][0]["virtual_hosts"][0]["routes"]
    infer = next(route for route in routes if route["match"]["path"].endswith("beta/infer"))
    assert infer["route"]["retry_policy"]["num_retries"] >= len(ENDPOINTS["paris"]) + 1
    assert infer["route"]["retry_policy"]["per_try_timeout"] == "0.250s"  # the promised latency


def test_only_infer_of_a_service_with_a_fallback_is_answered_by_it() -> None:
    routes = compiled(state())[ROUTES]["resources"][0]["virtual_hosts"][0]["routes"]
    with_fallback = {route["match"]["path"] for route in routes if "typed_per_filter_config" in route}
    assert with_fallback == {f"/services/{name}/v2/models/{name}/infer" for name in ("alpha", "beta")}


@pytest.mark.parametrize("demo", [False, True])
def test_envoy_itself_accepts_what_is_compiled(tmp_path: Path, demo: bool) -> None:
    """With listeners, routes and clusters in one file: validation does not follow the references to other files."""
    estate = estate_of_two_sites()
    if demo:
        from ninelives.estate import load_estate

        estate = load_estate(Path(__file__).parents[3] / "include/estates/demo/estate.yaml")
    active = {service.name: service.sites for service in estate.services}
    files = compiled(GatewayState(active, frozenset(), {}), estate, tmp_path)
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    whole = json.loads(json.dumps(files["bootstrap.yaml"]))
    del whole["dynamic_resources"]
    listener = json.loads(json.dumps(files[LISTENERS]["resources"][0]))
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = untyped(files[ROUTES]["resources"][0])
    clusters = []
    for cluster in files[CLUSTERS]["resources"]:
        assignment = untyped(files[f"eds-{cluster['eds_cluster_config']['service_name']}.yaml"]["resources"][0])
        static = {**untyped(cluster), "type": "STATIC", "load_assignment": assignment}
        del static["eds_cluster_config"]
        clusters.append(static)
    whole["static_resources"] = {"listeners": [untyped(listener)], "clusters": clusters}
    (tmp_path / "whole.yaml").write_text(json.dumps(whole))
    for file in ("bootstrap.yaml", "whole.yaml"):
        checked = subprocess.run(
            [program("envoy"), "--mode", "validate", "-c", str(tmp_path / file)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stderr[-2000:]


def test_a_service_that_was_declared_since_the_last_compile_is_where_it_is_declared_to_begin(tmp_path: Path) -> None:
    """Whoever adds a service to the file must not keep the others from being moved until it is compiled."""
    endpoints = {site: [f"{host}:{port}" for host, port in found] for site, found in ENDPOINTS.items()}
    nowhere = ("127.0.0.1:9", "http://127.0.0.1:9")
    EnvoyGateway(tmp_path, estate_of_two_sites(without="alpha"), endpoints, *nowhere).initialise()
    found = EnvoyGateway(tmp_path, estate_of_two_sites(), endpoints, *nowhere).state()
    assert found.active == {"alpha": ("paris",), "beta": ("paris", "dublin"), "gamma": ("paris", "dublin")}


def untyped(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "@type"}
