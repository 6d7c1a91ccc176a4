"""The steps of ``reconcile_sites`` on two real stores: what needs nobody is merged, a person is asked about the rest,
and only Airflow's own record of an answer decides.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput
from support.postgres import postgres
from support.processes import ROOT, GatewayProcess, SiteProcesses, stopping

from ninelives.adapters.ledger import migrate
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.estate import load_estate
from ninelives.replication.manifest import BUCKET, build_manifest, read_manifest, scan, write_manifest
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators import reconcile

pytestmark = [pytest.mark.airflow, pytest.mark.stack]

ESTATE = ROOT / "include" / "estates" / "demo" / "estate.yaml"
RUN = "scheduled__2026-01-31"
PAIR = {"dataset": "flights", "site": "paris", "other": "dublin"}


class Answers(BaseHTTPRequestHandler):
    """Airflow's records of answers, as its API gives them: ``given`` by map index."""

    given: dict[int, dict[str, Any]]

    def do_POST(self) -> None:
        self.say(201, {"access_token": "token"})

    def do_GET(self) -> None:
        *_, dag, _, run, _, task, index, _ = self.path.split("/")
        asked = (dag, run, task) == ("reconcile_sites", RUN, "decide.ask_question")
        answer = self.given.get(int(index)) if asked else None
        self.say(200 if answer else 404, {"response_received": True, **(answer or {})})

    def say(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class World:
    def __init__(self, stores: dict[str, S3ObjectStore], answers: type[Answers], gateway: GatewayProcess) -> None:
        self.stores, self.answers, self.gateway = stores, answers, gateway

    def answer(self, index: int, choice: str, name: str | None) -> None:
        user = {"id": name, "name": name} if name else None
        at = datetime.now(UTC).isoformat()
        self.answers.given[index] = {"chosen_options": [choice], "responded_by_user": user, "responded_at": at}

    def write(self, site: str, **objects: bytes) -> None:
        store = self.stores[site]
        for name, data in objects.items():
            store.put(BUCKET, f"flights/{name}", data)
        before = read_manifest(store, "flights")
        listed = (before.by_key if before else {}) | {o.key: o for o in scan(store, "flights", None).objects}
        write_manifest(store, build_manifest("flights", listed.values(), datetime.now(UTC)))

    def read(self, name: str) -> list[bytes | None]:
        return [self.stores[site].get(BUCKET, f"flights/{name}") for site in ("paris", "dublin")]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, SiteProcesses], dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sites")
    sites = {name: SiteProcesses(name, folder / name, models="", replicas=1) for name in ("paris", "dublin")}
    with postgres() as url, stopping(*sites.values()):
        migrate(url)
        for site in sites.values():
            site.start_store().ensure_bucket(BUCKET)
        ledger = {
            "conn_type": "postgres", "host": url.query.get("host") or url.host, "port": url.port,
            "login": url.username, "password": url.password or "", "schema": url.database,
        }  # fmt: skip
        connections = {name: value for site in sites.values() for name, value in site.connections().items()}
        yield sites, {**connections, "ninelives_ledger": ledger}


