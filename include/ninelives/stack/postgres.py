"""PostgreSQL from a wheel's binaries: TCP on loopback with passwords, its data under the home folder."""

from __future__ import annotations

import os
import shutil
import subprocess

from ninelives.adapters.postgres_programs import binaries
from ninelives.adapters.postgres_programs import unprivileged as _unprivileged
from ninelives.adapters.postgres_programs import user as _user
from ninelives.errors import Unavailable
from ninelives.stack.local import LocalEstate
from ninelives.stack.secrets import private_folder

DATABASES = {"airflow": "airflow", "mlflow": "mlflow", "mlflow_auth": "mlflow", "ledger": "ledger_owner"}
"""Database to owner."""
ROLES = ("airflow", "mlflow", "ledger_owner", "ledger_writer", "backup_reader")


def arguments(local: LocalEstate) -> list[str]:
    """The server's command line; started as root, it runs as an unprivileged user, as PostgreSQL demands."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": local.ports.postgres,
        "unix_socket_directories": "",
        "max_connections": 120,
        "shared_buffers": "64MB",
        "io_method": "sync",  # a few clients on loopback: worker processes would only add memory
        "log_min_duration_statement": "5s",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [*_unprivileged(local.postgres_data), str(binaries() / "postgres"), "-D", str(local.postgres_data), *options]


def create(local: LocalEstate) -> None:
    """Make the data folder unless it is whole; a half-made one (killed in between) is made again."""
    data = local.postgres_data
    done = data.parent / "created"
    if done.exists():
        return
    shutil.rmtree(data, ignore_errors=False) if data.exists() else None
    data.parent.mkdir(parents=True, exist_ok=True)
    private_folder(data)
    password = data.parent / "password"
    password.touch(mode=0o600)
    password.write_text(local.secrets.token("postgres-superuser"), "utf-8")
    if user := _user():
        os.chown(data, user.pw_uid, user.pw_gid)
        os.chown(password, user.pw_uid, user.pw_gid)
    command = [
        *_unprivileged(data),
        str(binaries() / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "--pwfile",
        str(password),
        "--auth-host=scram-sha-256",
        "--auth-local=reject",
        "--encoding=UTF8",
        "--no-locale",
    ]
    try:
        made = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    finally:
        password.unlink()
    if made.returncode:
        raise Unavailable(f"PostgreSQL's initdb failed in {data}: {made.stderr.strip() or made.stdout.strip()}")
    done.touch()


def accepts_connections(local: LocalEstate) -> bool:
    import psycopg2  # type: ignore[import-untyped]

    try:
        connect(local).close()
    except psycopg2.OperationalError:
        return False
    return True


def provision(local: LocalEstate) -> None:
    """Make roles and databases that are missing, and set every password to the recorded one."""
    from psycopg2 import sql

    connection = connect(local)
    connection.autocommit = True  # CREATE DATABASE cannot run in a transaction
    try:
        with connection.cursor() as cursor:
            for role in ROLES:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
                verb = "ALTER" if cursor.fetchone() else "CREATE"
                cursor.execute(
                    sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(role), sql.Literal(local.secrets.token(f"postgres-{role}"))
                    )
                )
            for database, owner in DATABASES.items():
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
                if not cursor.fetchone():
                    cursor.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(owner))
                    )
                cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
            cursor.execute("GRANT CONNECT ON DATABASE ledger TO ledger_writer")
            for database in DATABASES:  # backups read everything, and change nothing
                cursor.execute(
                    sql.SQL("GRANT CONNECT ON DATABASE {} TO backup_reader").format(sql.Identifier(database))
                )
            cursor.execute("GRANT pg_read_all_data TO backup_reader")
    finally:
        connection.close()


def connect(local: LocalEstate, database: str = "postgres"):  # type: ignore[no-untyped-def]  # psycopg2 has no types
    import psycopg2

    return psycopg2.connect(
        host="127.0.0.1",
        port=local.ports.postgres,
        user="postgres",
        dbname=database,
        password=local.secrets.token("postgres-superuser"),
        connect_timeout=3,
    )
