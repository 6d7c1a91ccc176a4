"""Every scenario on real processes and real bytes: injected, seen to be in, undone, and nothing left behind.

One light estate for the whole file, without Airflow; each test leaves it as it found it, because that is what is under
test. All of it is `make soak`, which also measures each scenario from injection to verdict as users feel it, with
registry, prober and feeder.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from support.models import ROW
from support.processes import wait_until
from support.scenarios import LIGHT, MEASURED, World, light_estate
from typer.testing import CliRunner

from ninelives.adapters.faults import brake_is_on
from ninelives.cli import app
from ninelives.drills.preflight import check_preflight
from ninelives.drills.run import inject_fault, is_back, record_drill, run_check, undo_fault
from ninelives.drills.scenarios import SCENARIOS
from ninelives.drills.state import left_behind
from ninelives.drills.watch import State, Watch
from ninelives.errors import Refused, Unavailable
from ninelives.injections import Slowed, Stopped, find_injection, open_injection, open_injections
from ninelives.replication.acks import JOURNAL, read_acks
from ninelives.stack import lifecycle, processes

pytestmark = [pytest.mark.stack, pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with light_estate(tmp_path_factory.mktemp("scenarios")) as started:
        yield started


def answers(world: World, service: str) -> bool:
    return dict(world.systems.client(world.systems.estate.service_by_name[service])([ROW]).outputs)["total"] == [3.5]


def runs(world: World, fault: Stopped) -> bool:
    return world.systems.faults().running(["paris", "dublin"])[f"{fault.program} at {fault.site}"]


def test_a_killed_replica_stays_down_and_comes_back(world: World) -> None:
    drill = world.drill("replica-killed")
    (fault,) = inject_fault(world.systems, drill).faults
    assert isinstance(fault, Stopped)
    assert not runs(world, fault)
    lifecycle.up(world.home)  # somebody who starts the stack in mid-drill does not help it
    assert not runs(world, fault)
    assert answers(world, "beta")
    world.returned(drill)


def test_a_wedged_replica_takes_connections_and_answers_nobody(world: World) -> None:
    systems, drill = world.systems, world.drill("replica-wedged")
    (fault,) = inject_fault(systems, drill).faults
    assert fault.kind == "frozen"
    assert world.process(fault.program).status() == psutil.STATUS_STOPPED
    with pytest.raises(Unavailable):
        systems.replicas(drill.site)[0].live()
    assert answers(world, "beta")
    world.returned(drill)


def test_a_killed_gateway_is_started_again_by_its_supervisor(world: World) -> None:
    drill = world.drill("gateway-lost")
    before = world.process("gateway").pid
    inject_fault(world.systems, drill)
    wait_until(lambda: answers(world, "beta"), "answers through a new gateway")
    assert world.process("gateway").pid != before
    world.returned(drill)


def test_a_partition_cuts_a_store_off_from_the_rest_and_not_from_its_own_site(world: World) -> None:
    drill = world.drill("partition")
    assert drill.site == "dublin"
    inject_fault(world.systems, drill)
    with pytest.raises(Unavailable):
        world.systems.store("dublin").ping()
    for replica in world.systems.replicas("dublin"):
        replica.unload("beta")
        replica.load("beta")
        assert replica.ready("beta"), "loaded from the store of its site, in mid-partition"
    assert answers(world, "alpha")
    world.returned(drill)
    world.systems.store("dublin").ping()


def test_a_slow_store_answers_late_and_at_once_again_when_it_is_over(world: World) -> None:
    drill = world.drill("slow-store")
    (fault,) = inject_fault(world.systems, drill).faults
    assert isinstance(fault, Slowed)
    assert longest_ping(world) > 0.3
    world.returned(drill)
    wait_until(lambda: not brake_is_on(world.home, fault), "the end of the brake")
    assert longest_ping(world) < 0.3


def longest_ping(world: World) -> float:
    longest = 0.0
    for _ in range(4):
        began = time.monotonic()
        world.systems.store("dublin").ping(timeout=5.0)
        longest = max(longest, time.monotonic() - began)
    return longest


@pytest.mark.parametrize("scenario", ["corrupt-object", "corrupt-artefact"])
def test_damage_is_found_named_and_repaired_by_the_estates_own_check(world: World, scenario: str) -> None:
    systems, drill = world.systems, world.drill(scenario, "alpha")
    (fault,) = inject_fault(systems, drill).faults
    assert fault.kind == "flipped"
    assert sha256(systems.store("dublin").get(fault.bucket, fault.key)) != fault.sha256
    assert left_behind(systems, find_injection(world.home, drill.id) or pytest.fail("it is open"))
    found = run_check(systems, drill)
    assert found is not None
    assert found["verdict"] == "met", found
    assert found["found"] == [["dublin", fault.key, "damaged", "repaired"]]
    assert run_check(systems, drill) == found, "asked again, the first look stands"
    world.returned(drill)


def test_damage_that_nobody_repairs_is_mended_by_the_clean_up(world: World) -> None:
    systems, drill = world.systems, world.drill("corrupt-object", "alpha")
    (fault,) = inject_fault(systems, drill).faults
    assert fault.kind == "flipped"
    world.returned(drill)
    assert sha256(systems.store("dublin").get(fault.bucket, fault.key)) == fault.sha256


def sha256(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def test_nonsense_waits_in_quarantine_sound_records_pass_and_nothing_of_it_stays(world: World) -> None:
    systems, drill = world.systems, world.drill("provider-nonsense", "alpha")
    inject_fault(systems, drill)
    found = run_check(systems, drill)
    assert found is not None
    assert (found["planted"], found["quarantined"], found["landed"]) == (5, 5, 1), found
    assert found["verdict"] == "met"
    world.returned(drill)
    assert list(systems.store("paris").list("data", "_drills/")) == []
    assert list(systems.store("paris").list("data", "_manifests/_drills/")) == []


def test_the_keeper_mends_from_the_file_alone_when_everybody_else_is_gone(world: World) -> None:
    """The brake dies with the store stopped, and nobody is left of the drill."""
    systems, drill = world.systems, world.drill("slow-store")
    injection = inject_fault(systems, drill)
    (brake,) = (one for one in processes.remaining(world.home) if "ninelives.adapters.brake" in one.cmdline())
    wait_until(lambda: world.process("dublin-store").status() == psutil.STATUS_STOPPED, "the store is stopped")
    os.kill(brake.pid, signal.SIGKILL)
    soon = datetime.now(UTC) + timedelta(seconds=1)
    open_injection(world.home, injection.model_copy(update={"expires_at": soon}))
    wait_until(lambda: open_injections(world.home) == [], "the keeper's work")
    undone = find_injection(world.home, drill.id)
    assert undone is not None
    assert undone.undone_by == "keeper"
    assert longest_ping(world) < 0.3
    assert left_behind(systems, undone) == []
    with pytest.raises(Refused, match="was undone"):
        inject_fault(systems, drill)
    systems.ledger().release_lease(systems.ledger().current_lease("drill"))  # type: ignore[arg-type]


def test_the_command_line_says_what_is_due(world: World) -> None:
    said = CliRunner().invoke(app, ["drill", "coverage", "--json"])
    planned = [one for one in json.loads(said.stdout) if one["due"]]
    assert [(one["scenario"], one["result"]) for one in planned] == [
        ("replica-wedged", "never"),
        ("site-loss", "never"),
    ]
    assert said.exit_code == 3, "what never ran is overdue"


ELSEWHERE = {"site-loss", "experiment", "control-plane-lost", "everything-lost", "accelerator-fault"}
"""In ``test_drill``, ``test_experiment_drill``, ``test_rebuild`` and ``test_accelerator_drill``."""
MUST_HOLD = {name: {str(promise) for promise in one.promises} for name, one in SCENARIOS.items()}


@pytest.fixture(scope="module")
def measured(world: World) -> Iterator[World]:
    """The same estate with registry, prober and feeder."""
    lifecycle.up(world.home, without=MEASURED)
    wait_until(lambda: read_acks(world.home.feed / JOURNAL), "the provider writes", timeout=60)
    yield world
    lifecycle.up(world.home, without=LIGHT)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - ELSEWHERE))
def test_measured_from_injection_to_verdict_every_promise_holds_and_nothing_is_left_behind(
    measured: World, scenario: str
) -> None:
    """All of a drill but Airflow: steady state, injection, the estate's own check, watch, undoing, evidence."""
    systems, drill = measured.systems, measured.drill(scenario, "beta" if "replica" in scenario else "alpha")
    steady = lambda: not [why for why in check_preflight(systems, drill).reasons if "correctly" in why]  # noqa: E731
    wait_until(steady, "good answers for half a minute", timeout=60, every=1)
    assert check_preflight(systems, drill).reasons == ()
    survivors = SCENARIOS[scenario].survivors(systems.estate, systems.gateway().state(), drill)
    injection = inject_fault(systems, drill)
    assert injection.lost_at is not None
    run_check(systems, drill)
    watch = Watch(systems, drill, survivors, injection.lost_at)
    wait_until(lambda: watch.due() and watch.look().state is not State.ONGOING, "the end of the drill", timeout=120)
    seen = watch.look()
    undo_fault(systems, drill, by="test")
    wait_until(lambda: is_back(systems, drill), "the return", timeout=60)
    facts = record_drill(systems, drill, data_loss=None, run="test").facts
    felt = {name: (one["rto_seconds"], one["failed"], one["slow"]) for name, one in facts["felt"].items()}
    print(scenario, facts["verdicts"], "rto, failed, slow:", felt, facts["check"] and facts["check"]["seconds"])
    assert seen.state is State.RECOVERED, seen
    assert facts["state"]["verdict"] == "met", facts["state"]
    assert set(facts["verdicts"]) == MUST_HOLD[scenario]
    assert facts["verdict"] == "met", facts
    assert systems.ledger().current_lease("drill") is None
    covered = json.loads(CliRunner().invoke(app, ["drill", "coverage", "--json"]).stdout)
    assert [one["result"] for one in covered if (one["scenario"], one["service"]) == (scenario, drill.service)] == [
        "met"
    ]
