"""The gate on a table that lives in PostgreSQL: declared in the estate, judged there, its verdict in the ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL
from support.estate import await_
from support.gate import january
from support.postgres import libpq, load, postgres, run_sql, standby
from support.processes import ROOT
from typer.testing import CliRunner

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.gx_postgres import Snapshot
from ninelives.adapters.ledger import migrate
from ninelives.cli import app
from ninelives.cli.common import ExitCode
from ninelives.errors import Refused, Unavailable
from ninelives.estate.load import load_estate
from ninelives.gates.evidence import has_verdict, run_gate
from ninelives.gates.verdict import Verdict
from ninelives.home import Home

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TABLES = """
tables:
  - {name: bookings, site: paris, table: sales.bookings, suite: bookings}
  - {name: cities, site: paris, table: sales.cities, suite: bookings}
  - {name: january, site: dublin, table: sales.january, suite: january}
"""
BOOKINGS = pa.table({"id": pa.array(range(1000), pa.int64()), "city": ["CDG", "DUB"] * 500, "seats": [1, 2] * 500})


def asked(type_: str, severity: str = "critical", /, **kwargs: Any) -> dict[str, Any]:
    return {"type": type_, "kwargs": kwargs, "severity": severity, "reason": "Because the test says so."}


SUITE = {
    "dataset": "bookings",
    "schema": {"id": "int64", "city": "string", "seats": "int64"},
    "min_rows": 500,
    "max_age": "1h",
    "redact": ["city"],
    "references": [{"dataset": "cities", "columns": {"city": "code"}, "reason": "Every city is one of ours."}],
    "expectations": [
        asked("expect_column_values_to_be_unique", column="id"),
        asked("expect_column_values_to_be_between", column="seats", max_value=9),
        asked("expect_column_values_to_be_in_set", "warning", column="city", value_set=["CDG", "DUB"]),
    ],
}


@pytest.fixture
def database() -> Iterator[URL]:
    with postgres() as url:
        migrate(url)
        run_sql(url, "CREATE SCHEMA sales")
        load(url, "sales.bookings", BOOKINGS)
        load(url, "sales.cities", pa.table({"code": ["CDG", "DUB"]}))
        yield url


@pytest.fixture
def home(database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A machine that knows an estate with tables, their suites, and where the database is."""
    at = libpq(database)
    connection = {"conn_type": "postgres", "host": at["host"], "login": at["user"], "schema": at["dbname"]}
    home = Home(tmp_path)
    home.connections_file.parent.mkdir(parents=True)
    names = ("ninelives_ledger", "ninelives_paris_database", "ninelives_dublin_database")
    home.connections_file.write_text(json.dumps(dict.fromkeys(names, connection)))
    (tmp_path / "estate.yaml").write_text((ROOT / "include/estates/demo/estate.yaml").read_text() + TABLES)
    flights = json.loads((ROOT / "expectations/flights/suite.json").read_text())
    for suite in (SUITE, flights | {"dataset": "january"}):
        (tmp_path / "expectations" / suite["dataset"]).mkdir(parents=True)
        (tmp_path / "expectations" / suite["dataset"] / "suite.json").write_text(json.dumps(suite))
    monkeypatch.setenv("NINELIVES_HOME", str(tmp_path))
    monkeypatch.setenv("NINELIVES_ESTATE", str(tmp_path / "estate.yaml"))
    monkeypatch.setenv("NINELIVES_EXPECTATIONS", str(tmp_path / "expectations"))
    return home


def systems(home: Home) -> ConnectedEstate:
    return ConnectedEstate(load_estate(home.root / "estate.yaml"), FileConnections(home.connections_file), home)


def test_a_table_is_judged_where_it_is_and_the_verdict_is_evidence_about_these_rows(home: Home, database: URL) -> None:
    good = CliRunner().invoke(app, ["gate", "run", "bookings", "--json"])
    assert good.exit_code == ExitCode.MET, good.output
    (answer,) = json.loads(good.stdout)
    assert (answer["verdict"], answer["rows"], answer["expectations"]) == ("pass", 1000, 4)
    (record,) = systems(home).ledger().records(kind="gate", subject="bookings@paris")
    assert record.facts["fingerprint"] == answer["fingerprint"]
    assert "postgresql" in record.facts["engine"]
    assert record.facts["references"].keys() == {"cities"}
    assert not has_verdict(systems(home), "bookings", "paris"), "nobody knows that without reading the table again"

    run_sql(database, "UPDATE sales.bookings SET city = 'Lost-4711' WHERE id = 7")
    bad = CliRunner().invoke(app, ["gate", "explain", "bookings", "--json"])
    assert bad.exit_code == ExitCode.MISSED, bad.output
    explained = json.loads(bad.stdout)
    failed = [e["type"] for e in explained["expectations"] if e["met"] is False]
    assert (explained["verdict"], failed) == (
        "block",
        ["expect_column_values_to_be_in_set", "unexpected_rows_expectation"],
    )
    assert explained["fingerprint"] != answer["fingerprint"]
    assert explained["references"] == answer["references"]
    assert "Lost-4711" not in bad.output


