"""Airflow's FAB auth manager on the tests' own database: users who are known by number, with roles of FAB's."""

from __future__ import annotations

import os
import subprocess
import sys

MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
ENVIRONMENT = {"AIRFLOW__CORE__AUTH_MANAGER": MANAGER}

_MAKE = """
import sys
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.auth_manager.models.db import FABDBManager
from airflow.utils.session import create_session
with create_session() as session:
    FABDBManager(session).initdb()
with get_application_builder() as builder:
    users = builder.sm
    users.sync_roles()
    for name in sys.argv[2:]:
        if users.find_user(name) is None:
            mail, role = f"{name}@example.org", users.find_role("Admin")
            assert users.add_user(name, name, name, mail, role, password=sys.argv[1])
"""


def make_users(password: str, *names: str) -> None:
    """With every right that FAB gives: what stops them must be the record, and not a role."""
    done = subprocess.run(
        [sys.executable, "-c", _MAKE, password, *names],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
