from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import ninelives
from ninelives.adapters.ledger import SqlLedger, metadata, migrate
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.evidence.chain import GENESIS, verify_chain
from ninelives.ports import Head, Ledger

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ledger") / "ledger.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def file(migrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(migrated, tmp_path))


@pytest.fixture
def ledger(file: Path) -> Iterator[SqlLedger]:
    ledger = SqlLedger(f"sqlite:///{file}", timeout=1.0)
    yield ledger
    ledger.close()


def test_it_is_a_ledger(ledger: SqlLedger) -> None:
    port: Ledger = ledger
    assert port.head() == Head(0, GENESIS)
    assert port.records() == []


def test_what_is_appended_is_read_back_newest_first(ledger: SqlLedger) -> None:
    one = ledger.append("gate", "flights@paris", {"verdict": "pass", "rows": (1, 2.0)})
    two = ledger.append("drill", "site-loss", {"met": True}, once="run-1")
    three = ledger.append("gate", "flights@dublin", {})
    assert ledger.records() == [three, two, one]
    assert ledger.records(kind="gate") == [three, one]
    assert ledger.records(kind="gate", subject="flights@paris") == [one]
    assert ledger.records(limit=1) == [three]
    assert ledger.records(since=two.at)[-1].at >= two.at
    assert ledger.records(since=datetime.now(UTC) + MINUTE) == []
    assert ledger.get(2) == two
    assert ledger.get(9) is None
    assert ledger.head() == Head(3, three.hash)
    assert one.facts == {"verdict": "pass", "rows": [1, 2]}
    assert {record.version for record in ledger.scan()} == {ninelives.__version__}
    assert verify_chain(ledger.scan()) == []


def test_the_same_key_and_contents_are_written_once(ledger: SqlLedger) -> None:
    first = ledger.append("drill", "site-loss", {"met": True}, once="run-1")
    ledger.append("drill", "site-loss", {"met": True})
    assert ledger.append("drill", "site-loss", {"met": True}, once="run-1") == first
    assert ledger.head().seq == 2
    assert ledger.written("run-1") == first
    assert ledger.written("run-2") is None


@pytest.mark.parametrize(
    ("kind", "subject", "facts", "named"),
    [
        ("drill", "site-loss", {"met": 1}, "facts.met"),
        ("drill", "site-loss", {}, "facts.met"),
        ("drill", "site-loss", {"met": True, "rto": None}, "facts.rto"),
        ("drill", "other", {"met": True}, "subject"),
        ("failover", "site-loss", {"met": True}, "kind"),
    ],
)
def test_other_contents_under_a_used_key_are_refused(
    ledger: SqlLedger, kind: str, subject: str, facts: dict[str, object], named: str
) -> None:
    ledger.append("drill", "site-loss", {"met": True}, once="run-1")
    with pytest.raises(Refused, match=named):
        ledger.append(kind, subject, facts, once="run-1")
    assert ledger.head().seq == 1


@pytest.mark.parametrize("name", ["", "x" * 301, "a\nb", "a\0b"])
def test_unprintable_names_are_refused(ledger: SqlLedger, name: str) -> None:
    for call in (
        lambda: ledger.append(name, "s", {}),
        lambda: ledger.append("k", name, {}),
        lambda: ledger.append("k", "s", {}, once=name),
        lambda: ledger.take_lease(name, "me", MINUTE),
    ):
        with pytest.raises(Refused):
            call()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET facts = '{}' WHERE seq = 1",
        "DELETE FROM records WHERE seq = 2",
        "DELETE FROM records",
        "INSERT INTO records SELECT seq + 5, kind, subject, facts, at, version, NULL, hash, hash FROM records",
        "INSERT OR REPLACE INTO records SELECT 1, kind, subject, '{}', at, version, once, previous, hash FROM records",
        "INSERT OR REPLACE INTO records SELECT 3, 'k', 's', '{}', at, version, 'key', hash, replace(hash, 'a', 'b') "
        "FROM records WHERE seq = 2",
        "UPDATE ledger SET id = 'other'",
        "DELETE FROM ledger",
        "INSERT INTO ledger VALUES ('other')",
        "UPDATE lease_tokens SET last = 0",
        "DELETE FROM lease_tokens",
    ],
)
def test_the_database_refuses_what_is_not_an_append(ledger: SqlLedger, file: Path, statement: str) -> None:
    ledger.append("drill", "x", {"n": 1}, once="key")
    ledger.append("drill", "x", {"n": 2})
    ledger.take_lease("drill", "me", MINUTE)
    with sqlite3.connect(file) as raw, pytest.raises(sqlite3.IntegrityError):
        raw.execute(statement)
    assert verify_chain(ledger.scan()) == []


def tamper(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as raw:
        for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET facts = '{\"n\":7}' WHERE seq = 2",
        "UPDATE records SET facts = '{\"n\": 2}' WHERE seq = 2",
        'UPDATE records SET facts = \'{"n":2,"n":2}\' WHERE seq = 2',
        "UPDATE records SET facts = 'no json' WHERE seq = 2",
        "UPDATE records SET at = '2020-01-01 00:00' WHERE seq = 2",
        "UPDATE records SET version = '9' WHERE seq = 2",
        "UPDATE records SET once = 'mine' WHERE seq = 2",
    ],
)
def test_a_record_changed_behind_the_triggers_is_found_and_never_returned(
    ledger: SqlLedger, file: Path, statement: str
) -> None:
    for n in range(1, 4):
        ledger.append("drill", "x", {"n": n})
    tamper(file, statement)
    assert [(finding.seq, finding.kind) for finding in verify_chain(ledger.scan())] == [(2, "altered")]
    with pytest.raises(Corrupted, match="record 2"):
        ledger.records()
    assert ledger.records(limit=1)[0].seq == 3


