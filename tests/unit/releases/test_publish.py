import json
from datetime import UTC, datetime, timedelta

import pytest
from unit.replication.memory import Fuse, Killed, MemoryStore

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.home import Home
from ninelives.probing.golden import parse_golden
from ninelives.releases.publish import (
    GoldenAnswer,
    Release,
    digest_of,
    golden_answers,
    golden_file,
    newest_golden_version,
    object_key,
    publish,
    read_release,
    record_golden,
)
from ninelives.serving.repository import Pointer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def release(version: str = "1", onnx: bytes = b"one", answer: float = 1.5, **changes: object) -> Release:
    digest = digest_of(onnx)
    fields = {
        "model": "m",
        "version": version,
        "digest": digest,
        "object": object_key("m", digest),
        "size": len(onnx),
        "data_version": "d",
        "tolerance": 0.001,
        "golden": golden_answers([{"a": 1, "c": "UA"}], {"y": [answer]}),
        "created_at": NOW,
    }
    return Release.model_validate(fields | changes)


def test_what_was_published_is_what_a_site_serves() -> None:
    store = MemoryStore("paris")
    assert publish(store, release(), b"one")
    assert read_release(store, "m") == release()
    assert store.get("models", release().object) == b"one"


def test_the_model_server_reads_the_pointer_as_it_was_meant() -> None:
    store = MemoryStore("paris")
    publish(store, release(), b"one")
    pointer = Pointer.parse("m", store.objects("models")["m/release.json"])
    assert (pointer.version, f"sha256:{pointer.sha256}") == ("1", release().digest)
    ((inputs, outputs),) = pointer.golden
    assert (dict(inputs), dict(outputs)) == ({"a": 1, "c": "UA"}, {"y": [1.5]})


def test_a_site_without_a_release_has_none() -> None:
    assert read_release(MemoryStore("paris"), "m") is None


def test_publishing_again_changes_nothing_even_when_it_is_later() -> None:
    store = MemoryStore("paris")
    publish(store, release(), b"one")
    before = store.objects("models")
    assert not publish(store, release(created_at=NOW + timedelta(days=1)), b"one")
    assert store.objects("models") == before


@pytest.mark.parametrize("steps", range(2))
def test_killed_at_any_step_the_release_before_stays_whole(steps: int) -> None:
    fuse = Fuse()
    store = MemoryStore("paris", fuse)
    publish(store, release(), b"one")
    fuse.steps = steps
    with pytest.raises(Killed):
        publish(store, release("2", b"two"), b"two")
    assert read_release(store, "m") == release()
    assert store.get("models", release().object) == b"one"
    fuse.steps = None
    assert publish(store, release("2", b"two"), b"two")
    assert read_release(store, "m") == release("2", b"two")


def test_versions_are_numbers_and_never_go_backwards() -> None:
    store = MemoryStore("paris")
    publish(store, release("10"), b"one")
    with pytest.raises(Refused, match="serves version 10"):
        publish(store, release("9", b"nine"), b"nine")
    assert read_release(store, "m") == release("10")


def test_a_version_never_becomes_another_model() -> None:
    store = MemoryStore("paris")
    publish(store, release(), b"one")
    with pytest.raises(Refused, match="a version never changes"):
        publish(store, release("1", b"other"), b"other")


def test_new_golden_answers_of_the_same_version_are_taken() -> None:
    store = MemoryStore("paris")
    publish(store, release(), b"one")
    assert publish(store, release(answer=2.5), b"one")
    assert read_release(store, "m") == release(answer=2.5)


def test_bytes_that_are_not_the_releases_are_refused_before_anything_is_written() -> None:
    store = MemoryStore("paris")
    with pytest.raises(Corrupted, match="fetch the model"):
        publish(store, release(), b"two")
    assert store.objects("models") == {}


def test_an_object_damaged_on_the_sites_disk_is_written_again() -> None:
    store = MemoryStore("paris")
    publish(store, release(), b"one")
    store.flip(release().object, "models")
    publish(store, release(), b"one")
    assert store.get("models", release().object) == b"one"


class Forgetful(MemoryStore):
    def put(self, bucket: str, key: str, data: bytes) -> None:
        super().put(bucket, key, data[:-1] if key.endswith(".onnx") else data)


def test_a_store_that_gives_back_other_bytes_gets_no_pointer() -> None:
    store = Forgetful("paris")
    with pytest.raises(Corrupted, match="gave back other bytes"):
        publish(store, release(), b"one")
    assert read_release(store, "m") is None


def test_a_store_that_does_not_answer_is_not_a_site_without_release() -> None:
    store = MemoryStore("paris")
    store.down = True
    with pytest.raises(Unavailable):
        read_release(store, "m")


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0"},
        {"version": "v1"},
        {"object": "m/sha256/other.onnx"},
        {"digest": "md5:1"},
        {"golden": []},
        {"tolerance": -1.0},
        {"model": "other"},
        {"surprise": 1},
    ],
)
def test_a_pointer_that_cannot_be_trusted_is_corrupted(change: dict[str, object]) -> None:
    store = MemoryStore("paris")
    document = release().model_dump(mode="json") | change
    store.put("models", "m/release.json", json.dumps(document).encode())
    with pytest.raises(Corrupted, match=r"m/release\.json at paris"):
        read_release(store, "m")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_a_torn_pointer_is_corrupted(data: bytes) -> None:
    store = MemoryStore("paris")
    store.put("models", "m/release.json", data)
    with pytest.raises(Corrupted):
        read_release(store, "m")


def test_golden_answers_of_all_versions_stay_known(tmp_path) -> None:
    home = Home(tmp_path)
    assert newest_golden_version(home, "m") is None
    for version in ("9", "10", "2"):
        record_golden(home, release(version, answer=float(version)))
    assert newest_golden_version(home, "m") == "10"
    (case,) = parse_golden(golden_file(home, "m").read_bytes(), "m")
    assert {version: known.outputs for version, known in case.answers.items()} == {
        "9": {"y": [9.0]},
        "10": {"y": [10.0]},
        "2": {"y": [2.0]},
    }


def test_recording_again_leaves_the_file_alone(tmp_path) -> None:
    home = Home(tmp_path)
    record_golden(home, release())
    before = golden_file(home, "m").stat()
    record_golden(home, release(created_at=NOW + timedelta(days=1)))
    assert golden_file(home, "m").stat().st_ino == before.st_ino


@pytest.mark.parametrize("content", ["{", "[]", '{"releases": []}', '{"releases": {"latest": {}}}'])
def test_a_file_that_is_no_golden_file_is_not_overwritten(tmp_path, content: str) -> None:
    home = Home(tmp_path)
    golden_file(home, "m").parent.mkdir()
    golden_file(home, "m").write_text(content)
    with pytest.raises(Corrupted, match="publish again"):
        record_golden(home, release())
    assert golden_file(home, "m").read_text() == content


def test_each_request_is_paired_with_its_own_answer() -> None:
    paired = golden_answers([{"a": 1}, {"a": 2}], {"y": [0.1, 0.2], "z": ["p", "q"]})
    assert paired == (
        GoldenAnswer(inputs={"a": 1}, outputs={"y": (0.1,), "z": ("p",)}),
        GoldenAnswer(inputs={"a": 2}, outputs={"y": (0.2,), "z": ("q",)}),
    )
