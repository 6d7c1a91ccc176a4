"""A faulty accelerator in mid-service, by real replicas behind a real gateway; the device alone is played."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.models import ROW
from support.nvml_stub import GPU, StubbedMachine, build, with_accelerators
from support.processes import wait_until
from support.two_sites import Systems, World, two_sites

from ninelives.accelerators.drain import follow
from ninelives.accelerators.evidence import KIND, standing, validate
from ninelives.drills.preflight import resolve_site
from ninelives.drills.run import inject_fault, is_back, run_check, undo_fault
from ninelives.drills.scenario import Drill
from ninelives.drills.scenarios import find_scenario
from ninelives.drills.state import left_behind, state_facts
from ninelives.errors import Refused, Unavailable
from ninelives.estate import Estate
from ninelives.estate.accelerators import Host
from ninelives.injections import find_injection

pytestmark = pytest.mark.stack
SERVICE = "beta"
PLACES = [{"name": "paris", "accelerators": [{"name": "gpu-1"}]}, {"name": "dublin"}]
PLAYED = [{"name": "paris", "accelerators": [{"name": "gpu-1", "policy": {"kind": "stand-in"}}]}, {"name": "dublin"}]
FILES = {"library": "libnvidia-ml.so.1", "script": "gpu-1"}


class Machine(Systems):
    played: StubbedMachine

    def accelerators(self, site: str, host: Host) -> Any:
        return self.played.probe(host.policy.kind)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with two_sites(tmp_path_factory.mktemp("accelerators")) as world:
        file = world.home.connections_file
        document = json.loads(file.read_text())
        urls = document["ninelives_paris_replicas"]["extra"]["urls"]
        document["ninelives_paris_replicas"]["extra"] |= {
            "urls": [one.replace("127.0.0.1", "localhost") for one in urls],
            "machines": {"gpu-1": [one.replace("127.0.0.1", "localhost") for one in urls]},
        }
        played = {name: str(world.home.root / "stand-in" / file) for name, file in FILES.items()}
        control = {"conn_type": "generic", "extra": {"accelerators": {"gpu-1": played}}}
        file.write_text(json.dumps(document | {"ninelives_paris_control": control}))
        yield world


def declared(world: World, places: list[dict[str, Any]]) -> Estate:
    """``beta`` alone needs an accelerator."""
    document = with_accelerators(world.estate(), sites=places).model_dump(mode="json")
    for service in document["services"]:
        service["release"]["hardware"] = "accelerator" if service["name"] == SERVICE else "cpu"
    document["models"][1]["need"] = GPU["need"]
    return Estate.model_validate(document)


@pytest.fixture
def systems(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = world.systems()
    systems = Machine(declared(world, PLACES), found.connections, found.home)
    systems.played = StubbedMachine(build(tmp_path), tmp_path, monkeypatch)
    return systems


def look(systems: Machine, *faults: str) -> list[str]:
    systems.played.play(*faults)
    return follow(systems, "paris", "gpu-1", validate(systems, "paris", "gpu-1"))


def test_users_lose_no_answer_while_the_faulty_replica_is_drained_and_given_back(systems: Machine) -> None:
    ask = systems.client(systems.estate.service_by_name[SERVICE])
    answers, stop = Counter[str | None](), threading.Event()

    def users() -> None:
        while not stop.is_set():
            try:
                answer = ask([ROW])
                answers[answer.site if answer.degraded is None else "degraded"] += 1
            except Unavailable:
                answers["lost"] += 1

    def asked(more: int) -> Counter[str | None]:
        before = answers.copy()
        wait_until(lambda: answers.total() >= before.total() + more, f"{more} answers")
        return answers - before

    wait_until(lambda: systems.gateway().healthy_sites(SERVICE) == {"paris": 1, "dublin": 1}, "two healthy replicas")
    thread = threading.Thread(target=users)
    thread.start()
    try:
        assert look(systems) == []
        assert set(asked(100)) == {"paris", "dublin"}
        (done,) = look(systems, "ecc_volatile=1")
        assert done.startswith("beta is taken out of http://localhost:")
        wait_until(lambda: systems.gateway().healthy_sites(SERVICE).get("paris", 0) == 0, "paris is out")
        assert set(asked(100)) == {"dublin"}
        (done,) = look(systems)
        assert done.startswith("beta is back")
        wait_until(lambda: systems.gateway().healthy_sites(SERVICE).get("paris", 0) == 1, "paris is back")
        assert set(asked(100)) == {"paris", "dublin"}
    finally:
        stop.set()
        thread.join()
    assert (answers["lost"], answers["degraded"]) == (0, 0), answers


def test_the_drill_finds_the_played_fault_drains_first_and_leaves_the_estate_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but what users felt, which takes a prober: the whole of it is ``test_accelerator_drill``."""
    monkeypatch.setattr("ninelives.drills.run.AFTERMATH", timedelta(seconds=1))
    systems = world.systems()
    systems.estate = declared(world, PLAYED)
    state, ledger = systems.gateway().state(), systems.ledger()
    site = resolve_site(systems.estate, state, SERVICE, "", "accelerator-fault")
    drill = Drill("drill-gpu", "accelerator-fault", SERVICE, site)
    scenario = find_scenario(drill.scenario)
    assert scenario.reasons(systems, drill, state) == []
    injection = inject_fault(systems, drill)
    (fault,) = injection.faults
    assert (site, fault.kind) == ("paris", "played")
    assert systems.gateway().healthy_sites(SERVICE) == {"paris": 1, "dublin": 1}, "nobody has looked yet"
    found = run_check(systems, drill)
    assert found is not None
    assert (found["verdict"], found["drained"], found["problems"]) == ("met", [SERVICE], []), found
    assert systems.gateway().healthy_sites(SERVICE) == {"paris": 0, "dublin": 1}
    assert left_behind(systems, injection), "one replica less, and a machine that is not sound"
    assert scenario.reasons(systems, drill, state)
    undo_fault(systems, drill, by="test")
    wait_until(lambda: is_back(systems, drill), "all is as it was", every=0.3)
    assert systems.gateway().healthy_sites(SERVICE) == {"paris": 1, "dublin": 1}
    undone = find_injection(systems.home, drill.id)
    assert undone is not None
    assert state_facts(systems, undone)["verdict"] == "met"
    looks = ledger.records(kind=KIND, subject="paris/gpu-1")
    assert [(one.facts["kind"], one.facts["blocked"]) for one in looks[:2]] == [("stand-in", False), ("stand-in", True)]
    assert standing(systems.estate, ledger, "paris", SERVICE).played == ("paris/gpu-1",)


def test_the_drill_is_refused_where_no_fault_can_be_played(systems: Machine, world: World) -> None:
    def reasons(estate: Estate, service: str = SERVICE) -> str:
        systems.estate = estate
        drill = Drill("drill-none", "accelerator-fault", service, "paris")
        try:
            return "; ".join(find_scenario(drill.scenario).reasons(systems, drill, systems.gateway().state()))
        except Refused as refused:
            return str(refused)

    assert "a real device cannot be broken from here" in reasons(systems.estate)
    assert "served by the processor" in reasons(declared(world, PLAYED), "alpha")
    (lost,) = systems.replicas("dublin")
    lost.unload(SERVICE)
    try:
        wait_until(lambda: not systems.gateway().healthy_sites(SERVICE)["dublin"], "dublin is out")
        assert "none would take over" in reasons(declared(world, PLAYED))
    finally:
        lost.load(SERVICE)
