from __future__ import annotations

import hashlib
import json

import pytest
from unit.replication.memory import Killed, MemoryStore, Pair

from ninelives.errors import Corrupted, Refused
from ninelives.replication.replicate import ModelReplication, read_pointer, replicate_models

MODEL = "arrival-delay"


def add_object(store: MemoryStore, content: bytes) -> str:
    key = f"{MODEL}/sha256/{hashlib.sha256(content).hexdigest()}.onnx"
    store.put("models", key, content)
    return key


def release(store: MemoryStore, version: int, content: bytes, *, put_object: bool = True, note: str = "") -> str:
    digest = hashlib.sha256(content).hexdigest()
    key = f"{MODEL}/sha256/{digest}.onnx"
    if put_object:
        add_object(store, content)
    document = {"model": MODEL, "version": str(version), "digest": f"sha256:{digest}", "object": key, "note": note}
    store.put("models", f"{MODEL}/release.json", json.dumps(document).encode())
    return key


def run(pair: Pair) -> ModelReplication:
    return replicate_models([MODEL], *pair.ends, pair.clock)[0]


def version(store: MemoryStore) -> str | None:
    found = read_pointer(store, MODEL)
    return found[0].version if found else None


def test_objects_go_first_and_the_pointer_last() -> None:
    pair = Pair()
    release(pair.paris, 1, b"one")
    release(pair.paris, 2, b"two")
    pair.fuse.steps = 2  # both objects, not the pointer
    with pytest.raises(Killed):
        run(pair)
    assert version(pair.dublin) is None
    pair.fuse.steps = None
    result = run(pair)
    assert (result.version, result.moved, result.copied, result.verified) == ("2", True, 0, 1)
    assert pair.dublin.objects("models") == pair.paris.objects("models")


def test_a_model_in_conflict_keeps_no_other_behind() -> None:
    pair = Pair()
    release(pair.paris, 3, b"one")
    release(pair.dublin, 3, b"another")
    digest = hashlib.sha256(b"late").hexdigest()
    key = f"late-arrival/sha256/{digest}.onnx"
    document = {"model": "late-arrival", "version": "1", "digest": f"sha256:{digest}", "object": key}
    pair.paris.put("models", key, b"late")
    pair.paris.put("models", "late-arrival/release.json", json.dumps(document).encode())
    with pytest.raises(Refused, match="mean different objects by release 3"):
        replicate_models([MODEL, "late-arrival"], *pair.ends)
    assert pair.dublin.objects("models")[key] == b"late"
    assert "late-arrival/release.json" in pair.dublin.objects("models")


def test_a_pointer_is_never_moved_backwards() -> None:
    pair = Pair()
    release(pair.paris, 3, b"three")
    release(pair.dublin, 4, b"four")
    result = run(pair)
    assert (result.version, result.moved) == ("4", False)


def test_versions_are_numbers() -> None:
    pair = Pair()
    release(pair.paris, 10, b"ten")
    release(pair.dublin, 9, b"nine")
    assert run(pair).version == "10"


def test_a_pointer_to_an_absent_object_is_refused() -> None:
    pair = Pair()
    release(pair.paris, 3, b"three", put_object=False)
    with pytest.raises(Refused, match="paris has not"):
        run(pair)
    assert version(pair.dublin) is None


def test_the_same_version_with_another_object_is_refused() -> None:
    pair = Pair()
    release(pair.paris, 3, b"three")
    release(pair.dublin, 3, b"drei")
    with pytest.raises(Refused, match="release 3"):
        run(pair)


def test_an_object_whose_bytes_are_not_its_digest_stops_the_pointer() -> None:
    pair = Pair()
    key = release(pair.paris, 3, b"three")
    pair.paris.flip(key, "models")
    with pytest.raises(Corrupted, match="not what was recorded"):
        run(pair)
    assert version(pair.dublin) is None


def test_the_released_object_is_read_at_the_target_in_each_run() -> None:
    pair = Pair()
    key = release(pair.paris, 3, b"three")
    run(pair)
    pair.dublin.flip(key, "models")
    assert run(pair).repaired == 1
    assert pair.dublin.objects("models")[key] == b"three"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b'{"model": "arrival-delay"',
        b'{"model": "arrival-delay", "version": "x", "digest": "sha256:0", "object": "o"}',
        b'{"model": "other", "version": "1", "digest": "sha256:0", "object": "o"}',
    ],
)
def test_a_damaged_pointer_is_corrupted(document: bytes) -> None:
    store = MemoryStore("paris")
    store.put("models", f"{MODEL}/release.json", document)
    with pytest.raises(Corrupted, match="publish the release again"):
        read_pointer(store, MODEL)


def test_no_release_yet_is_no_error() -> None:
    result = run(Pair())
    assert (result.version, result.moved) == (None, False)
