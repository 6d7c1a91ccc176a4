"""The main job on the real local estate: lose a site, measure what users felt, come back through the gate.

One estate for the whole file, because its start costs minutes; each test leaves it as it found it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import psutil
import pytest
from support.estate import MINUTES, PROBE_RATE, Estate, await_, free_base

from ninelives.adapters.airflow_api import AirflowApi
from ninelives.adapters.connected import ConnectedEstate
from ninelives.cli.drill import airflow_api, start_drill
from ninelives.drills.preflight import STEADY_FOR, check_preflight
from ninelives.drills.scenario import Drill
from ninelives.errors import Refused
from ninelives.injections import find_injection, open_injections
from ninelives.people.task import GIVE_UP, open_tasks
from ninelives.probing.records import BAD, read_probes
from ninelives.replication.manifest import manifest_key, read_manifest

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    running = Estate(tmp_path_factory.mktemp("drill"), free_base())
    try:
        running.demo = running.run("demo", timeout=14 * MINUTES)
        yield running
    finally:
        stopped = running.run("stack", "down")
        assert stopped.returncode == 0, stopped.stderr


def ready(estate: Estate) -> None:
    """Wait until nothing speaks against a drill."""
    systems, deadline = estate.systems, time.monotonic() + 5 * MINUTES
    while reasons := check_preflight(systems, drill_of(systems)).reasons:
        assert time.monotonic() < deadline, reasons
        time.sleep(1)


def drill_of(systems: ConnectedEstate) -> Drill:
    return Drill("preflight", "site-loss", "arrival-delay", sites(systems)[0])


def sites(systems: ConnectedEstate) -> tuple[str, str]:
    """Where ``arrival-delay`` is served now, and its standby."""
    (active,) = systems.gateway().state().active["arrival-delay"]
    (standby,) = {"paris", "dublin"} - {active}
    return active, standby


def ended(api: AirflowApi, run: str, dag: str = "run_drill", within: float = 8 * MINUTES) -> str:
    """State in which a run ended."""
    await_(lambda: api.run_state(dag, run) in {"success", "failed"}, within, f"the end of {dag} {run}")
    return api.run_state(dag, run)


def evidence_of(systems: ConnectedEstate, run: str) -> dict[str, Any]:
    """What a drill left in the ledger."""
    (record,) = (one for one in systems.ledger().records(kind="drill") if one.facts["run"] == run)
    return dict(record.facts)


def injected(estate: Estate) -> None:
    await_(lambda: any(one.lost_at for one in open_injections(estate.home)), 2 * MINUTES, "the fault")


def everything_open(systems: ConnectedEstate) -> None:
    await_(lambda: not systems.gateway().state().closed_sites, 5 * MINUTES, "the return through the gate")


def test_the_demo_loses_a_site_and_says_what_users_felt(estate: Estate) -> None:
    done = estate.demo
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Verdict: met" in done.stdout
    (newest, *_) = estate.json("drill", "list")
    facts = newest["facts"]
    assert facts["verdicts"] == {"rto": "met", "rpo": "met"}
    felt = facts["felt"]["arrival-delay"]
    assert felt["sent"] == sum(felt[name] for name in ("good", "slow", "degraded", "wrong", "failed"))
    assert 0 < felt["rto_seconds"] <= 60
    assert felt["wrong"] == 0
    assert felt["degraded"] > 0, "users got the declared fallback while nobody served"
    assert facts["problem"] is None
    assert set(facts["recovery"]) == {"declared", "failed_over", "returned"}, "recovered by the runs a real loss starts"


def test_afterwards_every_site_is_open_the_service_moved_and_the_evidence_is_whole(estate: Estate) -> None:
    ready(estate)
    status = estate.json("status")
    assert status["closed_sites"] == []
    assert status["faults"] == []
    assert [service["active"] for service in status["services"]] == [["dublin"], ["paris", "dublin"]]
    assert estate.json("evidence", "verify")["verdict"] == "whole"


def test_evidence_and_data_docs_are_shown_in_airflow_to_those_who_signed_in(estate: Estate) -> None:
    gate = next(one for one in estate.systems.ledger().records(kind="gate") if "docs" in one.facts)
    client = signed_in(estate, "ada")
    evidence, docs = (client.get(f"/ninelives/{page}/{gate.seq}") for page in ("evidence", "gates"))
    readiness = client.get("/ninelives/readiness")
    assert "<h1>Readiness: " in readiness.raise_for_status().text
    views = [view for one in client.get("/api/v2/plugins").json()["plugins"] for view in one["external_views"]]
    assert [view["name"] for view in views if view["href"] == "/ninelives/readiness"] == ["Readiness"]
    assert gate.hash in evidence.raise_for_status().text
    assert "values must never be null" in docs.raise_for_status().text
    assert "sandbox" in docs.headers["Content-Security-Policy"]
    for page in (evidence, docs, readiness):
        assert httpx.get(page.url).status_code in {401, 403}


def test_a_dry_run_writes_nothing(estate: Estate) -> None:
    ready(estate)
    systems = estate.systems
    assert estate.json("drill", "run", "--dry-run", "--service", "arrival-delay")["reasons"] == []
    before = (systems.ledger().head(), systems.gateway().state(), systems.ledger().current_lease("drill"))
    run = airflow_api(systems).trigger("run_drill", {"service": "arrival-delay", "site": "active", "dry_run": True})
    await_(lambda: airflow_api(systems).run_state("run_drill", run) == "success", 2 * MINUTES, "the dry run's end")
    states = airflow_api(systems).task_states("run_drill", run)
    assert {task for task, state in states.items() if state == "success"} == {"check_preflight"}
    kinds = {record.kind for record in systems.ledger().records(limit=50) if record.seq > before[0].seq}
    calendar = {"replication", "gate", "readiness", "playbook"}
    assert kinds <= calendar, "what the calendar's runs write meanwhile is not the dry run's"
    assert (systems.gateway().state(), systems.ledger().current_lease("drill")) == before[1:]
    assert open_injections(estate.home) == []


def test_a_drill_is_refused_while_survivors_are_ill(estate: Estate) -> None:
    systems = estate.systems
    api = airflow_api(systems)
    store, gateway = estate.pid("dublin-store"), estate.pid("gateway")
    assert store
    assert gateway
    # One ill store is no lost site, and an ill gateway is no lost site either: nothing is declared.
    os.kill(store, signal.SIGSTOP)
    try:
        os.kill(gateway, signal.SIGSTOP)
        try:
            await_(lambda: bad_answers(estate) > 8 * PROBE_RATE, MINUTES, "bad answers")
        finally:
            os.kill(gateway, signal.SIGCONT)
        run = start_drill(api, scenario="site-loss", service="arrival-delay", site="active")
        assert ended(api, run) == "failed"
    finally:
        os.kill(store, signal.SIGCONT)
    found = evidence_of(systems, run)
    assert found["outcome"] == "refused"
    reasons = "\n".join(found["reasons"])
    assert "late-arrival: only" in reasons
    assert "are known to be answered correctly" in reasons
    assert open_injections(estate.home) == []
    assert systems.ledger().current_lease("drill") is None


def bad_answers(estate: Estate) -> int:
    """How many of late-arrival's answers were bad, of those that a drill looks at."""
    now = datetime.now(UTC)
    outcomes = read_probes(estate.home.probes, now - STEADY_FOR, now, "late-arrival").column("outcome")
    return sum(outcome in {str(bad) for bad in BAD} for outcome in outcomes.to_pylist())


