"""Before anything else of the Compose deployment starts: databases, the service account, the gateway's first files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import sqlalchemy as sa

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.envoy import EnvoyGateway
from ninelives.adapters.ledger import migrate
from ninelives.home import Home

SECRETS = Path("/run/secrets")


def main() -> None:
    home = Home.from_environment()
    home.connections_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(SECRETS / "connections.json", home.connections_file)
    home.connections_file.chmod(0o600)
    subprocess.run(["airflow", "db", "migrate"], check=True)
    password = (SECRETS / "service_password").read_text()
    subprocess.run(
        ["airflow", "users", "create", "--username", "ninelives", "--role", "Op", "--email", "ninelives@localhost",
         "--firstname", "Ninelives", "--lastname", "Service", "--use-random-password"],
        check=True,
    )  # fmt: skip
    # On standard input, so that the password is on no command line.
    subprocess.run(
        ["airflow", "users", "reset-password", "--username", "ninelives"],
        check=True,
        text=True,
        input=f"{password}\n{password}\n",
    )
    owner = (SECRETS / "ledger_owner").read_text()
    _ensure_writer(owner, (SECRETS / "ledger_writer_password").read_text())
    migrate(owner, writer_role="ledger_writer")
    systems = ConnectedEstate.of_home(home)
    EnvoyGateway.from_connections(systems.connections, systems.estate).initialise()


def _ensure_writer(owner: str, password: str) -> None:
    """The role that tasks use; ``migrate`` lets it insert and read, never change."""
    if not password.isalnum():
        raise SystemExit(f"ledger_writer_password in {os.fspath(SECRETS)} must be letters and digits: make it anew")
    with sa.create_engine(owner).begin() as connection:
        known = connection.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = 'ledger_writer'")).first()
        verb = "ALTER" if known else "CREATE"
        connection.execute(sa.text(f"{verb} ROLE ledger_writer LOGIN PASSWORD '{password}'"))


if __name__ == "__main__":
    main()
