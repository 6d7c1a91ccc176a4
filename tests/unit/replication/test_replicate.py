from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.replication.memory import Killed, Pair

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.replication import replicate as module
from ninelives.replication.manifest import ManifestObject, manifest_key, read_manifest
from ninelives.replication.replicate import ReplicationResult, next_to_read, replicate, replicate_artifacts


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    for day in range(1, 31):
        pair.paris.put("data", f"flights/day={day:02}/part-0", f"flights of day {day}".encode())
    return pair


def run(pair: Pair) -> ReplicationResult:
    return replicate("flights", *pair.ends, pair.clock)


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


def test_a_second_run_copies_only_what_is_new(pair: Pair) -> None:
    first = run(pair)
    pair.paris.put("data", "flights/day=31/part-0", b"new")
    pair.copier.copied.clear()
    second = run(pair)
    assert pair.copier.copied == [("dublin", "flights/day=31/part-0")]
    assert second.objects == 31
    assert second.fingerprint != first.fingerprint


def test_an_object_damaged_on_the_way_is_copied_again(pair: Pair) -> None:
    pair.copier.damage["flights/day=03/part-0"] = 1
    assert run(pair).repaired == 1
    assert same(pair)


def test_an_object_damaged_twice_is_corrupted_and_the_others_are_safe(pair: Pair) -> None:
    pair.copier.damage["flights/day=03/part-0"] = 2
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


def test_a_flipped_bit_at_the_source_never_reaches_the_good_copy(pair: Pair) -> None:
    run(pair)
    good = pair.dublin.objects(prefix="flights/")
    pair.paris.flip("flights/day=17/part-0")
    with pytest.raises(Corrupted, match="day=17/part-0 is damaged at paris"):
        run(pair)
    assert pair.dublin.objects(prefix="flights/") == good


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


def test_a_much_smaller_source_is_refused_and_a_slightly_smaller_one_forgets_nothing(pair: Pair) -> None:
    run(pair)
    for day in (1, 2, 3):
        del pair.paris.buckets["data"][f"flights/day={day:02}/part-0"]
    result = run(pair)
    assert result.objects == 30
    del pair.paris.buckets["data"]["flights/day=04/part-0"]
    with pytest.raises(Refused, match="4 of 30 objects"):
        run(pair)


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
