"""Whole DAG files, run by Airflow's own ``dag.test()``: by hand, and as the calendar starts them.

For tests of the wiring: every task runs, hands on through XCom and ends in the state that Airflow gives it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pendulum
from support.fab import ENVIRONMENT, make_users
from support.processes import ROOT, Process, free_port, stopping, wait_until

from ninelives.adapters.airflow_api import AirflowApi

PASSWORD = "for these tests only"


@dataclass(frozen=True)
class Run:
    id: str
    type: str
    state: str
    tasks: dict[str, str | None]
    """Task id, for a mapped task with its index in brackets, to state."""
    outputs: dict[str, Any]
    """What they returned."""

    @property
    def failed(self) -> list[str]:
        return sorted(task for task, state in self.tasks.items() if state == "failed")


def make_database() -> None:
    """Airflow's, once per process; the file is in the folder that the tests' conftest made."""
    from airflow import settings
    from airflow.utils.db import initdb

    if not Path(str(settings.engine.url.database)).exists():
        initdb()


def run_by_hand(
    dag_id: str, conf: Mapping[str, Any] | None = None, folder: Path = ROOT / "dags", *, by: str = "dag_test"
) -> Run:
    """As a person starts it, with a form where it has one.

    :param by: who; of itself ``dag.test()`` has one name for everybody
    """
    from airflow.models.dagrun import get_or_create_dagrun

    def create(**given: Any) -> Any:
        return get_or_create_dagrun(**{**given, "triggering_user_name": by})

    bundle = {"name": folder.name, "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundles = json.dumps([{**bundle, "kwargs": {"path": str(folder)}}])
    with (
        patch.dict(os.environ, {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": bundles}),
        patch("airflow.models.dagrun.get_or_create_dagrun", create),
    ):
        return _seen(_dag(dag_id, folder).test(run_conf=dict(conf) if conf else None))


def run_cleared(dag_id: str, run_id: str, task_id: str, folder: Path = ROOT / "dags") -> str:
    """A task of a run that was cleared, as the scheduler would start it again; the state in which it ends."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk.definitions.dag import _run_task
    from airflow.utils.session import create_session

    def instance() -> Any:
        with create_session() as session:
            found = session.query(TaskInstance).filter_by(dag_id=dag_id, run_id=run_id, task_id=task_id).one()
            session.expunge_all()
            return found

    ti = instance()
    assert ti.state is None, "it was cleared"
    _run_task(ti=ti, task=_dag(dag_id, folder).task_dict[task_id], run_triggerer=True)
    return str(instance().state)


def run_by_calendar(dag_id: str) -> Run:
    """As the scheduler starts it: run type, id and data interval are the timetable's, nobody is named, no form."""

    def create(*, dag: Any, run_after: Any, session: Any, **_: Any) -> Any:
        from airflow.models.dagrun import DagRun
        from airflow.timetables.base import DataInterval, TimeRestriction
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        kind = DagRunType.SCHEDULED
        before = DagRun.find(dag_id=dag.dag_id, run_type=kind, session=session)
        newest = max(before, key=lambda run: run.run_after, default=None)
        ends = newest and (pendulum.instance(at) for at in (newest.data_interval_start, newest.data_interval_end))
        due = getattr(dag.timetable, "timetable", dag.timetable).next_dagrun_info(
            last_automated_data_interval=ends and DataInterval(*ends),
            restriction=TimeRestriction(run_after.subtract(days=40), None, catchup=True),
        )
        return dag.create_dagrun(
            run_id=dag.timetable.generate_run_id(
                run_type=kind, run_after=due.run_after, data_interval=due.data_interval
            ),
            run_type=kind, logical_date=due.logical_date, data_interval=due.data_interval, run_after=due.run_after,
            start_date=run_after, state=DagRunState.RUNNING, triggered_by=DagRunTriggeredByType.TIMETABLE,
            session=session,
        )  # fmt: skip

    with patch("airflow.models.dagrun.get_or_create_dagrun", create):  # the one thing that it makes for hands only
        return _seen(_dag(dag_id).test())


def _dag(dag_id: str, folder: Path = ROOT / "dags") -> Any:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(folder / f"{dag_id}.py"))
    assert bag.import_errors == {}
    return bag.dags[dag_id]


def _seen(run: Any) -> Run:
    def name(index: int, task_id: str) -> str:
        return task_id if index < 0 else f"{task_id}[{index}]"

    tasks = run.get_task_instances()
    outputs = {name(one.map_index, one.task_id): one.xcom_pull(one.task_id, map_indexes=one.map_index) for one in tasks}
    states = {name(one.map_index, one.task_id): one.state and str(one.state) for one in tasks}
    return Run(run.run_id, str(run.run_type), str(run.state), states, outputs)


