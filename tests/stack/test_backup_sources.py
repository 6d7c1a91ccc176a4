"""Every damage to what a backup is made from is told, or has changed nothing in the backup; and nothing else is told.

Sound backups of a small estate come first. Then one object in a site's store, one record of the ledger, or one file of
a model that goes on learning is damaged in one seeded place, and everything is collected once more. ``make soak`` does
it 300 times.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.backups import BackedUp, backed_up
from support.models import release_of, sum_model
from support.postgres import postgres, run_sql
from unit.state.worlds import HELD, model, updates

from ninelives.backups.contents import collect
from ninelives.backups.judge import compare, known_bytes, learnt_until
from ninelives.backups.manifest import BackupManifest
from ninelives.backups.restore import restore
from ninelives.backups.run import back_up
from ninelives.evidence import anchor
from ninelives.releases.publish import Release, publish, stage
from ninelives.replication.manifest import ManifestObject, build_manifest, write_manifest
from ninelives.versions.objects import object_key

pytestmark = [pytest.mark.stack, pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(1800)]
STORED = ("models", "mlflow", "dvc")
COUNT = 300
DATABASES = ("ledger/", "registry/registry", "airflow/")
Undo = Callable[[], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BackedUp, BackupManifest]]:
    """Two versions of a model, one served and one staged, and what belongs to them, in a backup that has no finding."""
    folder = tmp_path_factory.mktemp("sources")
    with postgres() as server, backed_up(folder, server, folder / "empty") as one:
        run = "0/one/artifacts/model"
        for site in one.sites:
            for version, bias in (("1", 0.0), ("2", 1.0), ("3", 2.0)):
                onnx = sum_model(bias)
                release = Release.model_validate(
                    {**release_of("gamma", version, onnx, 3.5 + bias), "data_version": one.version,
                     "created_at": f"2026-01-0{version}T00:00:00Z"}
                )  # fmt: skip
                stage(site.store, release, onnx)
                if version != "3":
                    publish(site.store, release, onnx)
            site.store.put("mlflow", f"{run}/MLmodel", b"flavors: {onnx: {}}" * 20)
            recorded = [ManifestObject(key=object_key("0" * 32), size=4, sha256=hashlib.sha256(b"data").hexdigest())]
            listed = build_manifest(f"flights/{one.version}", recorded, datetime(2026, 1, 1, tzinfo=UTC))
            write_manifest(site.store, listed, "dvc")
        ledger = one.systems.ledger()
        learner = model(one.home.state)
        learner.learn(updates(*range(20)))
        learner.switch("2", HELD, tolerance=0, ledger=ledger, by="ada")
        learner.learn(updates(*range(20, 40)))
        anchor(ledger, one.systems.stores())
        for _ in range(2):
            assert back_up(one.systems).facts["findings"] == []
        yield one, restore(one.systems, "latest", folder / "latest").manifest


def collected(world: BackedUp, before: BackupManifest, folder: Path) -> tuple[list[str], dict[str, str]]:
    """What is told, and path to SHA-256 of all but the databases, whose dumps have the time in them."""
    found = collect(world.systems, folder, known_bytes(before), learnt_until(before))
    tree = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip
    return found.findings, {name: digest for name, digest in tree.items() if not name.startswith(DATABASES)}


def damage(world: BackedUp, chance: random.Random) -> tuple[str, Undo]:
    """One damage, and how it is undone."""
    kind = chance.choice(["object"] * 6 + ["state"] * 2 + ["record"])
    if kind == "record":
        return damage_record(world, chance)
    if kind == "state":
        files = sorted(path for path in (world.home.state / "delay").rglob("*") if path.is_file())
        sites, path = ["here"], chance.choice([path for path in files if path.name not in ("lock", "3.json")])
        places = [path]
    else:
        sites = chance.choice([["paris"], ["dublin"], ["paris", "dublin"]])
        bucket = chance.choice(STORED)
        names = sorted(path.relative_to(world.object("paris", "", bucket)).as_posix()
                       for path in world.object("paris", "", bucket).rglob("*") if path.is_file())  # fmt: skip
        name = chance.choice([name for name in names if not name.endswith(".sig")])
        places = [place for site in sites if (place := world.object(site, name, bucket)).exists()]
        path = places[0] if places else world.object("paris", name, bucket)
        places = places or [path]
    how = chance.choice(["flip", "flip", "truncate", "swap", "remove"])
    kept = {place: place.read_bytes() for place in places}
    other = chance.choice(sorted(one for one in path.parent.parent.rglob("*") if one.is_file())).read_bytes()
    for place, data in kept.items():
        at = chance.randrange(len(data))
        bad = {
            "flip": data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :],
            "truncate": data[:at],
            "swap": other,
            "remove": None,
        }[how]
        place.unlink() if bad is None else place.write_bytes(bad)

    def undo() -> None:
        for place, data in kept.items():
            place.write_bytes(data)

    return f"{how} {kind}: {path.name} at {', '.join(sites)}", undo


def damage_record(world: BackedUp, chance: random.Random) -> tuple[str, Undo]:
    url, seq = world.url("ledger"), chance.randrange(1, world.systems.ledger().head().seq)
    harm = chance.choice(
        [f"UPDATE records SET facts = '{{}}' WHERE seq = {seq}",
         f"UPDATE records SET at = '2020-01-01T00:00:00.000000Z' WHERE seq = {seq}",
         f"DELETE FROM records WHERE seq = {seq}", "DELETE FROM records"]
    )  # fmt: skip
    free = "ALTER TABLE records DISABLE TRIGGER ALL"
    run_sql(url, "CREATE TABLE kept AS SELECT * FROM records", free, harm)

    def undo() -> None:
        run_sql(url, "DELETE FROM records", "INSERT INTO records SELECT * FROM kept", "DROP TABLE kept")

    return f"ledger: {harm.split(' WHERE')[0]}", undo


def test_three_hundred_damages_are_told_or_have_changed_nothing(
    world: tuple[BackedUp, BackupManifest], tmp_path: Path
) -> None:
    one, before = world
    chance = random.Random(2026)
    said, sound = collected(one, before, tmp_path / "sound")
    assert said == []
    tried, harmless, missed = Counter[str](), Counter[str](), list[str]()
    for number in range(COUNT):
        done, undo = damage(one, chance)
        try:
            said, now = collected(one, before, tmp_path / "now")
        finally:
            undo()
            shutil.rmtree(tmp_path / "now", ignore_errors=True)
        what = " ".join(done.split()[:2]).rstrip(":")
        tried[what] += 1
        if not said and now == sound:
            harmless[what] += 1
        elif not said:
            missed.append(f"{number}: {done}")
        if number % 25 == 0:
            assert collected(one, before, tmp_path / "again") == ([], sound), "nothing is told where nothing is wrong"
            shutil.rmtree(tmp_path / "again")
    print(json.dumps({"tried": tried, "changed nothing": harmless, "missed": missed}, indent=1))
    assert missed == []
    assert sum(harmless.values()) < 100, "most are told"
    assert compare(before, before), "and a backup with nothing new is told as well"