def test_when_the_gate_cannot_vouch_for_the_standbys_data_traffic_does_not_move(estate: Estate) -> None:
    systems = estate.systems
    api = airflow_api(systems)
    active, standby = sites(systems)
    with paused(estate, "replicate_data"):  # it would write the manifest anew
        systems.store(standby).delete("data", manifest_key("flights"))
        run = api.trigger("fail_over", {"site": active, "service": "arrival-delay"})
        asked(api, run, "fail_over", "fail_over_service.verify_data", 0)
        (task,) = open_tasks(systems.ledger(), datetime.now(UTC))
        assert (task.stopped.run, task.who) == (run, ("ada",))
        assert systems.ledger().current_lease("service:arrival-delay") is None, "a person may act by hand meanwhile"
        ada = AirflowApi(api.url, "ada", estate.passwords["ada"])
        ada.answer("fail_over", run, "fail_over_service.verify_data", GIVE_UP, map_index=0)
        assert ended(api, run, "fail_over") == "failed"
        states = api.task_states("fail_over", run)
        assert states["fail_over_service.verify_data[0]"] == "failed"
        assert states["fail_over_service.move_traffic[0]"] == "upstream_failed"
        assert systems.gateway().state().active["arrival-delay"] == (active,)
        (newest,) = systems.ledger().records(kind="failover", limit=1)
        assert newest.facts["outcome"] == "failed"
        assert set(newest.facts["failed_steps"]) == {"verify_data", "move_traffic"}
        assert systems.ledger().current_lease("service:arrival-delay") is None, "the lease was given back"

        back = api.trigger("return_site", {"site": active})
        assert ended(api, back, "return_site") == "success"
        assert systems.gateway().state().closed_sites == frozenset()
        assert read_manifest(systems.store(standby), "flights") is not None, "reconciliation brought the manifest back"


