from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.replication.memory import LONG_AGO, MemoryStore

from ninelives.errors import Corrupted
from ninelives.replication.manifest import (
    Manifest,
    ManifestObject,
    build_manifest,
    extend,
    fingerprint,
    hash_objects,
    manifest_key,
    read_manifest,
    scan,
    write_manifest,
    write_over,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = (
    ManifestObject(key=f"flights/{name}", size=size, sha256=name * 64) for name, size in (("a", 1), ("b", 2), ("c", 3))
)

objects = st.lists(
    st.builds(ManifestObject, key=st.text(min_size=1), size=st.integers(0, 2**53 - 1), sha256=st.just("0" * 64)),
    unique_by=lambda o: o.key,
    max_size=8,
)


@given(objects, st.randoms())
def test_the_fingerprint_does_not_depend_on_the_order(some: list[ManifestObject], random: object) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fingerprint(some) == fingerprint(shuffled)


@given(objects)
def test_a_manifest_survives_the_store(some: list[ManifestObject]) -> None:
    store, manifest = MemoryStore("paris"), build_manifest("flights", some, NOW)
    write_manifest(store, manifest)
    assert read_manifest(store, "flights") == manifest


def test_the_fingerprint_is_the_documented_one() -> None:
    import hashlib

    canonical = '[{"key":"flights/a","sha256":"%s","size":1}]' % ("a" * 64)
    assert fingerprint([A]) == hashlib.sha256(canonical.encode()).hexdigest()


def test_no_manifest_is_none_and_a_key_listed_twice_is_refused() -> None:
    assert read_manifest(MemoryStore("paris"), "flights") is None
    with pytest.raises(ValueError, match="twice"):
        build_manifest("flights", [A, A], NOW)


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_truncated_manifest_is_corrupted(length: int) -> None:
    store = MemoryStore("paris")
    write_manifest(store, build_manifest("flights", [A, B], NOW))
    store.put("data", manifest_key("flights"), store.objects()[manifest_key("flights")][:length])
    with pytest.raises(Corrupted, match="flights at paris"):
        read_manifest(store, "flights")


def test_an_altered_manifest_is_corrupted() -> None:
    store = MemoryStore("paris")
    document = json.loads(build_manifest("flights", [A, B], NOW).model_dump_json())
    document["objects"].pop()
    store.put("data", manifest_key("flights"), json.dumps(document).encode())
    with pytest.raises(Corrupted, match="fingerprint"):
        read_manifest(store, "flights")


def test_a_manifest_of_another_dataset_is_corrupted() -> None:
    store = MemoryStore("paris")
    store.put("data", manifest_key("flights"), build_manifest("hotels", [A], NOW).model_dump_json().encode())
    with pytest.raises(Corrupted, match="hotels"):
        read_manifest(store, "flights")


def test_extend_adds_and_never_changes() -> None:
    manifest = build_manifest("flights", [A], NOW)
    assert extend(manifest, [B, A]) == build_manifest("flights", [A, B], NOW)
    with pytest.raises(Corrupted, match="immutable"):
        extend(manifest, [A.model_copy(update={"size": 9})])


def test_a_scan_lists_what_is_there_and_nothing_else() -> None:
    store = MemoryStore("paris")
    for key in ("flights/x", "flights/y", "hotels/z", "_conflicts/paris/flights/x/0"):
        store.put("data", key, key.encode())
    found = scan(store, "flights", None, NOW)
    assert [o.key for o in found.objects] == ["flights/x", "flights/y"]
    assert found.created_at == NOW
    assert found.objects == tuple(hash_objects(store, "data", {"flights/x": 9, "flights/y": 9}).values())


def test_a_scan_reads_only_new_and_changed_objects() -> None:
    store = MemoryStore("paris")
    for n in range(5):
        store.put("data", f"flights/{n}", b"old")
    known = scan(store, "flights", None, NOW)
    store.buckets["data"]["flights/1"] = (b"longer", LONG_AGO)
    store.buckets["data"]["flights/2"] = (b"new", NOW)
    store.buckets["data"]["flights/3"] = (b"old", NOW - timedelta(seconds=1))  # whole seconds: may be a later write
    store.put("data", "flights/5", b"more")
    store.reads.clear()
    found = scan(store, "flights", known, NOW)
    assert sorted(store.reads) == ["flights/1", "flights/2", "flights/3", "flights/5"]
    assert found == scan(store, "flights", None, NOW)


def test_a_manifest_written_over_keeps_what_another_writer_added() -> None:
    store = MemoryStore("paris")
    known = build_manifest("flights", [A, B], NOW)
    write_manifest(store, extend(known, [C]))
    written = write_over(store, build_manifest("flights", [A], NOW), known)
    assert written.objects == (A, C)  # C was added meanwhile; B is gone from the listing on purpose
    assert read_manifest(store, "flights") == written


def test_hashing_holds_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from ninelives.replication import manifest as module

    monkeypatch.setattr(module, "MEMORY", 100)
    lock, held, most = threading.Lock(), 0, 0
    barrier = threading.Event()

    class Counting(MemoryStore):
        def get(self, bucket: str, key: str) -> bytes | None:
            nonlocal held, most
            data = super().get(bucket, key) or b""
            with lock:
                held += len(data)
                most = max(most, held)
            barrier.wait(0.002)
            with lock:
                held -= len(data)
            return data

    store = Counting("paris")
    for n in range(40):
        store.put("data", f"flights/{n}", b"x" * 30)
    assert len(hash_objects(store, "data", {f"flights/{n}": 30 for n in range(40)})) == 40
    assert most <= 100


def test_a_store_that_streams_is_not_asked_for_whole_objects() -> None:
    class StreamingStore(MemoryStore):
        def get(self, bucket: str, key: str) -> bytes | None:
            raise AssertionError("read whole")

        def chunks(self, bucket: str, key: str) -> object:
            data = self.objects(bucket).get(key)
            return None if data is None else iter([data[:2], data[2:]])

    store = StreamingStore("paris")
    store.put("data", "flights/x", b"hello")
    found = hash_objects(store, "data", {"flights/x": 5, "flights/gone": 5})
    assert found["flights/gone"] is None
    assert found["flights/x"] == ManifestObject(
        key="flights/x", size=5, sha256="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )


def test_a_manifest_cannot_be_built_past_its_fingerprint() -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        Manifest(dataset="flights", created_at=NOW, objects=(A,), fingerprint="0" * 64)


def test_a_manifest_that_was_read_before_is_read_again_once_its_bytes_are_others() -> None:
    store, manifest = MemoryStore("paris"), build_manifest("flights", [A, B], NOW)
    write_manifest(store, manifest)
    held = read_manifest(store, "flights")
    assert read_manifest(store, "flights") is held
    write_manifest(store, build_manifest("flights", [A, B, C], NOW))
    assert read_manifest(store, "flights") == build_manifest("flights", [A, B, C], NOW)
    store.put("data", manifest_key("flights"), manifest.model_dump_json().encode().replace(b"aaaa", b"dddd", 1))
    with pytest.raises(Corrupted, match="fingerprint"):
        read_manifest(store, "flights")
    store.put("data", manifest_key("harbours"), manifest.model_dump_json().encode())
    with pytest.raises(Corrupted, match="is of flights"):
        read_manifest(store, "harbours")
