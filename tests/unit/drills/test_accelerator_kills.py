"""kill -9 in a drill of an accelerator's fault: no played fault outlives it, whoever comes after."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.kills import killed_before_change
from support.models import estate_of_two_sites
from support.nvml_stub import build, with_accelerators

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.drills.run import inject_fault, undo_fault
from ninelives.drills.scenario import Drill
from ninelives.errors import Refused, Unavailable
from ninelives.home import Home
from ninelives.injections import find_injection, open_injections
from ninelives.stack.keeper import undo_expired

DRILL = Drill("killed", "accelerator-fault", "alpha", "paris")
PLACES = [{"name": "paris", "accelerators": [{"name": "gpu-1", "policy": {"kind": "stand-in"}}]}, {"name": "dublin"}]
EVERY, FEW = range(40), (9, 19)
"""All steps in ``make soak``; of the few one is before the script is written and one after it."""


class World(ConnectedEstate):
    """One played machine, a ledger in a file, and nothing that serves."""

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.home.root / 'ledger.db'}")

    def replicas(self, site: str) -> list[Any]:
        return [SimpleNamespace(machine="gpu-1", url="http://gpu-1")]

    def gateway(self) -> Any:
        raise Unavailable("there is no gateway here")

    @property
    def played(self) -> list[str]:
        return [one.name for one in (self.home.root / "scripts").glob("*")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    build(folder)
    migrate(f"sqlite:///{folder / 'ledger.db'}")
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    shutil.copy(made / "ledger.db", tmp_path)
    script = {"library": str(made / "libnvidia-ml.so.1"), "script": str(tmp_path / "scripts" / "gpu-1")}
    control = {"conn_type": "generic", "extra": {"accelerators": {"gpu-1": script}}}
    file = tmp_path / "connections.json"
    file.write_text(json.dumps({"ninelives_paris_control": control}))
    file.chmod(0o600)
    estate = with_accelerators(estate_of_two_sites(), sites=PLACES)
    return World(estate, FileConnections(file), Home(tmp_path))


@pytest.mark.parametrize("step", [*FEW, *(pytest.param(n, marks=pytest.mark.soak) for n in EVERY if n not in FEW)])
def test_killed_at_any_step_the_keeper_leaves_nothing_played(world: World, step: int) -> None:
    def drill() -> None:
        inject_fault(world, DRILL)
        assert world.played == ["gpu-1"]
        undo_fault(world, DRILL, by="restore_site")

    was_killed = killed_before_change(step, drill)
    undo_expired(world.home, datetime.now(UTC) + timedelta(days=1), world.faults())
    assert open_injections(world.home) == []
    assert world.played == []
    if was_killed and find_injection(world.home, DRILL.id) is not None:
        with pytest.raises(Refused, match="was undone"):
            inject_fault(world, DRILL)
        assert world.played == []


def test_a_machine_whose_script_nobody_names_is_refused_before_anything_is_written(world: World) -> None:
    world.home.root.joinpath("connections.json").write_text(
        json.dumps({"ninelives_paris_control": {"conn_type": "generic", "extra": {}}})
    )
    (fault,) = plan_of(world)
    with pytest.raises(Refused, match="ninelives_paris_control names no script"):
        world.faults().check(fault)


def plan_of(world: World) -> Any:
    from ninelives.drills.scenarios import find_scenario

    return find_scenario(DRILL.scenario).plan(world, DRILL)
