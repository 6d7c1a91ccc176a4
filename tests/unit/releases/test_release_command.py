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
from support.models import sum_model
from support.promotion import Memory
from typer.testing import CliRunner

from ninelives.cli import app, release
from ninelives.cli import judge as cli_judge
from ninelives.ports import Connection
from ninelives.releases import promotion
from ninelives.releases.canary import Decision
from ninelives.releases.labels import labels_since
from ninelives.releases.publish import read_candidate

NO_VERSIONS = ["", "0", "007", "2 ", "2\n", "latest", "../2", "\u0663", "9" * 5000]


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory(tmp_path, {"shadow": 0, "approval": "none"})
    monkeypatch.setattr(release, "connected", lambda: memory)
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})
    return memory


def call(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["release", *arguments])
    try:
        return done.exit_code, json.loads(done.stdout)
    except ValueError:
        return done.exit_code, done.output


def test_what_cannot_be_decided_exits_with_3_is_one_run_and_its_history_is_there(systems: Memory) -> None:
    """Ten attempts are not enough for the real judge."""
    code, first = call("promote", "alpha", "--version", "2", "--here", "--as", "ada", "--json")
    assert (code, first["outcome"]) == (3, "rolled back")
    assert "undecided" in first["why"]
    assert call("promote", "alpha", "--version", "2", "--here", "--json") == (3, first)
    code, rows = call("history", "alpha", "--json")
    assert (code, rows[0]["shares"], rows[-1]["shares"]) == (0, {"1": 100}, {"1": 100})
    assert {"1": 95, "2": 5} in [row["shares"] for row in rows]
    code, (then,) = call("history", "alpha", "--at", "2020-01-01T14:03", "--json")
    assert (code, then["since"], then["shares"]) == (0, None, {"1": 100})
    code, status = call("status", "alpha", "--json")
    assert (code, status["run"]["state"], status["problems"]) == (0, "rolled back", [])
    assert call("rollback", "alpha", "--json")[1]["evidence"] == first["evidence"], "done already"


def test_what_nobody_could_approve_is_refused_before_airflow_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path, {"approval": "four-eyes"})
    monkeypatch.setattr(release, "connected", lambda: memory)  # it knows no Airflow
    for asking, why in (((), "--as USER"), (("--as", "ada"), "nobody but ada may approve")):
        done = CliRunner().invoke(app, ["release", "promote", "alpha", "--version", "2", *asking])
        assert done.exit_code == 1
        assert why in str(done.exception) + done.output
    assert memory.ledger().records(limit=1) == []


