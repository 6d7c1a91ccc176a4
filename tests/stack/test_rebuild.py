"""Everything is lost, and the control plane is lost: from a real vault, beside an estate that runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.estate import free_base
from support.models import ROW
from support.processes import ROOT, wait_until
from support.scenarios import World, light_estate
from typer.testing import CliRunner
from unit.state.worlds import model, updates

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.rebuild import rebuilt_folder
from ninelives.backups.run import back_up, refuse_suspect
from ninelives.cli import app
from ninelives.drills.run import inject_fault, run_check
from ninelives.errors import Corrupted
from ninelives.estate import load_estate
from ninelives.evidence.anchor import anchor
from ninelives.evidence.verify import verify_ledger
from ninelives.home import Home
from ninelives.injections import find_injection, open_injection, open_injections
from ninelives.stack import airflow, databases, lifecycle, postgres, processes, supervisord
from ninelives.stack.local import LocalEstate

pytestmark = [pytest.mark.stack, pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with light_estate(tmp_path_factory.mktemp("rebuild"), vault=True) as started:
        started.systems.ledger().append("release", "alpha", {"version": "1"})
        airflows_own(started)
        model(started.home.state).learn(updates(*range(20)))
        refuse_suspect(back_up(started.systems))
        yield started


RUNS = (("deferred", "waits"), ("tried-again", "works"), ("last-try", "works"), ("ended", "waits"))


def airflows_own(world: World) -> None:
    """Airflow's own tables, with runs that had not ended when the backup was made."""
    local = LocalEstate.recorded(world.home)
    airflow.write_config(local)
    airflow.migrate(local, supervisord.environment(local))
    for run, task in RUNS:
        add_run(world, run)
        if task == "works":
            add_task(world, run, task, tries=1, most=0 if run == "last-try" else 3)


def add_run(world: World, run: str) -> None:
    in_airflow(
        world,
        "INSERT INTO dag_run (dag_id, run_id, state, run_type, run_after, clear_number, span_status) "
        f"VALUES ('back_up_estate', '{run}', 'running', 'manual', now(), 0, 'not_started')",
    )


def add_task(world: World, run: str, task: str, *, tries: int, most: int) -> None:
    in_airflow(
        world,
        "INSERT INTO task_instance (id, dag_id, run_id, task_id, map_index, state, try_number, max_tries, pool, "
        "pool_slots, span_status) VALUES (gen_random_uuid(), 'back_up_estate', "
        f"'{run}', '{task}', -1, 'running', {tries}, {most}, 'default_pool', 1, 'not_started')",
    )


def in_airflow(world: World, *statements: str) -> None:
    link = postgres.connect(LocalEstate.recorded(world.home), "airflow")
    try:
        with link, link.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        link.close()


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
    assert model(stranger.home.state).current().state == model(world.home.state).current().state
    assert "updates that delay learnt after number 20: send them again, each key counts once" in report["lacking"]
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


def test_the_drill_of_everything_lost_measures_the_rebuilt_estate_and_leaves_nothing_of_it(world: World) -> None:
    drill = world.drill("everything-lost", "alpha")
    (fault,) = inject_fault(world.systems, drill).faults
    assert fault.kind == "rebuilt"
    found = run_check(world.systems, drill)
    assert found is not None
    print(found["restored"])
    assert found["verdict"] == "met", found
    assert found["restored"]["answers"] == 10
    assert any("passwords" in one for one in found["restored"]["lacking"])
    rebuilt = rebuilt_folder(world.home, drill.id)
    assert processes.remaining(Home(rebuilt / "home"))
    world.returned(drill)
    assert not rebuilt.exists()
    assert processes.remaining(Home(rebuilt / "home")) == []


