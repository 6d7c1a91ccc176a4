from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.models import sum_model
from support.promotion import Memory
from typer.testing import CliRunner

from ninelives.cli import app, release
from ninelives.releases import promotion
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
