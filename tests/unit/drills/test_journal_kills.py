"""kill -9 at every step of a drill's journal: whoever comes after finds out exactly what is broken, and mends it.

A real child process injects a real fault, a byte on a real disk, and is killed before its first, second, ... change of
a file. Then the keeper looks, as it does once a second, and the disk must be what it was to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.evidence import FolderStore
from support.kills import killed_before_change

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.faults import SupervisedFaults
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.drills.run import inject_fault, undo_fault
from ninelives.drills.scenario import Drill
from ninelives.drills.state import digest, read_before
from ninelives.errors import Refused, Unavailable
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.injections import find_injection, open_injections
from ninelives.ports import Gateway
from ninelives.replication.manifest import ManifestObject, build_manifest, write_manifest
from ninelives.stack.keeper import undo_expired

ESTATE = load_estate(Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml")
DRILL = Drill("killed", "corrupt-object", "arrival-delay", "dublin")
KEYS = ("flights/day=1.parquet", "flights/day=2.parquet")


class World:
    """``Systems`` with two stores in folders, a ledger in a file, and no gateway and no supervisor."""

    def __init__(self, root: Path, ledger: Path) -> None:
        self.home, self.estate = Home(root), ESTATE
        self.database = Path(shutil.copy(ledger, root))
        self.disk = self.home.site("dublin") / "store"
        for site in ("paris", "dublin"):
            store, listed = self.store(site), []
            for key in KEYS:
                data = hashlib.sha256(key.encode()).digest() * 10
                store.put("data", key, data)
                listed.append(ManifestObject(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
            write_manifest(store, build_manifest("flights", listed, datetime(2026, 1, 1, tzinfo=UTC)))
        connections = {"ninelives_dublin_control": {"conn_type": "generic", "extra": {"disk": str(self.disk)}}}
        file = root / "connections.json"
        file.write_text(json.dumps(connections))
        file.chmod(0o600)
        self.connections = FileConnections(file)

    def store(self, site: str) -> FolderStore:
        return FolderStore(site, self.home.site(site) / "store")

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.database}")

    def faults(self) -> SupervisedFaults:
        return SupervisedFaults(self.connections, self.home)

    def gateway(self) -> Gateway:
        raise Unavailable("there is no gateway here")

    def on_disk(self) -> dict[str, tuple[str, int]]:
        """What lies on the drilled site's disk: bytes and time of change."""
        return {
            str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in self.disk.rglob("*")
            if path.is_file()
        }

    def damaged(self) -> int:
        return sum(self.store("dublin").get("data", key) != self.store("paris").get("data", key) for key in KEYS)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ledger") / "ledger.db"
    migrate(f"sqlite:///{file}")
    return file


def drill(world: World) -> None:
    inject_fault(world, DRILL)  # type: ignore[arg-type]
    assert world.damaged() == 1
    undo_fault(world, DRILL, by="restore_site")  # type: ignore[arg-type]


def keep(world: World) -> None:
    undo_expired(world.home, datetime.now(UTC) + timedelta(days=1), world.faults())


def test_a_drill_breaks_nothing_while_a_service_is_being_moved(tmp_path: Path, ledger: Path) -> None:
    """Its preflight saw nothing; the failover took its lease a moment before the drill was written down."""
    world = World(tmp_path, ledger)
    before = world.on_disk()
    lease = world.ledger().take_lease("service:arrival-delay", "fail_over", timedelta(minutes=1))
    with pytest.raises(Refused, match="service:arrival-delay is held by fail_over"):
        inject_fault(world, DRILL)  # type: ignore[arg-type]
    assert open_injections(world.home) == []
    assert (world.on_disk(), world.ledger().current_lease("drill")) == (before, None)
    world.ledger().release_lease(lease)


EVERY, FEW = range(70), range(2, 70, 7)
"""All steps in `make soak`, a few in `make test`; the last ones lie behind the drill's end."""


@pytest.mark.parametrize("step", [*FEW, *(pytest.param(n, marks=pytest.mark.soak) for n in EVERY if n not in FEW)])
def test_killed_at_any_step_the_keeper_leaves_the_disk_as_it_was(tmp_path: Path, ledger: Path, step: int) -> None:
    world = World(tmp_path, ledger)
    before = world.on_disk()
    was_killed = killed_before_change(step, lambda: drill(world))
    killed_before_change(step % 7, lambda: keep(world))  # and the keeper itself too
    keep(world)
    assert open_injections(world.home) == []
    assert world.on_disk() == before
    found = find_injection(world.home, DRILL.id)
    if was_killed and found is not None:
        assert found.undone_by in {"keeper", "restore_site"}
        with pytest.raises(Refused, match="was undone"):
            inject_fault(world, DRILL)  # type: ignore[arg-type]
        assert world.damaged() == 0, "a drill that somebody undid is over: its retry breaks nothing again"


@pytest.mark.parametrize("step", [9, 17, 30])
def test_repeated_after_a_kill_a_drill_goes_on_and_compares_with_the_state_before_its_first_try(
    tmp_path: Path, ledger: Path, step: int
) -> None:
    world = World(tmp_path, ledger)
    killed_before_change(step, lambda: inject_fault(world, DRILL))  # type: ignore[arg-type]
    known, kept = find_injection(world.home, DRILL.id), read_before(world.home, DRILL.id)
    again = inject_fault(world, DRILL)  # type: ignore[arg-type]
    assert again.lost_at is not None
    assert world.damaged() == 1
    if known is not None:
        assert again.faults == known.faults, "the same byte, not a second one"
        assert again.lost_at <= (known.lost_at or again.started_at), "the loss counts from the first try"
    if kept is not None:
        assert digest(kept) == digest(read_before(world.home, DRILL.id) or {})
    undo_fault(world, DRILL, by="restore_site")  # type: ignore[arg-type]
    assert world.damaged() == 0