@pytest.fixture
def world(stores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    sites, connections = stores
    gateway = GatewayProcess(load_estate(ESTATE), list(sites.values()), tmp_path / "gateway")  # not started
    answers = type("Given", (Answers,), {"given": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    more = {
        "ninelives_gateway": {"conn_type": "generic", "extra": {
            "folder": str(gateway.folder), "url": gateway.url, "admin": gateway.admin}},
        "ninelives_airflow_api": {"conn_type": "http", "host": "127.0.0.1", "port": server.server_port, "login": "a"},
    }  # fmt: skip
    monkeypatch.setenv("NINELIVES_HOME", str(tmp_path))
    monkeypatch.setenv("NINELIVES_ESTATE", str(ESTATE))
    for conn_id, connection in {**connections, **more}.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    yield World({name: site.store for name, site in sites.items()}, answers, gateway)
    server.shutdown()
    server.server_close()


def context(index: int = 0) -> Any:
    ti = SimpleNamespace(id="1", map_index=index)
    return {"run_id": RUN, "dag": SimpleNamespace(dag_id="reconcile_sites"), "task_instance": ti, "ti": ti}


def merge() -> Any:
    return reconcile.MergeSitesOperator(task_id="merge_sites", pair=PAIR).execute(context())


def apply(question: Any, index: int = 0) -> Any:
    return reconcile.ApplyDecisionOperator(
        task_id="apply_decision", question=question, asked_by="decide.ask_question"
    ).execute(context(index))


def judge(merged: Any, *applied: Any) -> Any:
    return reconcile.JudgeReconciliationOperator(task_id="judge", merged=[merged], applied=applied).execute(context())


def judge_as_airflow_gives_it(merged: Any, applied: Any) -> Any:
    """Of one question, what was applied comes as it is, of several in a list."""
    return reconcile.JudgeReconciliationOperator(task_id="judge", merged=[merged], applied=applied).execute(context())


def test_an_operator_decides_what_both_sites_changed_and_nobody_else_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("paris", both=b"at first")
    assert merge()["open"] == 0
    world.write("paris", both=b"by paris", mine=b"p")
    world.write("dublin", both=b"by dublin", yours=b"d")

    pairs = reconcile.ListPairsOperator(task_id="list_pairs").execute(context())
    assert pairs == [PAIR]
    merged = merge()
    assert (merged["open"], world.read("mine"), world.read("yours")) == (1, [b"p"] * 2, [b"d"] * 2)
    assert world.read("both") == [b"by paris", b"by dublin"]
    asked = reconcile.ListQuestionsOperator(task_id="list_questions", merged=[merged]).execute(context())

    request: dict[str, Any] = {}
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **given: request.update(given)
    )
    ask = reconcile.AskQuestionOperator(task_id="ask_question", question=asked[0])
    with pytest.raises(TaskAwaitingInput):
        ask.execute(context())
    assert request["subject"] == "flights/both differs between paris and dublin: whose stays?"
    assert request["options"] == ["paris", "dublin"]
    assert request["assigned_users"] == [{"id": "ada", "name": "ada"}]
    assert "in dublin's manifest of" in request["body"]
    with pytest.raises(AirflowSkipException, match="stays open"):
        ask.execute_complete(context(), {"error": "late", "error_type": "timeout"})

    # Nobody has answered: the task may be marked as done, nothing is decided.
    with pytest.raises(AirflowFailException, match=r"1 questions are open.*flights/both differs"):
        judge(merged, apply(asked[0]))
    with pytest.raises(AirflowFailException, match=r"1 questions are open.*flights/both differs"):
        judge_as_airflow_gives_it(merged, apply(asked[0]))
    with pytest.raises(AirflowFailException, match=r"2 questions are open.*and others"):
        judge({**merged, "open": 2}, apply(asked[0]))

    for name in ("grace", None):  # she approves drills, she does not operate; nobody is a default
        world.answer(0, "dublin", name)
        with pytest.raises(AirflowFailException, match="only ada may"):
            apply(asked[0])
    assert world.read("both") == [b"by paris", b"by dublin"]

    world.answer(0, "dublin", "ada")
    assert "open" in apply(asked[0], index=1)  # the answer to another question is none to this
    applied = apply(asked[0])
    assert (applied["choice"], applied["by"]) == ("dublin", "ada")
    assert world.read("both") == [b"by dublin"] * 2
    assert judge(merged, applied) == {"decided": 1}

    last, *_ = EstateHook().ledger().records(kind="reconciliation")
    assert last.seq == applied["evidence"]
    (question,) = last.facts["decided"]
    assert (question["decision"]["choice"], question["decision"]["by"]) == ("dublin", "ada")
    assert (last.facts["verdict"], last.facts["run"]) == ("met", RUN)
    assert merge()["questions"] == []


def test_a_closed_site_is_left_to_its_return(world: World) -> None:
    state = world.gateway.folder / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "closed_sites": ["paris"]}))
    assert reconcile.ListPairsOperator(task_id="list_pairs").execute(context()) == []
