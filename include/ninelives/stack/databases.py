"""Databases of a backup put into the place of those of the local estate: loaded beside them, then swapped at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from ninelives.adapters.postgres_dumps import load_dump
from ninelives.errors import Refused
from ninelives.ports import Connection
from ninelives.stack import postgres
from ninelives.stack.local import MLFLOW_ADMIN, LocalEstate

RESTORED = "_restored"
"""What a database is called until it is checked."""


def superuser(local: LocalEstate, database: str = "postgres") -> Connection:
    """Of the local estate's PostgreSQL; in production this is the database administrator's."""
    password = local.secrets.token("postgres-superuser")
    return Connection("postgres-superuser", "127.0.0.1", local.ports.postgres, "postgres", password, database)


def load_beside(local: LocalEstate, dumps: Mapping[str, Path]) -> None:
    """Load each dump into ``<database>_restored``, with its owners and rights; what a killed call left is made anew.

    :param dumps: database to its dump
    :raises Corrupted: a dump does not load without an error
    """
    for database, dump in dumps.items():
        load_dump(superuser(local), dump, f"{database}{RESTORED}", owner=postgres.DATABASES[database])


def swap(local: LocalEstate, databases: tuple[str, ...], now: datetime) -> dict[str, str]:
    """Let each ``<database>_restored`` be ``<database>``, all of them in one transaction.

    :return: database to what the one that was there is called now; nothing is thrown away
    :raises Refused: somebody is signed in to one of them: what uses it must be stopped first
    """
    import psycopg2  # type: ignore[import-untyped]
    from psycopg2 import sql

    kept = {name: f"{name}_before_{now:%Y%m%dt%H%M%Sz}" for name in databases}
    link = postgres.connect(local)
    try:
        with link, link.cursor() as cursor:
            for name, before in kept.items():
                for old, new in ((name, before), (f"{name}{RESTORED}", name)):
                    cursor.execute(
                        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
                    )
    except psycopg2.errors.ObjectInUse as error:
        raise Refused(
            f"restore into {', '.join(databases)}",
            [f"it is in use: {' '.join(str(error).split())}", "stop what uses it: `ninelives stack down`"],
        ) from error
    finally:
        link.close()
    postgres.provision(local)
    return kept


def set_registry_password(local: LocalEstate) -> None:
    """The registry's users come back with the passwords of then: its administrator gets the one recorded now."""
    from werkzeug.security import generate_password_hash

    link = postgres.connect(local, "mlflow_auth")
    try:
        with link, link.cursor() as cursor:
            cursor.execute("SELECT to_regclass('users')")
            if cursor.fetchone()[0] is None:
                return  # no registry has ever run there
            hashed = generate_password_hash(local.secrets.token("mlflow-admin"))
            cursor.execute("UPDATE users SET password_hash = %s WHERE username = %s", (hashed, MLFLOW_ADMIN))
    finally:
        link.close()
