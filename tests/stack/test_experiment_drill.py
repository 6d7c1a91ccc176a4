"""An experiment in Chaos Toolkit's JSON, drilled by Airflow's ``run_drill`` on a local estate with users.

All of it is ``make soak``: the estate, its prober and Airflow's tasks take minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psutil
import pytest
from support.airflow_runs import environment, make_database, run_by_hand
from support.processes import wait_until
from support.scenarios import LIGHT, MEASURED, World, light_estate

from ninelives.drills.preflight import check_preflight
from ninelives.drills.scenario import Drill
from ninelives.injections import open_injections
from ninelives.stack import lifecycle

pytestmark = [pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    make_database()
    with light_estate(tmp_path_factory.mktemp("experiments")) as started:
        lifecycle.up(started.home, without=MEASURED)
        yield started
        lifecycle.up(started.home, without=LIGHT)


@pytest.fixture
def world(whole: World, monkeypatch: pytest.MonkeyPatch) -> World:
    environment(whole.home.root, json.loads(whole.home.connections_file.read_text()), monkeypatch.setenv)
    return whole


def signal(name: str, process: psutil.Process, **more: Any) -> dict[str, Any]:
    provider = {"type": "process", "path": "kill", "arguments": f"-{name} {process.pid}"}
    return {"type": "action", "name": f"{name} {process.name()}", "provider": provider, **more}


def drilled(world: World, name: str, **document: Any) -> tuple[Any, dict[str, Any]]:
    """Put it where experiments are, run it as a drill of beta, and what Airflow and the evidence say."""
    world.home.experiments.mkdir(exist_ok=True)
    text = json.dumps({"title": name, "description": "-", **document})
    (world.home.experiments / f"{name}.json").write_text(text)
    preflight = Drill("preflight", "experiment", "beta", name)
    wait_until(lambda: not check_preflight(world.systems, preflight).reasons, "nothing against it", 90, every=1)
    run = run_by_hand("run_drill", {"scenario": "experiment", "service": "beta", "site": name})
    (record, *_) = world.systems.ledger().records(kind="drill", limit=1)
    print(name, run.state, record.facts.get("verdicts"), record.facts.get("experiment"), record.facts.get("problem"))
    assert open_injections(world.home) == []
    assert record.facts["run"] == run.id
    return run, dict(record.facts)


def test_one_that_holds_is_met_and_its_evidence_says_what_was_done(world: World) -> None:
    replica = world.process("paris-replica-1")
    asked = world.systems.replicas("dublin")[0].url
    alive = {"type": "probe", "name": "dublin answers", "tolerance": 200,
             "provider": {"type": "http", "url": f"{asked}/v2/health/live"}}  # fmt: skip
    run, facts = drilled(
        world, "one-replica-hangs",
        **{"steady-state-hypothesis": {"title": "dublin answers", "probes": [alive]}},
        method=[signal("STOP", replica, pauses={"after": 3})],
        rollbacks=[signal("CONT", replica)],
    )  # fmt: skip
    assert run.state == "success", (run.tasks, facts)
    assert facts["verdicts"] == {"hypothesis": "met"}
    assert facts["experiment"]["hypothesis_held"] == {"before": True, "after": True}
    assert [one["succeeded"] for one in facts["experiment"]["activities"]] == [True]
    assert facts["state"]["verdict"] == "met", facts["state"]
    assert replica.status() != psutil.STATUS_STOPPED


def test_one_that_hurts_users_is_ended_in_mid_pause_and_rolled_back(world: World) -> None:
    gateway = world.process("gateway")
    run, facts = drilled(
        world, "the-gateway-hangs",
        method=[signal("STOP", gateway, pauses={"after": 600})],
        rollbacks=[signal("CONT", gateway)],
    )  # fmt: skip
    assert (run.state, run.tasks["await_recovery"]) == ("failed", "failed"), run.tasks
    assert facts["restored_by"] == "abort"
    took = datetime.fromisoformat(facts["restored_at"]) - datetime.fromisoformat(facts["lost_at"])
    assert took.total_seconds() < 30, "and not the ten minutes of its pause"
    assert facts["verdict"] == "unknown"
    assert facts["experiment"]["status"] == "unknown"
    assert facts["state"]["verdict"] == "met", facts["state"]
    assert gateway.status() != psutil.STATUS_STOPPED
