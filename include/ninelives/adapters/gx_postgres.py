"""A table in PostgreSQL for the gate's worker: one connection, and one snapshot in which everything is asked.

The transaction is REPEATABLE READ and READ ONLY, so that the rows that are counted, hashed and judged are the same, and
nothing is ever written: no temporary table or view either, which a role that may only read, or a standby, could not
make. What is judged is a common table expression that each statement brings along.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

from ninelives.errors import Unavailable
from ninelives.gates.suite import quoted

_ARROW = {
    "boolean": "bool",
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "oid": "uint32",
    "real": "float",
    "double precision": "double",
    "text": "string",
    "character varying": "string",
    "character": "string",
    "name": "string",
    "bytea": "binary",
    "date": "date32[day]",
    "time without time zone": "time64[us]",
    "timestamp without time zone": "timestamp[us]",
    "timestamp with time zone": "timestamp[us, tz=UTC]",
}
_STATE = """
SELECT current_setting('server_version'), now(),
  CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() ELSE now() END
"""
# An enum is text with few values; a domain has the type that it is made from.
_COLUMNS = """
SELECT a.attname, CASE t.typtype WHEN 'e' THEN 'text' WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
  ELSE format_type(a.atttypid, a.atttypmod) END
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'p', 'm', 'v')
ORDER BY a.attnum
"""
# Added up: the order of the rows does not matter, equal rows do not cancel out, several processes can share it.
_HASH = "SELECT count(*), coalesce(sum(hashtextextended((r.*)::text, 0)), 0) FROM {table} r WHERE {where}"
_SAVEPOINT = "gate"


def arrow_type(type_: str) -> str:
    """The Arrow type of a column whose type PostgreSQL calls ``type_``; one that Arrow lacks keeps its name."""
    if decimal := re.fullmatch(r"numeric\((\d+),(-?\d+)\)", type_):
        precision, scale = map(int, decimal.groups())
        if precision <= 76:
            return f"decimal{128 if precision <= 38 else 256}({precision}, {scale})"
    return _ARROW.get(re.sub(r"\(\d+\)", "", type_), type_)


class Snapshot:
    """The database as it is at one instant.

    :param database: what libpq needs to sign in
    :param timeout: milliseconds that a statement may take, or that the server waits for the next one
    :raises Unavailable: the database does not answer or does not let us in
    """

    def __init__(self, database: Mapping[str, Any], timeout: int) -> None:
        import psycopg2  # type: ignore[import-untyped]

        try:
            self.connection = psycopg2.connect(**database)
        except psycopg2.OperationalError as error:
            user = f'"{database.get("user")}"'
            raise Unavailable(_first_line(error).replace(user, "its login")) from None
        self.connection.autocommit = True  # what begins and ends is said here, and nowhere else
        self._run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # LOCAL, so that a pool of connections in between neither loses nor keeps them. What a row looks like as text
        # depends on the first five. A policy that hides rows from our role is an error, not a smaller table.
        for setting in (
            "TimeZone = 'UTC'", "DateStyle = 'ISO, YMD'", "IntervalStyle = 'iso_8601'", "extra_float_digits = 1",
            "bytea_output = 'hex'", "row_security = off", f"statement_timeout = {timeout}",
            f"idle_in_transaction_session_timeout = {timeout}",
        ):  # fmt: skip
            self._run(f"SET LOCAL {setting}")
        self._run(f"SAVEPOINT {_SAVEPOINT}")
        self._stop_when_abandoned()
        self.version, self._begun, as_of = self._row(_STATE)
        self.as_of: datetime | None = as_of
        """The instant that the rows are from: on a standby, of the last transaction that reached it."""

    @property
    def lost(self) -> bool:
        return bool(self.connection.closed)

    @property
    def unbroken(self) -> bool:
        """Whether everything so far was asked of the same snapshot: a query of the suite's own may have ended it."""
        return bool(self._row("SELECT now()") == (self._begun,))

    def columns(self, table: str) -> dict[str, str]:
        """Column to PostgreSQL's type, in order; empty where there is no such table, or none that holds rows itself."""
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(_COLUMNS, [_qualified(table)])
            return dict(cursor.fetchall())

    def fingerprint(self, table: str, columns: Mapping[str, str], where: str = "true") -> tuple[int, str]:
        """Number of rows, and a hash of all that is in them and of the columns' names and types.

        It reads the table once and turns every row into text. Rows that differ by accident have the same sum of 64-bit
        hashes once in 10^19; somebody who may write the table and knows the formula could make such rows.
        """
        rows, total = self._row(_HASH.format(table=_qualified(table), where=where))
        known = {"columns": list(columns.items()), "rows": rows, "sum": str(total)}
        return rows, hashlib.sha256(json.dumps(known, separators=(",", ":")).encode()).hexdigest()

    def engine(self, relations: Mapping[str, str]) -> Any:
        """A SQLAlchemy engine that asks here and nowhere else, and in which ``relations``, name to query, are there."""
        import sqlalchemy as sa

        engine = sa.create_engine(
            "postgresql+psycopg2://", creator=lambda: self.connection, poolclass=sa.StaticPool, use_native_hstore=False
        )

        @sa.event.listens_for(engine, "before_cursor_execute", retval=True)
        def bring_relations(
            connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
        ) -> tuple[str, Any]:
            brought = ", ".join(
                f"{quoted(name)} AS NOT MATERIALIZED ({query})".replace("%", "%%")
                for name, query in relations.items()
                if name in statement
            )
            if brought:
                own = re.match(r"\s*WITH\s+(RECURSIVE\s+)?", statement, re.IGNORECASE)
                rest = f", {statement[own.end() :]}" if own else f" {statement}"
                statement = f"WITH {own[1] or '' if own else ''}{brought}{rest}"
            return statement, parameters

        @sa.event.listens_for(engine, "handle_error")
        def leave_others_alone(context: Any) -> None:
            if not self.lost:
                self._run(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")

        return engine

    def _stop_when_abandoned(self) -> None:
        """A worker that is killed must not leave its query running; some servers cannot tell."""
        import psycopg2

        try:
            self._run(
                "SELECT set_config(name, '1s', true) FROM pg_settings WHERE name = 'client_connection_check_interval'"
            )
        except psycopg2.Error:
            self._run(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")

    def _run(self, statement: str) -> None:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """All of them, here."""
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(query)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def _row(self, query: str) -> tuple[Any, ...]:
        (row,) = self.rows(query)
        return row


def selection(table: str, columns: Mapping[str, str], where: str = "true") -> str:
    """``columns`` (name to PostgreSQL's type) of ``table``; whatever Arrow calls a string is text."""
    chosen = ", ".join(
        f"{quoted(name)}::text AS {quoted(name)}" if arrow_type(type_) == "string" else quoted(name)
        for name, type_ in columns.items()
    )
    return f"SELECT {chosen} FROM {_qualified(table)} WHERE {where}"  # noqa: S608


def _qualified(table: str) -> str:
    return ".".join(map(quoted, table.split(".", 1)))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
