from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.replication.memory import Killed, Pair

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate.model import Deletions
from ninelives.replication import proof as module
from ninelives.replication.manifest import ManifestObject, manifest_key, read_manifest, scan, write_manifest
from ninelives.replication.proof import Finding, Rotation, begun, next_to_read
from ninelives.replication.replicate import (
    Policy,
    ReplicationResult,
    Shard,
    complete,
    replicate,
    replicate_artifacts,
)


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    for day in range(1, 31):
        pair.paris.put("data", f"flights/day={day:02}/part-0", f"flights of day {day}".encode())
    return pair


def run(pair: Pair, policy: Policy | None = None) -> ReplicationResult:
    return replicate("flights", *pair.ends, pair.clock, policy=policy)


def same(pair: Pair) -> bool:
    return pair.paris.objects(prefix="flights/") == pair.dublin.objects(prefix="flights/")


def test_a_first_run_copies_and_verifies_everything(pair: Pair) -> None:
    result = run(pair)
    assert (result.copied, result.verified, result.repaired, result.objects) == (30, 30, 0, 30)
    assert same(pair)
    manifests = [read_manifest(store, "flights") for store in (pair.paris, pair.dublin)]
    assert manifests[0] == manifests[1]
    assert manifests[0] is not None
    assert result.fingerprint == manifests[0].fingerprint
    assert result.lag_seconds == 1.0
    assert pair.dublin.deletes == []


def test_every_new_object_is_read_at_the_target(pair: Pair) -> None:
    run(pair)
    assert {key for key in pair.dublin.reads if key.startswith("flights/")} == set(
        pair.paris.objects(prefix="flights/")
    )


def test_what_the_copier_hashes_on_the_way_is_not_read_at_the_source_again(pair: Pair) -> None:
    for day in range(31, 100):
        pair.paris.put("data", f"flights/day={day}/part-0", f"flights of day {day}".encode())
    pair.copier.damage["flights/day=50/part-0"] = 1
    result = run(pair)
    assert (result.objects, result.verified, result.repaired) == (99, 99, 1)
    assert same(pair)
    assert not [key for key in pair.paris.reads if key.startswith("flights/")]
    manifest = read_manifest(pair.paris, "flights")
    assert manifest is not None
    assert manifest.objects == scan(pair.paris, "flights", None).objects


def test_a_second_run_copies_only_what_is_new(pair: Pair) -> None:
    first = run(pair)
    pair.paris.put("data", "flights/day=31/part-0", b"new")
    pair.copier.copied.clear()
    second = run(pair)
    assert pair.copier.copied == [("dublin", "flights/day=31/part-0")]
    assert second.objects == 31
    assert second.fingerprint != first.fingerprint


