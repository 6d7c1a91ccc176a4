"""``ninelives experiment``, with users in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.experiment import NAME, ExperimentMemory, no_gate, promotion
from typer.testing import CliRunner

from ninelives.cli import app, experiment
from ninelives.experiments import run


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentMemory:
    memory = ExperimentMemory(tmp_path)
    monkeypatch.setattr(experiment, "connected", lambda: memory)
    monkeypatch.setattr(promotion, "verify_data", no_gate)
    monkeypatch.setitem(run.run.__kwdefaults__, "pause", memory.live)  # type: ignore[arg-type]
    return memory


def call(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["experiment", *arguments])
    try:
        return done.exit_code, json.loads(done.stdout)
    except ValueError:
        return done.exit_code, done.output


def test_from_the_plan_to_the_report(systems: ExperimentMemory, tmp_path: Path) -> None:
    code, plan = call("plan", NAME, "--json")
    assert (code, plan["may_begin"], len(plan["arithmetic"])) == (0, True, 3)
    assert call("status", "--json") == (0, [{"experiment": NAME, "state": "not begun", "problems": []}])
    systems.wrong = 0.4
    code, told = call("run", NAME, "--here", "--as", "ada", "--json")
    assert (code, told["verdict"], told["by"]) == (3, "stop", "ada")
    assert call("run", NAME, "--here", "--json") == (3, told), "the same request again is the same run"
    assert call("run", NAME, "--json") == (3, told)
    code, (standing,) = call("status", NAME, "--json")
    assert (code, standing["state"], standing["evidence"]) == (0, "stop", told["evidence"])
    page = tmp_path / "page.html"
    assert call("report", NAME, "--to", str(page), "--json") == (3, told)
    assert "<svg" in page.read_text()
    code, plan = call("plan", NAME, "--json")
    assert (code, plan["may_begin"]) == (3, False)


def test_a_running_one_is_shown_and_stopped_by_a_person(systems: ExperimentMemory) -> None:
    plan = run.begin(systems, NAME, by="ada")  # type: ignore[arg-type]
    assert call("status", "--json")[1][0]["state"] == "beginning"
    for name, do in run.steps(systems, plan, approve=lambda: None).items():  # type: ignore[arg-type]
        run.run_step(systems, plan, name, do)  # type: ignore[arg-type]
    run.divide(systems, plan)  # type: ignore[arg-type]
    systems.live(0.1)
    run.Watch(systems, plan).look()  # type: ignore[arg-type]
    code, (standing,) = call("status", "--json")
    assert (code, standing["state"], standing["attempts"] > 0) == (0, "running", True)
    lease = systems.ledger().current_lease("release:alpha")
    assert lease
    systems.ledger().release_lease(lease)
    code, (standing,) = call("status", "--json")
    assert (code, "nobody has looked at it" in standing["problems"][0]) == (3, True)
    code, stopped = call("stop", NAME, "--by", "grace", "--json")
    assert (code, stopped["verdict"]) == (0, "stop")
    assert systems.gateway().used is None


@pytest.mark.parametrize("command", ["plan", "run", "report", "stop"])
def test_one_that_is_not_declared_is_wrong_usage(systems: ExperimentMemory, command: str) -> None:
    code, said = call(command, "another")
    assert (code, "it has warmer-sums" in " ".join(said.split())) == (2, True)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, f'{{"target": 1{"0" * 5000}}}', "\udcff", '{"target": NaN}'])
def test_a_file_that_is_no_experiment_is_wrong_usage_and_never_a_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / "given.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    code, said = call("judge", "--input", str(tmp_path / "given.json"))
    assert (code, "given.json" in said) == (2, True)
