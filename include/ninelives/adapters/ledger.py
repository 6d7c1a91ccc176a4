"""The ledger on PostgreSQL; SQLite for tests and notebooks.

Appending reads the head and writes the next record in one transaction that excludes every other appender, so all
writers keep one chain. A writer killed at any instant leaves nothing: its transaction, and the lock with it, end with
the connection. The database itself refuses UPDATE, DELETE and TRUNCATE, and records that do not follow the last one.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url

import ninelives
from ninelives.adapters import libpq
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.evidence.chain import (
    GENESIS,
    canonical_json,
    is_intact,
    parse_json,
    parse_timestamp,
    record_hash,
    timestamp,
)
from ninelives.ports import Connection, Head, Lease, Record

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # instants sort as text in every locale

metadata = sa.MetaData()

_ledger = sa.Table("ledger", metadata, sa.Column("id", _TEXT, primary_key=True))

_records = sa.Table(
    "records",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("subject", _TEXT, nullable=False),
    # The canonical text itself: json keeps spelling that is not canonical, jsonb changes numbers.
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("at", _TEXT, nullable=False),
    sa.Column("version", _TEXT, nullable=False),
    sa.Column("once", _TEXT, unique=True),
    sa.Column("previous", _TEXT, nullable=False, unique=True),
    sa.Column("hash", _TEXT, nullable=False, unique=True),
    sa.Index("records_by_subject", "kind", "subject", "seq"),
    sa.Index("records_by_time", "at"),
)

_leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("holder", _TEXT, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False, unique=True),
    sa.Column("expires_at", _TEXT, nullable=False),
)

# A row and not a sequence: the same on both databases, and it is only ever changed by whoever holds the lease lock.
_lease_tokens = sa.Table(
    "lease_tokens",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
)

# Built once: building a statement costs SQLAlchemy more than running it costs the database.
_LAST = sa.select(_records).order_by(_records.c.seq.desc()).limit(1)
_INSERT = sa.insert(_records)
_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number")))
_CLOCK = sa.select(sa.func.clock_timestamp())

# Advisory lock numbers, ours alone in the ledger's database.
_RECORDS_LOCK, _LEASES_LOCK, _MIGRATION_LOCK = 0x6E6C5245, 0x6E6C4C45, 0x6E6C4D49

_BATCH = 1000
_MAX_NAME = 300


class SqlLedger:
    """``ports.Ledger`` on SQLAlchemy; one object may be used by several threads, and after a fork.

    :param url: SQLAlchemy URL of a database on which ``migrate`` was run
    :param timeout: seconds that a connect, a lock or a statement may take; a whole call ends within three times that,
        also when the server is frozen or the network swallows everything
    """

    def __init__(self, url: str | URL, *, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._engine = _engine(url, timeout)
        self._writing = self._engine.execution_options(ninelives_writes=True)
        self._where = _where(self._engine.url)

    @classmethod
    def from_connection(cls, connection: Connection, *, timeout: float = 5.0) -> SqlLedger:
        """The ledger that ``ninelives_ledger`` names, as the role that may only append."""
        url = URL.create(
            "postgresql+psycopg2",
            username=connection.login,
            password=connection.password,
            host=connection.host,
            port=connection.port,
            database=connection.schema,
            query=libpq.extras(connection),
        )
        return cls(url, timeout=timeout)

    def close(self) -> None:
        """Give the connections back; the ledger can still be used."""
        self._engine.dispose()

    @cached_property
    def ledger_id(self) -> str:
        with self._transaction() as connection:
            ids = connection.execute(sa.select(_ledger.c.id)).scalars().all()
        if len(ids) != 1:
            raise Corrupted(f"{self._where} has {len(ids)} ids, a ledger has one; stop writing to it")
        return str(ids[0])

    # --- records -------------------------------------------------------------------------------------------------

    def append(self, kind: str, subject: str, facts: Mapping[str, Any], *, once: str | None = None) -> Record:
        """Append one record, stamped with the database's clock.

        :param once: a repeated call with the same key and contents returns the record already written
        :raises Refused: other contents under a key already used, or facts without an exact JSON form
        :raises Corrupted: the last record is not what was written: nothing may be chained to it
        """
        for what, name in (("kind", kind), ("subject", subject), ("once", once)):
            if name is not None:
                _check_name("append evidence", what, name)
        text = canonical_json(facts)
        plain = parse_json(text)
        with self._transaction(lock=_RECORDS_LOCK) as connection:
            if once is not None and (row := connection.execute(_select(_records.c.once == once)).one_or_none()):
                return _same(_checked(row), kind, subject, plain)
            last = connection.execute(_LAST).one_or_none()
            head = Head(0, GENESIS)
            if last is not None:
                checked = _checked(last)
                head = Head(checked.seq, checked.hash)
            record = Record(
                seq=head.seq + 1,
                kind=kind,
                subject=subject,
                facts=plain,
                at=_now(connection),
                previous=head.hash,
                hash="",
                version=ninelives.__version__,
                once=once,
            )
            values = {**vars(record), "hash": _hash(record)}
            connection.execute(_INSERT, {**values, "facts": text, "at": timestamp(record.at)})
        return replace(record, hash=values["hash"])

    def records(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[Record]:
        """Newest first; raises ``Corrupted`` where one of them is not what was written."""
        query = _select().order_by(_records.c.seq.desc()).limit(limit)
        if kind is not None:
            query = query.where(_records.c.kind == kind)
        if subject is not None:
            query = query.where(_records.c.subject == subject)
        if since is not None:
            query = query.where(_records.c.at >= timestamp(since))
        with self._transaction() as connection:
            return [_checked(row) for row in connection.execute(query)]

    def written(self, once: str) -> Record | None:
        """The record that was appended with this key; ``Corrupted`` where it is not what was written."""
        with self._transaction() as connection:
            row = connection.execute(_select(_records.c.once == once)).one_or_none()
        return _checked(row) if row else None

    def get(self, seq: int) -> Record | None:
        """The record as it is stored, checked or not: ``chain.is_intact`` tells."""
        with self._transaction() as connection:
            row = connection.execute(_select(_records.c.seq == seq)).one_or_none()
        return _record(row) if row else None

    def scan(self) -> Iterator[Record]:
        """All records as they are stored, oldest first, in short transactions; nothing is checked."""
        query = _select().order_by(_records.c.seq).limit(_BATCH)
        after = sa.true()
        while True:
            with self._transaction() as connection:
                rows = connection.execute(query.where(after)).all()
            yield from map(_record, rows)
            if len(rows) < _BATCH:
                return
            after = _records.c.seq > rows[-1].seq

    def head(self) -> Head:
        query = sa.select(_records.c.seq, _records.c.hash).order_by(_records.c.seq.desc()).limit(1)
        with self._transaction() as connection:
            row = connection.execute(query).one_or_none()
        return Head(row.seq, row.hash) if row else Head(0, GENESIS)

    # --- leases --------------------------------------------------------------------------------------------------

    def take_lease(self, name: str, holder: str, ttl: timedelta) -> Lease:
        """Take or renew a lease; it runs ``ttl`` from now by the database's clock.

        A renewal in time keeps the token. After it expired, the same holder too gets a new token: somebody else may
        have acted in between.

        :raises Refused: another holder has it
        """
        _check_name("lease", "name", name)
        _check_name("lease", "holder", holder)
        if ttl <= timedelta(0):
            raise ValueError(f"a lease of {ttl} is none")
        with self._transaction(lock=_LEASES_LOCK) as connection:
            now = _now(connection)
            held = _lease(connection, name)
            current = held if held and held.expires_at > now else None
            if current and current.holder != holder:
                until = timestamp(current.expires_at)
                raise Refused(f"lease {name}", [f"{current.holder} holds it until {until}; wait, or see what it does"])
            token = current.token if current else _next_token(connection)
            lease = Lease(name, holder, token, now + ttl)
            values = {"holder": holder, "token": token, "expires_at": timestamp(lease.expires_at)}
            if held:
                connection.execute(sa.update(_leases).where(_leases.c.name == name).values(values))
            else:
                connection.execute(sa.insert(_leases).values(name=name, **values))
        return lease

    def release_lease(self, lease: Lease) -> None:
        with self._transaction(lock=_LEASES_LOCK) as connection:
            mine = sa.and_(
                _leases.c.name == lease.name, _leases.c.token == lease.token, _leases.c.holder == lease.holder
            )
            connection.execute(sa.delete(_leases).where(mine))

    def current_lease(self, name: str) -> Lease | None:
        """Who has it now by the database's clock, ``None`` where nobody has."""
        with self._transaction() as connection:
            held = _lease(connection, name)
            return held if held and held.expires_at > _now(connection) else None

    # --- transactions --------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, *, lock: int | None = None) -> Iterator[sa.Connection]:
        """One transaction; with ``lock`` the only one of its sort. Database errors come out as ours."""
        engine = self._engine if lock is None else self._writing
        with _translated(self._where), engine.connect() as connection, self._deadline(connection), connection.begin():
            if lock is not None and connection.dialect.name == "postgresql":
                # A statement of its own: the next one must see what the last holder committed.
                connection.execute(_LOCK, {"number": lock})
            yield connection

    @contextmanager
    def _deadline(self, connection: sa.Connection) -> Iterator[None]:
        """Cut the connection when a transaction takes too long: a frozen server does not keep its own timeouts."""
        if connection.dialect.name != "postgresql":
            yield
            return
        # A descriptor of our own: libpq may have closed its own, and the kernel given the number to somebody else.
        descriptor = os.dup(_dbapi(connection).fileno())
        with socket.socket(fileno=descriptor) as twin:

            def cut() -> None:
                with suppress(OSError):
                    twin.shutdown(socket.SHUT_RDWR)

            timer = threading.Timer(2 * self._timeout, cut)
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                timer.join()


