"""No traffic is sent back, and nothing broken, on an approval that Airflow's own record does not have."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from support.evidence import FolderStore
from support.processes import ROOT
from support.two_sites import Systems

from ninelives.adapters.ledger import migrate
from ninelives.injections import open_injections
from ninelives.recovery.safety import freeze
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.approval import FourEyesOperator, shown
from ninelives_airflow.operators.drill import ApproveDrillOperator, InjectFaultOperator, RecordDrillOperator
from ninelives_airflow.operators.failback import ApproveFailbackOperator, ShiftTrafficOperator

pytestmark = pytest.mark.airflow
PLAN = {
    "service": "arrival-delay", "dataset": "flights", "source": "dublin", "target": "paris", "holder": "run-1",
    "planned_at": datetime.now(UTC).isoformat(),
}  # fmt: skip


class Record(BaseHTTPRequestHandler):
    """Airflow's record of the answer, as its API gives it."""

    answer: dict[str, Any] | None

    def do_POST(self) -> None:
        self.say(201, {"access_token": "token"})

    def do_GET(self) -> None:
        assert self.path.endswith("/dagRuns/run-1/taskInstances/approve_failback/-1/hitlDetails") or self.path.endswith(
            "/dagRuns/run-1/taskInstances/approve_drill/-1/hitlDetails"
        )
        self.say(200 if self.answer else 404, {"response_received": True, **(self.answer or {})})

    def say(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Record]]:
    """An estate that asks for four eyes: ada operates, grace approves."""
    given = type("Given", (Record,), {"answer": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), given)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    declared = yaml.safe_load((ROOT / "include" / "estates" / "demo" / "estate.yaml").read_text())
    declared["recovery"] = {"failback": {"approval": "four-eyes"}}
    declared["drills"]["approval"] = "four-eyes"
    (tmp_path / "estate.yaml").write_text(json.dumps(declared))
    monkeypatch.setenv("NINELIVES_HOME", str(tmp_path))
    monkeypatch.setenv("NINELIVES_ESTATE", str(tmp_path / "estate.yaml"))
    api = {"conn_type": "http", "host": "127.0.0.1", "port": server.server_port, "login": "ninelives"}
    monkeypatch.setenv("AIRFLOW_CONN_NINELIVES_AIRFLOW_API", json.dumps(api))
    yield given
    server.shutdown()
    server.server_close()


def context(asked_by: str | None) -> Any:
    run = SimpleNamespace(triggering_user_name=asked_by, run_type="manual")
    ti = SimpleNamespace(id="1", map_index=-1, try_number=1, max_tries=0)
    return {"run_id": "run-1", "dag": SimpleNamespace(dag_id="fail_back"), "dag_run": run, "ti": ti}


def shift(asked_by: str | None = "ada") -> Any:
    return ShiftTrafficOperator(task_id="shift_traffic", plan=PLAN).execute(context(asked_by))


def answered(choice: str, name: str | None, **seen: Any) -> dict[str, Any]:
    """What somebody answered who saw the plan, with these differences."""
    user = {"id": name, "name": name} if name else None
    at = datetime.now(UTC).isoformat()
    return {"chosen_options": [choice], "responded_by_user": user, "responded_at": at, "body": shown(PLAN | seen)}


@pytest.mark.parametrize(
    ("answer", "asked_by", "why"),
    [
        (None, "ada", "a task marked as done is not an approval"),  # patched to success, or its XCom forged
        (answered("Approve", None), "ada", "a task marked as done is not an approval"),
        (answered("Reject", "grace"), "ada", "grace answered Reject"),
        (answered("Approve", "ada"), "ada", "four eyes"),
        (answered("Approve", "grace"), "grace", "nobody but grace may approve"),
        (answered("Approve", "grace"), "ninelives", "the estate's own account"),
        (answered("Approve", "grace"), None, "Nobody is named"),
        (answered("Approve", "grace", service="late-arrival"), "ada", "another plan"),  # its XCom forged
        (answered("Approve", "grace", planned_at="2026-11-25"), "ada", "another plan"),  # planned anew: cleared
    ],
)
def test_nothing_is_shifted_without_the_answer_of_somebody_else_who_may(
    record: type[Record], answer: dict[str, Any] | None, asked_by: str | None, why: str
) -> None:
    record.answer = answer
    with pytest.raises(AirflowFailException, match=why):
        shift(asked_by)


def test_with_the_answer_of_an_approver_the_failback_begins(record: type[Record]) -> None:
    record.answer = answered("Approve", "grace")
    with pytest.raises(Exception, match="ninelives_ledger"):
        shift()


def test_an_approval_is_good_once_a_run_that_is_over_is_not_done_again(
    record: type[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever clears the task alone, weeks later perhaps, finds the old answer still there."""
    migrate(f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: Systems.ledger(hook))
    over = EstateHook().ledger().append("failback", PLAN["service"], {}, once=f"failback/{PLAN['service']}/run-1")
    record.answer = answered("Approve", "grace")
    with pytest.raises(AirflowFailException, match=f"ended with evidence {over.seq}, .* good once"):
        shift()


def test_a_drill_that_was_approved_hours_ago_is_not_begun_where_something_speaks_against_it_now(
    record: type[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: Systems.ledger(hook))
    gateway = {"folder": str(tmp_path / "gateway"), "url": "http://127.0.0.1:9", "admin": "http://127.0.0.1:9"}
    connections = {"gateway": gateway, "paris_replicas": {"urls": []}, "dublin_replicas": {"urls": []}}
    for name, extra in connections.items():
        given = json.dumps({"conn_type": "generic", "extra": extra})
        monkeypatch.setenv(f"AIRFLOW_CONN_NINELIVES_{name.upper()}", given)
    hook = EstateHook()
    hook.gateway().initialise()  # type: ignore[attr-defined]
    plan = {"id": "run-1", "scenario": "registry-lost", "service": "arrival-delay", "site": "", "fingerprint": ""}
    record.answer = {**answered("Approve", "grace"), "body": shown(plan)}
    freeze(hook.ledger(), hook.estate, reason="network works", by="ada", lasting=timedelta(hours=1))
    with pytest.raises(AirflowFailException, match="automation is frozen by ada"):
        InjectFaultOperator(task_id="lose_site", plan=plan).execute(context("ada"))
    (refused,) = hook.ledger().records(kind="drill")
    assert refused.facts["outcome"] == "refused"
    assert open_injections(hook.home) == []
    monkeypatch.setattr(EstateHook, "stores", lambda _: {"paris": FolderStore("paris", tmp_path / "store")})
    step = RecordDrillOperator(task_id="record_drill", plan=plan, data_loss=None)
    states = {"lose_site": "failed", "await_recovery": "upstream_failed"}
    monkeypatch.setattr("ninelives_airflow.operators.drill.state_of", lambda _, task: states.get(task))
    found = step.execute(context("ada"))
    assert isinstance(found, dict)
    assert (found["evidence"], found["verdict"]) == (refused.seq, "unknown")
    assert "automation is frozen by ada" in found["problem"]


@pytest.mark.parametrize("kind", [ApproveFailbackOperator, ApproveDrillOperator])
def test_only_others_than_who_asked_are_asked_and_the_estates_own_account_is_nobody(
    record: type[Record], kind: type[FourEyesOperator]
) -> None:
    ask = kind(task_id="approve", subject="Go?", plan=PLAN)
    with pytest.raises(AirflowFailException, match="--as USER"):
        ask.execute(context("ninelives"))
    with pytest.raises(AirflowFailException, match="nobody but grace may approve"):
        ask.execute(context("grace"))
