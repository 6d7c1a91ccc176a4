"""Every damage to a vault is found, and nothing is found where there is none.

A small vault with three backups is copied and damaged in one seeded place: one bit of any file, a truncation, two files
in each other's place, a file that is gone, a file that somebody put there. ``make soak`` does it 1,000 times.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.backups import backed_up_estate
from support.vault import KEEPER_KEY, _empty, flip

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.restic import Restic
from ninelives.backups.proof import examine
from ninelives.backups.run import estate_tag
from ninelives.errors import Corrupted, Refused

pytestmark = pytest.mark.stack
KINDS = ("data", "index", "keys", "snapshots", "config")
HOW = ("flip", "flip", "flip", "truncate", "swap", "remove", "foreign", "foreign with its own name")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vault and a ledger that knows its backups and has seen it whole."""
    folder = tmp_path_factory.mktemp("mutations") / "small"
    folder.mkdir()
    _empty(folder / "vault")
    migrate(f"sqlite:///{folder}/ledger.db")
    source = folder.with_name("source")
    chance = random.Random(7)
    with systems(folder) as world:
        for number in range(3):
            (source / f"part-{number}").mkdir(parents=True)
            (source / f"part-{number}" / "weights").write_bytes(chance.randbytes(30_000))
            (source / "MANIFEST.json").write_text(str(number))
            added = world.vault().add(source, tags=[estate_tag(world.estate)])
            world.ledger().append("backup", world.estate.name, {"snapshot": added.snapshot, "verdict": "met"})
        assert examine(world, whole=True).facts["verdict"] == "met"
    return folder


@contextmanager
def systems(folder: Path) -> Iterator[Any]:
    """The vault by its folder, the ledger by its file: what the proof asks for. Closed afterwards, for it is copied."""
    ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
    try:
        yield SimpleNamespace(
            estate=backed_up_estate(),
            vault=lambda: Restic(str(folder / "vault"), KEEPER_KEY),
            ledger=lambda: ledger,
        )
    finally:
        ledger.close()


def examined(folder: Path) -> list[str]:
    """What the proof finds. A vault that it calls away or locked was not found damaged; without a key it is closed."""
    with systems(folder) as world:
        try:
            facts = examine(world, whole=True).facts
        except Corrupted as error:
            return [str(error)]
        except Refused as error:
            if "no key of the vault fits" not in str(error):
                raise
            return [f"key: {error}"]
    return [*facts["problems"], *facts["late"], *facts["strays"]]


def all_files(vault: Path, kind: str) -> list[Path]:
    return sorted(path for path in (vault / kind).rglob("*") if path.is_file()) if kind != "config" else [vault / kind]


def damage(vault: Path, chance: random.Random) -> str:
    """One damage; says what was done, for the message of a test that fails."""
    how, kind = chance.choice(HOW), chance.choice(KINDS)
    if how.startswith("foreign"):
        kind = chance.choice(KINDS[:-1])
        data = chance.choice([chance.randbytes(500), b'{"created": "2026"}', b""])
        name = hashlib.sha256(data).hexdigest() if "name" in how else chance.randbytes(32).hex()
        folder = vault / kind / name[:2] if kind == "data" else vault / kind
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return f"{how}: {kind}/{name[:8]}"
    path = chance.choice(all_files(vault, kind))
    path.chmod(0o600)
    if how == "flip":
        flip(path, chance.randrange(8 * path.stat().st_size))
    elif how == "truncate":
        os.truncate(path, chance.randrange(path.stat().st_size))
    elif how == "remove":
        path.unlink()
    else:
        other = chance.choice([one for each in KINDS for one in all_files(vault, each) if one != path])
        other.chmod(0o600)
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)
    return f"{how}: {kind}/{path.name[:8]}"


def sweep(small: Path, folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str], list[str]]:
    """How often what was damaged, what was missed, and what was found where nothing was wrong."""

    def one(number: int) -> tuple[str, list[str], list[str]]:
        copy = folder / str(number)
        shutil.copytree(small, copy, copy_function=shutil.copyfile)
        before = examined(copy) if number % 10 == 0 else []
        done = damage(copy / "vault", random.Random(f"{seed}-{number}"))
        found = examined(copy)
        assert not found or not found[0].startswith("key: ") or "keys/" in done, (done, found)
        shutil.rmtree(copy)
        return done, found, before

    with ThreadPoolExecutor(4) as pool:  # restic waits before it asks again for what is not there
        results = list(pool.map(one, range(count)))
    tried = Counter(done.split("/")[0] for done, _, _ in results)
    missed = [f"{number}: {done}" for number, (done, found, _) in enumerate(results) if not found]
    return tried, missed, [said for _, _, before in results for said in before]


def test_twenty_damages_are_found_and_nothing_else(small: Path, tmp_path: Path) -> None:
    _, missed, false_alarms = sweep(small, tmp_path, 20, seed=1)
    assert (missed, false_alarms) == ([], [])


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_damages_are_found_and_nothing_else(small: Path, tmp_path: Path) -> None:
    tried, missed, false_alarms = sweep(small, tmp_path, 1000, seed=2026)
    print(json.dumps({"tried": dict(sorted(tried.items())), "missed": missed, "false alarms": false_alarms}, indent=1))
    assert (missed, false_alarms) == ([], [])
