"""``ninelives estate``: exit codes, and output for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ninelives.cli.estate import app
from ninelives.estate.schema import format_schema

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "include/estates/demo/estate.yaml"
run = CliRunner().invoke


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NINELIVES_ESTATE", raising=False)
    monkeypatch.delenv("NINELIVES_HOME", raising=False)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text(DEMO.read_text("utf-8").replace("rto: 60s", "rto: 1m"), "utf-8")
    return path


def test_a_sound_estate_is_exit_code_0() -> None:
    result = run(app, ["check", str(DEMO)])
    assert result.exit_code == 0
    assert "sound" in result.stdout


def test_every_problem_is_a_line_on_standard_error_with_exit_code_1(broken: Path) -> None:
    result = run(app, ["check", str(broken)])
    assert (result.exit_code, result.stdout) == (1, "")
    first, last = result.stderr.splitlines()
    assert first.startswith(f"{broken}:31: services[0].objective.rto: '1m' is not a duration")
    assert last == "1 problem"


def test_problems_are_json_for_programs(broken: Path) -> None:
    result = run(app, ["check", str(broken), "--json"])
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (1, False)
    assert [problem["path"] for problem in report["problems"]] == ["services[0].objective.rto"]
    assert report["problems"][0].keys() == {"file", "line", "path", "message"}


def test_a_sound_estate_is_json_for_programs() -> None:
    report = json.loads(run(app, ["check", str(DEMO), "--json"]).stdout)
    assert (report["ok"], report["estate"], report["services"], report["problems"]) == (True, "demo", 2, [])


def test_wrong_usage_is_exit_code_2() -> None:
    assert run(app, ["check", "--unknown"]).exit_code == 2


def test_without_a_path_the_demo_below_the_working_directory_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert "include/estates/demo/estate.yaml" in run(app, ["check"]).stdout


def test_without_a_path_and_a_demo_the_estate_of_the_stack_is_checked(tmp_path: Path) -> None:
    (tmp_path / ".ninelives").mkdir()
    (tmp_path / ".ninelives/estate.yaml").write_text(DEMO.read_text("utf-8"), "utf-8")
    assert run(app, ["check"]).exit_code == 0


def test_the_environment_names_an_estate_before_the_demo(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NINELIVES_ESTATE", str(broken))
    assert run(app, ["check"]).exit_code == 1


def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    assert run(app, ["schema"]).stdout == format_schema()
    assert run(app, ["schema", "--write", "schema.json"]).exit_code == 0
    assert (tmp_path / "schema.json").read_text("utf-8") == format_schema()