@contextmanager
def paused(estate: Estate, dag: str) -> Iterator[None]:
    """No run of ``dag`` is under way or starts."""
    client, api = signed_in(estate, "ada"), airflow_api(estate.systems)

    def pause(yes: bool) -> None:
        client.patch(f"/api/v2/dags/{dag}", json={"is_paused": yes}).raise_for_status()

    def idle() -> bool:
        """A run that is under way stands still while its DAG is paused, so it has to end before."""
        if api.under_way(dag):
            return False
        pause(True)
        if began := api.under_way(dag):
            pause(False)
        return not began

    await_(idle, 5 * MINUTES, f"the end of {dag}")
    try:
        yield
    finally:
        pause(False)


def signed_in(estate: Estate, user: str) -> httpx.Client:
    """Airflow's API as one of the estate's people, as bare as an attacker would use it."""
    url, passwords = airflow_api(estate.systems).url, estate.passwords
    answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": passwords[user]}, timeout=60)
    token = answer.raise_for_status().json()["access_token"]
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)


@contextmanager
def four_eyes(estate: Estate) -> Iterator[None]:
    policy = estate.home.root / "estate.yaml"
    declared = policy.read_text()
    policy.write_text(declared.replace("approval: none", "approval: four-eyes"))
    try:
        yield
    finally:
        policy.write_text(declared)


def api_as(estate: Estate, user: str) -> AirflowApi:
    return AirflowApi(airflow_api(estate.systems).url, user, estate.passwords[user])


def test_four_eyes_hold_against_a_requester_who_patches_the_task_and_forges_the_answer(estate: Estate) -> None:
    ready(estate)
    systems, ada = estate.systems, api_as(estate, "ada")
    with four_eyes(estate):
        run = start_drill(ada, scenario="site-loss", service="late-arrival", site=sites(systems)[1])
        asked(ada, run)
        with pytest.raises(Refused, match="403"):
            ada.answer("run_drill", run, "approve_drill", "Approve")
        attacker, task = signed_in(estate, "ada"), f"/api/v2/dags/run_drill/dagRuns/{run}/taskInstances/approve_drill"
        forged = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": {"id": "grace"}}
        attacker.patch(task, json={"new_state": "success"}).raise_for_status()
        attacker.post(f"{task}/xcomEntries", json={"key": "return_value", "value": forged}).raise_for_status()
        assert ended(ada, run) == "failed"
        states = ada.task_states("run_drill", run)
        assert (states["approve_drill"], states["lose_site"]) == ("success", "failed"), "Airflow itself let it through"
        assert evidence_of(systems, run)["outcome"] == "not injected"
        assert find_injection(estate.home, run) is None


