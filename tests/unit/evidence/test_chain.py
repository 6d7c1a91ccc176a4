from __future__ import annotations

import hashlib
import json
import math
from collections import UserDict
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.evidence import START, anchor_of, chain, rehash

from ninelives.errors import Refused
from ninelives.evidence.chain import (
    GENESIS,
    MAX_BYTES,
    Anchor,
    FindingKind,
    canonical_json,
    parse_json,
    parse_timestamp,
    timestamp,
    verify_chain,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
FACTS = st.dictionaries(TEXT, JSON, max_size=4).map(lambda facts: parse_json(canonical_json(facts)))
SMALL = st.fixed_dictionaries({"v": st.integers(-5, 5) | st.booleans() | st.text("aé\0", max_size=2)})
CHAINS = st.lists(SMALL, min_size=1, max_size=7).map(chain)


def kinds(findings: list[Any]) -> set[tuple[int, str]]:
    return {(finding.seq, str(finding.kind)) for finding in findings}


# --- untouched ---------------------------------------------------------------------------------------------------


@given(CHAINS, st.data())
def test_an_untouched_chain_never_alarms(records: list[Any], data: st.DataObject) -> None:
    seen = data.draw(st.lists(st.sampled_from(records)))
    assert verify_chain(records, [anchor_of(record) for record in seen]) == []


def test_an_empty_ledger_is_whole() -> None:
    assert verify_chain([]) == []


@given(FACTS)
def test_facts_survive_their_canonical_text(facts: dict[str, Any]) -> None:
    text = canonical_json(facts)
    assert parse_json(text) == facts
    assert canonical_json(parse_json(text)) == text
    assert canonical_json(json.loads(json.dumps(facts))) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_survives(value: float) -> None:
    back = parse_json(canonical_json({"v": value}))["v"]
    assert back == value
    assert canonical_json({"v": back}) == canonical_json({"v": value})


# --- touched -----------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(CHAINS, st.data())
def test_any_single_change_of_a_record_is_found(records: list[Any], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(records) - 1))
    victim = records[index]
    field = data.draw(st.sampled_from(["seq", "kind", "subject", "facts", "at", "previous", "hash", "version", "once"]))
    changed = {
        "seq": st.integers(-3, len(records) + 3),
        "facts": SMALL,
        "at": st.datetimes(timezones=st.just(UTC)),
        "once": st.none() | TEXT,
        "hash": st.sampled_from([GENESIS, *(record.hash for record in records)]),
        "previous": st.sampled_from([GENESIS, *(record.hash for record in records)]),
    }.get(field, TEXT)
    value = data.draw(changed)
    before, after = getattr(victim, field), value
    assume(canonical_json({"v": before}) != canonical_json({"v": after}))
    tampered = [*records[:index], replace(victim, **{field: value}), *records[index + 1 :]]
    findings = verify_chain(tampered, [anchor_of(records[-1])])
    assert findings
    if field in {"kind", "subject", "facts", "at", "version", "once"}:
        assert kinds(findings) == {(victim.seq, "altered")}


@given(CHAINS, SMALL, st.data())
def test_a_change_with_a_new_fitting_hash_is_found(records: list[Any], facts: Any, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(records) - 1))
    assume(canonical_json(facts) != canonical_json(records[index].facts))
    tampered = [*records[:index], rehash(records[index], facts=facts), *records[index + 1 :]]
    found = kinds(verify_chain(tampered, [anchor_of(records[-1])]))
    last = index == len(records) - 1
    assert found == {(index + 1, "truncated" if last else "altered")}


@given(CHAINS, st.data())
def test_a_removed_record_is_found_and_named(records: list[Any], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(records) - 1))
    found = kinds(verify_chain([*records[:index], *records[index + 1 :]], [anchor_of(records[-1])]))
    assert found == {(index + 1, "truncated" if index == len(records) - 1 else "removed")}


@given(CHAINS, st.data())
def test_a_removed_record_is_found_when_the_rest_is_renumbered(records: list[Any], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(records) - 1))
    rest = [replace(record, seq=record.seq - 1) for record in records[index + 1 :]]
    findings = verify_chain([*records[:index], *rest], [anchor_of(records[-1])])
    assert (len(records), "truncated") in kinds(findings)
    assert {record.seq for record in rest} <= {seq for seq, kind in kinds(findings) if kind == "reordered"}


@given(CHAINS, st.data())
def test_two_records_that_changed_places_are_found_and_named(records: list[Any], data: st.DataObject) -> None:
    assume(len(records) > 1)
    one, other = data.draw(st.lists(st.integers(0, len(records) - 1), min_size=2, max_size=2, unique=True))
    places = list(records)
    places[one] = replace(records[other], seq=one + 1)
    places[other] = replace(records[one], seq=other + 1)
    found = kinds(verify_chain(places))
    assert {(one + 1, "reordered"), (other + 1, "reordered")} <= found
    unnumbered = list(records)
    unnumbered[one], unnumbered[other] = unnumbered[other], unnumbered[one]
    assert "reordered" in {kind for _, kind in kinds(verify_chain(unnumbered))}


