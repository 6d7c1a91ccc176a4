"""What a backup says beside the one before it, and what is late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.backups.judge import compare, known_bytes, staleness
from ninelives.backups.manifest import NAME, BackupManifest, compare_folder, describe, parse_manifest
from ninelives.errors import Corrupted

AT = datetime(2026, 11, 26, 2, 30, tzinfo=UTC)
FILES = {
    "ledger/ledger/1.dat": b"1 one\n2 two\n",
    "ledger/ledger/toc.dat": b"made at 2:30",
    "models/objects/a/sha256/x.onnx": b"weights" * 100,
    "models/pointers/paris/a/release.json": b"{}",
    "registry/artefacts/1/m/model.pkl": b"pickled",
    "airflow/airflow/2.dat": b"run" * 50,
}


def made(folder: Path, files: dict[str, bytes], head: int = 2, ledger_id: str = "one") -> BackupManifest:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    facts: dict[str, dict[str, Any]] = {
        "ledger": {"rows": head, "facts": {"head": {"seq": head, "hash": "h"}, "ledger_id": ledger_id}}
    }
    return describe(folder, estate="test", made_at=AT, version="1", parts=facts, findings=[])


def test_growth_is_nothing_to_tell(tmp_path: Path) -> None:
    before = made(tmp_path / "1", FILES)
    now = made(tmp_path / "2", {**FILES, "ledger/ledger/1.dat": b"1 one\n2 two\n3 three\n"}, head=3)
    assert compare(before, now) == []


def test_a_backup_with_nothing_new_but_the_time_of_its_dumps_is_told(tmp_path: Path) -> None:
    before = made(tmp_path / "1", FILES)
    now = made(tmp_path / "2", {**FILES, "ledger/ledger/toc.dat": b"made at 3:30"})
    (finding,) = compare(before, now)
    assert "nothing is new" in finding


@pytest.mark.parametrize(
    ("files", "head", "says"),
    [
        ({"models/objects/a/sha256/x.onnx": b"w"}, 3, "models shrank from 702 to 3 bytes"),
        ({"registry/artefacts/1/m/model.pkl": None}, 3, "registry is not there any more"),
        ({"airflow/airflow/2.dat": b""}, 3, "airflow shrank from 150 to 0 bytes"),
        ({"ledger/ledger/1.dat": b"1"}, 1, "ledger shrank from 2 to 1 rows"),
        ({"ledger/ledger/1.dat": b"1"}, 1, "ends at record 1, the backup before at 2"),
    ],
)
def test_a_source_that_shrank_is_told(tmp_path: Path, files: dict[str, Any], head: int, says: str) -> None:
    before = made(tmp_path / "1", FILES)
    rest = {name: data for name, data in {**FILES, **files}.items() if data is not None}
    assert any(says in finding for finding in compare(before, made(tmp_path / "2", rest, head=head)))


def test_airflows_history_may_be_cleaned(tmp_path: Path) -> None:
    before = made(tmp_path / "1", FILES)
    now = made(tmp_path / "2", {**FILES, "airflow/airflow/2.dat": b"run", "ledger/ledger/1.dat": b"longer than it was"})
    assert compare(before, now) == []


def test_another_ledger_is_not_a_longer_one(tmp_path: Path) -> None:
    before = made(tmp_path / "1", FILES)
    now = made(tmp_path / "2", {**FILES, "ledger/ledger/1.dat": b"quite another"}, head=9, ledger_id="two")
    assert compare(before, now) == ["ledger: it is another ledger than in the backup before"]


def test_only_what_never_changes_is_held_against_the_next_backup(tmp_path: Path) -> None:
    known = known_bytes(made(tmp_path, FILES))
    assert set(known) == {"models/objects/a/sha256/x.onnx", "registry/artefacts/1/m/model.pkl"}
    assert known_bytes(None) == {}


def test_a_stale_backup_and_none_at_all_are_told() -> None:
    rpo = timedelta(hours=26)
    assert staleness([], rpo, AT) == "there is no backup at all"
    assert staleness([AT - timedelta(days=3), AT - rpo], rpo, AT) is None
    assert staleness([AT - timedelta(hours=27)], rpo, AT) == "the newest backup is 27h old, promised are 26h"
    ahead = AT + timedelta(days=900)
    assert staleness([AT - timedelta(hours=27), ahead], rpo, AT) == "the newest backup is 27h old, promised are 26h"
    assert staleness([ahead], rpo, AT) == "there is no backup at all"


@given(st.sampled_from(sorted(FILES)), st.integers(0, 10**6), st.sampled_from(["flip", "cut", "remove", "swap", "add"]))
def test_every_change_to_a_restored_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, where: int, how: str
) -> None:
    folder = tmp_path_factory.mktemp("restored")
    manifest = made(folder, FILES)
    assert compare_folder(folder, manifest) == []
    path, data = folder / name, bytearray(FILES[name])
    if how == "flip":
        data[where % len(data)] ^= 1 << where % 8
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(data[: where % len(data)])
    elif how == "remove":
        path.unlink()
    elif how == "swap":
        other = folder / sorted(FILES)[where % len(FILES)]
        if other == path:
            return
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)
    else:
        (path.parent / "foreign").write_bytes(b"x")
    assert compare_folder(folder, manifest) != []


def test_a_part_is_compared_by_itself(tmp_path: Path) -> None:
    manifest = made(tmp_path / "all", FILES)
    made(tmp_path / "part", {name: data for name, data in FILES.items() if name.startswith("ledger/")})
    assert compare_folder(tmp_path / "part", manifest, ["ledger"]) == []
    assert compare_folder(tmp_path / "part", manifest) != []


def test_a_manifest_that_was_changed_is_none(tmp_path: Path) -> None:
    manifest = made(tmp_path, FILES)
    (tmp_path / NAME).write_bytes(manifest.to_bytes())
    assert parse_manifest((tmp_path / NAME).read_bytes(), "it") == manifest
    for old, new in ((b'"size": 12', b'"size": 13'), (b"x.onnx", b"y.onnx")):
        changed = manifest.to_bytes().replace(old, new)
        assert changed != manifest.to_bytes()
        with pytest.raises(Corrupted, match="fingerprint"):
            parse_manifest(changed, "it")
