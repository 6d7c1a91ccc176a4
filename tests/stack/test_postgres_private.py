"""PostgreSQL started by root where nobody else may look, as in a clone below /root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.estate import free_base

from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.stack import postgres
from ninelives.stack.local import LocalEstate, open_secrets
from ninelives.stack.ports import Ports

pytestmark = pytest.mark.stack

DEMO = Path(__file__).parents[2] / "include" / "estates" / "demo" / "estate.yaml"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run PostgreSQL as somebody else")
def test_a_database_is_made_and_served_from_folders_that_are_closed_to_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = postgres.binaries().parents[1]
    for folder in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(folder, closed / folder.name, ignore=shutil.ignore_patterns("pginstall"))
    programs = closed / wheel.name / postgres.binaries().relative_to(wheel)
    monkeypatch.setattr(postgres, "binaries", lambda: programs)
    home = Home(closed / "home")
    home.root.mkdir()
    estate = load_estate(DEMO)
    local = LocalEstate(home, estate, Ports(free_base(), estate.site_names), open_secrets(home))

    postgres.create(local)
    with subprocess.Popen(postgres.arguments(local), cwd="/", stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 30
            while not postgres.accepts_connections(local):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            postgres.provision(local)
            user = Path(f"/proc/{server.pid}").stat().st_uid
        finally:
            server.send_signal(signal.SIGINT)

    assert user != 0
    assert (closed.stat().st_mode & 0o777) == 0o700, "opening the user's folders is not ours to decide"
