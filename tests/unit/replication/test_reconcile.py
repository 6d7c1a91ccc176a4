from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.replication.memory import Killed, MemoryStore, Pair
from unit.replication.test_models import MODEL, add_object, release, version

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.replication.manifest import manifest_key, read_manifest, scan, write_manifest
from ninelives.replication.reconcile import ReconcileResult, Reconciliation, apply_and_record, reconcile_stores
from ninelives.replication.reconcile_objects import Meeting

contents = st.dictionaries(st.sampled_from([f"flights/{n}" for n in range(6)]), st.sampled_from([b"x", b"y", b"zz"]))


def fill(store: MemoryStore, objects: dict[str, bytes]) -> None:
    for key, data in objects.items():
        store.put("data", key, data)


def run(pair: Pair, models: Iterable[str] = ()) -> ReconcileResult:
    return reconcile_stores("flights", list(models), pair.link, pair.clock)


def fingerprint(store: MemoryStore) -> str:
    manifest = read_manifest(store, "flights")
    assert manifest is not None
    return manifest.fingerprint


def shared(store: MemoryStore) -> dict[str, bytes]:
    """All but the manifests, which say when they were written."""
    return {key: data for key, data in store.objects().items() if not key.startswith("_manifests/")}


def everything(store: MemoryStore) -> set[bytes]:
    return {data for key, data in store.objects().items() if not key.startswith("_manifests/")}


@settings(deadline=None)
@given(contents, contents, st.lists(st.integers(0, 25), max_size=4), st.booleans(), st.booleans())
def test_killed_anywhere_both_sites_end_with_the_same_union_and_no_byte_lost(
    a: dict[str, bytes], b: dict[str, bytes], kills: list[int], a_recorded: bool, b_recorded: bool
) -> None:
    pair = Pair()
    for store, objects, recorded in ((pair.paris, a, a_recorded), (pair.dublin, b, b_recorded)):
        fill(store, objects)
        if recorded:
            write_manifest(store, scan(store, "flights", None, pair.now))
    for steps in kills:
        pair.fuse.steps = steps
        try:
            run(pair)
        except Killed:
            for store, objects in ((pair.paris, a), (pair.dublin, b)):
                assert set(objects.values()) <= everything(store)
    pair.fuse.steps = None
    result = run(pair)
    assert result.fingerprints_equal
    assert fingerprint(pair.paris) == fingerprint(pair.dublin)
    assert shared(pair.paris) == shared(pair.dublin)
    assert pair.paris.objects(prefix="flights/") == {**a, **b}  # dublin kept serving: its bytes keep the key
    lost_the_name = {key for key in a.keys() & b.keys() if a[key] != b[key]}
    aside = pair.dublin.objects(prefix="_conflicts/paris/")
    assert {key.removeprefix("_conflicts/paris/").rpartition("/")[0] for key in aside} == lost_the_name
    assert all(a[key.removeprefix("_conflicts/paris/").rpartition("/")[0]] == data for key, data in aside.items())
    again = run(pair)
    assert (again.copied_to_site, again.copied_to_other, again.conflicts, again.healed) == (0, 0, (), ())
    assert again.fingerprint == result.fingerprint
    assert pair.paris.deletes == pair.dublin.deletes == []


@pytest.mark.parametrize(("bad", "good"), [("paris", "dublin"), ("dublin", "paris")])
def test_damaged_bytes_are_healed_by_the_other_site_and_never_spread(bad: str, good: str) -> None:
    pair = Pair()
    fill(pair.paris, {"flights/1": b"one"})
    fill(pair.dublin, {"flights/1": b"one"})
    for store in (pair.paris, pair.dublin):
        write_manifest(store, scan(store, "flights", None, pair.now))
    getattr(pair, bad).flip("flights/1")
    result = run(pair)
    assert result.healed == ("flights/1",)
    assert result.conflicts == ()
    assert pair.paris.objects()["flights/1"] == pair.dublin.objects()["flights/1"] == b"one"


def test_bytes_that_a_site_has_not_recorded_are_kept_aside_before_they_are_overwritten() -> None:
    pair = Pair()
    fill(pair.paris, {"flights/1": b"one"})
    fill(pair.dublin, {"flights/1": b"one"})
    write_manifest(pair.paris, scan(pair.paris, "flights", None, pair.now))
    fill(pair.paris, {"flights/1": b"rewritten in place"})
    result = run(pair)
    assert result.healed == ("flights/1",)
    (aside,) = result.kept_aside
    for store in (pair.paris, pair.dublin):
        assert store.objects()[aside.removeprefix("data/")] == b"rewritten in place"


