"""The ledger on a real PostgreSQL, its anchors in real object stores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import URL
from support.postgres import postgres, run_sql
from support.processes import ROOT, SiteProcesses, stopping, wait_until
from typer.testing import CliRunner
from unit.recovery.test_licences import contend

from ninelives.adapters.ledger import SqlLedger, metadata, migrate
from ninelives.cli import app
from ninelives.errors import Refused, Unavailable
from ninelives.evidence import anchor, verify_chain, verify_ledger
from ninelives.ports import Connection

pytestmark = pytest.mark.stack

MINUTE = timedelta(minutes=1)
END_WRITERS = """
    SELECT pg_terminate_backend(pid, 5000) -- milliseconds to wait until it is gone
    FROM pg_stat_activity WHERE usename = 'writer'
"""


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    with postgres() as url:
        run_sql(url, "CREATE ROLE owner LOGIN PASSWORD 'o'", "CREATE ROLE writer LOGIN PASSWORD 'w'")
        run_sql(url, "CREATE DATABASE ledger OWNER owner")
        yield url


class Database:
    """A new ledger on the server, seen as superuser, owner and writer."""

    def __init__(self, server: URL) -> None:
        self.superuser = server.set(database="ledger")
        self.owner = self.superuser.set(username="owner", password="o")
        self.writer = self.superuser.set(username="writer", password="w")
        run_sql(
            self.superuser,
            END_WRITERS,
            "DROP SCHEMA public CASCADE",
            "CREATE SCHEMA public AUTHORIZATION owner",
        )
        self.id = migrate(self.owner, "writer")

    def ledger(self, timeout: float = 5.0) -> SqlLedger:
        return SqlLedger(self.writer, timeout=timeout)

    def tamper(self, *statements: str) -> None:
        run_sql(self.superuser, "ALTER TABLE records DISABLE TRIGGER ALL", *statements)


@pytest.fixture
def database(server: URL) -> Database:
    return Database(server)


@pytest.fixture
def ledger(database: Database) -> Iterator[SqlLedger]:
    ledger = database.ledger()
    yield ledger
    ledger.close()


def start(script: str, url: URL, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own that has ``ledger``; the URL comes through the environment."""
    prelude = (
        "import os, sys\nfrom ninelives.adapters.ledger import SqlLedger\nledger = SqlLedger(os.environ['LEDGER'])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + script, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "include"),
            "LEDGER": url.render_as_string(hide_password=False),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def killing(*children: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.communicate()


# --- what the database refuses -----------------------------------------------------------------------------------

FORBIDDEN = [
    "UPDATE records SET facts = '{}' WHERE seq = 1",
    "UPDATE records SET facts = facts WHERE false",
    "DELETE FROM records WHERE seq = 2",
    "TRUNCATE records",
    "INSERT INTO records SELECT seq + 9, kind, subject, facts, at, version, NULL, hash, hash FROM records",
    "INSERT INTO records SELECT * FROM records WHERE seq = 1 ON CONFLICT (seq) DO UPDATE SET facts = '{}'",
    "INSERT INTO ledger VALUES ('other')",
    "UPDATE ledger SET id = 'other'",
    "UPDATE lease_tokens SET last = 0",
    "DELETE FROM lease_tokens",
    "INSERT INTO lease_tokens VALUES (2, 7)",
]


@pytest.mark.parametrize("role", ["writer", "owner", "superuser"])
def test_the_database_refuses_what_is_not_an_append(database: Database, ledger: SqlLedger, role: str) -> None:
    for number in range(2):
        ledger.append("drill", "x", {"n": number})
    ledger.take_lease("drill", "me", MINUTE)
    for statement in FORBIDDEN:
        with pytest.raises(sa.exc.DBAPIError) as error:
            run_sql(getattr(database, role), statement)
        assert isinstance(error.value.orig, psycopg2.errors.InsufficientPrivilege | psycopg2.errors.IntegrityError)
    assert verify_chain(ledger.scan()) == []
    assert ledger.head().seq == 2


def test_the_writer_can_not_lift_its_restrictions(database: Database, ledger: SqlLedger) -> None:
    ledger.append("drill", "x", {})
    for statement in (
        "ALTER TABLE records DISABLE TRIGGER ALL",
        "DROP TABLE records",
        "DROP TRIGGER records_follow ON records",
        "SET session_replication_role = replica",
        "CREATE TABLE mine (x int)",
    ):
        with pytest.raises(sa.exc.ProgrammingError):
            run_sql(database.writer, statement)


def test_replica_mode_is_no_way_around_the_triggers(database: Database, ledger: SqlLedger) -> None:
    ledger.append("drill", "x", {})
    with pytest.raises(sa.exc.ProgrammingError, match="only ever appended"):
        run_sql(database.superuser, "SET session_replication_role = replica", "DELETE FROM records")


def test_a_temporary_table_is_no_way_around_the_order(database: Database, ledger: SqlLedger) -> None:
    ledger.append("drill", "x", {})
    with pytest.raises(sa.exc.IntegrityError):
        run_sql(
            database.writer,
            "CREATE TEMPORARY TABLE records (seq bigint, hash text)",
            "INSERT INTO pg_temp.records VALUES (8, repeat('0', 64))",
            "INSERT INTO public.records SELECT 9, kind, subject, facts, at, version, NULL, previous, repeat('1', 64) "
            "FROM public.records",
        )


def test_a_writer_that_could_act_as_the_owner_is_refused(database: Database) -> None:
    for role, reason in (("owner", "can act as the owner"), ("postgres", "can act"), ("nobody", "there is no role")):
        with pytest.raises(Refused, match=reason):
            migrate(database.owner, role)


def test_a_missing_right_is_refused_and_a_missing_table_unavailable(server: URL, database: Database) -> None:
    with pytest.raises(Unavailable, match="has not been migrated"):
        SqlLedger(server).head()
    run_sql(database.owner, "REVOKE SELECT ON records FROM writer")
    with pytest.raises(Refused, match="permission denied"):
        database.ledger().head()


def test_migrating_again_and_at_once_changes_nothing(database: Database, ledger: SqlLedger) -> None:
    record = ledger.append("drill", "x", {})
    threads = [threading.Thread(target=migrate, args=(database.owner, "writer")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.records() == [record]
    assert ledger.ledger_id == database.id
    with sa.create_engine(database.owner).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
        assert compare_metadata(context, metadata) == []


# --- what comes back ---------------------------------------------------------------------------------------------


def test_facts_survive_the_database(ledger: SqlLedger) -> None:
    facts = {"é\0\u2028😀": [1e20, 5e-324, 0.1, -0.0, 2**53 - 1, 1e21, True, None, "\\u0000"], "": {}, "a\nb": ""}
    written = ledger.append("drill", "x", facts, once="run-1")
    assert written.facts["é\0\u2028😀"] == facts["é\0\u2028😀"]
    (read,) = ledger.records()
    assert read == written
    assert ledger.append("drill", "x", facts, once="run-1") == written
    assert abs(read.at - datetime.now(UTC)) < MINUTE
    assert verify_chain(ledger.scan()) == []
    assert ledger.records(since=read.at) == [read]
    assert ledger.records(since=read.at + timedelta(microseconds=1)) == []


def test_a_connection_of_airflow_leads_to_it(database: Database) -> None:
    url = database.writer
    connection = Connection(
        "ninelives_ledger", host=str(url.query["host"]), login="writer", password="w", schema=url.database,
        extra={"sslmode": "prefer", "unknown": 1},
    )  # fmt: skip
    assert SqlLedger.from_connection(connection).ledger_id == database.id


# --- many writers ------------------------------------------------------------------------------------------------


def test_eight_processes_keep_one_chain(database: Database, ledger: SqlLedger) -> None:
    script = "for n in range(60): ledger.append('drill', sys.argv[1], {'n': n})"
    children = [start(script, database.writer, str(number)) for number in range(8)]
    with killing(*children):
        assert [child.wait(120) for child in children] == [0] * 8
    records = list(ledger.scan())
    assert len(records) == 480
    assert verify_chain(records) == []
    for number in range(8):
        assert [record.facts["n"] for record in records if record.subject == str(number)] == list(range(60))


def test_threads_of_one_process_keep_one_chain(ledger: SqlLedger) -> None:
    threads = [
        threading.Thread(target=lambda: [ledger.append("drill", "x", {"n": n}) for n in range(25)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.head().seq == 200
    assert verify_chain(ledger.scan()) == []


def test_the_same_key_from_many_processes_is_written_once(database: Database, ledger: SqlLedger) -> None:
    script = "sys.stdin.readline(); print(ledger.append('drill', 'x', {'met': True}, once='run-1').seq)"
    children = [start(script, database.writer) for _ in range(4)]
    with killing(*children):
        outputs = [child.communicate("go\n", timeout=60)[0] for child in children]
    assert outputs == ["1\n"] * 4
    assert ledger.head().seq == 1


def test_a_writer_killed_at_any_instant_loses_nothing_acknowledged(database: Database, ledger: SqlLedger) -> None:
    script = "\nfor n in range(10**6): print(ledger.append('drill', sys.argv[1], {'n': n}).seq, flush=True)"
    acknowledged: list[int] = []
    for run in range(3):
        child = start(script, database.writer, str(run))
        with killing(child):
            assert child.stdout is not None
            acknowledged += [int(child.stdout.readline()) for _ in range(20 + 7 * run)]
            child.kill()
            acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
        ledger.append("drill", "after", {"run": run})
    records = list(ledger.scan())
    assert verify_chain(records) == []
    assert {record.seq for record in records} >= set(acknowledged)


# Stops between INSERT and COMMIT, holding the lock.
_HALFWAY = """
import time
from sqlalchemy import event
def halt(connection):
    print('halfway', flush=True)
    time.sleep(3600)
event.listen(ledger._engine, 'commit', halt)
ledger.append('drill', 'half', {})
"""


def test_a_writer_killed_halfway_leaves_neither_record_nor_lock(database: Database, ledger: SqlLedger) -> None:
    child = start(_HALFWAY, database.writer)
    with killing(child):
        assert child.stdout is not None
        assert child.stdout.readline() == "halfway\n"
        child.kill()
        started = time.monotonic()
        assert ledger.append("drill", "next", {}).seq == 1
        assert time.monotonic() - started < 2.0
    assert [record.subject for record in ledger.scan()] == ["next"]


def test_a_writer_stopped_halfway_makes_others_wait_and_then_loses_the_lock(database: Database) -> None:
    with_short_patience = "ledger = SqlLedger(os.environ['LEDGER'], timeout=1)"
    child = start(with_short_patience + _HALFWAY, database.writer)
    patient, ledger = database.ledger(timeout=20.0), database.ledger(timeout=0.5)
    with killing(child):
        assert child.stdout is not None
        assert child.stdout.readline() == "halfway\n"
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="timeout"):
            ledger.append("drill", "impatient", {})
        assert patient.append("drill", "patient", {}).seq == 1
    assert [record.subject for record in patient.scan()] == ["patient"]


# --- the server goes away ----------------------------------------------------------------------------------------


def test_a_restarted_server_is_not_noticed(database: Database, ledger: SqlLedger) -> None:
    ledger.append("drill", "before", {})
    run_sql(database.superuser, END_WRITERS)
    assert ledger.append("drill", "after", {}).seq == 2


def test_a_frozen_server_is_unavailable_in_bounded_time(database: Database) -> None:
    ledger = database.ledger(timeout=1.0)
    ledger.append("drill", "x", {})
    engine = sa.create_engine(database.superuser, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE usename = 'writer' AND datname = current_database()"
        (backend,) = connection.exec_driver_sql(query).scalars().all()
    os.kill(backend, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            ledger.append("drill", "y", {})
        assert time.monotonic() - started < 3.5
    finally:
        os.kill(backend, signal.SIGCONT)
    assert ledger.append("drill", "z", {}).seq == 2


def test_it_works_on_in_a_forked_child_and_in_the_parent(ledger: SqlLedger) -> None:
    ledger.append("drill", "parent", {})
    child = os.fork()
    if child == 0:
        try:
            ledger.append("drill", "child", {})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ledger.append("drill", "parent", {})
    assert Counter(record.subject for record in ledger.scan()) == {"parent": 2, "child": 1}


# --- leases ------------------------------------------------------------------------------------------------------


def test_of_two_processes_that_race_exactly_one_wins(database: Database, ledger: SqlLedger) -> None:
    script = """
from datetime import timedelta
from ninelives.errors import Refused
ledger.head(); print('ready', flush=True)
for line in sys.stdin:
    try: print(ledger.take_lease(line.strip(), sys.argv[1], timedelta(minutes=1)).token, flush=True)
    except Refused: print(0, flush=True)
"""
    children = [start(script, database.writer, name) for name in ("run-1", "run-2")]
    with killing(*children):
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        tokens = []
        for round_ in range(30):
            for child in children:
                assert child.stdin is not None
                child.stdin.write(f"service:{round_}\n")
                child.stdin.flush()
            answers = [int(child.stdout.readline()) for child in children if child.stdout]
            assert answers.count(0) == 1
            tokens.append(max(answers))
        assert tokens == sorted(set(tokens))


def test_a_lease_ends_by_the_clock_of_the_database(database: Database, ledger: SqlLedger) -> None:
    lease = ledger.take_lease("drill", "run-1", timedelta(milliseconds=300))
    engine = sa.create_engine(database.superuser, poolclass=sa.NullPool)
    with engine.connect() as connection:
        now = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    assert timedelta(0) < lease.expires_at - now <= timedelta(milliseconds=300)
    wait_until(lambda: ledger.current_lease("drill") is None, "the lease expires", timeout=5)
    assert ledger.take_lease("drill", "run-2", MINUTE).token > lease.token


def test_a_crashed_holder_keeps_its_lease_until_it_expires(database: Database, ledger: SqlLedger) -> None:
    script = "from datetime import timedelta; ledger.take_lease('drill', 'run-1', timedelta(seconds=60)); os._exit(9)"
    child = start(script, database.writer)
    with killing(child):
        assert child.wait(30) == 9
    with pytest.raises(Refused, match="run-1 holds it"):
        ledger.take_lease("drill", "run-2", MINUTE)


# --- tampering, and the command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SiteProcesses]]:
    sites = [SiteProcesses(name, tmp_path_factory.mktemp(name), models="", replicas=0) for name in ("paris", "dublin")]
    with stopping(*sites):
        for site in sites:
            site.start_store()
        yield sites


SWAP = (
    "UPDATE records SET seq = 1000 WHERE seq = 2",
    "UPDATE records SET seq = 2 WHERE seq = 4",
    "UPDATE records SET seq = 4 WHERE seq = 1000",
)


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["UPDATE records SET facts = '{\"n\":7}' WHERE seq = 3"], {(3, "altered")}),
        (["UPDATE records SET subject = 'y' WHERE seq = 5"], {(5, "altered")}),
        (["DELETE FROM records WHERE seq = 3"], {(3, "removed")}),
        (["DELETE FROM records WHERE seq > 3"], {(5, "truncated")}),
        (["TRUNCATE records"], {(5, "truncated")}),
        (SWAP, {(2, "reordered"), (4, "reordered")}),
    ],
    ids=["alter", "alter the last", "delete in the middle", "delete the end", "delete all", "swap"],
)
def test_tampering_by_a_superuser_is_found(
    database: Database, ledger: SqlLedger, sites: list[SiteProcesses], statements: list[str], found: set[object]
) -> None:
    stores = {site.name: site.store for site in sites}
    for number in range(5):
        ledger.append("drill", "x", {"n": number})
    assert anchor(ledger, stores) == []
    assert verify_ledger(ledger, stores).verdict == "whole"
    database.tamper(*statements)
    verification = verify_ledger(ledger, stores)
    assert verification.verdict == "broken"
    assert {(finding.seq, str(finding.kind)) for finding in verification.findings} == found


def test_an_end_that_was_cut_and_written_anew_with_our_own_software_is_found(
    database: Database, ledger: SqlLedger, sites: list[SiteProcesses]
) -> None:
    stores = {site.name: site.store for site in sites}
    for number in range(5):
        ledger.append("drill", "x", {"met": False, "n": number})
    anchor(ledger, stores)
    database.tamper("DELETE FROM records WHERE seq > 3", "ALTER TABLE records ENABLE TRIGGER ALL")
    for number in range(3, 8):
        ledger.append("drill", "x", {"met": True, "n": number})
    assert verify_chain(ledger.scan()) == []
    (finding,) = verify_ledger(ledger, stores).findings
    assert (finding.seq, finding.kind) == (5, "truncated")


def test_the_command_line_tells_whole_broken_and_unknown_apart(
    database: Database, ledger: SqlLedger, sites: list[SiteProcesses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "estate.yaml").write_text((ROOT / "include/estates/demo/estate.yaml").read_text())
    url = database.writer
    entry = {"conn_type": "postgres", "host": url.query["host"], "login": "writer", "password": "w"}
    connections = {"ninelives_ledger": {**entry, "schema": url.database}}
    for site in sites:
        connections |= site.connections()
    (home / "secrets" / "connections.json").write_text(json.dumps(connections))

    monkeypatch.setenv("NINELIVES_HOME", str(home))
    monkeypatch.delenv("NINELIVES_ESTATE", raising=False)

    def evidence(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["evidence", *arguments])
        return done.exit_code, done.output

    for number in range(3):
        ledger.append("drill", "site-loss/a/paris", {"n": number})
    ledger.append("gate", "flights@dublin", {"verdict": "pass"})
    stores = {site.name: site.store for site in sites}
    for store in stores.values():
        store.ensure_bucket("anchors")
    code, output = evidence("verify")
    assert (code, "Unknown: 4 records" in output) == (1, True)

    anchor(ledger, stores)
    code, output = evidence("verify", "--json")
    document = json.loads(output)
    assert (code, document["verdict"], document["anchors"]) == (0, "whole", 2)

    code, output = evidence("list", "--kind", "gate", "--json")
    assert (code, [record["subject"] for record in json.loads(output)]) == (0, ["flights@dublin"])
    code, output = evidence("list", "--limit", "2")
    assert (code, "flights@dublin" in output, "site-loss/a/paris" in output) == (0, True, True)
    assert evidence("show", "2")[0] == 0
    assert evidence("show", "99")[0] == 1

    sites[0].lose()
    code, output = evidence("verify")
    assert (code, "Whole" in output, "paris" in output) == (0, True, True)
    database.tamper("UPDATE records SET subject = 'y' WHERE seq = 2")
    code, output = evidence("verify")
    assert (code, "record 2 altered" in output) == (1, True)
    code, output = evidence("show", "2")
    assert (code, "not what was written" in output) == (1, True)
    sites[0].start_store()


def test_of_many_who_take_a_licences_seats_at_the_same_instant_each_seat_goes_to_one(database: Database) -> None:
    contend(database.writer, 11)
