"""``ninelives backfill``: what is wrong is told before anything is asked of Airflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ninelives.cli import app
from ninelives.errors import Refused


@pytest.mark.parametrize("words", [("plan", "--from", "yesterday"), ("run", "--to", "2026-13-01")])
def test_a_time_that_is_none_is_wrong_usage(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["backfill", *words])
    assert done.exit_code == 2
    assert "is not a time" in done.stderr


def test_a_dag_that_the_estate_does_not_name_starts_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NINELIVES_HOME", str(tmp_path))  # no connections: whatever is asked would be unavailable
    done = CliRunner().invoke(app, ["backfill", "run", "nosuch"])
    assert isinstance(done.exception, Refused)
    assert "names no such DAG" in str(done.exception)
