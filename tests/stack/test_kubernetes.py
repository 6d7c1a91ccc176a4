"""Traffic on Kubernetes: the real client against a stand-in for each site's API server, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.cluster import running
from support.kube_api import StandIn, stand_in
from support.processes import wait_until

from ninelives.adapters.kubernetes import KubernetesGateway
from ninelives.compilers.kubernetes import STEERING, compile_site
from ninelives.errors import Refused, Unavailable
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.ports import Connection, VersionSplit

ESTATE = load_estate(Path(__file__).parents[1] / "golden" / "kubernetes" / "estate.yaml")
SITES = ("paris", "dublin")
READY = {f"{service}-{site}": [True] * 3 for service in ("delay", "late") for site in SITES}


class Given:
    """Connections that a test made."""

    def __init__(self, servers: dict[str, StandIn], token: str) -> None:
        self._extra = {f"ninelives_{site}_kubernetes": {"kube_config": one.kube_config(token)}
                       for site, one in servers.items()}  # fmt: skip

    def get(self, conn_id: str) -> Connection:
        return Connection(conn_id, None, None, None, None, None, self._extra[conn_id])

    find = get


def steering_role() -> dict[str, Any]:
    found = compile_site(ESTATE, "paris")["replicas.yaml"]
    return next(one for one in found if (one["kind"], one["metadata"]["name"]) == ("Role", STEERING))


@pytest.fixture
def servers() -> Iterator[dict[str, StandIn]]:
    role = steering_role()
    with stand_in() as paris, stand_in() as dublin:
        found = dict(zip(SITES, (paris, dublin), strict=True))
        for one in found.values():
            one.set(roles={"steering": role["rules"], "nobody": []}, slices=READY)
        yield found


def connect(servers: dict[str, StandIn], token: str = "steering", *, effect_timeout: float = 3.0) -> KubernetesGateway:
    gateway = KubernetesGateway.from_connections(Given(servers, token), ESTATE)
    gateway._effect_timeout = effect_timeout
    return gateway


@pytest.fixture
def gateway(servers: dict[str, StandIn]) -> KubernetesGateway:
    made = connect(servers)
    made.initialise()
    return made


def weights(gateway: KubernetesGateway, site: str, service: str = "delay") -> dict[str, int]:
    route = gateway._read(site, ESTATE.service_by_name[service])
    assert route is not None
    rule = next(one for one in route.document["spec"]["rules"] if one["name"] == "inference")
    found: dict[str, int] = {}
    for one in rule.get("backendRefs", ()):
        found[one["name"]] = found.get(one["name"], 0) + one["weight"]
    return found


def test_every_operation_of_the_port_reaches_every_gateway_by_the_rights_of_the_compiled_role(
    gateway: KubernetesGateway,
) -> None:
    gateway.move("delay", "dublin", token=3)
    assert [weights(gateway, site) for site in SITES] == [{"delay-dublin": 100}] * 2
    gateway.share("delay", {"dublin": 75, "paris": 25}, token=3)
    assert weights(gateway, "paris") == {"delay-dublin": 75, "delay-paris": 25}
    gateway.split("late", VersionSplit("7", {"7": 95, "8": 5}), token=4)
    assert weights(gateway, "dublin", "late") == {"late-paris": 5000, "late-dublin": 5000}
    gateway.close_site("dublin", token=5)
    assert weights(gateway, "paris") == {"delay-paris": 100}
    gateway.open_breaker("late", token=6)
    assert weights(gateway, "paris", "late") == {}
    state = gateway.state()
    assert (state.closed_sites, state.open_breakers) == ({"dublin"}, {"late"})
    assert state.versions["late"].shares == {"7": 95, "8": 5}
    seen = gateway.breaker("late")
    assert (seen.open, seen.retries, [one.site for one in seen.replicas]) == (
        True,
        None,
        ["paris"] * 3 + ["dublin"] * 3,
    )
    gateway.close_breaker("late", token=7)
    gateway.open_site("dublin", token=8)
    gateway.split("late", None, token=9)
    assert weights(gateway, "dublin", "late") == {"late-paris": 50, "late-dublin": 50}
    assert gateway.drift() == {}


def test_a_stale_token_wins_nowhere_and_of_many_at_once_the_newest_stands(
    servers: dict[str, StandIn], gateway: KubernetesGateway
) -> None:
    def move(token: int) -> str:
        try:
            connect(servers).move("delay", SITES[token % 2], token=token)
        except (Refused, Unavailable) as error:
            return type(error).__name__
        return "moved"

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(move, range(10, 18)))
    state = gateway.state()
    newest = state.tokens["service:delay"]
    assert ends[newest - 10] == "moved"
    assert state.active["delay"] == (SITES[newest % 2],)
    assert weights(gateway, "paris") == weights(gateway, "dublin") == {f"delay-{SITES[newest % 2]}": 100}
    with pytest.raises(Refused, match=rf"token 9 is older than {newest}"):
        gateway.move("delay", SITES[(newest + 1) % 2], token=9)
    assert gateway.state() == state


def test_a_lost_site_is_closed_and_left_without_its_api_server_and_comes_back_in_line(
    servers: dict[str, StandIn], gateway: KubernetesGateway
) -> None:
    servers["paris"].kill()
    with pytest.raises(Unavailable, match=r"paris did not answer.*nothing was changed"):
        gateway.move("delay", "dublin", token=1)
    gateway.close_site("paris", token=2)
    gateway.move("delay", "dublin", token=3)
    assert weights(gateway, "dublin") == {"delay-dublin": 100}
    with pytest.raises(Unavailable, match="paris did not answer"):
        gateway.open_site("paris", token=4)
    with stand_in() as again:
        role = steering_role()
        again.set(roles={"steering": role["rules"]}, slices=READY)
        back = connect({**servers, "paris": again})
        back.initialise()
        back.open_site("paris", token=4)
        assert weights(back, "paris") == weights(back, "dublin") == {"delay-dublin": 100}


def test_what_a_controller_refuses_is_put_back(servers: dict[str, StandIn], gateway: KubernetesGateway) -> None:
    servers["dublin"].set(rejects="BackendNotFound")
    with pytest.raises(Unavailable, match=r"dublin: the gateway does not take.*BackendNotFound"):
        gateway.move("delay", "dublin", token=1)
    assert [weights(gateway, site) for site in SITES] == [{"delay-paris": 100}] * 2
    assert gateway.state().tokens["service:delay"] == 1
    servers["dublin"].set(rejects=None)
    gateway.move("delay", "dublin", token=1)
    assert gateway.state().active["delay"] == ("dublin",)


def test_who_is_killed_between_two_sites_leaves_what_the_next_write_finishes(
    servers: dict[str, StandIn], gateway: KubernetesGateway
) -> None:
    servers["paris"].set(deaf=True)  # the writer waits there for the controller, with dublin not written yet
    code = "import sys, json; from stack.test_kubernetes import killed; killed(json.loads(sys.argv[1]))"
    ports = json.dumps({site: one.port for site, one in servers.items()})
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "include"), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
    writer = subprocess.Popen([sys.executable, "-c", code, ports], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_until(lambda: weights(gateway, "paris") == {"delay-dublin": 100}, "the first site is written", 60)
    finally:
        writer.kill()
        writer.wait()
    servers["paris"].set(deaf=False)
    assert weights(gateway, "dublin") == {"delay-paris": 100}
    assert gateway.drift() == {"dublin": ["delay: the route is another than was decided"]}
    gateway.open_breaker("delay", token=2)
    gateway.close_breaker("delay", token=3)
    assert [weights(gateway, site) for site in SITES] == [{"delay-dublin": 100}] * 2


def killed(ports: dict[str, int]) -> None:
    """What the process does that is killed: a move that waits at the first site."""
    servers = {site: StandIn(None, port) for site, port in ports.items()}
    connect(servers, effect_timeout=60.0).move("delay", "dublin", token=1)


@pytest.mark.parametrize("fault", [{"patch": 503}, {"patch": 500}])
def test_a_write_that_fails_at_the_second_site_is_undone_at_the_first(
    servers: dict[str, StandIn], gateway: KubernetesGateway, fault: dict[str, int]
) -> None:
    servers["dublin"].set(fails=fault)
    with pytest.raises(Unavailable, match="dublin answers 50"):
        gateway.move("delay", "dublin", token=1)
    assert weights(gateway, "paris") == {"delay-paris": 100}


def test_what_is_not_allowed_not_there_or_not_ready_is_said_before_anything_is_written(
    servers: dict[str, StandIn], gateway: KubernetesGateway
) -> None:
    with pytest.raises(Refused, match=r"paris does not let us: .*cannot list resource"):
        connect(servers, "nobody").move("delay", "dublin", token=1)
    with pytest.raises(Refused, match="does not let us: Unauthorized"):
        connect(servers, "stranger").state()
    servers["paris"].set(slices={**READY, "delay-dublin": [False]})
    with pytest.raises(Unavailable, match="ready replica of delay at dublin"):
        gateway.move("delay", "dublin", token=1)
    assert gateway.healthy_sites("delay") == {"paris": 3, "dublin": 0}
    gateway.close_site("dublin", token=1)  # nothing is ready there
    with pytest.raises(Refused, match="last open site of delay"):
        gateway.close_site("paris", token=1)
    with pytest.raises(Refused, match="requestMirror"):
        gateway.split("late", VersionSplit("7", {"7": 100}, shadow="8", shadow_percent=20), token=1)


def test_a_route_changed_by_hand_is_drift_and_the_next_decision_mends_it(
    servers: dict[str, StandIn], gateway: KubernetesGateway
) -> None:
    from kubernetes.client import CustomObjectsApi

    route = gateway._read("dublin", ESTATE.service_by_name["delay"])
    assert route is not None
    route.document["spec"]["rules"][0]["backendRefs"][0]["name"] = "delay-dublin"
    body: dict[str, Any] = {key: route.document[key] for key in ("apiVersion", "kind", "spec")}
    body["metadata"] = {key: route.document["metadata"][key] for key in ("name", "namespace", "annotations")}
    CustomObjectsApi(gateway._clients["dublin"]).patch_namespaced_custom_object(
        "gateway.networking.k8s.io", "v1", "ninelives", "httproutes", "delay", body,
        field_manager="by-hand", force=True, _content_type="application/apply-patch+yaml",
    )  # fmt: skip
    assert gateway.drift() == {"dublin": ["delay: the route is another than was decided"]}
    gateway.move("delay", "paris", token=1)
    assert gateway.drift() == {}


def test_airflows_own_hook_is_such_a_client(servers: dict[str, StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    for site, one in servers.items():
        extra = {"kube_config": one.kube_config("steering"), "namespace": "ninelives"}
        connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
        monkeypatch.setenv(f"AIRFLOW_CONN_NINELIVES_{site.upper()}_KUBERNETES", connection)
    clients = {site: KubernetesHook(conn_id=f"ninelives_{site}_kubernetes").get_conn()
               for site in SITES}  # fmt: skip
    gateway = KubernetesGateway(ESTATE, clients)
    gateway.initialise()
    gateway.move("delay", "dublin", token=1)
    assert gateway.state().active["delay"] == ("dublin",)


def declared(folder: Path, monkeypatch: pytest.MonkeyPatch, servers: dict[str, StandIn]) -> Home:
    """What the command line finds: the estate, and each site's connection."""
    monkeypatch.setenv("NINELIVES_HOME", str(folder))
    monkeypatch.setenv("NINELIVES_ESTATE", str(folder / "estate.yaml"))
    home = Home.from_environment()
    shutil.copy(Path(__file__).parents[1] / "golden" / "kubernetes" / "estate.yaml", home.estate_file)
    given = {f"ninelives_{site}_kubernetes": {"conn_type": "kubernetes", "extra": {"kube_config":
             one.kube_config("steering")}} for site, one in servers.items()}  # fmt: skip
    home.connections_file.parent.mkdir(parents=True, exist_ok=True)
    home.connections_file.write_text(json.dumps(given))
    return home


