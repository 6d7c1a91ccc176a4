"""Backups on real stores, a real PostgreSQL and a real vault: made, proven, restored, refused where they are wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.backups import BackedUp, backed_up
from support.models import publish
from support.postgres import postgres, run_sql
from support.processes import ROOT, wait_until
from support.vault import OPERATOR_KEY, flip
from unit.state.worlds import model, updates

from ninelives.backups.keep import retain
from ninelives.backups.manifest import NAME
from ninelives.backups.proof import choose, examine, prove_restore, refuse_unproven, states_verify
from ninelives.backups.restore import restore
from ninelives.backups.run import back_up, refuse_suspect, snapshots
from ninelives.errors import Corrupted, Refused, Unavailable

pytestmark = pytest.mark.stack
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vault") / "empty"


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server: URL, empty: Path) -> Iterator[BackedUp]:
    """One world for the tests that leave it as it was, with a first sound backup in its vault."""
    with backed_up(tmp_path_factory.mktemp("world"), server, empty) as world:
        assert back_up(world.systems).facts["findings"] == []
        yield world


@pytest.fixture
def world(tmp_path: Path, server: URL, empty: Path) -> Iterator[BackedUp]:
    with backed_up(tmp_path, server, empty) as one:
        yield one


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(world: BackedUp) -> list[str]:
    return [path.name for path in (world.home.root / "backups").iterdir() if path.name != "lock"]


def test_a_backup_holds_what_the_estate_cannot_lose(shared: BackedUp, tmp_path: Path) -> None:
    done = restore(shared.systems, "latest", tmp_path / "restored")
    parts = done.manifest.parts
    assert set(parts) == {"airflow", "estate", "ledger", "models", "registry", "suites", "versions"}
    assert all(part.files for part in parts.values())
    there = files(tmp_path / "restored")
    assert there["registry/artefacts/0/one/artifacts/model/model.pkl"] == b"a pickled model"
    assert there["estate/gateway/state.json"] == b'{"active": {}}'
    assert "suites/flights/suite.json" in there
    for site in ("paris", "dublin"):
        assert json.loads(there[f"models/pointers/{site}/alpha/release.json"])["version"] == "1"
    assert sum(name.startswith("models/objects/") for name in there) == 2, "each model's weights once for both sites"
    assert parts["ledger"].facts["head"]["seq"] == 1
    assert parts["registry"].facts["artefacts"] == {"alpha@1": "mlflow-artifacts:/0/one/artifacts/model"}
    assert parts["models"].facts["releases"] == ["alpha@1", "beta@1"]
    assert leftovers(shared) == [], "nothing readable stays behind"


def test_a_restore_replaces_only_when_told_and_keeps_what_was_there(shared: BackedUp, tmp_path: Path) -> None:
    to = tmp_path / "place"
    to.mkdir()
    (to / "precious").write_text("mine")
    with pytest.raises(Refused, match="not empty"):
        restore(shared.systems, "latest", to)
    done = restore(shared.systems, "latest", to, parts=["ledger"], replace=True)
    assert {path.name for path in to.iterdir()} == {NAME, "ledger"}
    assert done.replaced is not None
    assert (done.replaced / "precious").read_text() == "mine"
    with pytest.raises(Refused, match="no part secrets"):
        restore(shared.systems, "latest", tmp_path / "other", parts=["secrets"])
    with pytest.raises(Refused, match="none of that name"):
        restore(shared.systems, "abcdef", tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"place", done.replaced.name}


@pytest.mark.slow
@pytest.mark.soak
def test_a_restored_backup_answers_comes_up_and_verifies(tmp_path: Path, server: URL, empty: Path) -> None:
    with backed_up(tmp_path, server, empty, mlflow=True) as world:
        refuse_suspect(back_up(world.systems))
        (newest,) = choose(world.systems, "any")
        proof = prove_restore(world.systems, newest)
        assert proof.facts["problems"] == []
        assert proof.facts["verdict"] == "met"
        steps = proof.facts["steps"]
        assert 0 < steps["restored and checked"] < steps["models answered"] < steps["databases came up"]
        check = examine(world.systems)
        assert (check.facts["verdict"], check.facts["read"], check.facts["of"]) == ("met", [1], 5)
        refuse_unproven([check, proof])
        assert leftovers(world) == []


def test_what_is_damaged_at_one_site_is_taken_from_the_other_and_at_both_left_out(world: BackedUp) -> None:
    release = publish(world.sites[0].store, "gamma", bias=1.0)
    publish(world.sites[1].store, "gamma", bias=1.0)
    good = back_up(world.systems)
    assert good.facts["findings"] == []
    flip(world.object("paris", release["object"]), 4711)
    flip(world.object("paris", "0/one/artifacts/model/model.pkl", "mlflow"), 5)
    record = back_up(world.systems)
    assert record.facts["verdict"] == "missed"
    weights, artefact = f"models/objects/{release['object']}", "registry/artefacts/0/one/artifacts/model/model.pkl"
    assert f"{weights}: damaged at paris, taken from another site" in record.facts["findings"]
    assert any(f"{artefact} at paris has other bytes" in finding for finding in record.facts["findings"])
    with pytest.raises(Refused, match="is suspect"):
        refuse_suspect(record)
    flip(world.object("dublin", release["object"]), 4712)
    record = back_up(world.systems)
    assert f"{weights} was left out: paris, dublin damaged" in record.facts["findings"]
    done = restore(world.systems, "latest", world.home.root / "newest")
    assert not (done.folder / weights).exists(), "a wrong byte never gets in"
    older = restore(world.systems, good.facts["snapshot"], world.home.root / "older")
    assert (older.folder / weights).exists()
    assert (done.folder / artefact).read_bytes() == b"a pickled model"


def test_what_a_model_has_learnt_comes_back_and_a_log_that_was_cut_is_told(world: BackedUp, tmp_path: Path) -> None:
    model(world.home.state).learn(updates(*range(20)))
    first = back_up(world.systems)
    assert first.facts["findings"] == []
    done = restore(world.systems, "latest", tmp_path / "to")
    assert done.manifest.parts["state"].facts["learnt"]["delay"]["seq"] == 20
    assert model(done.folder / "state").current().state == model(world.home.state).current().state
    assert states_verify(done.folder, done.manifest) == []
    (done.folder / "state/delay/updates.jsonl").write_bytes(b"")
    assert "its log ends at update 0, and had 20" in states_verify(done.folder, done.manifest)[0]

    current = world.home.state / "delay" / "current.json"
    pointer = current.read_bytes()
    current.write_bytes(pointer.replace(b'"version": "1"', b'"version": "2"'))
    (finding,) = back_up(world.systems).facts["findings"][:1]
    assert "other versions than in the backup before, and no switch more" in finding
    current.write_bytes(pointer)
    assert back_up(world.systems).facts["findings"] == []

    log = world.home.state / "delay" / "updates.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:7]))
    told = back_up(world.systems).facts["findings"]
    assert told[0] == "state/delay was left out: delay: its log ends at update 7, and had 20"
    assert not [name for name in files(restore(world.systems, "latest", tmp_path / "cut").folder) if "delay" in name]


@pytest.mark.soak
def test_a_source_that_shrank_is_told_and_the_older_backup_stays(world: BackedUp) -> None:
    first = back_up(world.systems)
    run_sql(world.url("registry"), "DELETE FROM model_versions", "DELETE FROM runs")
    for site in world.sites:
        for info in list(site.store.list("mlflow")):
            site.store.delete("mlflow", info.key)
    record = back_up(world.systems)
    assert any("registry shrank from 2 to 0 rows" in finding for finding in record.facts["findings"])
    assert [one.id for one in snapshots(world.systems)] == [first.facts["snapshot"], record.facts["snapshot"]]


@pytest.mark.soak
def test_a_model_in_the_registry_without_its_artefact_is_told(world: BackedUp) -> None:
    run_sql(world.url("registry"), "INSERT INTO model_versions VALUES ('beta', 7, 'x', 'mlflow-artifacts:/0/gone')")
    record = back_up(world.systems)
    assert record.facts["findings"] == ["registry: model beta@7 has no artefact below mlflow-artifacts:/0/gone"]


def test_a_flipped_bit_in_the_vault_reaches_no_place_and_is_found_by_reading(world: BackedUp, tmp_path: Path) -> None:
    back_up(world.systems)
    large = max(world.vault.files("data"), key=lambda path: path.stat().st_size)
    flip(large, 8 * 100)
    to = tmp_path / "place"
    with pytest.raises(Corrupted):
        restore(world.systems, "latest", to)
    assert not to.exists()
    assert not list(tmp_path.glob(".restore-*"))
    proof = prove_restore(world.systems, "latest")
    assert proof.facts["verdict"] == "corrupted"
    check = examine(world.systems, whole=True)
    assert any(large.name[:8] in problem for problem in check.facts["problems"])
    assert check.facts["read"] == [], "what was found damaged was not read in peace"
    with pytest.raises(Corrupted, match="keep the vault for a look, and begin another"):
        refuse_unproven([check, proof])
    damage_all(world)
    (finding,) = back_up(world.systems).facts["findings"]
    assert "was not compared with" in finding, "it is made all the same"


def damage_all(world: BackedUp) -> None:
    for path in world.vault.files("data"):
        path.chmod(0o600)
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


@pytest.mark.soak
def test_beside_a_damaged_vault_another_one_is_begun_and_misses_nothing(world: BackedUp, tmp_path: Path) -> None:
    for _ in range(2):
        back_up(world.systems)
    damage_all(world)
    assert len(back_up(world.systems).facts["findings"]) == 2
    with pytest.raises(Corrupted):
        restore(world.systems, "latest", tmp_path / "to")  # what did not change is shared with the damaged ones

    world.vault.kill()
    world.vault.folder.rename(tmp_path / "for a look")
    world.vault.keeper.initialise()
    world.vault.keeper.add_key(OPERATOR_KEY, "operator")
    world.vault.start()
    told = back_up(world.systems).facts["findings"]
    assert [finding.split(" (evidence")[0] for finding in told] == [
        "the vault is another one than that of the backup before"
    ]
    assert back_up(world.systems).facts["findings"] == [], "told once"
    check = examine(world.systems, whole=True)
    assert (check.facts["verdict"], check.facts["snapshots"], check.facts["strays"]) == ("met", 2, [])
    assert restore(world.systems, "latest", tmp_path / "to").manifest.findings == ()


def test_a_place_that_cannot_be_written_is_refused_in_words_and_a_link_is_followed(
    shared: BackedUp, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "file" / "to", tmp_path / "loop", Path("/proc/to")):
        with pytest.raises(Unavailable, match="name another folder"):
            restore(shared.systems, "latest", place, parts=["ledger"])
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    done = restore(shared.systems, "latest", tmp_path / "link", parts=["ledger"])
    assert done.folder == tmp_path / "disk"
    assert (tmp_path / "link" / NAME).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "file", "link", "loop"]


@pytest.mark.soak
def test_a_backup_that_vanished_and_one_that_nobody_made_are_noticed(world: BackedUp) -> None:
    first, second = back_up(world.systems), back_up(world.systems)
    world.vault.keeper.remove([first.facts["snapshot"]])
    check = examine(world.systems)
    assert check.facts["verdict"] == "corrupted"
    assert "is gone from the vault before its time" in check.facts["problems"][0]
    stranger = world.home.root / "stranger"
    stranger.mkdir()
    (stranger / NAME).write_text("{}")
    added = world.vault.operator.add(stranger, tags=["estate:test"])
    strays = examine(world.systems).facts["strays"]
    assert any(added.snapshot[:12] in stray and "in no evidence" in stray for stray in strays)
    with pytest.raises(Corrupted, match="no manifest that can be trusted"):
        restore(world.systems, "latest", world.home.root / "to")
    assert snapshots(world.systems)[0].id == second.facts["snapshot"]


def test_an_old_backup_is_stale_and_unread_bytes_are_late(shared: BackedUp) -> None:
    later = datetime.now(UTC) + timedelta(days=9)
    check = examine(shared.systems, now=later)
    assert check.facts["verdict"] == "missed"
    assert any("the newest backup is" in reason for reason in check.facts["late"])
    assert check.facts["read"] == [1, 2, 3, 4, 5], "all that is late is read now"
    with pytest.raises(Refused, match="promised are 26h"):
        refuse_unproven([check], restored=False)


@pytest.mark.soak
def test_the_keeper_removes_by_arrival_and_the_proof_agrees(world: BackedUp) -> None:
    made = [back_up(world.systems).facts["snapshot"] for _ in range(3)]
    ages = dict(zip(made, (40, 39, 0), strict=True))
    for path in world.vault.files("snapshots"):
        instant = (datetime.now(UTC).replace(hour=12) - timedelta(days=ages[path.name])).timestamp()
        os.utime(path, (instant, instant))
    journal = world.vault.folder.with_name("retention.jsonl")
    dry = retain(
        world.systems.estate, world.vault.keeper, datetime.now(UTC) + timedelta(hours=13), journal, dry_run=True
    )
    assert len(snapshots(world.systems)) == 3
    done = retain(world.systems.estate, world.vault.keeper, datetime.now(UTC) + timedelta(hours=13), journal)
    assert done["removed"] == dry["removed"]
    assert len(snapshots(world.systems)) == 3 - len(done["removed"])
    assert json.loads(journal.read_text())["removed"] == done["removed"]


@pytest.mark.soak
def test_nothing_answers_and_nothing_is_made(world: BackedUp) -> None:
    world.vault.kill()
    with pytest.raises(Unavailable, match="vault"):
        back_up(world.systems)
    world.vault.start()
    for site in world.sites:
        site.kill()
    with pytest.raises(Unavailable, match="no site's store answers"):
        back_up(world.systems)
    assert snapshots(world.systems) == []
    assert leftovers(world) == []


@pytest.mark.soak
def test_one_site_is_enough_and_the_other_is_told(world: BackedUp) -> None:
    world.sites[0].kill()
    record = back_up(world.systems)
    assert any(finding.startswith("site paris was not read") for finding in record.facts["findings"])
    done = restore(world.systems, "latest", world.home.root / "to")
    assert done.manifest.parts["models"].facts["releases"] == ["alpha@1", "beta@1"]


def test_the_command_line_says_with_its_exit_code_what_it_found(shared: BackedUp, tmp_path: Path) -> None:
    listed = command(shared, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    (backup, *_) = json.loads(listed.stdout)["backups"]
    assert backup["sound"] is True
    to = str(tmp_path / "to")
    restored = command(shared, "restore", backup["snapshot"][:8], "--to", to, "--part", "ledger", "--json")
    assert json.loads(restored.stdout)["parts"] == ["ledger"]
    refused = command(shared, "restore", "latest", "--to", to)
    assert refused.returncode == 1
    assert "is not empty" in refused.stderr


def command(world: BackedUp, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ninelives", "backup", *arguments], env=environment(world), text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip


def environment(world: BackedUp) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NINELIVES")}
    return {**kept, "NINELIVES_HOME": str(world.home.root), "PYTHONPATH": str(ROOT / "include")}


@pytest.mark.soak
def test_a_run_that_is_killed_anywhere_leaves_no_half_backup_and_the_next_one_is_sound(world: BackedUp) -> None:
    first = back_up(world.systems).facts["snapshot"]
    for number in range(20):
        child = subprocess.Popen(
            [sys.executable, "-m", "ninelives", "backup", "run"], env=environment(world),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stage = world.home.root / "backups" / "stage"
        wait_until(lambda: stage.exists() or child.poll() is not None, "it began", every=0.005)  # noqa: B023
        try:
            child.wait(0.15 * number)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        for one in snapshots(world.systems):
            restored = restore(world.systems, one.id, world.home.root / f"restored-{number}-{one.id[:8]}")
            assert restored.manifest.findings == ()
    after = back_up(world.systems)
    assert after.facts["findings"] == []
    assert after.facts["snapshot"] != first
    assert examine(world.systems, whole=True).facts["problems"] == []
    assert leftovers(world) == []
