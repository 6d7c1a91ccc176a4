"""Databases dumped as of one instant, and loaded into an empty server to prove it.

``pg_dump`` joins the snapshot of a transaction of ours, so that what it writes and what is asked in that transaction
are the same state. Its folder format has one file per table: what did not change gives the same bytes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ninelives.adapters.children import die_with_parent
from ninelives.adapters.ledger import SqlLedger
from ninelives.adapters.postgres_programs import binaries, unprivileged, user
from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import Connection, Connections, Dumped, Ledger, UnfinishedRun

COUNTED = {"ledger": ("records",), "registry": ("runs", "model_versions"), "airflow": ("dag", "dag_run")}
"""Tables whose rows tell whether a database shrank."""
_PATIENCE = 30.0
"""Seconds for a server on loopback to start."""


class PostgresDatabases:
    """``ports.Databases``: connection ``ninelives_backup_<part>``; its extra field ``databases`` names more than the
    one of its schema. The role needs ``pg_read_all_data`` and nothing else."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def dump(self, part: str, to: Path) -> list[Dumped]:
        connection = self._connections.get(f"ninelives_backup_{part}")
        names = connection.extra.get("databases") or [connection.schema]
        return [_dump(connection, part, str(name), to / str(name)) for name in names]

    def runs(self) -> list[UnfinishedRun]:
        connection = self._connections.get("ninelives_backup_airflow")
        return unfinished_runs(connection)

    @contextmanager
    def scratch(self) -> Iterator[Scratch]:
        folder = Path(tempfile.mkdtemp(prefix="nl-scratch-"))
        try:
            with _server(folder) as scratch:
                yield scratch
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _dump(connection: Connection, part: str, database: str, to: Path) -> Dumped:
    import psycopg2  # type: ignore[import-untyped]
    from psycopg2 import extensions

    where = f"database {database} at {connection.host}:{connection.port}"
    try:
        link = psycopg2.connect(**_libpq(connection, database), connect_timeout=5)
    except psycopg2.OperationalError as error:
        raise Unavailable(f"{where}: {error}") from error
    try:
        link.set_session(isolation_level=extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
        with link.cursor() as cursor:
            cursor.execute("SELECT pg_export_snapshot()")
            (snapshot,) = cursor.fetchone()
            rows = sum(_count(cursor, table) for table in COUNTED.get(part, ()))
            facts = _facts(cursor, part)
        to.parent.mkdir(parents=True, exist_ok=True)
        _run(
            "pg_dump",
            ["--format=directory", "--compress=0", "--no-sync", f"--snapshot={snapshot}", f"--file={to}"],
            _environment(connection, database),
            where,
        )
        return Dumped(database, rows, facts)
    except psycopg2.Error as error:
        raise Unavailable(f"{where}: {error}") from error
    finally:
        link.close()


def _exists(cursor: Any, table: str) -> bool:
    cursor.execute("SELECT to_regclass(%s)", (table,))
    return cursor.fetchone()[0] is not None


def _count(cursor: Any, table: str) -> int:
    if not _exists(cursor, table):
        return 0
    cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - names of ours
    return int(cursor.fetchone()[0])


def _facts(cursor: Any, part: str) -> Mapping[str, Any]:
    """What the dump of this instant refers to outside of the database."""
    if part == "ledger" and _exists(cursor, "records"):
        cursor.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1")
        seq, digest = cursor.fetchone() or (0, "")
        cursor.execute("SELECT id FROM ledger")
        return {"head": {"seq": seq, "hash": digest}, "ledger_id": cursor.fetchone()[0]}
    if part == "registry" and _exists(cursor, "model_versions"):
        cursor.execute("SELECT name, version, coalesce(storage_location, source) FROM model_versions ORDER BY 1, 2")
        return {"artefacts": {f"{name}@{version}": location for name, version, location in cursor.fetchall()}}
    return {}


def _libpq(connection: Connection, database: str) -> dict[str, Any]:
    given = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        "dbname": database,
        "sslmode": connection.extra.get("sslmode"),
        "sslrootcert": connection.extra.get("sslrootcert"),
    }
    return {name: value for name, value in given.items() if value is not None}


