"""Everything is lost, and the control plane is lost: from a real vault, beside an estate that runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.estate import free_base
from support.models import ROW
from support.processes import ROOT, wait_until
from support.scenarios import World, light_estate

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.backups.run import back_up, refuse_suspect
from ninelives.estate import load_estate
from ninelives.evidence.verify import verify_ledger
from ninelives.home import Home
from ninelives.stack import processes

pytestmark = [pytest.mark.stack, pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with light_estate(tmp_path_factory.mktemp("rebuild"), vault=True) as started:
        started.systems.ledger().append("release", "alpha", {"version": "1"})
        refuse_suspect(back_up(started.systems))
        yield started


class Stranger:
    """A machine that knows nothing but the vault's connection."""

    def __init__(self, folder: Path, world: World) -> None:
        self.home = Home(folder / "home")
        known = json.loads(world.home.connections_file.read_text())
        self.vault = folder / "vault.json"
        self.vault.write_text(json.dumps({"ninelives_vault": known["ninelives_vault"]}))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NINELIVES")}
        self.environment = {
            **kept,
            "NINELIVES_HOME": str(self.home.root),
            "NINELIVES_PORT_BASE": str(free_base()),
            "PYTHONPATH": str(ROOT / "include"),
        }

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], env=self.environment, text=True, cwd=self.vault.parent,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def rebuild(self) -> subprocess.Popen[str]:
        return self.command(
            "ninelives", "backup", "rebuild", "latest", "--vault", str(self.vault), "--json",
            "--without", "mlflow,airflow,prober,feeder,keeper,vault",
        )  # fmt: skip

    def take_away(self) -> None:
        done = self.command("ninelives.stack.rebuild", str(self.home.root))
        assert done.wait(60) == 0, done.stderr and done.stderr.read()
        assert not self.home.root.exists()
        assert processes.remaining(self.home) == []


@pytest.fixture
def stranger(tmp_path: Path, world: World) -> Iterator[Stranger]:
    one = Stranger(tmp_path, world)
    try:
        yield one
    finally:
        one.take_away()


def test_with_nothing_but_the_vault_the_estate_answers_again_and_its_ledger_verifies(
    world: World, stranger: Stranger
) -> None:
    child = stranger.rebuild()
    said, wrong = child.communicate(timeout=200)
    assert child.returncode == 0, wrong
    report = json.loads(said)
    print(report["seconds"], report["steps"])
    assert report["answers"] == 2 * 2 * 2 + 2, "two models at two replicas of two sites, two services at the gateway"
    assert any("the data of flights" in one for one in report["lacking"])
    rebuilt = ConnectedEstate(
        load_estate(stranger.home.root / "estate.yaml"), FileConnections(stranger.home.connections_file), stranger.home
    )
    for service in rebuilt.estate.services:
        assert dict(rebuilt.client(service)([ROW]).outputs)["total"] == [3.5]
    ledger = rebuilt.ledger()
    assert verify_ledger(ledger, rebuilt.stores()).verdict == "whole"
    assert ledger.ledger_id == world.systems.ledger().ledger_id, "the same ledger goes on"
    assert [one.kind for one in ledger.records()] == ["rebuild", "release"]
    again = stranger.rebuild()
    _, refused = again.communicate(timeout=60)
    assert again.returncode == 1
    assert "not empty" in refused


def test_a_rebuild_that_is_killed_is_begun_anew_by_the_next_one(stranger: Stranger) -> None:
    child = stranger.rebuild()
    wait_until(lambda: (stranger.home.root / "stack.json").exists(), "the estate is being started", timeout=60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = stranger.rebuild()
    said, wrong = done.communicate(timeout=200)
    assert done.returncode == 0, wrong
    assert json.loads(said)["answers"] == 10
