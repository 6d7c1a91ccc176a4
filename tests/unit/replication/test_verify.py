"""A thousand damages of every kind at both sites: all are found, named and repaired, and nothing else is."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.replication.memory import Pair

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.replication.manifest import manifest_key, read_manifest
from ninelives.replication.replicate import Policy, replicate
from ninelives.replication.verify import VerifyResult, verify

DAYS = 60


def filled(days: int = DAYS) -> Pair:
    pair = Pair()
    for day in range(days):
        pair.paris.put("data", f"flights/day={day:02}/part-0", Random(day).randbytes(day + 1))
    replicate("flights", *pair.ends, pair.clock)
    return pair


def check(pair: Pair, **options: object) -> VerifyResult:
    return verify("flights", *pair.ends, pair.clock, **options)  # type: ignore[arg-type]


def contents(pair: Pair) -> list[dict[str, bytes]]:
    return [site.objects(prefix="flights/") for site in (pair.paris, pair.dublin)]


def damage(pair: Pair, random: Random, kind: str, day: int) -> tuple[str, str, str]:
    """Site, key and kind of what was done."""
    site = random.choice([pair.paris, pair.dublin])
    key = f"flights/day={day:02}/part-0"
    objects = site.buckets["data"]
    data, modified = objects[key]
    match kind:
        case "flipped":
            at, bit = random.randrange(len(data)), 1 << random.randrange(8)
            objects[key] = (data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :], modified)
        case "shortened":
            objects[key] = (data[: random.randrange(len(data))], modified)
        case "missing":
            del objects[key]
        case "foreign":
            site, key = pair.dublin, f"flights/foreign-{random.randrange(10**9)}"
            site.buckets["data"][key] = (b"nobody recorded this", modified)
        case "manifest":
            key = manifest_key("flights")
            document, modified = objects[key]
            objects[key] = (document[: random.randrange(len(document))], modified)
            return site.site, "flights", "manifest"
    return site.site, key, {"flipped": "damaged", "shortened": "damaged"}.get(kind, kind)


def test_a_thousand_damages_are_all_found_and_repaired_without_a_false_alarm() -> None:
    random, done, kinds = Random(20261125), 0, Counter[str]()
    pair = filled()
    sound = contents(pair)
    manifest = read_manifest(pair.dublin, "flights")
    assert manifest is not None
    while done < 1000:
        assert check(pair).findings == ()  # no false alarm between two rounds
        days = random.sample(range(DAYS), 40)
        wanted = [random.choice(["flipped", "shortened", "missing", "foreign"]) for _ in days]
        wanted[0] = "manifest"
        expected = {damage(pair, random, kind, day) for kind, day in zip(wanted, days, strict=True)}
        result = check(pair)
        assert {(one.site, one.key, one.what) for one in result.findings} == expected
        assert result.sound
        assert contents(pair) == sound
        for site in (pair.paris, pair.dublin):
            now = read_manifest(site, "flights")
            assert now is not None
            assert now.fingerprint == manifest.fingerprint
        kinds.update(kind for _, _, kind in expected)
        done += len(expected)
    assert set(kinds) == {"damaged", "missing", "foreign", "manifest"}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["flipped", "shortened", "missing", "foreign"]), max_size=10))
def test_any_damage_is_named_once_and_repaired(seed: int, wanted: list[str]) -> None:
    random, pair = Random(seed), filled(12)
    sound = contents(pair)
    days = random.sample(range(12), len(wanted))
    expected = sorted(damage(pair, random, kind, day) for kind, day in zip(wanted, days, strict=True))
    assert sorted((one.site, one.key, one.what) for one in check(pair, repair=False).findings) == expected
    assert sorted((one.site, one.key, one.what) for one in check(pair).findings) == expected
    assert contents(pair) == sound


def test_without_repair_nothing_is_written() -> None:
    pair = filled()
    pair.paris.flip("flights/day=03/part-0")
    before = dict(pair.paris.buckets["data"]), pair.dublin.objects(prefix="flights/")
    result = check(pair, repair=False)
    assert ([one.outcome for one in result.findings], result.sound) == (["found"], False)
    assert (dict(pair.paris.buckets["data"]), pair.dublin.objects(prefix="flights/")) == before


def test_what_is_wrong_at_both_sites_is_lost_and_the_rest_is_repaired() -> None:
    pair = filled()
    for site in (pair.paris, pair.dublin):
        site.flip("flights/day=03/part-0")
    pair.paris.flip("flights/day=04/part-0")
    result = check(pair)
    assert sorted((one.site, one.key[8:14], one.outcome) for one in result.findings) == [
        ("dublin", "day=03", "lost"),
        ("paris", "day=03", "lost"),
        ("paris", "day=04", "repaired"),
    ]
    assert not result.sound


def test_an_overwritten_object_is_kept_in_the_trash_before_the_recorded_bytes_come_back() -> None:
    pair = filled()
    pair.paris.put("data", "flights/day=03/part-0", b"somebody wrote under a taken key")
    assert check(pair).sound
    assert contents(pair)[0] == contents(pair)[1]
    (kept,) = pair.paris.objects(prefix="_trash/").items()
    assert kept[0].endswith("/flights/day=03/part-0")
    assert kept[1] == b"somebody wrote under a taken key"


def test_what_is_on_its_way_to_the_copy_is_no_finding() -> None:
    pair = filled()
    pair.paris.put("data", "flights/day=99/part-0", b"new, not replicated yet")
    assert check(pair).findings == ()


def test_a_young_object_that_nobody_recorded_is_named_and_left_until_it_can_be_no_write_that_goes_on() -> None:
    pair = filled()
    key, young = "flights/day=98/part-0", (b"being written", pair.now - timedelta(minutes=5))
    pair.dublin.buckets["data"][key] = young
    result = check(pair)
    assert [(one.key, one.what, one.outcome) for one in result.findings] == [(key, "foreign", "found")]
    assert not result.sound
    assert pair.dublin.buckets["data"][key] == young
    assert check(pair, settled=timedelta(minutes=1)).sound
    assert check(pair).findings == ()
    assert list(pair.dublin.objects(prefix="_trash/").values()) == [b"being written"]


def test_an_object_lost_together_with_the_manifest_that_listed_it_is_missing_however_young_it_is() -> None:
    pair = filled()
    key = "flights/day=03/part-0"
    pair.paris.buckets["data"][key] = (pair.paris.buckets["data"][key][0], pair.now)
    del pair.dublin.buckets["data"][key]
    pair.dublin.put("data", manifest_key("flights"), b"{")
    result = check(pair)
    assert [(one.key, one.what, one.outcome) for one in result.findings] == [
        (key, "missing", "repaired"),
        ("flights", "manifest", "repaired"),
    ]
    assert contents(pair)[0] == contents(pair)[1]


@pytest.mark.parametrize(("times", "damaged"), [(0, 0), (1, 0), (2, 1)])
def test_an_object_that_a_store_fails_to_give_twice_is_damaged_and_once_is_no_false_alarm(
    times: int, damaged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = filled()
    key, left, get = "flights/day=03/part-0", [times], pair.dublin.get

    def moody(bucket: str, name: str) -> bytes | None:
        if name == key and left[0]:
            left[0] -= 1
            raise Unavailable("a sector cannot be read")
        return get(bucket, name)

    monkeypatch.setattr(pair.dublin, "get", moody)
    # The look that fails makes all be read once more, so that one failure is already two readings.
    left[0] += times > 0
    result = check(pair)
    assert [(one.key, one.outcome) for one in result.findings] == [(key, "repaired")] * damaged
    assert contents(pair)[0] == contents(pair)[1]


def test_a_store_that_gives_nothing_is_unavailable_and_nothing_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = filled()
    get = pair.dublin.get

    def silent(bucket: str, name: str) -> bytes | None:
        if name.startswith("flights/"):
            raise Unavailable("it refused the key")
        return get(bucket, name)

    monkeypatch.setattr(pair.dublin, "get", silent)
    before = pair.dublin.objects()
    with pytest.raises(Unavailable, match="refused the key"):
        check(pair)
    assert pair.dublin.objects() == before


def test_a_whole_verification_is_a_whole_lap_of_the_rotation() -> None:
    pair = filled()
    pair.now += timedelta(days=10)
    began = pair.now
    check(pair)
    since = replicate("flights", *pair.ends, pair.clock, policy=Policy()).verified_since
    assert since is not None
    assert since >= began


def test_nothing_to_compare_is_refused_and_two_damaged_manifests_are_corrupted() -> None:
    pair = Pair()
    pair.paris.put("data", "flights/1", b"1")
    with pytest.raises(Refused, match="replicate first"):
        check(pair)
    replicate("flights", *pair.ends, pair.clock)
    for site in (pair.paris, pair.dublin):
        site.put("data", manifest_key("flights"), b"{")
    with pytest.raises(Corrupted, match="restore a backup"):
        check(pair)
