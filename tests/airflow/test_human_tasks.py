"""A step that stops asks a person and is tried again; only Airflow's own record of an answer counts."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from airflow.api_fastapi.execution_api.datamodels.hitl import HITLDetailRequest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskAwaitingInput
from support.processes import ROOT
from support.two_sites import Systems

from ninelives.adapters.ledger import migrate
from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.human_task import MendedByPeopleOperator, ToldToPeopleOperator

pytestmark = pytest.mark.airflow
NO = Refused("gate", ["no"])


class Step(MendedByPeopleOperator):
    """A step of a failover that stops at ``error``, if any."""

    error: NinelivesError | None = NO
    moved = False
    gave_back = 0

    def act(self, systems: EstateHook, context: Any) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"verdict": "pass"}

    def concerns(self, systems: EstateHook, context: Any) -> tuple[tuple[str, ...], str | None]:
        return (() if self.moved else ("arrival-delay",)), "dublin"

    def let_go(self, systems: EstateHook) -> None:
        self.gave_back += 1


class Record(BaseHTTPRequestHandler):
    """Airflow's own record of the answer."""

    answer: dict[str, Any] | None

    def do_POST(self) -> None:
        self.say(201, {"access_token": "token"})

    def do_GET(self) -> None:
        assert self.path == "/api/v2/dags/fail_over/dagRuns/run-1/taskInstances/verify_data/0/hitlDetails"
        self.say(200 if self.answer else 404, {"response_received": True, **(self.answer or {})})

    def say(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class World:
    def __init__(self, record: type[Record]) -> None:
        self.record, self.step = record, Step(task_id="verify_data")
        self.asked: list[dict[str, Any]] = []

    def context(self, tries: int = 2) -> Any:
        ti = SimpleNamespace(id="1", map_index=0, try_number=tries, max_tries=1)
        return {"run_id": "run-1", "dag": SimpleNamespace(dag_id="fail_over"), "ti": ti}

    def stops(self) -> TaskAwaitingInput:
        with pytest.raises(TaskAwaitingInput) as parked:
            self.step.execute(self.context())
        assert parked.value.method_name == "execute_complete"
        return parked.value

    def answer(self, choice: str, name: str | None, event: dict[str, Any] | None = None) -> Any:
        """Somebody answers in Airflow, and the task goes on; ``id`` is a number under one auth manager."""
        user = {"id": "17", "name": name} if name else None
        at = datetime.now(UTC).isoformat()
        self.record.answer = {"chosen_options": [choice], "responded_by_user": user, "responded_at": at}
        return self.step.execute_complete(self.context(), event or {"chosen_options": [choice]})

    def told(self) -> list[tuple[str, str | None]]:
        records = EstateHook().ledger().records(kind="human-task")
        return [(record.facts["state"], record.facts.get("by")) for record in reversed(records)]


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ledger") / "ledger.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def world(empty_ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The demo's estate, where ada operates and grace approves, a ledger in a file, and Airflow's API."""
    given = type("Given", (Record,), {"answer": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), given)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    declared = (ROOT / "include" / "estates" / "demo" / "estate.yaml").read_text()
    (tmp_path / "estate.yaml").write_text(declared)
    shutil.copy(empty_ledger, tmp_path)
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: Systems.ledger(hook))
    monkeypatch.setenv("NINELIVES_HOME", str(tmp_path))
    monkeypatch.setenv("NINELIVES_ESTATE", str(tmp_path / "estate.yaml"))
    api = {"conn_type": "http", "host": "127.0.0.1", "port": server.server_port, "login": "ninelives"}
    monkeypatch.setenv("AIRFLOW_CONN_NINELIVES_AIRFLOW_API", json.dumps(api))
    world = World(given)

    def asked(ti_id: str, **given: Any) -> None:
        # What Airflow's server would take of it, or refuse.
        HITLDetailRequest.model_validate({"ti_id": uuid4(), "defaults": None, "multiple": False, **given})
        world.asked.append(given)

    monkeypatch.setattr("ninelives_airflow.operators.human_task.upsert_hitl_detail", asked)
    yield world
    server.shutdown()
    server.server_close()


def test_a_step_that_is_well_asks_nobody(world: World) -> None:
    world.step.error = None
    assert world.step.execute(world.context()) == {"verdict": "pass"}
    assert (world.asked, world.told()) == ([], [])


@pytest.mark.parametrize("error", [NO, Unavailable("no replica got ready"), Corrupted("rotten")])
def test_a_stopped_step_asks_the_operators_with_a_deadline_and_holds_nothing_meanwhile(
    world: World, error: NinelivesError
) -> None:
    world.step.error = error
    parked = world.stops()
    assert timedelta(minutes=59) < parked.timeout <= timedelta(hours=1)
    (asked,) = world.asked
    assert asked["subject"] == "fail_over stopped at verify data of arrival-delay: what now?"
    assert asked["options"] == ["Done, go on", "Give up"]
    assert asked["assigned_users"] == [{"id": "ada", "name": "ada"}]
    assert "defaults" not in asked, "silence is no answer"
    assert str(error) in asked["body"]
    assert "ninelives replicate run flights --to dublin" in asked["body"]
    assert world.step.gave_back == 1


def test_the_persons_word_is_not_the_proof_the_step_is_tried_again_and_asks_again(world: World) -> None:
    world.stops()
    with pytest.raises(TaskAwaitingInput):
        world.answer("Done, go on", "ada")
    world.step.error = None
    assert world.answer("Done, go on", "ada") == {"verdict": "pass"}
    assert world.told() == [("open", None), ("done", "ada"), ("open", None), ("done", "ada")]


def test_who_gives_up_is_named_and_the_step_fails_for_good(world: World) -> None:
    world.stops()
    with pytest.raises(AirflowFailException, match="ada gave up"):
        world.answer("Give up", "ada")
    assert world.told()[-1] == ("given up", "ada")


@pytest.mark.parametrize("name", ["grace", "mallory", None])
def test_who_does_not_operate_the_estate_can_neither_end_the_run_nor_open_anything(
    world: World, name: str | None
) -> None:
    world.stops()
    for choice in ("Give up", "Done, go on"):
        with pytest.raises(TaskAwaitingInput):
            world.answer(choice, name)
        assert world.told()[-2] == ("not accepted", name)


@pytest.mark.parametrize(
    "event",
    [
        {"error": "late", "error_type": "timeout"},
        {"chosen_options": ["Done, go on"], "responded_by_user": {"id": "ada", "name": "ada"}},  # forged: no record
    ],
)
def test_no_answer_in_the_record_is_a_failure_whatever_the_task_was_told(world: World, event: dict[str, Any]) -> None:
    world.stops()
    world.step.error = None  # not even then: nobody has said so
    with pytest.raises(AirflowFailException, match="silence is no answer"):
        world.step.execute_complete(world.context(), event)
    assert world.told()[-1] == ("late", None)


def test_what_may_succeed_on_a_second_try_is_tried_before_anybody_is_asked(world: World) -> None:
    world.step.error = Unavailable("away")
    with pytest.raises(AirflowException, match="away") as failed:
        world.step.execute(world.context(tries=1))
    assert not isinstance(failed.value, AirflowFailException)
    assert world.asked == []


@pytest.mark.parametrize(
    "change",
    [
        {"error": Refused("approval", ["grace answered Reject"])},
        {"moved": True},  # somebody has moved the service: there is nothing to mend
    ],
)
def test_what_no_person_can_mend_fails_at_once(world: World, change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(world.step, name, value)
    with pytest.raises(AirflowFailException):
        world.step.execute(world.context())
    assert (world.asked, world.told()) == ([], [])


def test_an_estate_that_asks_nobody_has_its_failure_at_once(world: World, tmp_path: Path) -> None:
    document = yaml.safe_load((tmp_path / "estate.yaml").read_text())
    document["recovery"]["answer_within"] = None
    (tmp_path / "estate.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(AirflowFailException, match="gate: no"):
        world.step.execute(world.context())
    assert world.asked == []


def test_a_failure_stays_the_failure_where_nobody_can_be_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: EstateHook) -> None:
        raise Unavailable("the ledger does not answer")

    monkeypatch.setattr(EstateHook, "ledger", away)
    with pytest.raises(AirflowFailException, match="gate: no"):
        world.step.execute(world.context())


def test_where_airflow_knows_its_users_by_number_anybody_may_answer_and_the_name_decides(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fab = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", fab)
    world.stops()
    assert world.asked[0]["assigned_users"] == []
    with pytest.raises(TaskAwaitingInput):
        world.answer("Give up", "grace")
    with pytest.raises(AirflowFailException, match="ada gave up"):
        world.answer("Give up", "ada")


class Copy(ToldToPeopleOperator):
    """One step of a run that comes again by itself."""

    error: NinelivesError | None = None

    def act(self, systems: EstateHook, context: Any) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"copied": 1}

    def brings(self) -> tuple[str, str, int]:
        return "flights", "dublin", 1


def test_a_copy_that_is_refused_is_told_once_waits_for_nobody_and_is_over_when_it_gets_through(world: World) -> None:
    step = Copy(task_id="replicate_dataset")
    for error in (Refused("replication of flights to dublin", ["600 of 900 objects are gone"]), Corrupted("disk full")):
        step.error = error
        with pytest.raises(AirflowFailException, match=str(error)):
            step.execute(world.context())
    assert (world.asked, world.told()) == ([], [("open", None)])
    (told,) = EstateHook().ledger().records(kind="human-task")
    assert told.facts["services"] == ["arrival-delay", "late-arrival"]
    step.error = None
    assert step.execute(world.context()) == {"copied": 1}
    assert step.execute(world.context()) == {"copied": 1}
    assert world.told() == [("open", None), ("done", None)]


@pytest.mark.parametrize("error", [Unavailable("away"), Refused("lease reconcile:flights", ["another run holds it"])])
def test_what_passes_by_itself_is_told_to_nobody(world: World, error: NinelivesError) -> None:
    step = Copy(task_id="replicate_dataset")
    step.error = error
    with pytest.raises(AirflowException):
        step.execute(world.context())
    assert world.told() == []