@given(CHAINS, SMALL, st.data())
def test_an_inserted_record_is_found(records: list[Any], facts: Any, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(records) - 1))
    forged = rehash(records[index], facts={**facts, "forged": True})
    shifted = [replace(record, seq=record.seq + 1) for record in records[index:]]
    found = kinds(verify_chain([*records[:index], forged, *shifted]))
    assert (index + 1, "inserted") in found
    twice = [*records[: index + 1], forged, *records[index + 1 :]]
    assert (index + 1, "inserted") in kinds(verify_chain(twice))


@given(CHAINS, st.data())
def test_a_cut_end_is_found_through_any_anchor_beyond_it(records: list[Any], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(records) - 1))
    anchored = data.draw(st.integers(kept, len(records) - 1))
    findings = verify_chain(records[:kept], [anchor_of(records[anchored])])
    assert kinds(findings) == {(anchored + 1, "truncated")}


@given(CHAINS, SMALL, st.data())
def test_a_cut_end_that_was_written_anew_is_found(records: list[Any], facts: Any, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(records) - 1))
    anew = chain([{**facts, "forged": True}] * (len(records) - kept + 1), after=records[:kept])
    assert verify_chain(anew) == []
    findings = verify_chain(anew, [anchor_of(records[-1], "paris"), anchor_of(records[-1], "dublin")])
    assert kinds(findings) == {(len(records), "truncated")}
    assert "dublin" in findings[0].message
    assert "paris" in findings[0].message


def test_a_chain_that_does_not_begin_at_the_beginning_is_found() -> None:
    records = chain([{}, {}, {}])
    assert kinds(verify_chain(records[1:])) == {(1, "removed")}
    assert kinds(verify_chain([rehash(records[0], previous=records[2].hash), *records[1:]])) == {(1, "altered")}
    assert kinds(verify_chain([rehash(records[0], seq=0), *records])) == {(0, "inserted")}


def test_true_is_not_one() -> None:
    record = chain([{"good": True}])[0]
    assert verify_chain([replace(record, facts={"good": 1})])[0].kind is FindingKind.ALTERED


def test_an_anchor_of_nothing_must_be_the_beginning() -> None:
    assert verify_chain([], [Anchor(0, GENESIS, "", "paris")]) == []
    assert verify_chain([], [Anchor(0, "f" * 64, "", "paris")]) != []


# --- what may be evidence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "where"),
    [
        ({"outage": {"seconds": math.nan}}, "facts.outage.seconds"),
        ({"lags": [1.0, math.inf]}, "facts.lags[1]"),
        ({"at": datetime(2026, 1, 1)}, "facts.at"),  # noqa: DTZ001 - the point
        ({"took": timedelta(seconds=1)}, "facts.took"),
        ({"sites": {"paris"}}, "facts.sites"),
        ({"cost": Decimal("1.1")}, "facts.cost"),
        ({"bytes": 2**53}, "facts.bytes"),
        ({"name": "\ud800"}, "facts.name"),
        ({"\ud800": 1}, "facts key"),
        ({"rows": {1: "one"}}, "facts.rows"),
        ({"raw": b"x"}, "facts.raw"),
    ],
)
def test_what_has_no_exact_json_form_is_refused_with_its_place(facts: dict[str, Any], where: str) -> None:
    with pytest.raises(Refused) as refusal:
        canonical_json(facts)
    assert refusal.value.reasons[0].startswith(f"{where}:")


def test_too_large_and_too_deep_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"d": deep}
    for facts in (deep, {"log": "x" * MAX_BYTES}):
        with pytest.raises(Refused):
            canonical_json(facts)


def test_mappings_tuples_enums_and_aware_datetimes_become_json() -> None:
    class Verdict(StrEnum):
        MET = "met"

    at = datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    facts = {"v": Verdict.MET, "t": (1, 2), "m": UserDict(a=1), "at": at}
    assert canonical_json(facts) == '{"at":"2026-03-01T00:00:00.000000Z","m":{"a":1},"t":[1,2],"v":"met"}'


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a":1.0}', '{"a":1,"a":2}', '{"b":1,"a":2}', "[1]", "{", ""])
def test_only_canonical_text_is_read(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_instants_survive_and_sort_as_text(one: datetime, other: datetime) -> None:
    assert parse_timestamp(timestamp(one)) == one
    assert (timestamp(one) < timestamp(other)) == (one < other)


@pytest.mark.parametrize(
    "text", ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00.000000Z", "2026-01-01T00:00:00.000000+00:00"]
)
def test_another_spelling_of_an_instant_is_not_read(text: str) -> None:
    with pytest.raises(ValueError):
        parse_timestamp(text)


def test_the_format_of_the_hash_is_fixed() -> None:
    record = chain([{"outage": 1.5}])[0]
    assert record.at == START
    body = '{"at":"2026-01-01T00:00:00.000000Z","facts":{"outage":1.5},"kind":"drill","once":null,'
    body += f'"previous":"{GENESIS}","seq":1,"subject":"site-loss","version":"1"' + "}"
    assert record.hash == hashlib.sha256(body.encode()).hexdigest()
    assert record.hash == "ef3d730cdb0a111fa2177d135a8344bcbecf4086c6c0de6f26051245a0ea13c6"