@pytest.mark.soak  # two minutes of a drill; the demo loses a site under the same service without an approval
def test_an_approved_drill_of_an_active_active_service_rides_through_and_a_second_one_is_refused(
    estate: Estate,
) -> None:
    ready(estate)
    systems, ada, grace = estate.systems, api_as(estate, "ada"), api_as(estate, "grace")
    with four_eyes(estate):
        approved = start_drill(ada, scenario="site-loss", service="late-arrival", site=sites(systems)[1])
        asked(ada, approved)
        grace.answer("run_drill", approved, "approve_drill", "Approve")
        injected(estate)
    second = start_drill(ada, scenario="site-loss", service="late-arrival", site=sites(systems)[0])
    assert ended(ada, second) == "failed"
    assert evidence_of(systems, second)["outcome"] == "refused"
    ended(ada, approved)
    measured = evidence_of(systems, approved)
    assert measured["outcome"] == "measured", measured
    felt = measured["felt"]["late-arrival"]
    assert felt["wrong"] == 0, felt
    assert felt["failed"] + felt["degraded"] <= max(2, 0.01 * felt["sent"]), felt  # in flight at the kill
    assert measured["verdicts"]["rto"] == "met"
    assert open_injections(estate.home) == []


@pytest.mark.soak
def test_a_run_that_somebody_marks_as_failed_brings_its_site_back_leaves_evidence_and_is_no_success(
    estate: Estate,
) -> None:
    ready(estate)
    systems = estate.systems
    api = airflow_api(systems)
    run = start_drill(api, scenario="site-loss", service="late-arrival", site=sites(systems)[1])
    injected(estate)
    AirflowApi(api.url, "ada", estate.passwords["ada"]).set_run_state("run_drill", run, "failed")
    await_(lambda: not open_injections(estate.home), 2 * MINUTES, "the return of the site's processes")
    (undone,) = (one for one in [find_injection(estate.home, run)] if one)
    assert undone.undone_by in {"restore_site", "record_drill"}  # the latter where lose_site was still at work
    assert undone.undone_at
    assert undone.undone_at < undone.expires_at
    assert ended(api, run) == "failed"
    facts = evidence_of(systems, run)
    assert (facts["outcome"], facts["verdicts"]["rpo"]) == ("measured", "unknown")
    assert facts["verdict"] != "met"
    assert "await_recovery" in facts["problem"]
    assert systems.ledger().current_lease("drill") is None
    everything_open(systems)


def asked(api: AirflowApi, run: str, dag: str = "run_drill", task: str = "approve_drill", index: int = -1) -> None:
    """Wait until a person is asked, and can have read it.

    An answer in the same second as the question can find the task half parked, and Airflow then fails its try.
    """
    name = task if index < 0 else f"{task}[{index}]"
    await_(lambda: api.task_states(dag, run).get(name) == "awaiting_input", 2 * MINUTES, "the question")
    parked = time.monotonic()
    await_(lambda: time.monotonic() - parked > 3, MINUTES, "reading the question")


