"""Good records flow, the others wait with their reasons; none is lost, none is in both."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.streams.contract import FIELDS, avro, ids, line, parquet, record, stream, table, with_field

from ninelives.errors import Corrupted
from ninelives.estate.streams import StreamField
from ninelives.streams.change import Kind
from ninelives.streams.decode import Raw, split_lines
from ninelives.streams.sift import Sifted, pack, reasons, sift, sift_again, to_parquet, unpack

JSON, PARQUET, AVRO = stream("json-lines"), stream("parquet"), stream("avro")

BROKEN: dict[str, bytes] = {
    "cannot be read": b"\xff\x00{",
    "not allowed": line(1, carrier="ZZ"),
    "retyped": line(1, distance="far"),
    "dropped": line(1, distance=...),
    "renamed": line(1, distance=..., distance_miles=7),
    "null": line(1, carrier=None),
    "out of range": line(1, distance=-1),
    "no contract can declare": line(1, extra={"a": 1}),
    "beyond": line(1, distance=10**30),
    "no time zone": line(1, at="2013-11-01T05:00:00"),
    "repeated key": b'{"id": 1, "id": 2}',
    "no object": b"[1, 2]",
    "empty": b"",
    "deep": b"[" * 100_000,
    "not finite": line(1).replace(b'"delay": 0.25', b'"delay": NaN'),
    "beyond every number": line(1).replace(b'"delay": 0.25', b'"delay": 1e999'),
    "half a letter": line(1).replace(b'"AA"', rb'"\ud800"'),
    "half a letter in a name": line(1, new=1).replace(b'"new"', rb'"\uDfff"'),
    "no contract can name": line(1, größe=1),
    "no field's name": line(1, **{"a b": 1}),
    "after the last year": line(1, at="9999-12-31T23:59:59-14:00"),
}


def test_the_same_json_records_give_the_same_table_as_parquet_and_avro() -> None:
    from_json = sift(JSON, [Raw(number, line(number)) for number in range(50)])
    from_parquet = sift(PARQUET, [Raw(0, parquet(table(range(50))))])
    kinds: dict[str, Any] = {
        "id": "long",
        "carrier": {"type": "enum", "name": "carrier", "symbols": ["UA", "AA", "DL"]},
        "distance": "int",
        "delay": ["null", "double"],
        "at": {"type": "long", "logicalType": "timestamp-micros"},
    }
    fields = [{"name": one["name"], "type": kinds[one["name"]], "unit": one.get("unit")} for one in FIELDS]
    fields = [{key: value for key, value in one.items() if value is not None} for one in fields]
    from_avro = sift(AVRO, [Raw(0, avro(fields, table(range(50)).to_pylist()))])
    for one in (from_json, from_parquet, from_avro):
        assert one.entries == one.changes == ()
        assert one.good.num_rows == 50
    assert from_json.good.equals(from_parquet.good, check_metadata=True)
    assert from_json.good.equals(from_avro.good, check_metadata=True)

    in_km = [{**one, "unit": "km"} if one["name"] == "distance" else one for one in fields]
    (entry,) = sift(AVRO, [Raw(0, avro(in_km, table(range(50)).to_pylist()))]).entries
    assert entry.reasons == ("distance: unit changed (declared mi, found km)",)
    assert len(entry.rows) == 50


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_record_does_not_hold_up_the_others(name: str) -> None:
    raws = [Raw(number, line(number)) for number in range(20, 40)]
    raws.insert(7, Raw(100, BROKEN[name]))
    sifted = sift(JSON, raws)
    assert ids([sifted.good]) == list(range(20, 40))
    (entry,) = sifted.entries
    assert (entry.rows, entry.payload) == ((100,), BROKEN[name])
    assert all(not kind.compatible for kind in entry.kinds)
    assert entry.reasons


def test_single_rows_of_a_file_are_picked_out_with_all_their_reasons() -> None:
    whole = table(range(30))
    carriers = ["ZZ" if number in (4, 9) else value for number, value in enumerate(whole["carrier"].to_pylist())]
    distances = [-5 if number in (9, 12) else value for number, value in enumerate(whole["distance"].to_pylist())]
    arrived = with_field(whole, "carrier", pa.field("carrier", pa.string()), pa.array(carriers))
    arrived = with_field(arrived, "distance", pa.field("distance", pa.int32()), pa.array(distances, pa.int32()))
    sifted = sift(PARQUET, [Raw(0, parquet(arrived))])
    assert {entry.rows: len(entry.reasons) for entry in sifted.entries} == {(4,): 1, (9,): 2, (12,): 1}
    assert sifted.quarantined == 3
    assert ids([sifted.good]) == [number for number in range(30) if number not in (4, 9, 12)]
    assert reasons(sifted.entries) == {
        "carrier: value not allowed (ZZ)": 2,
        "distance: out of range (declared >= 0)": 2,
    }


def test_compatible_changes_pass_with_their_data() -> None:
    arrived = with_field(table(range(10)), "distance", pa.field("distance", pa.int64()))
    arrived = with_field(arrived, "gate", pa.field("gate", pa.string()), [f"A{number}" for number in range(10)])
    sifted = sift(PARQUET, [Raw(0, parquet(arrived))])
    assert {change.kind for change in sifted.changes} == {Kind.ADDED, Kind.WIDENED}
    assert sifted.entries == ()
    assert sifted.good.schema.field("distance").type == pa.int64()
    assert sifted.good["gate"].to_pylist()[3] == "A3"


def test_new_json_numbers_are_of_one_type_and_what_contradicts_waits() -> None:
    raws = [Raw(number, line(number, temperature=number if number % 2 else number + 0.5)) for number in range(10)]
    sifted = sift(JSON, [*raws, Raw(10, line(10, temperature="hot")), Raw(11, line(11, temperature=None))])
    assert sifted.good.schema.field("temperature").type == pa.float64()
    assert [entry.rows for entry in sifted.entries] == [(10,)]
    assert sifted.good.num_rows == 11


def test_a_nullable_field_may_be_absent_only_where_the_contract_says_so() -> None:
    lenient = stream("json-lines", absent_is_null=True)
    raws = [Raw(0, line(0)), Raw(1, line(1, delay=...))]
    assert sift(JSON, raws).quarantined == 1
    assert sift(lenient, raws).good["delay"].to_pylist() == [None, None]
    assert sift(lenient, [Raw(0, line(1, distance=...))]).quarantined == 1  # not nullable
    assert sift(lenient, [Raw(0, line(1, delay=..., delays=1.5))]).entries[0].kinds == (Kind.RENAMED,)


def test_a_declared_conversion_restores_the_values_and_refuses_what_does_not_fit() -> None:
    mended = stream("parquet", change={"distance": {"convert": {"km": 0.621371192, "ly": 5.8786e12}}})
    whole = table(range(40))
    for unit, factor in (("km", 1.609344), ("ly", 1.0)):
        values = pa.array([value * factor for value in whole["distance"].to_pylist()])
        arrived = with_field(whole, "distance", pa.field("distance", pa.float64(), metadata={"unit": unit}), values)
        sifted = sift(mended, [Raw(0, parquet(arrived))])
        if unit == "km":
            assert sifted.good["distance"].to_pylist() == whole["distance"].to_pylist()
            assert sifted.good.schema.field("distance").type == pa.int32()
        else:
            assert sifted.good.num_rows == 0
            assert reasons(sifted.entries) == {
                "distance: out of range (declared int32, found a value in ly)": 40,
                "distance: null": 40,
            }


def test_json_messages_say_their_units_in_headers() -> None:
    arrived = [Raw(0, line(0), {"distance": "km"}), Raw(1, line(1), {"distance": "mi"}), Raw(2, line(2))]
    sifted = sift(JSON, arrived)
    assert [entry.reasons for entry in sifted.entries] == [("distance: unit changed (declared mi, found km)",)]
    mended = stream("json-lines", change={"distance": {"convert": {"km": 0.5}}})
    again = sift_again(mended, unpack(pack(sifted.entries, {}))[0])
    assert again.good["distance"].to_pylist() == [50]


@pytest.mark.parametrize(
    ("type_", "value", "landed"),
    [
        ("decimal(4, 2)", 10, Decimal("16.09")),
        ("decimal(4, 2)", 99999999, None),
        ("decimal(4, 2)", "12", None),
        ("float32", 3e38, None),
        ("float64", True, None),
        ("float64", "far", None),
    ],
)
def test_what_conversion_would_spoil_or_is_no_number_waits(type_: str, value: Any, landed: Any) -> None:
    one = stream(change={"far": {"type": type_, "unit": "km", "convert": {"mi": 1.609344}}})
    sifted = sift(one, [Raw(0, line(1, far=value), {"far": "mi"})])
    assert sifted.good["far"].to_pylist() == ([] if landed is None else [landed])
    assert sifted.quarantined == (landed is None)


def test_a_field_declared_since_is_not_missed_in_older_records_but_one_that_was_missed_is() -> None:
    sifted = sift(JSON, [Raw(0, line(0, carrier="ZZ")), Raw(1, line(1, distance=...))])
    assert sifted.quarantined == 2
    fields = [*JSON.fields, StreamField(name="gate", type="string", nullable=True)]
    fields = [
        field.model_copy(update={"allowed": (*field.allowed, "ZZ")} if field.name == "carrier" else {"nullable": True})
        for field in fields
    ]
    again = sift_again(JSON.model_copy(update={"version": 2, "fields": tuple(fields)}), sifted.entries)
    assert (again.good["gate"].to_pylist(), again.rows) == ([None], (0,))
    assert [entry.rows for entry in again.entries] == [(1,)]


def test_a_repeated_key_waits_for_a_person_also_when_it_is_replayed() -> None:
    sifted = sift(JSON, [Raw(0, line(3)), Raw(1, line(3, distance=5))])
    assert sifted.good["distance"].to_pylist() == [103]
    assert sift_again(JSON, sifted.entries).entries == sifted.entries


def test_the_same_bytes_give_the_same_object() -> None:
    raws = [Raw(number, line(number, **({"gate": "A"} if number % 3 else {}))) for number in range(100)]
    assert to_parquet(sift(JSON, raws).good) == to_parquet(sift(JSON, list(raws)).good)


def test_quarantine_that_is_not_what_was_packed_is_corrupted() -> None:
    with pytest.raises(Corrupted, match="no quarantined part"):
        unpack(parquet(table(range(2))))
    with pytest.raises(Corrupted):
        unpack(b"PAR1")


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from(["UA", "AA", "2013-11-01T05:00:00Z", "2013-11-01"]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)  # fmt: skip
NAMES = st.sampled_from([*(one["name"] for one in FIELDS), "gate", "x", ""])
LINES = st.one_of(
    st.integers(0, 50).map(line),
    st.binary(max_size=20),
    st.tuples(st.integers(0, 50), st.dictionaries(NAMES, VALUES, max_size=3)).map(
        lambda pair: json.dumps({**record(pair[0]), **pair[1]}).encode()
    ),
    st.dictionaries(NAMES, VALUES, max_size=5).map(lambda found: json.dumps(found).encode()),
)


def everything(sifted: Sifted) -> list[int]:
    return sorted([*sifted.rows, *(row for entry in sifted.entries for row in entry.rows)])


KINDS = ["bool", "int8", "uint64", "float32", "float64", "string", "binary", "date", "decimal(6, 2)", "timestamp[s]",
         "timestamp[ns, UTC]", "list<int8>", "list<timestamp[ns]>", "list<float32>"]  # fmt: skip
WIDE = stream(
    keys=["id"],
    absent_is_null=True,
    fields=[{"name": "id", "type": "int64"}]
    + [{"name": f"f{number}", "type": kind, "nullable": True} for number, kind in enumerate(KINDS)]
    + [
        {"name": f"u{number}", "type": kind, "nullable": True, "unit": "km", "convert": {"mi": 1.609344}}
        for number, kind in enumerate(("int8", "decimal(4, 2)", "float32", "float64"))
    ],
)
ODD = VALUES | st.sampled_from(
    ["9999-01-01T00:00:00Z", "0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "AAEC", "12.5", "1e40", "\ud83d", 1e39,
     ["9999-01-01T00:00:00"], [1e39], [300], [None], [[1]], 99999999]
)  # fmt: skip


@settings(max_examples=150, deadline=5000)
@given(name=st.sampled_from([field.name for field in WIDE.fields[1:]]), value=ODD, in_miles=st.booleans())
def test_no_value_in_any_field_stops_the_stream(name: str, value: Any, in_miles: bool) -> None:
    said = dict.fromkeys(WIDE.field_by_name, "mi") if in_miles else {}
    raws = [Raw(0, json.dumps({"id": 0, name: value}).encode(), said), Raw(1, b'{"id": 1}', said)]
    sifted = sift(WIDE, raws)
    assert everything(sifted) == [0, 1]
    assert 1 in sifted.rows, "the good part flows"


@pytest.mark.parametrize(
    ("declared", "written", "landed"),
    [
        ("decimal(20, 4)", "9007199254740993.1234", Decimal("9007199254740993.1234")),
        ("decimal(20, 4)", "1e2", Decimal("100.0000")),
        ("float32", "0.5", 0.5),
        ("float32", "1e39", 1e39),  # a wider type, not infinity
        ("int64", "3.0", 3),
    ],
)
def test_a_number_is_landed_as_it_was_written(declared: str, written: str, landed: Any) -> None:
    one = stream(change={"n": {"type": declared}})
    sifted = sift(one, [Raw(0, line(1)[:-1] + f', "n": {written}}}'.encode())])
    assert sifted.good["n"].to_pylist() == [landed]


@settings(max_examples=150, deadline=5000)
@given(lines=st.lists(LINES, max_size=12))
def test_whatever_arrives_ends_up_in_exactly_one_place(lines: list[bytes]) -> None:
    raws = [Raw(number, data) for number, data in enumerate(lines)]
    sifted = sift(JSON, raws)
    assert everything(sifted) == list(range(len(lines)))
    assert sifted.good.num_rows == len(sifted.rows)
    assert sifted.rows == tuple(sorted(sifted.rows))
    entries, _ = unpack(pack(sifted.entries, {"ninelives.unit": "x"}))
    assert tuple(entries) == sifted.entries
    assert {entry.payload for entry in entries} <= set(lines)
    again = sift_again(JSON, entries)
    assert again.good.num_rows == 0 or sifted.changes  # without a fix nothing becomes good by itself
    assert everything(again) == sorted(row for entry in entries for row in entry.rows)


@settings(max_examples=100, deadline=5000)
@given(data=st.binary(max_size=200), cut=st.integers(0, 2000), flip=st.integers(0, 2000))
def test_damaged_files_are_poison_or_whole_and_never_an_error(data: bytes, cut: int, flip: int) -> None:
    whole = bytearray(parquet(table(range(10))))
    whole[flip % len(whole)] ^= 0xFF
    for bytes_of in (data, bytes(whole[: cut % len(whole)]), bytes(whole)):
        for one in (PARQUET, AVRO):
            sifted = sift(one, [Raw(0, bytes_of)])
            assert sifted.good.num_rows + sifted.quarantined >= 1


def test_lines_keep_their_numbers() -> None:
    assert [(raw.row, raw.data) for raw in split_lines(b"a\n\n b\nc\n")] == [(0, b"a"), (2, b" b"), (3, b"c")]