def test_a_key_with_a_line_break_goes_past_the_engine_which_reads_one_key_a_line(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "flights/two\nlines"
    pair.paris.put("data", key, b"as S3 allows")
    put = pair.dublin.put

    def picky(bucket: str, name: str, data: bytes) -> None:
        if name == key:
            raise Unavailable("the store of dublin takes no such key")
        put(bucket, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(pair.dublin, "put", picky)
        with pytest.raises(Corrupted, match=r"still wrong at dublin .*takes no such key"):
            run(pair)
    assert run(pair).objects == 31
    assert same(pair)
    assert ("dublin", key) not in pair.copier.copied


def test_an_object_damaged_on_the_way_is_copied_again(pair: Pair) -> None:
    pair.copier.damage["flights/day=03/part-0"] = 1
    assert run(pair).repaired == 1
    assert same(pair)


def test_an_object_damaged_each_time_is_corrupted_and_the_others_are_safe(pair: Pair) -> None:
    pair.copier.damage["flights/day=03/part-0"] = 3
    with pytest.raises(Corrupted, match=r"day=03/part-0 is right at paris and still wrong at dublin"):
        run(pair)
    copy = read_manifest(pair.dublin, "flights")
    assert copy is not None
    assert len(copy.objects) == 29
    assert "flights/day=03/part-0" not in copy.by_key


def test_a_flipped_bit_at_the_target_is_found_and_repaired_by_rotation(pair: Pair) -> None:
    run(pair)
    pair.dublin.flip("flights/day=17/part-0")
    assert run(pair).repaired == 1
    assert same(pair)


def test_an_object_lost_at_the_target_comes_back(pair: Pair) -> None:
    run(pair)
    del pair.dublin.buckets["data"]["flights/day=17/part-0"]
    assert run(pair).copied == 1
    assert same(pair)


def test_a_flipped_bit_at_the_source_never_reaches_the_good_copy_and_is_repaired_from_it(pair: Pair) -> None:
    run(pair)
    good = pair.dublin.objects(prefix="flights/")
    pair.paris.flip("flights/day=17/part-0")
    result = run(pair)
    assert result.findings == (Finding("paris", "flights/day=17/part-0", "damaged", "repaired"),)
    assert pair.dublin.objects(prefix="flights/") == good
    assert same(pair)


def test_a_bit_flipped_at_both_sites_is_lost_and_named(pair: Pair) -> None:
    run(pair)
    for store in (pair.paris, pair.dublin):
        store.flip("flights/day=17/part-0")
    with pytest.raises(Corrupted, match="day=17/part-0 is damaged at paris and dublin has no good copy"):
        run(pair)


def test_an_object_rewritten_at_the_source_is_not_copied_over_and_new_ones_are(pair: Pair) -> None:
    run(pair)
    pair.paris.put("data", "flights/day=17/part-0", b"rewritten and longer")
    pair.paris.put("data", "flights/day=31/part-0", b"new")
    for _ in range(2):  # it is not forgotten either
        with pytest.raises(Corrupted, match="day=17/part-0 changed at paris"):
            run(pair)
    assert pair.dublin.objects()["flights/day=17/part-0"] == b"flights of day 17"
    assert pair.dublin.objects()["flights/day=31/part-0"] == b"new"
    copy = read_manifest(pair.dublin, "flights")
    assert copy is not None
    assert len(copy.objects) == 31


def test_an_empty_source_is_refused_and_the_copy_untouched(pair: Pair) -> None:
    run(pair)
    before = dict(pair.dublin.buckets["data"])
    pair.paris.buckets["data"].clear()
    with pytest.raises(Refused, match="empty"):
        run(pair)
    assert pair.dublin.buckets["data"] == before


def test_a_much_smaller_source_is_refused_and_what_a_slightly_smaller_one_lost_comes_back(pair: Pair) -> None:
    run(pair)
    lost = [f"flights/day={day:02}/part-0" for day in (1, 2, 3)]
    for key in lost:
        del pair.paris.buckets["data"][key]
    result = run(pair)
    assert result.objects == 30
    assert result.findings == tuple(Finding("paris", key, "missing", "repaired") for key in lost)
    assert same(pair)
    for key in (*lost, "flights/day=04/part-0"):
        del pair.paris.buckets["data"][key]
    with pytest.raises(Refused, match="4 of 30 objects"):
        run(pair)


def test_an_object_lost_before_it_was_ever_copied_is_named_in_every_run(pair: Pair) -> None:
    run(pair)
    pair.paris.put("data", "flights/day=31/part-0", b"new")
    write_manifest(pair.paris, scan(pair.paris, "flights", None))
    del pair.paris.buckets["data"]["flights/day=31/part-0"]
    for _ in range(2):
        with pytest.raises(Corrupted, match="day=31/part-0 is at neither site"):
            run(pair)


# --- deletions that are meant

FOLLOW = Policy(deletions=Deletions.FOLLOW, trash_for=timedelta(days=30))


def trash(pair: Pair) -> dict[str, bytes]:
    return {key.split("/", 3)[3]: data for key, data in pair.dublin.objects(prefix="_trash/").items()}


def test_a_deletion_is_followed_into_a_dated_trash_and_forgotten_there_in_time(pair: Pair) -> None:
    run(pair, FOLLOW)
    pair.paris.delete("data", "flights/day=17/part-0")
    result = run(pair, FOLLOW)
    assert (result.trashed, result.objects) == (1, 29)
    assert same(pair)
    assert trash(pair) == {"flights/day=17/part-0": b"flights of day 17"}
    assert all(key.startswith("_trash/2026-01-01/") for key in pair.dublin.objects(prefix="_trash/"))
    assert read_manifest(pair.dublin, "flights") == read_manifest(pair.paris, "flights")
    pair.now += timedelta(days=30)
    assert run(pair, FOLLOW).trashed == 0
    assert trash(pair)
    pair.now += timedelta(days=1)
    run(pair, FOLLOW)
    assert trash(pair) == {}


def test_deletions_never_cascade(pair: Pair) -> None:
    run(pair, FOLLOW)
    before = pair.dublin.objects(prefix="flights/")
    for day in range(1, 5):
        pair.paris.delete("data", f"flights/day={day:02}/part-0")
    with pytest.raises(Refused, match="4 of 30 objects"):
        run(pair, FOLLOW)
    assert pair.dublin.objects(prefix="flights/") == before
    assert run(pair, replace(FOLLOW, max_shrink=0.2)).trashed == 4


def test_many_small_deletions_do_not_add_up_behind_a_copy_that_was_away(pair: Pair) -> None:
    run(pair, FOLLOW)
    for start in (1, 3, 5):
        for day in (start, start + 1):
            pair.paris.delete("data", f"flights/day={day:02}/part-0")
        pair.dublin.down = True
        with pytest.raises(Unavailable):
            run(pair, FOLLOW)
        pair.dublin.down = False
    with pytest.raises(Refused):
        run(pair, FOLLOW)
    assert len(pair.dublin.objects(prefix="flights/")) == 30


def test_what_was_written_at_the_copy_alone_is_not_taken_for_deleted(pair: Pair) -> None:
    run(pair, FOLLOW)
    pair.dublin.put("data", "flights/day=31/part-0", b"written at dublin while paris was lost")
    write_manifest(pair.dublin, scan(pair.dublin, "flights", None))
    assert run(pair, FOLLOW).trashed == 0
    assert "flights/day=31/part-0" in pair.dublin.objects()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 12), max_size=3))
