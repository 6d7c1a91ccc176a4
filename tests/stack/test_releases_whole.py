"""Promotions and experiments as whole runs: asked for as deployment tooling does, approved by another, under load.

Everything here is ``make soak``: one estate with Airflow for the file. What gets around the approval is tried as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from support.estate import MINUTES, await_
from support.release_estate import (
    Flights,
    ReleaseEstate,
    answer,
    asked,
    clear,
    ended,
    flaky,
    forge,
    release_estate,
    same,
)

from ninelives.adapters.airflow_api import AirflowApi
from ninelives.errors import Refused
from ninelives.experiments import run as experiments
from ninelives.experiments.journal import Entry
from ninelives.releases.journal import Journal, Outcome, read

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1500)]

DAG, APPROVE = "promote_model", "approve_promotion"
ARRIVAL, LATE = "arrival-delay", "late-arrival"
FORGED = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": {"id": "grace", "name": "grace"}}


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseEstate]:
    with release_estate(tmp_path_factory.mktemp("releases")) as running:
        yield running


def users(estate: ReleaseEstate, service: str = ARRIVAL) -> Flights:
    flight = dict(estate.systems.estate.service_by_name[service].golden[0].inputs)
    url = estate.systems.connections.get("ninelives_gateway").extra["url"]
    return Flights(url, service=service, flight=flight)


def ask(estate: ReleaseEstate, person: str, service: str, version: str, **more: Any) -> tuple[int, str]:
    """The documented request of deployment tooling; the answer's status, and the run's id."""
    api, run = estate.of(person).url, f"promote-{service}-{version}"
    login = {"username": person, "password": estate.passwords[person]}
    token = httpx.post(f"{api}/auth/token", json=login).raise_for_status().json()["access_token"]
    conf = {"service": service, "version": version, **more}
    asked = httpx.post(
        f"{api}/api/v2/dags/{DAG}/dagRuns", headers={"Authorization": f"Bearer {token}"}, timeout=60,
        json={"dag_run_id": run, "logical_date": None, "conf": conf},
    )  # fmt: skip
    return asked.status_code, run


def came_to(estate: ReleaseEstate, service: str, version: str) -> tuple[int, str]:
    """What the command says of a run that is over: its exit code, and the outcome."""
    command = ["release", "promote", service, "--version", version, "--json", "--as", "ada"]
    done = estate.run(*command, typed=estate.passwords["ada"] + "\n")
    return done.returncode, json.loads(done.stdout)["outcome"]


def journal_of(estate: ReleaseEstate, service: str) -> Journal:
    return read(estate.systems.ledger(), service)[-1]


def nothing_moved(estate: ReleaseEstate, service: str, version: str) -> None:
    """Whatever was tried: the version answers nobody, and no replica has it."""
    systems = estate.systems
    assert service not in systems.gateway().state().versions
    for site in systems.estate.service_by_name[service].sites:
        assert all(version not in one.attempts(service).loaded for one in systems.replicas(site))
    assert estate.served(service)[0] != version
    assert systems.registry().champion(service) != version


def test_a_promotion_is_asked_for_twice_approved_by_another_comes_in_under_load_and_the_old_version_retires(
    estate: ReleaseEstate, tmp_path: Path
) -> None:
    old, ada = estate.served(ARRIVAL)[0], estate.of("ada")
    new = estate.stage(ARRIVAL, same("a good one"), tmp_path)
    with users(estate) as load:
        first, second = ask(estate, "ada", ARRIVAL, new), ask(estate, "ada", ARRIVAL, new)
        run = first[1]
        assert (first[0], second) == (200, (409, run)), "the same request twice is one run"
        command = ["release", "promote", ARRIVAL, "--version", new, "--no-wait", "--json"]
        again = estate.run(*command, "--as", "ada", typed=estate.passwords["ada"] + "\n")
        assert json.loads(again.stdout)["run"] == run, again.stderr
        nobody = estate.run(*command)
        assert (nobody.returncode, "--as USER" in nobody.stderr) == (1, True), nobody
        asked(ada, DAG, run, APPROVE)
        with pytest.raises(Refused, match="403"):
            ada.answer(DAG, run, APPROVE, "Approve")
        answer(estate.of("grace"), DAG, run, APPROVE, "Approve")
        state = ended(ada, DAG, run)
        assert state == "success", ada.task_states(DAG, run)
        began = len(load.outcomes)
        load.await_more(60)
    assert set(load.counts()) == {"good"}, load.counts()
    assert {version for _, _, version in load.outcomes[began + 20 :]} == {new}
    print(f"{sum(load.counts().values())} requests, {load.versions()}")
    systems, journal = estate.systems, journal_of(estate, ARRIVAL)
    assert (journal.plan.by, journal.outcome) == ("ada", Outcome.PROMOTED)
    assert journal.find("step", "approve").facts["found"] == {"approved_by": "grace"}  # type: ignore[union-attr, arg-type]
    assert (estate.served(ARRIVAL)[0], systems.registry().champion(ARRIVAL)) == (new, new)
    status = estate.json("release", "status", ARRIVAL)
    assert (status["shares"], status["run"]["by"]) == ({new: 100}, "ada")
    assert came_to(estate, ARRIVAL, new) == (0, "promoted")

    def retired() -> bool:
        run = ada.trigger("retire_versions", {}, f"retire-{uuid4()}")
        assert ended(ada, "retire_versions", run) == "success", ada.task_states("retire_versions", run)
        return journal_of(estate, ARRIVAL).retired

    await_(retired, 2 * MINUTES, f"the end of version {old}")
    assert ARRIVAL not in systems.gateway().state().versions
    for site in ("paris", "dublin"):
        assert all(old not in one.attempts(ARRIVAL).loaded for one in systems.replicas(site))


def test_a_rejected_promotion_ends_without_a_failure_and_moves_nothing(estate: ReleaseEstate, tmp_path: Path) -> None:
    ada, new = estate.of("ada"), estate.stage(ARRIVAL, same("not wanted"), tmp_path)
    _, run = ask(estate, "ada", ARRIVAL, new)
    answer(estate.of("grace"), DAG, run, APPROVE, "Reject")
    assert ended(ada, DAG, run) == "success", ada.task_states(DAG, run)
    assert ada.task_states(DAG, run)["judge_promotion"] == "skipped"
    nothing_moved(estate, ARRIVAL, new)
    assert journal_of(estate, ARRIVAL).ended.facts["why"] == "grace rejected it"  # type: ignore[union-attr]
    assert came_to(estate, ARRIVAL, new) == (3, "rolled back"), "a success of Airflow's, and none of the version's"


def test_what_nobody_could_approve_is_not_even_begun(estate: ReleaseEstate, tmp_path: Path) -> None:
    ada, new = estate.of("ada"), estate.stage(ARRIVAL, same("asked by nobody"), tmp_path)
    runs = len(read(estate.systems.ledger(), ARRIVAL))
    _, run = ask(estate, "ninelives", ARRIVAL, new)
    assert ended(ada, DAG, run) == "failed"
    assert ada.task_states(DAG, run)["begin_promotion"] == "failed"
    assert len(read(estate.systems.ledger(), ARRIVAL)) == runs


def test_who_asked_can_neither_approve_nor_mark_and_forge_an_approval(estate: ReleaseEstate, tmp_path: Path) -> None:
    grace, new = estate.of("grace"), estate.stage(ARRIVAL, same("grace's own"), tmp_path)
    _, run = ask(estate, "grace", ARRIVAL, new)
    asked(grace, DAG, run, APPROVE)
    with pytest.raises(Refused, match="403"):
        grace.answer(DAG, run, APPROVE, "Approve")
    forge(grace, DAG, run, APPROVE, FORGED)
    assert ended(grace, DAG, run) == "failed"
    states = grace.task_states(DAG, run)
    assert (states[APPROVE], states["warm_up"], states["judge_promotion"]) == ("success", "failed", "failed")
    nothing_moved(estate, ARRIVAL, new)


def test_another_plan_written_under_a_question_is_not_what_was_approved(estate: ReleaseEstate, tmp_path: Path) -> None:
    ada = estate.of("ada")
    shown, other = (estate.stage(ARRIVAL, same(note), tmp_path) for note in ("what grace sees", "what ada wants"))
    _, run = ask(estate, "ada", ARRIVAL, shown)
    asked(ada, DAG, run, APPROVE)
    plan = journal_of(estate, ARRIVAL).plan.to_dict()
    forge(ada, DAG, run, "begin_promotion", {**plan, "new": other}, done=False)
    answer(estate.of("grace"), DAG, run, APPROVE, "Approve")
    assert ended(ada, DAG, run) == "failed"
    assert ada.task_states(DAG, run)["warm_up"] == "failed"
    for version in (shown, other):
        nothing_moved(estate, ARRIVAL, version)


def test_a_failing_version_goes_back_by_itself_and_clearing_its_run_brings_nothing_in(
    estate: ReleaseEstate, tmp_path: Path
) -> None:
    ada, new = estate.of("ada"), estate.stage(ARRIVAL, flaky, tmp_path)
    with users(estate) as load:
        _, run = ask(estate, "ada", ARRIVAL, new)
        answer(estate.of("grace"), DAG, run, APPROVE, "Approve")
        assert ended(ada, DAG, run) == "failed"
        load.await_more(60)
    states = ada.task_states(DAG, run)
    assert (states["try_on_users"], states["judge_promotion"]) == ("failed", "failed"), states
    assert set(load.counts()) == {"good"}, load.counts()
    journal = journal_of(estate, ARRIVAL)
    assert journal.outcome is Outcome.ROLLED_BACK
    nothing_moved(estate, ARRIVAL, new)
    clear(ada, DAG, run, "warm_up")
    assert ended(ada, DAG, run) == "failed"
    assert ada.task_states(DAG, run)["try_on_users"] == "failed", "the approval was for what is over"
    nothing_moved(estate, ARRIVAL, new)


def test_an_approval_that_is_cleared_while_users_are_divided_and_then_rejected_takes_them_back(
    estate: ReleaseEstate, tmp_path: Path
) -> None:
    ada, new = estate.of("ada"), estate.stage(ARRIVAL, same("asked twice"), tmp_path)
    with users(estate) as load:
        _, run = ask(estate, "ada", ARRIVAL, new)
        answer(estate.of("grace"), DAG, run, APPROVE, "Approve")
        divided = lambda: ARRIVAL in estate.systems.gateway().state().versions  # noqa: E731
        await_(divided, 2 * MINUTES, "users who see the new version")
        clear(ada, DAG, run, APPROVE)
        answer(estate.of("alan"), DAG, run, APPROVE, "Reject")
        assert ended(ada, DAG, run) == "success"
        load.await_more(40)
    assert set(load.counts()) == {"good"}, load.counts()
    states = ada.task_states(DAG, run)
    assert (states["try_on_users"], states["record_promotion"]) == ("skipped", "success"), states
    nothing_moved(estate, ARRIVAL, new)
    assert journal_of(estate, ARRIVAL).outcome is Outcome.ROLLED_BACK


def test_labels_that_come_during_a_canary_take_back_a_version_whose_golden_answers_are_right(
    estate: ReleaseEstate, tmp_path: Path
) -> None:
    ada, old, new = estate.of("ada"), estate.served(LATE)[0], estate.stage(LATE, same("labels say worse"), tmp_path)
    with users(estate, LATE) as load:
        _, run = ask(estate, "ada", LATE, new)
        answer(estate.of("grace"), DAG, run, APPROVE, "Approve")
        await_(lambda: LATE in estate.systems.gateway().state().versions, 2 * MINUTES, "a canary")
        number = 0

        def told() -> bool:
            nonlocal number
            number += 1
            batch = [{"version": old, "right": 190, "wrong": 10}, {"version": new, "right": 160, "wrong": 40}]
            file = tmp_path / "labels.json"
            file.write_text(json.dumps(batch))
            done = estate.run("release", "label", LATE, "--input", str(file), "--batch", f"batch-{number}")
            assert done.returncode == 0, done.stderr
            return ada.run_state(DAG, run) in {"success", "failed"}

        await_(told, 3 * MINUTES, "the way back")
    assert ada.run_state(DAG, run) == "failed"
    assert set(load.counts()) == {"good"}, load.counts()
    ended_ = journal_of(estate, LATE).find("ended", "back")  # type: ignore[arg-type]
    assert ended_
    why = ended_.facts["why"]
    assert re.search(r"quality: [34][^;]* times the baseline; worse beyond", why), why
    nothing_moved(estate, LATE, new)


# --- experiments -------------------------------------------------------------------------------------------------


def experiment(name: str, version: str) -> dict[str, Any]:
    target = {"name": "kept", "outcomes": f"outcomes/{name}/", "wanted": "increase", "matters": 0.1}
    return {
        "name": name, "service": LATE, "version": version, "exposure": "20%", "peak": 100, "until": "2099-12-31",
        "look_every": "1s", "stop_within": "1min", "target": target,
    }  # fmt: skip


def refused_form(api: AirflowApi, dag: str, conf: dict[str, Any]) -> str:
    with pytest.raises(Refused) as refused:
        api.trigger(dag, conf)
    return str(refused.value)


def test_an_experiment_is_stopped_at_once_by_its_guard_rail_and_its_report_is_linked_from_the_run(
    estate: ReleaseEstate, tmp_path: Path
) -> None:
    ada, new = estate.of("ada"), estate.stage(LATE, flaky, tmp_path)
    estate.declare(experiments=[experiment("failing", new)])
    with users(estate, LATE) as load:
        run = ada.trigger("run_experiment", {"experiment": "failing"}, f"failing-{uuid4()}")
        answer(estate.of("grace"), "run_experiment", run, "approve_experiment", "Approve")
        assert ended(ada, "run_experiment", run) == "failed"
        load.await_more(40)
    states = ada.task_states("run_experiment", run)
    assert [task for task, state in states.items() if state == "failed"] == ["judge_experiment"], states
    journal = experiments.journal_of(estate.systems, "failing")
    assert journal
    divided, over = journal.find(Entry.DIVIDED), journal.find(Entry.ENDED)
    assert divided
    assert over
    print(f"{(over.at - divided.at).total_seconds():.1f} s from the first user to the report")
    assert set(load.counts()) == {"good"}, load.counts()
    nothing_moved(estate, LATE, new)
    path = f"/api/v2/dags/run_experiment/dagRuns/{run}/taskInstances/return_users"
    links = ada._send("GET", f"{path}/links").json()["extra_links"]
    assert links["Report"].startswith("/ninelives/experiments/"), links
    page = ada._send("GET", links["Report"])
    assert "<svg" in page.text
    assert "errors" in page.text
    assert httpx.get(f"{ada.url}{links['Report']}").status_code in {401, 403}


def test_a_form_that_cannot_be_right_is_refused_before_there_is_a_run_and_a_wrong_name_says_which_there_are(
    estate: ReleaseEstate,
) -> None:
    ada = estate.of("ada")
    assert "param experiment: No value passed" in refused_form(ada, "run_experiment", {})
    assert "param experiment: '' should be non-empty" in refused_form(ada, "run_experiment", {"experiment": ""})
    assert "param version: 'latest' does not match" in refused_form(ada, DAG, {"service": ARRIVAL, "version": "latest"})
    run = ada.trigger("run_experiment", {"experiment": "no-such"}, f"wrong-{uuid4()}")
    assert ended(ada, "run_experiment", run) == "failed"
    log = ada._send("GET", f"/api/v2/dags/run_experiment/dagRuns/{run}/taskInstances/begin_experiment/logs/1")
    assert "no experiment 'no-such'" in log.text
