from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.models import sum_model
from support.promotion import Memory
from typer.testing import CliRunner

from ninelives.cli import app, release
from ninelives.cli import judge as cli_judge
from ninelives.releases import promotion
from ninelives.releases.labels import labels_since
from ninelives.releases.publish import read_candidate


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


def test_a_file_is_staged_with_the_answers_that_it_gives_and_a_pickle_is_not(systems: Memory, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(sum_model(2.0))
    code, staged = call("stage", "alpha", "--version", "3", "--onnx", str(file), "--json")
    assert (code, staged["version"]) == (0, "3")
    found = read_candidate(systems.store("paris"), "alpha", "3")  # type: ignore[arg-type]
    assert found
    assert found.golden[0].outputs["total"] == (5.5,)
    assert call("stage", "alpha", "--version", "3", "--onnx", str(file), "--json") == (0, staged)
    file.write_bytes(b"\x80\x04.")
    assert call("stage", "alpha", "--version", "4", "--onnx", str(file))[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "nobody"),
        ("history", "alpha", "--at", "tea time"),
        ("rollback", "alpha"),
        ("promote", "alpha"),
        ("stage", "alpha", "--version", "9", "--onnx", "missing.onnx"),
    ],
)
def test_wrong_usage_exits_with_2(systems: Memory, arguments: tuple[str, ...]) -> None:
    assert call(*arguments)[0] == 2


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
    for wrong in ("{", "[]", good.replace("10", "-1"), good.replace('"2"', '"1"')):
        assert label(waiting, wrong, "15h")[0] == 2
    assert label(Memory(tmp_path / "other"), good, "14h")[0] == 1, "its estate does not say that labels come"
