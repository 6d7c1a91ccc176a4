"""Pruning never removes what a retained model, backup, incident or training needs; what nobody needs goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.replication.memory import Killed
from unit.versions.estates import TwoSites, as_dvc

from ninelives.errors import Refused, Unavailable
from ninelives.training.records import Training, begin, finish
from ninelives.versions.catalogue import known_at, merge
from ninelives.versions.objects import BUCKET, object_key, read_record, read_version
from ninelives.versions.prune import LEASE, prune

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PARTS = [bytes([number]) * 9 for number in range(5)]
"""Files are shared between versions, as a dataset's unchanged parts are."""

version_files = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(PARTS), min_size=1, max_size=4)
need = st.sampled_from(
    ["none", "model", "backup by name", "incident by hash", "incident by model", "training", "young"]
)


def need_it(systems: TwoSites, how: str, version: str, number: int) -> None:
    training = Training("arrival-delay", "flights", version, "r")
    if how == "model":
        systems.register("arrival-delay", str(number), version)
    elif how == "backup by name":
        systems.the_ledger.append("backup", "b", {"holds": {"data": [version]}})
    elif how == "incident by hash":
        manifest = read_record(systems.paris, "flights", version)
        assert manifest is not None
        systems.the_ledger.append("incident", "i", {"data": manifest.fingerprint})
    elif how == "incident by model":  # whose version was deleted from the registry since
        facts = {"version": str(number), "data_version": version}
        systems.the_ledger.append("release", "late-arrival", facts)
        systems.the_ledger.append("incident", "i", {"served": {"model": "late-arrival", "version": str(number)}})
    elif how == "training":
        begin(systems.the_ledger, training)


@given(
    st.lists(
        st.tuples(version_files, need, st.sampled_from([("paris",), ("paris", "dublin")])), min_size=1, max_size=6
    ),
    st.integers(0, 12),
)
def test_whatever_somebody_needs_survives_a_pruning_killed_anywhere_and_the_rest_goes(
    versions: list[tuple[dict[str, bytes], str, tuple[str, ...]]], steps: int
) -> None:
    systems = TwoSites()
    kept: dict[str, tuple[dict[str, bytes], set[str], set[str]]] = {}
    for number, (files, how, sites) in enumerate(versions, start=1):
        at = NOW - (timedelta(hours=1) if how == "young" else timedelta(days=60 - number))
        version = systems.keep(files, *sites, at=at)
        need_it(systems, how, version, number)
        before = kept.get(version, ({}, set(), set()))
        kept[version] = (files, before[1] | {how}, before[2] | set(sites))
    last = {version: kept_at(systems, version) for version in kept}
    newest = max(kept, key=lambda version: (last[version], version))
    systems.fuse.steps = steps
    try:
        prune(systems, "first", lambda: NOW)
    except Killed:
        systems.the_ledger.leases.clear()  # it expires
    systems.fuse.steps = None
    prune(systems, "second", lambda: NOW)
    wanted: set[str] = set()
    for version, (files, needs, sites) in kept.items():
        if needs - {"none", "young"} or version == newest or last[version] > NOW - timedelta(days=1):
            wanted |= {object_key(name) for name in as_dvc(files)[1]}
            for site in sites:
                assert read_version(systems.sites[site], version) == files
    assert systems.names("paris") <= wanted
    assert systems.names("dublin") <= wanted


def kept_at(systems: TwoSites, version: str) -> datetime:
    known = merge(known_at(systems.paris), known_at(systems.dublin))[version].kept_at
    assert known is not None
    return known


@pytest.fixture
def systems() -> TwoSites:
    systems = TwoSites()
    systems.keep({"a": b"old"})
    systems.keep({"a": b"new"}, at=NOW - timedelta(days=2))
    return systems