def test_the_keeper_takes_a_rebuilt_estate_away_when_its_drill_was_killed(world: World) -> None:
    drill = world.drill("everything-lost", "alpha")
    injection = inject_fault(world.systems, drill)
    child = subprocess.Popen([sys.executable, "-c", CHECK, drill.id])
    rebuilt = rebuilt_folder(world.home, drill.id)
    wait_until(lambda: (rebuilt / "home" / "stack.json").exists(), "it is being rebuilt", timeout=60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    soon = datetime.now(UTC) + timedelta(seconds=1)
    open_injection(world.home, injection.model_copy(update={"expires_at": soon}))
    wait_until(lambda: open_injections(world.home) == [], "the keeper's work", timeout=60)
    undone = find_injection(world.home, drill.id)
    assert undone is not None
    assert undone.undone_by == "keeper"
    assert not rebuilt.exists()
    assert processes.remaining(Home(rebuilt / "home")) == []
    systems = world.systems
    systems.ledger().release_lease(systems.ledger().current_lease("drill"))  # type: ignore[arg-type]


CHECK = """
import sys
from ninelives.adapters.connected import ConnectedEstate
from ninelives.drills.run import run_check
from ninelives.drills.scenario import Drill
from ninelives.home import Home
run_check(ConnectedEstate.of_home(Home.from_environment()), Drill(sys.argv[1], "everything-lost", "alpha", ""))
"""


def test_the_drill_of_a_lost_control_plane_names_the_fate_of_every_run(world: World) -> None:
    in_airflow(world, "UPDATE dag_run SET state = 'success' WHERE run_id = 'ended'")
    add_run(world, "later")
    drill = world.drill("control-plane-lost", "alpha")
    inject_fault(world.systems, drill)
    found = run_check(world.systems, drill)
    assert found is not None
    print(found["restored"])
    assert found["verdict"] == "met", found
    fates = {one["run"]: one["fate"] for one in found["restored"]["runs"]}
    assert fates == {
        "deferred": "continues", "tried-again": "continues", "last-try": "lost", "ended": "repeated", "later": "lost",
    }  # fmt: skip
    assert found["restored"]["records_lost"] >= 1, "the backup's own record, which no backup holds"
    world.returned(drill)


def backup(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["backup", *arguments])
    return done.exit_code, done.stdout, done.output + str(done.exception or "")


def test_what_a_model_has_learnt_is_put_back_and_what_came_since_is_kept_aside(world: World) -> None:
    systems = world.systems
    systems.ledger().close()  # type: ignore[attr-defined]
    lifecycle.down(world.home)
    words = ["restore", "latest", "--into", "state", "--json"]
    log = world.home.state / "delay" / "updates.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:1000])
    code, out, said = backup(*words)
    assert code == 0, said
    assert log.read_bytes() == whole
    aside = Path(json.loads(out)["kept"]["state"])
    assert (aside / "delay" / "updates.jsonl").read_bytes() == whole[:1000], "nothing is thrown away"
    model(world.home.state).learn(updates(20))
    code, _, said = backup(*words)
    assert code == 1
    assert "delay has learnt 21 updates, of which the backup has 20 or others" in said
    assert backup(*words, "--replace")[0] == 0
    assert log.read_bytes() == whole
    lifecycle.up(world.home)


def test_a_damaged_vault_is_set_aside_by_hand_and_another_one_begun(world: World) -> None:
    """As docs/backups.md says."""
    aside = world.home.root / "vault-damaged"
    lifecycle.down(world.home)
    world.home.vault.rename(aside)
    try:
        lifecycle.up(world.home)
        code, out, said = backup("run", "--json")
        assert code == 3, said
        (finding,) = json.loads(out)["findings"]
        assert finding.startswith("the vault is another one")
        assert backup("run")[0] == 0
        code, out, said = backup("verify", "--no-restore", "--json")
        assert code == 0, said
        assert json.loads(out)[0]["snapshots"] == 2
    finally:  # what comes after it asks the first one
        lifecycle.down(world.home)
        shutil.rmtree(world.home.vault)
        aside.rename(world.home.vault)
        lifecycle.up(world.home)


def test_the_control_plane_is_put_back_into_the_stopped_estate_and_nothing_is_thrown_away(world: World) -> None:
    """The last test of the file: afterwards the estate's ledger is that of the backup."""
    systems = world.systems
    anchor(systems.ledger(), systems.stores())  # of records that no backup holds
    ahead = systems.ledger().head().seq
    words = ["restore", "latest", "--into", "ledger", "--into", "airflow", "--json"]
    code, _, said = backup(*words)
    assert code == 1
    assert "stop the estate first" in said
    systems.ledger().close()  # type: ignore[attr-defined]
    lifecycle.down(world.home)
    code, _, said = backup(*words)
    assert code == 1
    assert f"ledger holds {ahead} rows, the backup 1" in said
    code, out, said = backup(*words, "--replace")
    assert code == 0, said
    done = json.loads(out)
    assert set(done["kept"]) == {"ledger", "airflow"}
    assert done["records_lost"] == ahead - 1
    assert {one["run"]: one["fate"] for one in done["runs"]}["later"] == "lost"
    assert not [row for row in lifecycle.status(world.home)["programs"] if row["state"] != "STOPPED"]
    lifecycle.up(world.home)
    assert {row["program"] for row in lifecycle.status(world.home)["programs"]} >= {"gateway", "vault"}
    ledger = World(world.home).systems.ledger()
    assert [one.kind for one in ledger.records()] == ["restore", "release"]
    assert verify_ledger(ledger, systems.stores()).verdict == "whole", "what was anchored and is lost was set aside"
    assert str(LocalEstate.recorded(world.home).ports.base) == os.environ["NINELIVES_PORT_BASE"]
    with pytest.raises(Corrupted, match="the dump of ledger_restored"):
        databases.load_beside(LocalEstate.recorded(world.home), {"ledger": world.home.root / "nothing"})