class Airflow(BaseHTTPRequestHandler):
    """Its API, as far as it tells of a run that has ended long ago; the same request again is answered 409."""

    state: str

    def do_POST(self) -> None:
        self.say(*((201, {"access_token": "token"}) if self.path == "/auth/token" else (409, {"detail": "exists"})))

    def do_GET(self) -> None:
        self.say(200, {"state": self.state, "task_instances": []})

    def say(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def airflow(systems: Any) -> Iterator[type[Airflow]]:
    given = type("Given", (Airflow,), {"state": "success"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), given)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = Connection("http", "127.0.0.1", server.server_port, "ninelives", "secret", None, {})
    systems.connections = SimpleNamespace(get=lambda _: found)
    yield given
    server.shutdown()
    server.server_close()


def test_a_run_of_airflow_is_no_success_where_the_version_did_not_come_in(
    systems: Memory, airflow: type[Airflow]
) -> None:
    """One that an approver rejected ends there without a failure."""
    request = ("promote", "alpha", "--version", "2", "--json")
    assert call(*request)[0] == 1, "nothing was begun"
    plan = promotion.begin(systems, "alpha", "2", by="ada")  # type: ignore[arg-type]
    assert call(*request)[0] == 1, "nor is it over"
    back = promotion.roll_back(systems, plan, by="ada", reasons=["grace answered Reject"])  # type: ignore[arg-type]
    code, told = call(*request)
    assert (code, told["outcome"], told["why"]) == (3, "rolled back", "grace answered Reject")
    assert (told["run"], told["state"], told["evidence"]) == ("promote-alpha-2", "success", back.seq)

    plan = promotion.begin(systems, "alpha", "2", by="ada", again=True)  # type: ignore[arg-type]
    sure = lambda metrics, horizon: (Decision.PROMOTE, list[str]())  # noqa: E731
    promotion.promote(systems, plan, approve=lambda: None, judge=sure)  # type: ignore[arg-type]
    code, told = call(*request)
    assert (code, told["outcome"], told["run"]) == (0, "promoted", "promote-alpha-2")
    airflow.state = "failed"
    assert call(*request)[0] == 3
    promotion.roll_back(systems, plan, by="grace", reasons=["complaints"])  # type: ignore[arg-type]
    airflow.state = "success"
    assert call(*request)[0] == 3


def test_a_file_is_staged_with_the_answers_that_it_gives_and_a_pickle_is_not(systems: Memory, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(sum_model(2.0))
    code, staged = call("stage", "alpha", "--version", "3", "--onnx", str(file), "--json")
    assert (code, staged["version"]) == (0, "3")
    found = read_candidate(systems.store("paris"), "alpha", "3")  # type: ignore[arg-type]
    assert found
    assert found.golden[0].outputs["total"] == (5.5,)
    assert call("stage", "alpha", "--version", "3", "--onnx", str(file), "--json") == (0, staged)
    for taken in ("1", "2"):  # serves, and is staged already
        assert call("stage", "alpha", "--version", taken, "--onnx", str(file))[0] == 1
    assert read_candidate(systems.store("paris"), "alpha", "1") is None  # type: ignore[arg-type]
    file.write_bytes(b"\x80\x04.")
    assert call("stage", "alpha", "--version", "4", "--onnx", str(file))[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "nobody"),
        ("history", "alpha", "--at", "tea time"),
        ("rollback", "alpha"),
        ("history", "alpha", "--at", "2999-12-31T14:03Z"),
        ("promote", "alpha"),
        *(("promote", "alpha", "--here", "--version", wrong) for wrong in NO_VERSIONS),
        *(("stage", "alpha", "--onnx", __file__, "--version", wrong) for wrong in NO_VERSIONS),
        ("stage", "alpha", "--version", "9", "--onnx", "missing.onnx"),
    ],
)
def test_wrong_usage_exits_with_2(systems: Memory, arguments: tuple[str, ...]) -> None:
    assert call(*arguments)[0] == 2
    assert systems.ledger().records(limit=1) == []


def test_labels_are_counted_once_and_only_where_the_estate_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "labels.json"

    def label(memory: Memory, text: str, batch: str) -> tuple[int, Any]:
        file.write_text(text)
        monkeypatch.setattr(cli_judge, "connected", lambda: memory)
        return call("label", "alpha", "--input", str(file), "--batch", batch, "--by", "ada", "--json")

    good = '[{"version": "1", "right": 90, "wrong": 10}, {"version": "2", "right": 9, "wrong": 1}]'
    waiting = Memory(tmp_path / "waiting", {"labels": True})
    code, first = label(waiting, good, "14h")
    assert (code, label(waiting, good, "14h")) == (0, (0, first))
    since = datetime.now(UTC) - timedelta(hours=1)
    (labels,) = labels_since(waiting.ledger(), "alpha", since)
    assert (labels.right, labels.wrong) == ({"1": 90, "2": 9}, {"1": 10, "2": 1})
    assert label(waiting, good.replace("90", "91"), "14h")[0] == 1, "other counts under the same name"
    assert label(waiting, good, " ")[0] == 2
    for wrong in ("{", "[]", good.replace("10", "-1"), good.replace('"2"', '"1"')):
        assert label(waiting, wrong, "15h")[0] == 2
    assert label(Memory(tmp_path / "other"), good, "14h")[0] == 1, "its estate does not say that labels come"