def test_whoever_cannot_be_asked_may_need_everything(systems: TwoSites) -> None:
    before = systems.names("paris"), systems.names("dublin")
    for silent in (systems.paris, systems.dublin, systems.the_registry, systems.the_ledger):
        silent.down = True
        with pytest.raises(Unavailable):
            prune(systems, "me", lambda: NOW)
        silent.down = False
    systems.register("somebody-elses", "1", None)
    prune(systems, "me", lambda: NOW, dry_run=True)
    systems.register("arrival-delay", "1", None)
    with pytest.raises(Refused, match="does not say which data"):
        prune(systems, "me", lambda: NOW)
    assert (systems.names("paris"), systems.names("dublin")) == before


def test_a_dry_run_removes_nothing_and_says_what_would_go(systems: TwoSites) -> None:
    before = systems.paris.objects(BUCKET)
    planned = prune(systems, "me", lambda: NOW, dry_run=True)
    assert systems.paris.objects(BUCKET) == before
    done = prune(systems, "me", lambda: NOW)
    assert done == planned
    assert (len(done.removed), len(done.objects["paris"]), len(done.objects["dublin"])) == (1, 2, 2)
    (why,) = done.kept.values()
    assert why == ("newest of flights",)


def test_a_version_whose_list_is_damaged_everywhere_keeps_what_its_manifest_names(systems: TwoSites) -> None:
    version = systems.keep({"a": b"needed"})
    systems.register("arrival-delay", "1", version)
    for site in systems.sites.values():
        site.flip(object_key(version), BUCKET)
    prune(systems, "me", lambda: NOW)
    assert b"needed" in systems.paris.objects(BUCKET).values()


def test_nothing_is_removed_while_a_needed_version_cannot_be_read_at_all(systems: TwoSites) -> None:
    version = systems.keep({"a": b"needed"})
    systems.register("arrival-delay", "1", version)
    for site in systems.sites.values():
        site.flip(object_key(version), BUCKET)
        site.flip(f"_manifests/flights/{version}.json", BUCKET)
    with pytest.raises(Refused, match="no site has the list of files"):
        prune(systems, "me", lambda: NOW)


def test_keeping_and_pruning_exclude_each_other(systems: TwoSites) -> None:
    systems.the_ledger.take_lease(LEASE, "version_data", timedelta(minutes=1))
    with pytest.raises(Unavailable, match="being kept or pruned"):
        prune(systems, "me", lambda: NOW)


@pytest.mark.parametrize("meanwhile", ["it expired", "another took it"])
def test_nothing_is_removed_once_the_lease_was_lost_while_it_was_decided(systems: TwoSites, meanwhile: str) -> None:
    before = systems.names("paris"), systems.names("dublin")

    def slow_clock() -> datetime:
        del systems.the_ledger.leases[LEASE]
        if meanwhile == "another took it":
            systems.the_ledger.take_lease(LEASE, "version_data", timedelta(minutes=1))
        return NOW

    with pytest.raises(Unavailable, match=r"try again|being kept"):
        prune(systems, "me", slow_clock)
    assert (systems.names("paris"), systems.names("dublin")) == before
    systems.the_ledger.leases.clear()
    assert prune(systems, "me", lambda: NOW).removed


def test_a_finished_training_needs_its_data_no_longer_and_one_under_way_does(systems: TwoSites) -> None:
    (old,) = prune(systems, "me", lambda: NOW, dry_run=True).removed
    training = Training("arrival-delay", "flights", old, "r")
    begin(systems.the_ledger, training)
    assert prune(systems, "me", lambda: NOW, dry_run=True).removed == ()
    finish(systems.the_ledger, training, {})
    assert prune(systems, "me", lambda: NOW, dry_run=True).removed == (old,)


def test_an_object_that_was_just_pushed_is_left_alone_though_no_version_lists_it_yet(systems: TwoSites) -> None:
    (name, *_) = as_dvc({"a": b"pushed"})[1]
    systems.paris.buckets[BUCKET][object_key(name)] = (b"pushed", NOW - timedelta(minutes=1))
    prune(systems, "me", lambda: NOW)
    assert systems.paris.get(BUCKET, object_key(name)) == b"pushed"
