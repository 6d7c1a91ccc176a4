"""A faulty accelerator in mid-service, drilled by Airflow's ``run_drill`` on a local estate with users.

All of it is ``make soak``: the estate, its prober and Airflow's tasks take minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.airflow_runs import environment, make_database, run_by_hand
from support.processes import wait_until
from support.scenarios import LIGHT, MEASURED, World, light_estate

from ninelives.accelerators.drain import KIND
from ninelives.drills.preflight import check_preflight
from ninelives.drills.scenario import Drill
from ninelives.injections import open_injections
from ninelives.stack import lifecycle

pytestmark = [pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    make_database()
    with light_estate(tmp_path_factory.mktemp("accelerators"), accelerators=True) as started:
        lifecycle.up(started.home, without=MEASURED)
        yield started
        lifecycle.up(started.home, without=LIGHT)


@pytest.mark.parametrize(
    ("service", "site"),
    [("alpha", "paris"), ("beta", "dublin"), ("alpha", "dublin")],
    ids=["where it is served", "one of two sites", "at the standby"],
)
def test_users_feel_nothing_while_the_fault_is_found_drained_and_mended(
    world: World, monkeypatch: pytest.MonkeyPatch, service: str, site: str
) -> None:
    connections = json.loads(world.home.connections_file.read_text())
    environment(world.home.root, connections, monkeypatch.setenv)
    preflight = Drill("preflight", "accelerator-fault", service, site)
    wait_until(lambda: not check_preflight(world.systems, preflight).reasons, "nothing against it", 90, every=1)
    run = run_by_hand("run_drill", {"scenario": "accelerator-fault", "service": service, "site": site})
    (record, *_) = world.systems.ledger().records(kind="drill", limit=1)
    facts = record.facts
    print(service, site, facts.get("verdicts"), facts.get("check"), facts.get("felt"))
    assert run.state == "success", (run.tasks, facts)
    assert facts["verdicts"] == {"users": "met", "drained": "met"}
    assert facts["state"]["verdict"] == "met", facts["state"]
    assert facts["restored_by"] == "restore_site"
    assert [(one.facts["drained"], one.subject) for one in world.systems.ledger().records(kind=KIND, limit=2)] == [
        (False, f"{site}/gpu-{site}-1"), (True, f"{site}/gpu-{site}-1"),
    ]  # fmt: skip
    assert open_injections(world.home) == []
