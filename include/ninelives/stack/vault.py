"""The local estate's vault: a disk, a server that only adds, and a keeper with a key of its own.

On one machine all of it is one user's, so who may do what is decided by what each holds: tasks and the command line
have the connection ``ninelives_vault``, and its login at the server can add and read. The keeper's key, and the way to
the disk that goes with it, are in the vault's folder and in no connection of Airflow's. In production the vault is a
machine where operators have no account.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.http_client import http_client
from ninelives.adapters.model_signing import make_keys
from ninelives.adapters.restic import Restic
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.stack.secrets import private_folder

if TYPE_CHECKING:
    from ninelives.stack.local import LocalEstate

KEEPER = "ninelives_vault_keeper"
DATABASES = {"ledger": ["ledger"], "registry": ["mlflow", "mlflow_auth"], "airflow": ["airflow"]}


def repository(home: Home) -> Path:
    return home.vault / "repository"


def server_login(local: LocalEstate) -> tuple[str, str]:
    return "operator", local.secrets.token("vault-server")


def connections(local: LocalEstate) -> dict[str, dict[str, object]]:
    """What the operator's side has: the vault to add to and to read, and databases to read."""
    login, password = server_login(local)
    signing_key, verify_key = local.secrets.key_pair("vault-signing-key", make_keys)
    found: dict[str, dict[str, object]] = {
        "ninelives_vault": {
            "conn_type": "http",
            "host": "127.0.0.1",
            "port": local.ports.vault,
            "login": login,
            "password": password,
            "extra": {
                "key": local.secrets.token("vault-operator-key"),
                "signing_key": signing_key,
                "verify_key": verify_key,
            },
        }
    }
    for part, databases in DATABASES.items():
        found[f"ninelives_backup_{part}"] = {
            "conn_type": "postgres",
            "host": "127.0.0.1",
            "port": local.ports.postgres,
            "login": "backup_reader",
            "password": local.secrets.token("postgres-backup_reader"),
            "schema": databases[0],
            "extra": {"databases": databases},
        }
    return found


def create(local: LocalEstate) -> None:
    """Make the vault with the keeper's key, and let the operator's open it too; a killed call is repeated."""
    home = local.home
    private_folder(home.vault)
    done = home.vault / "created"
    if done.exists():
        return
    keys = home.vault_keeper_file
    if not keys.exists():
        extra = {"folder": str(repository(home)), "key": secrets.token_urlsafe(32)}
        document = {KEEPER: {"conn_type": "generic", "extra": extra}}
        write_atomically(keys, json.dumps(document, indent=1).encode(), mode=0o600)
    keeper = Restic.from_connection(FileConnections(keys).get(KEEPER))
    keeper.initialise()
    if not any(key.user == "operator" for key in keeper.list_keys()):
        keeper.add_key(local.secrets.token("vault-operator-key"), "operator")
    done.touch()


def answers(local: LocalEstate) -> bool:
    """Whether the server knows its login."""
    import httpx

    try:
        with http_client(f"http://127.0.0.1:{local.ports.vault}", auth=server_login(local), timeout=2) as client:
            return client.head("/config").status_code == 200
    except httpx.HTTPError:
        return False