def test_nothing_is_chained_to_a_record_that_was_changed(ledger: SqlLedger, file: Path) -> None:
    ledger.append("drill", "x", {"n": 1})
    tamper(file, "UPDATE records SET facts = '{}'")
    with pytest.raises(Corrupted):
        ledger.append("drill", "x", {"n": 2})
    assert ledger.head().seq == 1


def test_threads_keep_one_chain(ledger: SqlLedger, file: Path) -> None:
    ledgers = [ledger, SqlLedger(f"sqlite:///{file}", timeout=30.0)]
    ledgers[0] = SqlLedger(f"sqlite:///{file}", timeout=30.0)
    with ThreadPoolExecutor(4) as pool:
        seqs = list(pool.map(lambda n: ledgers[n % 2].append("drill", "x", {"n": n}).seq, range(60)))
    assert sorted(seqs) == list(range(1, 61))
    assert verify_chain(ledger.scan()) == []
    for each in ledgers:
        each.close()


def test_it_works_on_after_a_fork(ledger: SqlLedger) -> None:
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
    assert [record.subject for record in ledger.scan()] == ["parent", "child", "parent"]


# --- leases ------------------------------------------------------------------------------------------------------


def test_a_lease_is_for_one_holder(ledger: SqlLedger) -> None:
    lease = ledger.take_lease("service:a", "run-1", MINUTE)
    with pytest.raises(Refused, match="run-1 holds it until"):
        ledger.take_lease("service:a", "run-2", MINUTE)
    assert ledger.current_lease("service:a") == lease
    assert ledger.current_lease("service:b") is None
    assert lease.expires_at.tzinfo is UTC


def test_tokens_grow_over_all_leases_also_after_release(ledger: SqlLedger) -> None:
    tokens = []
    for name in ("service:a", "site:b", "service:a", "drill"):
        lease = ledger.take_lease(name, f"run-{len(tokens)}", MINUTE)
        ledger.release_lease(lease)
        ledger.release_lease(lease)  # releasing twice is not an error
        assert ledger.current_lease(name) is None
        tokens.append(lease.token)
    assert tokens == sorted(set(tokens))


def test_a_renewal_in_time_keeps_the_token_and_moves_the_end(ledger: SqlLedger) -> None:
    lease = ledger.take_lease("drill", "run-1", MINUTE)
    renewed = ledger.take_lease("drill", "run-1", 2 * MINUTE)
    assert renewed.token == lease.token
    assert renewed.expires_at > lease.expires_at + MINUTE / 2


def test_an_expired_lease_can_be_taken_with_a_new_token(ledger: SqlLedger) -> None:
    late = ledger.take_lease("drill", "run-1", timedelta(milliseconds=1))
    while ledger.current_lease("drill"):
        pass
    next_ = ledger.take_lease("drill", "run-2", MINUTE)
    assert next_.token > late.token
    ledger.release_lease(late)
    assert ledger.current_lease("drill") == next_


def test_the_same_holder_gets_a_new_token_after_it_expired(ledger: SqlLedger) -> None:
    late = ledger.take_lease("drill", "run-1", timedelta(milliseconds=1))
    while ledger.current_lease("drill"):
        pass
    assert ledger.take_lease("drill", "run-1", MINUTE).token > late.token


def test_a_lease_of_no_length_is_an_error(ledger: SqlLedger) -> None:
    with pytest.raises(ValueError):
        ledger.take_lease("drill", "run-1", timedelta(0))


def test_of_many_who_race_exactly_one_wins(file: Path) -> None:
    barrier = threading.Barrier(6)
    ledgers = [SqlLedger(f"sqlite:///{file}", timeout=30.0) for _ in range(6)]

    def race(number: int) -> int:
        barrier.wait()
        try:
            ledgers[number].take_lease("drill", f"run-{number}", MINUTE)
        except Refused:
            return 0
        return 1

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(race, range(6))) == 1
    for ledger in ledgers:
        ledger.close()


# --- the database ------------------------------------------------------------------------------------------------


def test_migrating_again_changes_nothing(file: Path, ledger: SqlLedger) -> None:
    record = ledger.append("drill", "x", {})
    assert migrate(f"sqlite:///{file}") == ledger.ledger_id
    assert ledger.records() == [record]


def test_the_migrations_make_the_tables_that_the_code_uses(file: Path) -> None:
    with sa.create_engine(f"sqlite:///{file}").connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
        assert compare_metadata(context, metadata) == []


def test_a_database_without_our_tables_is_unavailable(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(Unavailable, match="has not been migrated"):
        ledger.head()


def test_a_database_that_is_locked_for_too_long_is_unavailable(file: Path, ledger: SqlLedger) -> None:
    raw = sqlite3.connect(file, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="does not answer"):
        ledger.append("drill", "x", {})
    raw.execute("ROLLBACK")
    raw.close()
    assert ledger.append("drill", "x", {}).seq == 1


def test_another_database_is_refused() -> None:
    with pytest.raises(Refused, match="mysql"):
        SqlLedger("mysql://localhost/x")


def test_errors_tell_neither_password_nor_facts() -> None:
    ledger = SqlLedger("postgresql://writer:hush@127.0.0.1:1/ledger", timeout=1.0)
    with pytest.raises(Unavailable) as error:
        ledger.append("drill", "x", {"secret": "confidential"})
    assert "hush" not in str(error.value)
    assert "confidential" not in str(error.value)
    assert "writer" in str(error.value)