@pytest.mark.soak  # over two minutes of a failover that cannot succeed; its decision has unit tests
def test_the_loss_of_the_other_site_during_a_failover_moves_nothing_and_ends_the_drill(estate: Estate) -> None:
    ready(estate)
    systems = estate.systems
    api, ledger = airflow_api(systems), systems.ledger()
    active, standby = sites(systems)
    before = ledger.head().seq
    run = start_drill(api, scenario="site-loss", service="arrival-delay", site=active)
    await_(
        lambda: any(loss.seq > before for loss in ledger.records(kind="loss", subject=active, limit=1)),
        2 * MINUTES,
        "the declared loss",
    )
    systems.control(standby).lose()
    try:
        await_(lambda: open_injections(estate.home) == [], 3 * MINUTES, "the drill's end of its fault")
        undone = find_injection(estate.home, run)
        assert undone
        assert undone.undone_by in {"abort", "restore_site"}
        assert undone.undone_at
        assert undone.undone_at < undone.expires_at, "survivors fell below the declared rate: restored at once"

        def outcomes() -> list[str]:
            kinds = ("failover", "human-task")
            found = [one for kind in kinds for one in ledger.records(kind=kind, subject="arrival-delay", limit=1)]
            return [one.facts.get("outcome", "asks") for one in found if one.seq > before]

        # Refused where the loss was seen before the decision, else a person is asked; the drill may end sooner.
        stopped = await_(outcomes, MINUTES, "the failover's end")
        assert set(stopped) <= {"failed", "refused", "asks"}
        assert systems.gateway().state().active["arrival-delay"] == (active,), "no traffic to a site that is gone"
        # The drilled site comes back alone: the other one is declared lost, and users are served again.
        await_(lambda: systems.gateway().state().closed_sites == {standby}, 5 * MINUTES, "the return of one site")
        await_(lambda: bad_answers(estate) == 0, 2 * MINUTES, "good answers")
    finally:
        systems.control(standby).restore()
    everything_open(systems)
    assert ended(api, run) == "failed"
    facts = evidence_of(systems, run)
    assert facts["outcome"] == "measured"
    assert facts["verdict"] != "met"
    assert "await_recovery failed" in facts["problem"]
    assert estate.json("evidence", "verify")["verdict"] == "whole"


@pytest.mark.soak  # four minutes, most of them until Airflow finds out that its worker is gone
def test_with_worker_scheduler_and_prober_killed_the_site_comes_back_and_the_verdict_is_unknown(estate: Estate) -> None:
    ready(estate)
    systems = estate.systems
    api = airflow_api(systems)
    run = start_drill(api, scenario="site-loss", service="late-arrival", site=sites(systems)[1])
    injected(estate)
    estate.kill("airflow-scheduler")
    # Kept dead for longer than the RTO of 5 s: nobody can say what users felt then.
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        estate.kill("prober")
    kill_worker_of(estate, run, "restore_site")
    await_(lambda: not open_injections(estate.home), 7 * MINUTES, "the return of the site's processes")
    assert ended(api, run, within=10 * MINUTES) == "failed", "unknown is never met"
    facts = evidence_of(systems, run)
    assert facts["outcome"] == "measured"
    assert facts["felt"]["late-arrival"]["unknown"] > 0
    assert facts["verdicts"]["rto"] == "unknown"
    assert facts["verdict"] == "unknown"
    everything_open(systems)
    assert estate.json("evidence", "verify")["verdict"] == "whole"


def kill_worker_of(estate: Estate, run: str, task: str) -> None:
    """Kill -9 the worker in the middle of a task, and the task's own process with it."""
    client, path = signed_in(estate, "ada"), f"/api/v2/dags/run_drill/dagRuns/{run}/taskInstances/{task}"
    found = await_(
        lambda: client.get(path).raise_for_status().json()["state"] == "running" and workers_of(client.get(path)),
        5 * MINUTES,
        f"{task} at work",
    )
    for process in found:
        for each in (*process.children(recursive=True), process):
            each.kill()


def workers_of(instance: httpx.Response) -> list[psutil.Process]:
    """A worker's title names the task instance that it works on."""
    name = str(instance.json()["id"])
    return [one for one in psutil.process_iter(["cmdline"]) if name in " ".join(one.info["cmdline"] or ())]