class Api:
    """Airflow's API server beside the runs, for answers that only it can take."""

    def __init__(self, folder: Path, people: tuple[str, ...], *, fab: bool = False) -> None:
        self.fab = fab
        if fab:
            make_users(PASSWORD, *people, "ninelives")
        passwords = folder / "airflow-passwords.json"
        passwords.write_text(json.dumps(dict.fromkeys((*people, "ninelives"), PASSWORD)))
        self.port = free_port()
        self.process = Process(
            [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(self.port),
             "--workers", "1"],
            folder / "api-server.log",
            {
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{one}:op" for one in (*people, "ninelives")),
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
                "AIRFLOW__API_AUTH__JWT_SECRET": "for these tests only " * 4,
                "PYTHONPATH": os.pathsep.join(sys.path),
                **(ENVIRONMENT if fab else {}),
            },
        )  # fmt: skip

    @property
    def connection(self) -> dict[str, Any]:
        """The estate's own account."""
        return {"conn_type": "http", "host": "127.0.0.1", "port": self.port, "login": "ninelives", "password": PASSWORD}

    def of(self, person: str) -> AirflowApi:
        return AirflowApi(f"http://127.0.0.1:{self.port}", person, PASSWORD)

    def answers(self) -> bool:
        self.of("ninelives").dag_ids()
        return True


@contextmanager
def api_server(folder: Path, *people: str, fab: bool = False) -> Iterator[Api]:
    api = Api(folder, people, fab=fab)
    with stopping(api.process):
        api.process.start()
        wait_until(api.answers, "Airflow's API answers", timeout=90, every=0.3)
        yield api


class Person:
    """Somebody at the screen: answers each question of the DAG once, as soon as it waits for an answer."""

    def __init__(self, api: Api, name: str, dag_id: str, choice: str) -> None:
        self.api, self.dag_id, self.choice = api.of(name), dag_id, choice
        self.answered: list[str] = []
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._sit)

    def __enter__(self) -> Person:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._thread.join()

    def _sit(self) -> None:
        path = f"/api/v2/dags/{self.dag_id}/dagRuns"
        while not self._gone.wait(0.5):
            asked = self.api._send("GET", f"{path}/~/hitlDetails", params={"response_received": False}).json()
            for one in (question["task_instance"] for question in asked["hitl_details"]):
                if one["state"] == "awaiting_input":
                    task = f"{path}/{one['dag_run_id']}/taskInstances/{one['task_id']}/{one['map_index']}"
                    body = {"chosen_options": [self.choice], "params_input": {}}
                    self.api._send("PATCH", f"{task}/hitlDetails", json=body)
                    self.answered.append(one["task_id"])


Act = Callable[[AirflowApi, str], object]


@contextmanager
def meanwhile(api: Api, *acts: tuple[str, Act], dag: str = "fail_over") -> Iterator[None]:
    """Each time that the run waits for a person, the next of these acts, signed in as who they are."""
    wrong: list[BaseException] = []
    gone, left = threading.Event(), list(acts)

    def sit() -> None:
        estate, runs = api.of("ninelives"), f"/api/v2/dags/{dag}/dagRuns"
        while left and not (gone.wait(0.5) or wrong):
            asked = estate._send("GET", f"{runs}/~/hitlDetails", params={"response_received": False}).json()
            for one in (question["task_instance"] for question in asked["hitl_details"]):
                if one["state"] == "awaiting_input":
                    person, act = left.pop(0)
                    try:
                        task = f"{one['dag_run_id']}/taskInstances/{one['task_id']}/{one['map_index']}"
                        act(api.of(person), f"{runs}/{task}")
                    except BaseException as error:
                        wrong.append(error)
                        estate._send("PATCH", f"{runs}/{one['dag_run_id']}", json={"state": "failed"})
                        break

    thread = threading.Thread(target=sit, daemon=True)
    thread.start()
    try:
        yield
    finally:
        gone.set()
        thread.join()
    assert (wrong, left) == ([], [])


def answer(choice: str) -> Act:
    body = {"chosen_options": [choice], "params_input": {}}
    return lambda api, task: api._send("PATCH", f"{task}/hitlDetails", json=body)


def forge(api: AirflowApi, task: str) -> None:
    """What anybody who may edit the DAG can write: that the task is done, and an answer that nobody gave."""
    task = task.removesuffix("/-1")
    api._send("PATCH", task, json={"new_state": "success"})
    forged = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": {"id": "grace"}}
    api._send("POST", f"{task}/xcomEntries", json={"key": "return_value", "value": forged})


def environment(home: Path, connections: Mapping[str, Any], setenv: Callable[[str, str], None]) -> None:
    """Where the tasks of this process find their estate."""
    setenv("NINELIVES_HOME", str(home))
    setenv("NINELIVES_ESTATE", str(home / "estate.yaml"))
    for conn_id, connection in connections.items():
        setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