def migrate(owner_url: str | URL, writer_role: str | None = None) -> str:
    """Create the ledger's tables, or bring them up to date, and let ``writer_role`` append; safe to repeat.

    :param owner_url: signs in as the owner of the tables; only this function needs it
    :param writer_role: existing PostgreSQL role that tasks sign in with; it may read and append records and use leases
    :return: the ledger's id
    :raises Refused: the writer role does not exist or could lift its own restrictions
    """
    from alembic import command
    from alembic.config import Config

    engine = _engine(owner_url, timeout=30.0)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        with _translated(_where(engine.url)):
            if engine.dialect.name == "sqlite":
                with closing(engine.raw_connection()) as raw:  # not possible inside a transaction
                    raw.cursor().execute("PRAGMA journal_mode = WAL")
            with engine.execution_options(ninelives_writes=True).begin() as connection:
                if engine.dialect.name == "postgresql":
                    connection.execute(_LOCK, {"number": _MIGRATION_LOCK})
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if writer_role is not None:
                    _grant(connection, writer_role)
                return str(connection.execute(sa.select(_ledger.c.id)).scalar_one())
    finally:
        engine.dispose()


def _grant(connection: sa.Connection, role: str) -> None:
    if connection.dialect.name != "postgresql":
        raise Refused("grant", [f"{connection.dialect.name} has no roles; leave the writer role out"])
    if not connection.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first():
        raise Refused("grant", [f"there is no role {role}; create it with LOGIN and a password, then run this again"])
    if connection.execute(sa.text("SELECT pg_has_role(:role, current_user, 'MEMBER')"), {"role": role}).scalar_one():
        raise Refused("grant", [f"role {role} can act as the owner of the ledger and could lift its restrictions"])
    quote = connection.dialect.identifier_preparer.quote
    schema = quote(connection.execute(sa.select(sa.func.current_schema())).scalar_one())
    writer = quote(role)
    for table in (*metadata.tables, "ledger_version"):
        connection.exec_driver_sql(f"REVOKE ALL ON {schema}.{table} FROM PUBLIC, {writer}")
    for rights, table in (
        ("SELECT, INSERT", "records"),
        ("SELECT", "ledger"),
        ("SELECT, INSERT, UPDATE, DELETE", "leases"),
        ("SELECT, UPDATE", "lease_tokens"),
    ):
        connection.exec_driver_sql(f"GRANT {rights} ON {schema}.{table} TO {writer}")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {writer}")