def test_killed_anywhere_a_deletion_is_followed_in_the_end_and_its_bytes_are_in_the_trash(kills: list[int]) -> None:
    pair = Pair()
    for day in range(1, 31):
        pair.paris.put("data", f"flights/{day}", f"day {day}".encode())
    run(pair, FOLLOW)
    pair.paris.delete("data", "flights/7")
    for steps in kills:
        pair.fuse.steps = steps
        with suppress(Killed):
            run(pair, FOLLOW)
        assert "flights/7" in pair.dublin.objects() or trash(pair) == {"flights/7": b"day 7"}
    pair.fuse.steps = None
    run(pair, FOLLOW)
    assert same(pair)
    assert trash(pair) == {"flights/7": b"day 7"}
    assert read_manifest(pair.dublin, "flights") == read_manifest(pair.paris, "flights")


# --- shards


@given(st.text(min_size=1), st.integers(1, 9))
def test_every_key_is_in_exactly_one_shard(key: str, of: int) -> None:
    assert sum(Shard(number, of).holds(key) for number in range(1, of + 1)) == 1


def test_shards_together_make_the_same_copy_and_the_manifest_comes_last(pair: Pair) -> None:
    for number in (1, 2, 3):
        with pytest.raises(Refused, match="has not finished"):
            complete("flights", 3, *pair.ends, pair.clock)
        replicate("flights", *pair.ends, pair.clock, shard=Shard(number, 3))
        assert read_manifest(pair.dublin, "flights") is None
    result = complete("flights", 3, *pair.ends, pair.clock)
    assert (result.objects, result.verified_since is not None) == (30, True)
    assert same(pair)
    assert read_manifest(pair.dublin, "flights") == read_manifest(pair.paris, "flights")
    assert sorted(key for _, key in pair.copier.copied) == sorted(pair.paris.objects(prefix="flights/"))


def test_what_vanished_after_a_shard_had_proven_it_is_not_in_the_manifest(pair: Pair) -> None:
    for number in (1, 2):
        replicate("flights", *pair.ends, pair.clock, shard=Shard(number, 2))
    del pair.dublin.buckets["data"]["flights/day=04/part-0"]
    assert complete("flights", 2, *pair.ends, pair.clock).objects == 29
    for number in (1, 2):
        replicate("flights", *pair.ends, pair.clock, shard=Shard(number, 2))
    assert complete("flights", 2, *pair.ends, pair.clock).objects == 30


def test_a_shard_may_be_empty(pair: Pair) -> None:
    for number in range(1, 200):
        replicate("flights", *pair.ends, pair.clock, shard=Shard(number, 199))
    assert complete("flights", 199, *pair.ends, pair.clock).objects == 30


# --- the rotation


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.2, 2.0), min_size=40, max_size=120), st.integers(0, 2**32))
def test_every_byte_is_read_within_the_declared_time_whatever_the_sizes(hours: list[float], seed: int) -> None:
    random = Random(seed)
    old = [
        ManifestObject(key=f"{n:03}", size=int(10 ** random.uniform(0, 10)), sha256="0" * 64)
        for n in range(random.randint(1, 300))
    ]
    now, within = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=24)
    read = {o.key: now for o in old}
    rotation = begun(now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REREAD_OBJECTS", 0)
        patch.setattr(module, "REREAD_BYTES", 0)
        for step in hours:
            now += timedelta(hours=step)
            chosen = next_to_read(old, rotation.after, rotation.share(now, within))
            read |= {o.key: now for o in chosen}
            rotation = rotation.advanced(old, chosen, now) if chosen else rotation
            assert rotation.verified_since is not None
            assert min(read.values()) >= rotation.verified_since
            assert now - rotation.verified_since <= within


def test_one_large_object_is_read_again_when_it_is_due_and_not_in_every_run() -> None:
    old = [ManifestObject(key="weights", size=2 * 10**9, sha256="0" * 64)]
    now, within = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=7)
    rotation, read = begun(now), []
    for _ in range(7 * 96):
        now += timedelta(minutes=15)
        if chosen := next_to_read(old, rotation.after, rotation.share(now, within)):
            rotation = rotation.advanced(old, chosen, now)
            read.append(now)
    assert len(read) == 3
    assert next_to_read(old, "", Rotation().share(now, within)) == old, "of an unknown past something is read at once"