@pytest.mark.parametrize("steps", range(12))
def test_a_conflict_killed_at_each_of_its_steps_is_kept_aside_once(steps: int) -> None:
    pair = Pair()
    fill(pair.paris, {"flights/1": b"at paris", "flights/2": b"two"})
    fill(pair.dublin, {"flights/1": b"at dublin"})
    for store in (pair.paris, pair.dublin):
        write_manifest(store, scan(store, "flights", None, pair.now))
    pair.fuse.steps = steps
    try:
        run(pair)
    except Killed:
        assert steps < 10  # two each: copies kept aside, questions, objects, manifests, agreements
    pair.fuse.steps = None
    assert run(pair).fingerprints_equal
    for store in (pair.paris, pair.dublin):
        assert store.objects(prefix="flights/") == {"flights/1": b"at dublin", "flights/2": b"two"}
        assert list(store.objects(prefix="_conflicts/").values()) == [b"at paris"]


def test_damaged_bytes_without_a_good_copy_stop_every_run_until_somebody_restores_them() -> None:
    pair = Pair()
    fill(pair.paris, {"flights/1": b"one", "flights/2": b"two"})
    write_manifest(pair.paris, scan(pair.paris, "flights", None, pair.now))
    pair.paris.flip("flights/1")
    for _ in range(2):
        with pytest.raises(Corrupted, match="no site has a good copy of flights/1"):
            run(pair)
    assert pair.dublin.objects()["flights/2"] == b"two"
    assert "flights/1" not in pair.dublin.objects()


def test_one_that_fails_gives_its_lease_back_and_one_that_is_killed_keeps_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    ledger, pair = SqlLedger(url), Pair()
    systems: Any = SimpleNamespace(ledger=lambda: ledger)
    reconciliation = Reconciliation(Meeting("flights", pair.link), [], pair.clock)
    pair.dublin.down = True
    with pytest.raises(Unavailable, match="dublin does not answer"):
        apply_and_record(systems, reconciliation, holder="ada")
    pair.dublin.down = False
    pair.fuse.steps = 0
    with pytest.raises(Killed):
        apply_and_record(systems, reconciliation, holder="the daily run")
    pair.fuse.steps = None
    with pytest.raises(Refused, match="the daily run"):
        apply_and_record(systems, reconciliation, holder="ada")
    apply_and_record(systems, reconciliation, holder="the daily run")
    assert ledger.current_lease("reconcile:flights@dublin+paris") is None


def test_a_damaged_manifest_does_not_keep_a_site_away() -> None:
    pair = Pair()
    fill(pair.paris, {"flights/1": b"one"})
    write_manifest(pair.paris, scan(pair.paris, "flights", None, pair.now))
    pair.paris.flip(manifest_key("flights"))
    assert run(pair).fingerprints_equal
    assert pair.dublin.objects()["flights/1"] == b"one"


def test_the_higher_release_wins_and_both_objects_are_at_both_sites() -> None:
    pair = Pair()
    release(pair.paris, 9, b"nine")
    release(pair.dublin, 10, b"ten")
    add_object(pair.paris, b"candidate")
    result = run(pair, [MODEL])
    assert result.releases == {MODEL: "10"}
    assert pair.paris.objects("models") == pair.dublin.objects("models")
    assert len(pair.paris.objects("models", f"{MODEL}/sha256/")) == 3


def test_a_release_newer_at_the_returned_site_wins_too() -> None:
    pair = Pair()
    release(pair.paris, 4, b"four")
    release(pair.dublin, 3, b"three")
    run(pair, [MODEL])
    assert version(pair.dublin) == version(pair.paris) == "4"


def test_the_same_version_of_different_objects_is_a_conflict_and_both_are_kept() -> None:
    pair = Pair()
    release(pair.paris, 3, b"three")
    release(pair.dublin, 3, b"drei")
    loser = pair.paris.objects("models")[f"{MODEL}/release.json"]
    result = run(pair, [MODEL])
    (conflict,) = result.conflicts
    assert (conflict.keeper, conflict.moved_from) == ("dublin", "paris")
    for store in (pair.paris, pair.dublin):
        assert store.objects("models")[conflict.moved_to] == loser
        assert len(store.objects("models", f"{MODEL}/sha256/")) == 2
    assert pair.paris.objects("models") == pair.dublin.objects("models")
    assert result.kept_aside == (f"models/{conflict.moved_to}",)
    assert run(pair, [MODEL]).conflicts == ()


def test_a_model_object_damaged_by_the_loss_is_healed() -> None:
    pair = Pair()
    key = release(pair.paris, 3, b"three")
    release(pair.dublin, 3, b"three")
    pair.paris.flip(key, "models")
    assert run(pair, [MODEL]).healed == (key,)
    assert pair.paris.objects("models")[key] == b"three"


def test_a_pointer_damaged_by_the_loss_is_healed() -> None:
    pair = Pair()
    release(pair.paris, 3, b"three")
    release(pair.dublin, 3, b"three")
    pair.paris.put("models", f"{MODEL}/release.json", b"{")
    assert run(pair, [MODEL]).healed == (f"{MODEL}/release.json",)
    assert version(pair.paris) == "3"