# --- rows --------------------------------------------------------------------------------------------------------


def _select(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(_records).where(*where)


def _record(row: sa.Row[Any]) -> Record:
    """The record in ``row``. What is not spelled as we spell it becomes something that no hash was computed over."""
    try:
        facts = parse_json(row.facts)
    except (ValueError, RecursionError):
        facts = {"not as it was written": row.facts}
    try:
        at = parse_timestamp(row.at)
    except ValueError:
        at = datetime.min.replace(tzinfo=UTC)
    return Record(
        seq=row.seq,
        kind=row.kind,
        subject=row.subject,
        facts=facts,
        at=at,
        previous=row.previous,
        hash=row.hash,
        version=row.version,
        once=row.once,
    )


def _checked(row: sa.Row[Any]) -> Record:
    record = _record(row)
    if not is_intact(record):
        raise Corrupted(f"record {record.seq} is not what was written; run `ninelives evidence verify`")
    return record


def _hash(record: Record) -> str:
    return record_hash(
        seq=record.seq,
        kind=record.kind,
        subject=record.subject,
        facts=record.facts,
        at=record.at,
        previous=record.previous,
        version=record.version,
        once=record.once,
    )


def _same(existing: Record, kind: str, subject: str, facts: Mapping[str, Any]) -> Record:
    differing = [
        *(name for name, value in (("kind", kind), ("subject", subject)) if getattr(existing, name) != value),
        *(f"facts.{key}" for key in sorted({*facts, *existing.facts}) if _differs(key, facts, existing.facts)),
    ]
    if differing:
        others = ", ".join(differing)
        raise Refused("append evidence", [f"record {existing.seq} has the key {existing.once!r} and another {others}"])
    return existing


def _differs(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # By canonical text: to Python, true equals 1.
    return (key in one) != (key in other) or canonical_json({key: one[key]}) != canonical_json({key: other[key]})


def _check_name(what: str, field: str, name: str) -> None:
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise Refused(what, [f"{field} {name!r} is not 1 to {_MAX_NAME} printable characters"])


def _lease(connection: sa.Connection, name: str) -> Lease | None:
    row = connection.execute(sa.select(_leases).where(_leases.c.name == name)).one_or_none()
    return Lease(row.name, row.holder, row.token, parse_timestamp(row.expires_at)) if row else None


def _next_token(connection: sa.Connection) -> int:
    grow = sa.update(_lease_tokens).values(last=_lease_tokens.c.last + 1).returning(_lease_tokens.c.last)
    return int(connection.execute(grow).scalar_one())


def _now(connection: sa.Connection) -> datetime:
    """The database's clock, not the caller's and not the start of the transaction."""
    if connection.dialect.name == "postgresql":
        moment: datetime = connection.execute(_CLOCK).scalar_one()
        return moment.astimezone(UTC)
    text = connection.execute(sa.select(sa.func.strftime("%Y-%m-%dT%H:%M:%fZ", "now"))).scalar_one()
    return datetime.fromisoformat(text)


# --- connections -------------------------------------------------------------------------------------------------


def _engine(url: str | URL, timeout: float) -> sa.Engine:
    url = make_url(url)
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": timeout})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif url.get_backend_name() == "postgresql":
        milliseconds = int(timeout * 1000)
        settings = {
            "statement_timeout": milliseconds,
            "lock_timeout": milliseconds,
            # A writer that is stopped in mid-append must not keep the lock.
            "idle_in_transaction_session_timeout": 2 * milliseconds,
            "synchronous_commit": "on",
        }
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg2"),
            isolation_level="READ COMMITTED",  # after the lock, a statement must see what was committed before
            pool_timeout=timeout,
            connect_args={
                "connect_timeout": max(2, round(timeout)),  # libpq takes whole seconds, at least 2
                "tcp_user_timeout": milliseconds,
                "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
                "application_name": "ninelives",
            },
        )
    else:
        raise Refused("ledger", [f"{url.get_backend_name()} cannot hold a ledger; use PostgreSQL, or SQLite for tests"])
    event.listen(engine, "connect", _remember_process)
    event.listen(engine, "checkout", _check_connection)
    return engine


def _remember_process(_dbapi_connection: Any, entry: Any) -> None:
    entry.info["pid"] = os.getpid()


def _check_connection(dbapi_connection: Any, entry: Any, proxy: Any) -> None:
    """Have the pool replace a connection that a fork inherited or that the server has closed."""
    if entry.info["pid"] != os.getpid():
        entry.dbapi_connection = proxy.dbapi_connection = None  # it is the parent's to close
        raise exc.DisconnectionError("the connection belongs to another process")
    if hasattr(dbapi_connection, "fileno"):
        poll = select.poll()
        poll.register(dbapi_connection.fileno(), select.POLLIN)
        if poll.poll(0):  # an idle server has nothing to say but goodbye
            raise exc.DisconnectionError("the server has closed the connection")


def _prepare_sqlite(dbapi_connection: Any, _entry: Any) -> None:
    dbapi_connection.isolation_level = None  # transactions begin where we say so
    dbapi_connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("ninelives_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _dbapi(connection: sa.Connection) -> Any:
    return connection.connection.dbapi_connection


_MIGRATE = "ninelives.adapters.ledger.migrate makes its tables, as deploy/prepare.py shows"


def _where(url: URL) -> str:
    return f"the ledger ({url.set(password=None, query={}).render_as_string()})"


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Errors of the database as ours. Only the driver's own words: SQLAlchemy's would repeat the facts."""
    try:
        yield
    except exc.ProgrammingError as error:
        cause = _cause(error)
        match getattr(error.orig, "pgcode", None):
            case "42501":
                raise Refused(f"use {where}", [cause]) from error
            case "42P01":
                raise Unavailable(f"{where} has not been migrated: {cause}; {_MIGRATE}") from error
        raise Unavailable(f"{where} did not understand: {cause}") from error
    except exc.OperationalError as error:
        cause = _cause(error)
        if cause.startswith("no such table"):
            raise Unavailable(f"{where} has not been migrated: {cause}; {_MIGRATE}") from error
        raise Unavailable(f"{where} does not answer: {cause}") from error
    except exc.IntegrityError as error:
        raise Unavailable(f"{where} refused a record that does not follow the last one: {_cause(error)}") from error
    except exc.DBAPIError as error:
        raise Unavailable(f"{where} gave up: {_cause(error)}") from error
    except exc.TimeoutError as error:
        raise Unavailable(f"{where}: all connections of this process are in use") from error


def _cause(error: exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split())
