from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.replication.memory import Fuse, Killed, MemoryStore, Pair
from unit.versions.estates import TwoSites

from ninelives.errors import Corrupted, Refused
from ninelives.replication.checkpoints import (
    CHECKPOINTS,
    StreamReplication,
    list_stream,
    manifest_key,
    newest,
    read_checkpoint,
    replicate_checkpoints,
    replicate_stream,
    streams,
    whole_checkpoints,
    write_checkpoint,
)

FILES = {f"shard-{n}.bin": bytes([n]) * 10 for n in range(4)} | {"optimizer/state.json": b"{}"}


def test_what_was_written_is_read_back_with_its_facts() -> None:
    store = MemoryStore("paris")
    written = write_checkpoint(store, "arrival-delay/run-1", 10, FILES, {"data": "abc", "loss": 0.5})
    assert whole_checkpoints(store, "arrival-delay/run-1") == [written]
    checkpoint, contents = read_checkpoint(store, "arrival-delay/run-1", 10)
    assert (checkpoint, contents) == (written, FILES)
    assert checkpoint.facts == {"data": "abc", "loss": 0.5}
    assert (checkpoint.size, newest([checkpoint])) == (42, checkpoint)


def test_a_file_may_be_given_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    store = MemoryStore("paris")
    write_checkpoint(store, "run", 1, {"model.bin": tmp_path / "model.bin"})
    assert read_checkpoint(store, "run", 1)[1] == {"model.bin": b"weights"}


def test_steps_come_in_the_order_of_their_numbers_and_streams_do_not_mix() -> None:
    store = MemoryStore("paris")
    for step in (1000, 9, 20):
        write_checkpoint(store, "run", step, FILES)
    write_checkpoint(store, "run-2", 5, FILES)
    write_checkpoint(store, "run/nested", 6, FILES)
    assert [one.step for one in whole_checkpoints(store, "run")] == [9, 20, 1000]
    assert streams(store) == ["run", "run-2", "run/nested"]
    assert streams(store, ["run"]) == ["run", "run/nested"]


@pytest.mark.parametrize("steps", range(len(FILES) + 1))
def test_killed_at_any_step_there_is_no_checkpoint_and_a_further_call_finishes_it(steps: int) -> None:
    store = MemoryStore("paris")
    write_checkpoint(store, "run", 1, FILES)
    store.fuse.steps = steps
    with pytest.raises(Killed):
        write_checkpoint(store, "run", 2, FILES)
    store.fuse.steps = None
    found = list_stream(store, "run")
    assert [one.step for one in found.whole] == [1]
    assert found.half == ((2,) if steps else ())
    with pytest.raises(Corrupted, match="no whole checkpoint 2"):
        read_checkpoint(store, "run", 2)
    write_checkpoint(store, "run", 2, FILES)
    assert read_checkpoint(store, "run", 2)[1] == FILES


def test_a_whole_checkpoint_is_never_changed() -> None:
    store = MemoryStore("paris")
    first = write_checkpoint(store, "run", 1, FILES, {"loss": 1})
    assert write_checkpoint(store, "run", 1, FILES, {"loss": 1}) == first
    for other in (FILES | {"shard-0.bin": b"other"}, FILES | {"more.bin": b""}, {"shard-0.bin": FILES["shard-0.bin"]}):
        with pytest.raises(Refused, match="never changed"):
            write_checkpoint(store, "run", 1, other)
    assert read_checkpoint(store, "run", 1) == (first, FILES)


def test_a_writer_thought_dead_cannot_damage_what_another_has_finished() -> None:
    """It wakes up in the middle of the same step with other bytes."""
    store = MemoryStore("paris")
    write_checkpoint(store, "run", 1, FILES)
    zombie = MemoryStore("paris", Fuse(1))
    zombie.buckets = store.buckets
    manifest = zombie.buckets[CHECKPOINTS].pop(manifest_key("run", 1))  # as it looked when the zombie began
    with pytest.raises(Killed):
        write_checkpoint(zombie, "run", 1, {name: data + b"!" for name, data in FILES.items()})
    store.buckets[CHECKPOINTS][manifest_key("run", 1)] = manifest
    assert read_checkpoint(store, "run", 1)[1] == FILES


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damaged_manifest_is_a_checkpoint(data: st.DataObject) -> None:
    store = MemoryStore("paris")
    written = write_checkpoint(store, "run", 1, FILES, {"loss": 0.25})
    key = manifest_key("run", 1)
    contents, modified = store.buckets[CHECKPOINTS][key]
    if data.draw(st.booleans()):
        damaged = contents[: data.draw(st.integers(0, len(contents) - 1))]
    else:
        at, bit = data.draw(st.integers(0, len(contents) - 1)), data.draw(st.integers(0, 7))
        damaged = contents[:at] + bytes([contents[at] ^ (1 << bit)]) + contents[at + 1 :]
    store.buckets[CHECKPOINTS][key] = (damaged, modified)
    found = list_stream(store, "run")
    if found.whole:  # the same document in other words, such as a small z of the time zone
        assert found.whole == (written,)
    else:
        assert [step for step, _ in found.damaged] == [1]