@pytest.mark.soak
def test_a_suite_that_was_suggested_from_a_table_opens_it_and_finds_what_changes(home: Home, database: URL) -> None:
    odd = ['ALTER TABLE sales.cities ADD "per cent %%" json', "ALTER TABLE sales.cities ADD price numeric(6, 2)"]
    run_sql(database, *odd, "UPDATE sales.cities SET price = length(code) + ascii(code)")
    for dataset in ("bookings", "cities"):
        path = home.root / "expectations" / dataset / "suite.json"
        path.unlink(missing_ok=True)
        done = CliRunner().invoke(app, ["gate", "suggest", dataset, "--output", str(path), "--json"])
        assert done.exit_code == ExitCode.MET, (done.output, done.exception)
    suite = json.loads((home.root / "expectations/bookings/suite.json").read_text())
    asked = {(e["type"], e["kwargs"].get("column")): e["kwargs"] for e in suite["expectations"]}
    assert ("expect_column_values_to_be_unique", "id") in asked
    assert asked["expect_column_values_to_be_in_set", "seats"]["value_set"] == [1, 2]
    histogram = asked["expect_column_kl_divergence_to_be_less_than", "id"]["partition_object"]
    assert histogram["weights"] == pytest.approx([0.1] * 10, abs=0.002)
    assert run_gate(systems(home), "bookings", "paris")[0].verdict is Verdict.PASS
    run_sql(database, "UPDATE sales.bookings SET id = 1 WHERE id = 2")
    assert run_gate(systems(home), "bookings", "paris")[0].verdict is Verdict.BLOCK


@pytest.mark.soak
def test_the_suite_of_the_flights_gives_the_same_verdict_in_the_database(home: Home, database: URL) -> None:
    load(database, "sales.january", january().source)
    result, _ = run_gate(systems(home), "january", "dublin")
    assert (result.verdict, result.rows) == (Verdict.PASS, 27_004), result.reasons


def test_on_a_standby_the_same_rows_have_the_same_fingerprint_and_the_age_is_what_it_lags(
    home: Home, database: URL
) -> None:
    with standby(database) as copy:
        run_sql(database, "UPDATE sales.bookings SET seats = 3 WHERE id = 1")
        caught_up = "SELECT bool_and(replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication"
        await_(lambda: one(database, caught_up), 30, "a standby that has caught up")
        connections = json.loads(home.connections_file.read_text())
        connections["ninelives_paris_database"] |= {"host": libpq(copy)["host"], "port": copy.port}
        home.connections_file.write_text(json.dumps(connections))
        result, _ = run_gate(systems(home), "bookings", "paris")
        assert result.verdict is Verdict.PASS, result.reasons
        here, there = (Snapshot(libpq(url), 10_000) for url in (database, copy))
        for snapshot in (here, there):
            columns = snapshot.columns("sales.bookings")
            assert snapshot.fingerprint("sales.bookings", columns) == (1000, result.fingerprint)
        assert here.as_of is not None
        assert there.as_of is not None
        assert there.as_of < here.as_of


def test_a_check_that_is_killed_leaves_no_query_behind(database: URL) -> None:
    program = (
        "import json, sys\n"
        "from ninelives.adapters.gx_postgres import Snapshot\n"
        "Snapshot(json.loads(sys.argv[1]), 600_000)._row('SELECT pg_sleep(600)')"
    )
    running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ninelives gate' AND state = 'active'"
    parameters = json.dumps(libpq(database, application_name="ninelives gate"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "include")}
    with subprocess.Popen([sys.executable, "-c", program, parameters], env=environment) as check:
        await_(lambda: one(database, running) == 1, 30, "a running query")
        check.kill()
    await_(lambda: one(database, running) == 0, 30, "a query that has stopped")


def one(url: URL, query: str) -> Any:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar_one()


def test_what_cannot_be_asked_of_a_table_is_refused_and_a_database_that_is_away_gives_no_verdict(
    home: Home, database: URL
) -> None:
    with pytest.raises(Refused, match="no such copy"):
        run_gate(systems(home), "bookings", "dublin")
    wrong, _ = run_gate(systems(home), "cities", "paris")
    assert "the suite is for bookings, not for cities" in wrong.errors[0]

    away = json.loads(home.connections_file.read_text())
    away["ninelives_paris_database"] |= {"host": "127.0.0.1", "port": 1}
    home.connections_file.write_text(json.dumps(away))
    with pytest.raises(Unavailable, match="ninelives_paris_database"):
        run_gate(systems(home), "bookings", "paris")
    assert systems(home).ledger().records(kind="gate", subject="bookings@paris") == []