def _environment(connection: Connection, database: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    names = {"dbname": "PGDATABASE", "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}
    given = _libpq(connection, database).items()
    return environment | {names.get(name, f"PG{name.upper()}"): str(value) for name, value in given}


def _run(program: str, arguments: list[str], environment: Mapping[str, str], where: str) -> None:
    """:raises Unavailable: it failed, with its own words"""
    done = subprocess.run(
        [str(binaries() / program), "--no-password", *arguments],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=die_with_parent(),
    )
    if done.returncode:
        raise Unavailable(f"{where}: {program} ended with {done.returncode}: {' '.join(done.stderr.split())[:500]}")


def load_dump(superuser: Connection, dump: Path, name: str, *, owner: str | None = None) -> None:
    """Load a dump into a new database ``name``; one of that name is thrown away before.

    :param owner: of the database; then everything in it gets its owner and its rights as they were, else the superuser
        owns all of it
    :raises Corrupted: the dump does not load without an error
    """
    import psycopg2
    from psycopg2 import sql

    where = f"database {name} at {superuser.host}:{superuser.port}"
    try:
        link = psycopg2.connect(**_libpq(superuser, "postgres"))
    except psycopg2.OperationalError as error:
        raise Unavailable(f"{where}: {error}") from error
    link.autocommit = True  # CREATE DATABASE cannot run in a transaction
    words = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
    if owner:
        words += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
    try:
        with link.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
            cursor.execute(words)
    except psycopg2.Error as error:
        raise Unavailable(f"{where}: {error}") from error
    finally:
        link.close()
    rights = [] if owner else ["--no-owner", "--no-privileges"]
    try:
        _run(
            "pg_restore",
            ["--exit-on-error", *rights, f"--dbname={name}", str(dump)],
            _environment(superuser, name),
            f"the dump of {name}",
        )
    except Unavailable as error:  # the server answers and the database is empty: what fails is the dump
        raise Corrupted(str(error)) from error


def count_rows(connection: Connection, part: str) -> int:
    """Rows of what tells whether ``part`` shrank, in the database that is the connection's schema.

    :raises Unavailable: it cannot be read
    """
    import psycopg2

    try:
        link = psycopg2.connect(**_libpq(connection, str(connection.schema)), connect_timeout=5)
        try:
            with link.cursor() as cursor:
                return sum(_count(cursor, table) for table in COUNTED.get(part, ()))
        finally:
            link.close()
    except psycopg2.Error as error:
        raise Unavailable(f"database {connection.schema}: {' '.join(str(error).split())}") from error


_UNFINISHED = """
SELECT dag_run.dag_id, dag_run.run_id, task.task_id, task.try_number > task.max_tries
FROM dag_run LEFT JOIN task_instance AS task
  ON task.dag_id = dag_run.dag_id AND task.run_id = dag_run.run_id AND task.state IN ('running', 'restarting')
WHERE dag_run.state IN ('queued', 'running') ORDER BY 1, 2, 3
"""


def unfinished_runs(connection: Connection) -> list[UnfinishedRun]:
    """Of Airflow's database that is the connection's schema; raises ``Unavailable`` where it cannot be read."""
    import psycopg2

    database = str(connection.schema)
    try:
        link = psycopg2.connect(**_libpq(connection, database), connect_timeout=5)
        try:
            with link.cursor() as cursor:
                cursor.execute(_UNFINISHED)
                rows = cursor.fetchall()
        finally:
            link.close()
    except psycopg2.Error as error:
        raise Unavailable(f"database {database}: {' '.join(str(error).split())}") from error
    found: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for dag, run, task, last in rows:
        found.setdefault((dag, run), []).extend([(task, last)] if task else [])
    return [
        UnfinishedRun(dag, run, tuple(name for name, _ in tasks), tuple(name for name, last in tasks if last))
        for (dag, run), tasks in found.items()
    ]


class Scratch:
    """``ports.ScratchServer``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def load(self, dump: Path, name: str) -> None:
        load_dump(self._connection, dump, name)

    def ledger(self, name: str) -> Ledger:
        return SqlLedger.from_connection(replace(self._connection, schema=name), timeout=30)

    def runs(self, name: str) -> list[UnfinishedRun]:
        try:
            return unfinished_runs(replace(self._connection, schema=name))
        except Unavailable as error:  # the server is ours: what cannot be read is the dump
            raise Corrupted(f"the dump is none of Airflow's: {error}") from error

    def registry(self, name: str) -> int:
        url = f"postgresql+psycopg2://{self._connection.login}:{self._connection.password}@"
        url += f"{self._connection.host}:{self._connection.port}/{name}"
        done = subprocess.run(
            [sys.executable, "-m", "ninelives.adapters.mlflow_store"],
            input=url,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(Path.home())},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=die_with_parent(),
        )
        if done.returncode:
            raise Corrupted(f"the registry does not come up from its dump: {' '.join(done.stderr.split())[-500:]}")
        return int(json.loads(done.stdout)["versions"])


@contextmanager
def _server(folder: Path) -> Iterator[Scratch]:
    """An empty server on loopback with a password of its own."""
    data, password = folder / "data", secrets.token_urlsafe(24)
    data.mkdir(mode=0o700)
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password, "utf-8")
    if other := user():
        for path in (folder, data, secret):
            os.chown(path, other.pw_uid, other.pw_gid)
    words = unprivileged(data)
    if words:  # the kernel forgets whom to follow into death when the user changes
        words = (words[0], "--pdeathsig=KILL", *words[1:])
    made = subprocess.run(
        [
            *words, str(binaries() / "initdb"), "-D", str(data), "-U", "postgres", "--pwfile", str(secret),
            "--auth-host=scram-sha-256", "--auth-local=reject", "--encoding=UTF8", "--no-locale", "--no-sync",
        ],
        capture_output=True, text=True, cwd="/", check=False, preexec_fn=die_with_parent(),
    )  # fmt: skip
    if made.returncode:
        raise Unavailable(f"an empty PostgreSQL could not be made in {data}: {made.stderr.strip()[:500]}")
    port = _free_port()
    # It holds nothing that must survive: no time is spent on the disk.
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off",
                "full_page_writes": "off", "io_method": "sync", "max_connections": 20, "wal_level": "minimal",
                "max_wal_senders": 0}  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [*words, str(binaries() / "postgres"), "-D", str(data), *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", preexec_fn=die_with_parent(),
        )  # fmt: skip
    try:
        connection = Connection("scratch", "127.0.0.1", port, "postgres", password, "postgres")
        _await(child, connection, folder / "log")
        yield Scratch(connection)
    finally:
        child.send_signal(signal.SIGQUIT)  # at once: nothing of it is worth keeping
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _await(child: subprocess.Popen[bytes], connection: Connection, log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            psycopg2.connect(**_libpq(connection, "postgres"), connect_timeout=2).close()
            return
        except psycopg2.OperationalError as error:
            if child.poll() is not None or time.monotonic() > deadline:
                said = log.read_text("utf-8", "replace")[-500:]
                raise Unavailable(f"an empty PostgreSQL did not start: {said or error}") from error
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