def test_the_command_makes_the_routes_and_says_what_is_not_as_it_was_decided(
    servers: dict[str, StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from ninelives.cli import app

    declared(tmp_path, monkeypatch, servers)
    run = CliRunner().invoke
    before = run(app, ["kubernetes", "route", "--check", "--json"], catch_exceptions=True)
    assert isinstance(before.exception, Unavailable)
    assert "ninelives kubernetes route" in str(before.exception)
    assert run(app, ["kubernetes", "route"]).exit_code == 0
    after = run(app, ["kubernetes", "route", "--check", "--json"])
    assert (after.exit_code, json.loads(after.stdout)) == (0, {"drift": {}})


def test_the_audit_reads_the_clusters_by_the_rights_of_the_compiled_roles_and_names_each_drift(
    servers: dict[str, StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.adapters.ledger import SqlLedger, migrate
    from ninelives.cli import app

    home = declared(tmp_path, monkeypatch, servers)
    migrate(f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setattr(ConnectedEstate, "ledger", lambda _: SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    rules = [rule for one in compile_site(ESTATE, "paris")["replicas.yaml"] if one["kind"] in ("Role", "ClusterRole")
             for rule in one["rules"]]  # fmt: skip
    lists = {site: running(ESTATE, site) for site in SITES}
    for site, one in servers.items():
        one.set(roles={"steering": rules}, lists=lists[site])

    def audit() -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, ["kubernetes", "audit", "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, json.loads(done.stdout)

    code, found = audit()
    assert (code, found["verdict"], found["drift"]) == (0, "met", []), found
    assert found["met"] > 30
    lists["paris"]["poddisruptionbudgets"].pop(0)
    lists["paris"]["pods"][0]["spec"]["nodeName"] = "n-b"
    servers["paris"].set(lists=lists["paris"])
    code, found = audit()
    assert code == 3
    assert [one.split(":")[0] for one in found["drift"]] == [
        "drift paris delay nodes",
        "drift paris delay zones",
        "drift paris delay disruption budget",
    ]
    servers["paris"].set(roles={"steering": []})
    code, found = audit()
    assert code == 1
    assert "bind the connection's account to the Role" in found["drift"][0]
    servers["dublin"].kill()
    assert audit()[1]["verdict"] == "unknown"
    records = ConnectedEstate.of_home(home).ledger().records(kind="placement")
    assert [one.facts["verdict"] for one in records] == ["unknown", "unknown", "missed", "met"]