@pytest.mark.parametrize("how", ["missing", "short"])
def test_a_checkpoint_that_lost_a_file_is_damaged_not_whole(how: str) -> None:
    store = MemoryStore("paris")
    written = write_checkpoint(store, "run", 1, FILES)
    key = written.files["shard-2.bin"].key
    if how == "missing":
        del store.buckets[CHECKPOINTS][key]
    else:
        store.put(CHECKPOINTS, key, b"x")
    assert whole_checkpoints(store, "run") == []
    assert list_stream(store, "run").damaged[0][0] == 1


def test_a_flipped_bit_in_a_file_is_found_when_it_is_read() -> None:
    store = MemoryStore("paris")
    written = write_checkpoint(store, "run", 1, FILES)
    store.flip(written.files["shard-2.bin"].key, CHECKPOINTS)
    with pytest.raises(Corrupted, match=r"shard-2\.bin .* is damaged at paris"):
        read_checkpoint(store, "run", 1)


@pytest.mark.parametrize(
    ("stream", "files"), [("Run", FILES), ("../x", FILES), ("run", {"../x": b""}), ("run", {}), ("run/", FILES)]
)
def test_names_that_are_no_keys_are_refused_before_anything_is_written(stream: str, files: dict[str, bytes]) -> None:
    store = MemoryStore("paris")
    with pytest.raises(ValueError, match=r"name|no files"):
        write_checkpoint(store, stream, 1, files)
    assert CHECKPOINTS not in store.buckets


# --- copies


def replicate(pair: Pair, stream: str = "run") -> StreamReplication:
    return replicate_stream(pair.link, stream)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 14)), max_size=8))
def test_writer_and_copier_killed_anywhere_no_half_checkpoint_is_whole_at_the_target(
    kills: list[tuple[bool, int]],
) -> None:
    pair = Pair()
    finished: dict[int, dict[str, bytes]] = {}
    for number, (writing, steps) in enumerate(kills):
        pair.fuse.steps = steps
        with suppress(Killed):
            if writing:
                files = {name: data + bytes([number]) for name, data in FILES.items()}
                write_checkpoint(pair.paris, "run", number, files)
                finished[number] = files
            else:
                replicate(pair)
        pair.fuse.steps = None
        for checkpoint in whole_checkpoints(pair.dublin, "run"):
            assert read_checkpoint(pair.dublin, "run", checkpoint.step)[1] == finished[checkpoint.step]
    replicate(pair)
    assert {one.step for one in whole_checkpoints(pair.dublin, "run")} == set(finished)
    assert whole_checkpoints(pair.dublin, "run") == whole_checkpoints(pair.paris, "run")


def test_only_whole_checkpoints_are_copied_and_a_further_run_brings_the_next() -> None:
    pair = Pair()
    write_checkpoint(pair.paris, "run", 1, FILES)
    pair.fuse.steps = 2
    with suppress(Killed):
        write_checkpoint(pair.paris, "run", 2, FILES)
    pair.fuse.steps = None
    result = replicate(pair)
    assert (result.brought, result.half, result.newest, result.verified) == ((1,), (2,), 1, len(FILES))
    assert not any("step=000000000002" in key for key in pair.dublin.objects(CHECKPOINTS))
    write_checkpoint(pair.paris, "run", 2, FILES)
    assert replicate(pair).brought == (2,)
    assert replicate(pair).brought == ()


def test_the_newest_copy_is_read_again_and_repaired() -> None:
    pair = Pair()
    written = write_checkpoint(pair.paris, "run", 1, FILES)
    replicate(pair)
    pair.dublin.flip(written.files["shard-2.bin"].key, CHECKPOINTS)
    assert replicate(pair).repaired == 1
    assert read_checkpoint(pair.dublin, "run", 1)[1] == FILES


def test_a_damaged_file_at_the_source_keeps_only_its_own_checkpoint_back() -> None:
    pair = Pair()
    bad = write_checkpoint(pair.paris, "run", 1, FILES)
    write_checkpoint(pair.paris, "run", 2, FILES)
    pair.paris.flip(bad.files["shard-2.bin"].key, CHECKPOINTS)
    with pytest.raises(Corrupted, match=r"checkpoint 1: .*shard-2\.bin"):
        replicate(pair)
    assert [one.step for one in whole_checkpoints(pair.dublin, "run")] == [2]


def test_a_damaged_stream_keeps_no_other_behind(tmp_path: Path) -> None:
    systems = TwoSites(tmp_path)
    for stream in ("arrival-delay/a", "arrival-delay/b"):
        write_checkpoint(systems.paris, stream, 1, {"weights": stream.encode()})
    (key,) = (key for key in systems.paris.objects(CHECKPOINTS) if "/a/" in key and "weights" in key)
    systems.paris.flip(key, CHECKPOINTS)
    with pytest.raises(Corrupted, match="arrival-delay/a"):
        replicate_checkpoints(systems, ["arrival-delay"], "paris", "dublin")
    assert [one.step for one in whole_checkpoints(systems.dublin, "arrival-delay/b")] == [1]


def test_two_trainings_that_went_different_ways_are_not_mixed() -> None:
    pair = Pair()
    write_checkpoint(pair.paris, "run", 1, FILES)
    write_checkpoint(pair.dublin, "run", 1, {"other.bin": b"x"})
    with pytest.raises(Refused, match="different files by step 1"):
        replicate(pair)
    assert read_checkpoint(pair.dublin, "run", 1)[1] == {"other.bin": b"x"}
