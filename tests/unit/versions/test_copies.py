"""A version is given back bit for bit as long as each of its objects is right somewhere, and never otherwise."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.replication.memory import Killed
from unit.versions.estates import TwoSites, as_dvc

from ninelives.errors import Corrupted, Unavailable
from ninelives.versions.catalogue import list_versions
from ninelives.versions.copies import look, make_whole
from ninelives.versions.objects import BUCKET, object_key, read_files, read_record, read_version, record_version
from ninelives.versions.replicate import replicate_versions

FILES = {"flights.parquet": b"rows " * 50, "manifest.json": b"{}"}
VERSION, OBJECTS = as_dvc(FILES)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HARM = st.sampled_from(["right", "damaged", "missing"])


def harm(systems: TwoSites, site: str, name: str, how: str) -> None:
    if how == "missing":
        systems.sites[site].buckets[BUCKET].pop(object_key(name))
    elif how == "damaged":
        systems.sites[site].flip(object_key(name), BUCKET)


@given(st.fixed_dictionaries({name: st.tuples(HARM, HARM) for name in OBJECTS}), st.integers(0, 12))
def test_whatever_is_harmed_is_healed_from_the_good_copy_or_nothing_is_lost(
    harms: dict[str, tuple[str, str]], steps: int
) -> None:
    systems = TwoSites()
    systems.keep(FILES)
    for name, (at_paris, at_dublin) in harms.items():
        harm(systems, "paris", name, at_paris)
        harm(systems, "dublin", name, at_dublin)
    systems.fuse.steps = steps  # the first try dies somewhere
    with suppress(Killed, Corrupted):
        make_whole(systems, "flights", VERSION, "dublin")
    systems.fuse.steps = None
    if all("right" in both for both in harms.values()):
        healed = make_whole(systems, "flights", VERSION, "dublin")
        assert read_version(systems.dublin, VERSION) == FILES
        assert healed.hash == record_version(systems.dublin, "flights", VERSION, NOW).fingerprint
    else:
        with pytest.raises(Corrupted, match="restore it from a backup"):
            make_whole(systems, "flights", VERSION, "dublin")
    for name, both in harms.items():
        if "right" in both:
            kept = [site.get(BUCKET, object_key(name)) for site in systems.sites.values()]
            assert OBJECTS[name] in kept, "the last good copy was lost"


def test_a_whole_copy_needs_no_other_site() -> None:
    systems = TwoSites()
    systems.keep(FILES)
    systems.paris.down = True
    healed = make_whole(systems, "flights", VERSION, "dublin")
    assert (healed.objects, healed.copied) == (3, {})


def test_a_site_that_may_have_the_good_copy_is_waited_for() -> None:
    systems = TwoSites()
    systems.keep(FILES)
    systems.dublin.flip(object_key(VERSION), BUCKET)
    systems.paris.down = True
    with pytest.raises(Unavailable, match="does not answer"):
        make_whole(systems, "flights", VERSION, "dublin")
    assert systems.dublin.get(BUCKET, object_key(VERSION)), "what is damaged stays until a good one was read"


def test_a_damaged_object_is_deleted_before_the_good_one_is_pushed() -> None:
    systems = TwoSites()
    systems.keep(FILES)
    systems.dublin.flip(object_key(VERSION), BUCKET)
    assert make_whole(systems, "flights", VERSION, "dublin").copied == {VERSION: "paris"}
    assert systems.dublin.deletes == [object_key(VERSION)]


def test_a_copy_is_whole_only_by_its_manifest_which_is_written_last() -> None:
    systems = TwoSites()
    systems.keep(FILES, "paris")
    for steps in range(9):
        systems.fuse.steps = steps
        try:
            make_whole(systems, "flights", VERSION, "dublin")
        except Killed:
            assert read_record(systems.dublin, "flights", VERSION) is None
        else:
            break
    assert read_version(systems.dublin, VERSION) == FILES
    assert systems.dublin.objects(BUCKET).keys() == systems.paris.objects(BUCKET).keys()


def test_two_contents_under_one_md5_are_not_taken_for_each_other() -> None:
    systems = TwoSites()
    systems.keep(FILES)
    other, objects = as_dvc({"flights.parquet": b"other"})
    for name, data in objects.items():
        systems.dublin.put(BUCKET, object_key(name), data)
    forged = record_version(systems.dublin, "flights", other, NOW)
    key = f"_manifests/flights/{VERSION}.json"
    systems.dublin.put(
        BUCKET, key, forged.model_copy(update={"dataset": f"flights/{VERSION}"}).model_dump_json().encode()
    )
    with pytest.raises(Corrupted, match="two contents"):
        make_whole(systems, "flights", VERSION, "dublin")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_a_list_that_names_a_file_outside_its_folder_is_not_followed(path: str) -> None:
    systems = TwoSites()
    version, objects = as_dvc({path: b"x"})
    for name, data in objects.items():
        systems.paris.put(BUCKET, object_key(name), data)
    with pytest.raises(Corrupted, match="not written"):
        read_files(systems.paris, version)


def test_versions_are_listed_with_their_models_and_where_they_are_whole() -> None:
    systems = TwoSites()
    version = systems.keep(FILES)
    alone = systems.keep({"flights.parquet": b"newer"}, "paris")
    systems.register("arrival-delay", "1", version)
    systems.register("arrival-delay", "2", "0" * 32 + ".dir")
    systems.dublin.flip(object_key(version), BUCKET)
    found, problem = list_versions(systems)
    by_name = {one.version: one for one in found}
    assert problem is None
    assert by_name[version].models == ("arrival-delay@1",)
    assert [copy.state for copy in by_name[version].copies] == ["whole", "harmed"]
    assert by_name[alone].whole_at == ("paris",)
    lost = by_name["0" * 32 + ".dir"]
    assert (lost.whole_at, lost.met, lost.models) == ((), False, ("arrival-delay@2",))
    systems.paris.down = systems.the_registry.down = True
    found, problem = list_versions(systems)
    assert "registry" in str(problem)
    assert {copy.state for one in found for copy in one.copies if copy.site == "paris"} == {"unknown"}


def test_what_is_missing_or_damaged_is_named() -> None:
    systems = TwoSites()
    systems.keep(FILES)
    first, second, *_ = OBJECTS
    harm(systems, "paris", first, "missing")
    harm(systems, "paris", second, "damaged")
    copy = look(systems.paris, VERSION, read_files(systems.dublin, VERSION))
    assert copy.state == "harmed"
    assert copy.problem == f"damaged: {second}; missing: {first}"


def test_replication_brings_a_version_to_whichever_site_lacks_it_and_heals_what_rotted() -> None:
    systems = TwoSites()
    first = systems.keep(FILES, "paris")
    second = systems.keep({"flights.parquet": b"newer"}, "dublin")  # paris came back with an empty disk
    done = replicate_versions(systems, "flights", "paris", "dublin")
    assert (done["versions"], done["copied"], done["healed"]) == (2, 5, 0)
    for site in systems.sites.values():
        assert read_version(site, first) == FILES
        assert read_version(site, second) == {"flights.parquet": b"newer"}
    healed = set()
    for key in sorted(systems.names("paris")):
        systems.paris.flip(key, BUCKET)
        healed.add(replicate_versions(systems, "flights", "paris", "dublin")["healed"])
        systems.paris.buckets[BUCKET][key] = systems.dublin.buckets[BUCKET][key]
    assert healed == {0, 1}, "one version is read again in each hour, and only that one"


def test_one_version_that_is_lost_everywhere_does_not_keep_the_others_behind() -> None:
    systems = TwoSites()
    lost = systems.keep(FILES, "paris")
    systems.paris.flip(object_key(lost), BUCKET)
    good = systems.keep({"flights.parquet": b"newer"}, "paris")
    with pytest.raises(Corrupted, match=object_key(lost)):
        replicate_versions(systems, "flights", "paris", "dublin")
    assert read_version(systems.dublin, good) == {"flights.parquet": b"newer"}
