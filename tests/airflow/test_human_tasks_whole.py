"""A failover that the gate stops asks a person, in Airflow's own run on real sites, and goes on or ends by the answer.

Everything that gets around the question is tried as well: nothing but the record of an answer by an operator counts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import yaml
from support.airflow_runs import (
    Api,
    Run,
    answer,
    api_server,
    environment,
    forge,
    make_database,
    meanwhile,
    run_by_hand,
    run_cleared,
)
from support.fab import ENVIRONMENT
from support.processes import wait_until
from support.two_sites import Systems, World, two_sites

from ninelives.adapters.airflow_api import AirflowApi
from ninelives.people.task import GIVE_UP, GO_ON, open_tasks
from ninelives.recovery.failover import fail_over_here
from ninelives.recovery.return_site import reopen_site
from ninelives_airflow.hooks.estate import EstateHook

pytestmark = [
    pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600),
]  # fmt: skip

VERIFY, WARM, MOVE, JUDGE = (
    f"fail_over_service.{step}[0]" for step in ("verify_data", "warm_up_standby", "move_traffic", "judge_failover")
)
ONCE = pytest.mark.parametrize("api", ["simple"], indirect=True)
"""What does not depend on who answers needs one auth manager."""
TTL = timedelta(minutes=1)
LOST = {"site": "paris", "service": "alpha"}


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    make_database()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with two_sites(tmp_path_factory.mktemp("sites")) as world:
        yield world


@pytest.fixture(scope="module", params=["simple", "fab"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, database: None) -> Iterator[Api]:
    """Under both of Airflow's auth managers: one knows its users by name, the other by number."""
    with api_server(tmp_path_factory.mktemp("api"), "ada", "grace", fab=request.param == "fab") as found:
        yield found


@pytest.fixture
def world(sites: World, api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """alpha is at paris, dublin is its standby, and the gate has just said no to the data there."""
    if api.fab:
        monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", ENVIRONMENT["AIRFLOW__CORE__AUTH_MANAGER"])
    declare(sites, "10min")
    given = json.loads(sites.home.connections_file.read_text())
    environment(sites.home.root, {**given, "ninelives_airflow_api": api.connection}, monkeypatch.setenv)
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: Systems.ledger(hook))
    at_paris(sites)
    sites.vouch("fail", "dublin")
    yield sites
    at_paris(sites)


def declare(world: World, within: str, **failback: str) -> None:
    document = world.estate().model_dump(mode="json")
    document["people"] = [{"name": "ada", "roles": ["operator"]}, {"name": "grace", "roles": ["approver"]}]
    document["recovery"]["answer_within"] = within
    document["recovery"]["failback"] |= failback
    (world.home.root / "estate.yaml").write_text(yaml.safe_dump(document))


def at_paris(world: World) -> None:
    systems = world.systems()
    ledger, gateway = systems.ledger(), systems.gateway()
    for site in ("paris", "dublin"):
        gateway.open_site(site, token=ledger.take_lease(f"site:{site}", "tests", TTL).token)
    token = ledger.take_lease("service:alpha", "tests", TTL)
    gateway.move("alpha", "paris", token=token.token)
    ledger.release_lease(token)
    for site in ("paris", "dublin"):
        ledger.release_lease(ledger.take_lease(f"site:{site}", "tests", TTL))
    world.envoy.await_healthy("alpha", paris=1, dublin=1)


def where(world: World) -> tuple[str, ...]:
    return world.systems().gateway().state().active["alpha"]


def told(world: World, run: Run) -> list[tuple[str, str | None]]:
    records = world.systems().ledger().records(kind="human-task")
    return [(one.facts["state"], one.facts.get("by")) for one in reversed(records) if one.facts["run"] == run.id]


@ONCE
def test_a_refused_gate_opens_a_task_whose_answer_is_checked_and_the_same_run_goes_on(world: World, api: Api) -> None:
    held: list[Any] = []

    def mend(api: AirflowApi, task: str) -> None:
        held.append(world.systems().ledger().current_lease("service:alpha"))
        world.vouch("pass", "dublin")
        answer(GO_ON)(api, task)

    with meanwhile(api, ("ada", answer(GO_ON)), ("ada", mend)):  # first the word alone, then the deed
        run = run_by_hand("fail_over", LOST)
    assert run.state == "success", run.tasks
    assert set(run.tasks.values()) == {"success"}
    assert where(world) == ("dublin",)
    assert told(world, run) == [("open", None), ("done", "ada"), ("open", None), ("done", "ada")]
    assert held == [None], "whoever acts by hand meanwhile finds no lease in the way"
    assert world.systems().ledger().current_lease("service:alpha") is None
    (record,) = world.systems().ledger().records(kind="failover", subject="alpha", limit=1)
    assert (record.facts["outcome"], record.facts["run"]) == ("moved", run.id)


@ONCE
def test_where_no_standby_is_eligible_the_decision_itself_waits_and_the_run_goes_on_from_there(
    world: World, api: Api
) -> None:
    world.vouch()
    store, key = world.sites["dublin"].store, "alpha/release.json"
    release = store.get("models", key)
    assert release
    store.delete("models", key)
    titles: list[str] = []

    def mend(api: AirflowApi, task: str) -> None:
        (found,) = open_tasks(world.systems().ledger(), datetime.now(UTC))
        titles.extend(step.title for step in found.steps)
        store.put("models", key, release)
        answer(GO_ON)(api, task)

    with meanwhile(api, ("ada", mend)):
        run = run_by_hand("fail_over", LOST)
    assert run.state == "success", run.tasks
    assert where(world) == ("dublin",)
    assert told(world, run) == [("open", None), ("done", "ada")]
    assert "dublin: bring the release again" in titles