def test_an_object_that_is_nowhere_any_more_is_corrupted(pair: Pair) -> None:
    run(pair)
    for store in (pair.paris, pair.dublin):
        del store.buckets["data"]["flights/day=04/part-0"]
    with pytest.raises(Corrupted, match="at neither site"):
        run(pair)


@pytest.mark.parametrize("site", ["paris", "dublin"])
def test_a_store_that_does_not_answer_is_unavailable(pair: Pair, site: str) -> None:
    getattr(pair, site).down = True
    with pytest.raises(Unavailable, match=site):
        run(pair)


@pytest.mark.parametrize("site", ["paris", "dublin"])
def test_a_damaged_manifest_is_made_anew_from_the_objects(pair: Pair, site: str) -> None:
    run(pair)
    pair.dublin.flip("flights/day=17/part-0")
    getattr(pair, site).flip(manifest_key("flights"))
    result = run(pair)
    assert result.rebuilt == (site,)
    assert result.repaired == 1
    assert read_manifest(pair.dublin, "flights") == read_manifest(pair.paris, "flights")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=4), st.sets(st.integers(1, 12), max_size=3))
def test_killed_anywhere_a_further_run_converges(kills: list[int], damaged: set[int]) -> None:
    pair = Pair()
    for day in range(1, 13):
        pair.paris.put("data", f"flights/{day}", f"day {day}".encode())
    for day in damaged:
        pair.copier.damage[f"flights/{day}"] = 1
    for steps in kills:
        pair.fuse.steps = steps
        try:
            run(pair)
        except Killed:
            copy = read_manifest(pair.dublin, "flights")
            held = pair.dublin.objects()
            for o in copy.objects if copy else ():  # whatever a manifest lists is there and right
                assert held[o.key] == pair.paris.objects()[o.key]
    pair.fuse.steps = None
    result = run(pair)
    assert same(pair)
    assert result.objects == 12
    assert read_manifest(pair.dublin, "flights") == read_manifest(pair.paris, "flights")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40, unique=True), st.integers(1, 7))
def test_rotation_reaches_every_old_object(sizes: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REREAD_OBJECTS", most)
        patch.setattr(module, "REREAD_BYTES", 40)
        old = [ManifestObject(key=f"{n:03}", size=size, sha256="0" * 64) for n, size in enumerate(sizes)]
        after, seen = "", set()
        for _ in range(len(old)):
            chosen = next_to_read(old, after)
            assert 1 <= len(chosen) <= most
            assert len(chosen) == 1 or sum(o.size for o in chosen) <= 40
            after = chosen[-1].key
            seen |= {o.key for o in chosen}
        assert seen == {o.key for o in old}


def test_artefacts_may_change_and_be_tidied_but_not_vanish(pair: Pair) -> None:
    pair.paris.ensure_bucket("mlflow")
    for n in range(20):
        pair.paris.put("mlflow", f"1/run/artifacts/{n}", b"x")
    assert replicate_artifacts(*pair.ends, pair.clock).copied == 20
    pair.paris.put("mlflow", "1/run/artifacts/3", b"changed")
    del pair.paris.buckets["mlflow"]["1/run/artifacts/7"]
    result = replicate_artifacts(*pair.ends, pair.clock)
    assert (result.copied, result.objects) == (1, 19)
    assert pair.dublin.objects("mlflow")["1/run/artifacts/3"] == b"changed"
    assert "1/run/artifacts/7" in pair.dublin.objects("mlflow")
    pair.paris.buckets["mlflow"].clear()
    with pytest.raises(Refused, match="empty"):
        replicate_artifacts(*pair.ends, pair.clock)


def test_a_registry_without_artefacts_yet_is_no_error(pair: Pair) -> None:
    assert replicate_artifacts(*pair.ends, pair.clock).objects == 0
