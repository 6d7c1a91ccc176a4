"""The gate judges exactly the bytes that the site has, and fetches only what is new."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.evidence import FolderStore

from ninelives.errors import Unavailable
from ninelives.gates.local import fetch
from ninelives.replication.manifest import BUCKET, Manifest, ManifestObject, build_manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class CountingStore(FolderStore):
    """Knows which objects were read."""

    def __init__(self, site: str, folder: Path) -> None:
        super().__init__(site, folder)
        self.read: list[str] = []

    def get(self, bucket: str, key: str) -> bytes | None:
        self.read.append(key)
        return super().get(bucket, key)


def key(number: int) -> str:
    return f"d/day=2013-01-{number:02}/part-0.parquet"


def fill(store: FolderStore, *contents: bytes) -> Manifest:
    listed = []
    for number, data in enumerate(contents, start=1):
        store.put(BUCKET, key(number), data)
        listed.append(ManifestObject(key=key(number), size=len(data), sha256=hashlib.sha256(data).hexdigest()))
    return build_manifest("d", listed, NOW)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore("dublin", tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_every_object_is_there_byte_for_byte(store: CountingStore, cache: Path) -> None:
    copy = fetch(store, fill(store, b"one", b"two"), cache)
    assert copy.problems == ()
    assert {k: path.read_bytes() for k, path in copy.files.items()} == {key(1): b"one", key(2): b"two"}


def test_only_new_objects_are_read_again(store: CountingStore, cache: Path) -> None:
    fetch(store, fill(store, b"one", b"two"), cache)
    manifest = fill(store, b"one", b"two", b"three")
    os.utime(store.folder / BUCKET / key(1), (1, 1))
    fetch(store, manifest, cache)
    store.read.clear()
    fetch(store, manifest, cache, reread_bytes=0)
    assert store.read == []
    os.utime(store.folder / BUCKET / key(2), (2, 2))
    fetch(store, manifest, cache, reread_bytes=0)
    assert store.read == [key(2)]


def test_every_object_is_read_again_in_turn_within_the_budget(store: CountingStore, cache: Path) -> None:
    manifest = fill(store, b"one", b"two", b"333", b"4444", b"55555")
    fetch(store, manifest, cache)
    rounds = []
    for _ in range(4):
        store.read.clear()
        fetch(store, manifest, cache, reread_bytes=6)
        rounds.append(sorted(store.read))
    assert rounds == [[key(1), key(2)], [key(3)], [key(4)], [key(5)]]
    store.read.clear()
    fetch(store, manifest, cache, reread_bytes=1)
    assert store.read == [key(1)], "one at least, or the rotation would stop at a large object"
    store.read.clear()
    fetch(store, manifest, cache, reread_bytes=None)
    assert len(store.read) == 5


def test_the_same_object_at_another_site_is_read_there_too(store: CountingStore, cache: Path, tmp_path: Path) -> None:
    other = CountingStore("paris", tmp_path / "other")
    fetch(store, fill(store, b"one"), cache)
    manifest = fill(other, b"one")
    other.put(BUCKET, key(1), b"0ne")
    assert "hashes to" in fetch(other, manifest, cache).problems[0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [(b"0ne", "hashes to"), (b"on", "has 2 bytes"), (b"", "has 0 bytes"), (None, "and not at dublin")],
)
@pytest.mark.parametrize("known", [False, True])
def test_an_object_that_is_not_what_the_manifest_says_is_named(
    store: CountingStore, cache: Path, damage: bytes | None, says: str, known: bool
) -> None:
    manifest = fill(store, b"one", b"two")
    if known:
        fetch(store, manifest, cache)
    if damage is None:
        store.delete(BUCKET, key(1))
    else:
        store.put(BUCKET, key(1), damage)
        os.utime(store.folder / BUCKET / key(1), (3, 3))
    copy = fetch(store, manifest, cache)
    assert len(copy.problems) == 1
    assert key(1) in copy.problems[0]
    assert says in copy.problems[0]
    assert list(copy.files) == [key(2)]


def test_bits_that_rot_without_a_trace_are_found_by_reading_again(store: CountingStore, cache: Path) -> None:
    manifest = fill(store, b"one")
    path = store.folder / BUCKET / key(1)
    before = path.stat()
    fetch(store, manifest, cache)
    path.write_bytes(b"0ne")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fetch(store, manifest, cache, reread_bytes=0).problems == ()
    assert "hashes to" in fetch(store, manifest, cache).problems[0]


def test_a_damaged_object_stays_damaged_until_it_was_read_well_again(store: CountingStore, cache: Path) -> None:
    manifest = fill(store, b"one")
    fetch(store, manifest, cache)
    store.put(BUCKET, key(1), b"0ne")
    os.utime(store.folder / BUCKET / key(1), (3, 3))
    assert fetch(store, manifest, cache).problems
    assert fetch(store, manifest, cache).problems, "the second look must not trust what the first one found wrong"
    store.put(BUCKET, key(1), b"one")
    assert fetch(store, manifest, cache).problems == ()


def test_a_truncated_cache_file_or_index_is_replaced(store: CountingStore, cache: Path) -> None:
    manifest = fill(store, b"one")
    path = fetch(store, manifest, cache).files[key(1)]
    path.write_bytes(b"o")
    assert fetch(store, manifest, cache).files[key(1)].read_bytes() == b"one"
    (cache / "index" / "dublin" / "d.json").write_text('{"')
    assert fetch(store, manifest, cache).files[key(1)].read_bytes() == b"one"


def test_a_store_that_does_not_answer_is_to_be_tried_again(store: CountingStore, cache: Path) -> None:
    manifest = fill(store, b"one")
    store.down = True
    with pytest.raises(Unavailable):
        fetch(store, manifest, cache)


def test_a_cache_that_cannot_be_written_is_to_be_tried_again(store: CountingStore, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="cannot be written"):
        fetch(store, fill(store, b"one"), cache)


def test_the_cache_forgets_what_was_not_used_for_longest_and_never_what_is_judged(
    store: CountingStore, cache: Path
) -> None:
    old = fetch(store, fill(store, b"a" * 100, b"b" * 100), cache).files
    for age, path in enumerate(old.values(), start=1):
        stamp = (datetime.now(UTC) - timedelta(days=age)).timestamp()
        os.utime(path, (stamp, stamp))
    new = fetch(store, fill(store, b"c" * 500), cache, max_bytes=150).files
    assert [path.exists() for path in (*old.values(), *new.values())] == [True, False, True]