def stays(world: World, run: Run) -> None:
    assert (run.state, run.tasks[JUDGE]) == ("failed", "failed"), run.tasks
    assert where(world) == ("paris",)


def test_who_gives_up_ends_the_run_as_failed(world: World, api: Api) -> None:
    with meanwhile(api, ("ada", answer(GIVE_UP))):
        run = run_by_hand("fail_over", LOST)
    stays(world, run)
    assert told(world, run) == [("open", None), ("given up", "ada")]


@ONCE
def test_nobody_answers_and_airflows_own_sweep_ends_it_as_failed(world: World) -> None:
    declare(world, "1s")
    gone = threading.Event()

    def sweep() -> None:
        from airflow.jobs.job import Job
        from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

        runner = SchedulerJobRunner(job=Job())
        while not gone.wait(0.5):
            runner.check_awaiting_input_timeouts()

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        run = run_by_hand("fail_over", LOST)
    finally:
        gone.set()
        thread.join()
    stays(world, run)
    assert told(world, run) == [("open", None), ("late", None)]


def test_a_task_that_somebody_marks_as_done_while_it_waits_lets_no_traffic_through(world: World, api: Api) -> None:
    """State patched and XCom forged: the gate is asked again, by the step that would move the traffic."""

    def patch(api: AirflowApi, task: str) -> None:
        api._send("PATCH", task, json={"new_state": "success"})
        forged = {"verdict": "pass", "evidence": 1, "seconds": 0.1}
        body = {"key": "return_value", "value": forged, "map_index": 0}
        api._send("POST", f"{task.removesuffix('/0')}/xcomEntries", json=body)

    with meanwhile(api, ("grace", patch), ("ada", answer(GIVE_UP))):
        run = run_by_hand("fail_over", LOST)
    assert (run.tasks[VERIFY], run.tasks[MOVE]) == ("success", "failed"), "Airflow itself let it through"
    stays(world, run)
    assert told(world, run)[-1] == ("given up", "ada")


def moved_to_dublin(world: World, **failback: str) -> None:
    """A failover has moved alpha, paris is back, and the way home needs four eyes."""
    world.vouch()
    systems = world.systems()
    ((record, problem),) = fail_over_here(systems, lost_site="paris", holder=f"by-{uuid4()}", by="ada", only="alpha")
    assert (record.facts["outcome"], problem) == ("moved", None)
    reopen_site(systems, "paris", holder=f"return-{record.seq}")
    declare(world, "10min", approval="four-eyes", **failback)


def clear(api: AirflowApi, run: str, *tasks: str) -> None:
    """Only these, as somebody does who knows what the others would ask."""
    body = {"dry_run": False, "dag_run_id": run, "task_ids": list(tasks), "only_failed": False}
    api._send("POST", "/api/v2/dags/fail_back/clearTaskInstances", json=body)


def test_an_approval_that_was_marked_as_done_and_forged_sends_no_traffic_back(world: World, api: Api) -> None:
    moved_to_dublin(world)
    with meanwhile(api, ("ada", forge), dag="fail_back"):
        run = run_by_hand("fail_back", {"service": "alpha"})
    assert (run.tasks["approve_failback"], run.tasks["shift_traffic"]) == ("success", "failed"), run.tasks
    assert run.state == "failed"
    assert where(world) == ("dublin",)
    assert told(world, run) == [], "an approval that is missing is no task for an operator"


def test_an_approval_that_was_cleared_after_it_was_given_is_none_even_when_it_is_marked_as_done(
    world: World, api: Api
) -> None:
    """Approved, then stopped at the gate; meanwhile the approval is cleared, and its new question is got around."""
    moved_to_dublin(world)

    def approve_and_spoil(api: AirflowApi, task: str) -> None:
        world.vouch("fail", "paris")
        answer("Approve")(api, task)

    def get_around(api: AirflowApi, task: str) -> None:
        approval, run = task.replace("shift_traffic", "approve_failback"), task.split("/")[-4]
        clear(api, run, "approve_failback")
        again = lambda: api._send("GET", approval).json()["state"] == "awaiting_input"  # noqa: E731
        wait_until(again, "it is asked again", timeout=60, every=0.5)
        forge(api, approval)
        world.vouch()
        answer(GO_ON)(api, task)

    with meanwhile(api, ("grace", approve_and_spoil), ("ada", get_around), dag="fail_back"):
        run = run_by_hand("fail_back", {"service": "alpha"})
    assert (run.tasks["approve_failback"], run.tasks["shift_traffic"]) == ("success", "failed"), run.tasks
    assert where(world) == ("dublin",)
    assert told(world, run) == [("open", None), ("done", "ada")], "and nobody is asked about what is missing"


def test_an_approval_of_a_run_that_is_over_moves_nothing_when_only_its_step_is_cleared(world: World, api: Api) -> None:
    moved_to_dublin(world)
    with meanwhile(api, ("grace", answer("Approve")), dag="fail_back"):
        run = run_by_hand("fail_back", {"service": "alpha"})
    assert run.state == "success", run.tasks
    moved_to_dublin(world)  # another loss, weeks later
    clear(api.of("ada"), run.id, "shift_traffic")
    assert run_cleared("fail_back", run.id, "shift_traffic") == "failed"
    assert where(world) == ("dublin",)
