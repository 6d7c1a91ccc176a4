"""Every change of schema is told apart: what is compatible passes, all else is named and breaks."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.streams.contract import stream, table, with_field

from ninelives.errors import Refused
from ninelives.streams.change import Change, Kind, change_of, classify, contract_sha, propose
from ninelives.streams.sift import declared_schema
from ninelives.streams.types import Standing, arrow_type, standing, type_name, wider

TRIPS = stream("parquet")
SCHEMA = declared_schema(TRIPS)

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
TYPES = st.one_of(
    st.sampled_from(
        [*INTEGERS, "bool", "float32", "float64", "string", "binary", "date", "timestamp[ms]", "timestamp[us, UTC]"]
    ),
    st.integers(1, 38).flatmap(lambda p: st.integers(0, p).map(lambda s: f"decimal({p}, {s})")),
    st.sampled_from(["list<int32>", "list<string>"]),
)


def replaced(name: str, field: pa.Field) -> pa.Schema:
    return SCHEMA.set(SCHEMA.get_field_index(name), field)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (SCHEMA.append(pa.field("gate", pa.string())), Kind.ADDED),
        (replaced("distance", pa.field("distance", pa.int64())), Kind.WIDENED),
        (replaced("distance", pa.field("distance", pa.float64())), Kind.WIDENED),
        (SCHEMA.remove(SCHEMA.get_field_index("delay")), Kind.DROPPED),
        (replaced("delay", pa.field("arrival_delay", pa.float64())), Kind.RENAMED),
        (replaced("distance", pa.field("distance", pa.int16())), Kind.NARROWED),
        (replaced("delay", pa.field("delay", pa.float32())), Kind.NARROWED),
        (replaced("distance", pa.field("distance", pa.string())), Kind.RETYPED),
        (replaced("at", pa.field("at", pa.timestamp("us"))), Kind.RETYPED),
        (replaced("distance", pa.field("distance", pa.int32(), metadata={"unit": "km"})), Kind.UNIT),
        (SCHEMA.append(pa.field("gate", pa.string(), nullable=False)), Kind.REQUIRED),
        (SCHEMA.append(pa.field("gate", pa.struct([("a", pa.int8())]))), Kind.UNDECLARABLE),
        (SCHEMA.append(pa.field("größe", pa.int8())), Kind.UNNAMEABLE),
        (SCHEMA.append(SCHEMA.field("delay")), Kind.RETYPED),
    ],
    ids=lambda value: value.value if isinstance(value, Kind) else "",
)
def test_each_kind_of_change_is_told(schema: pa.Schema, kind: Kind) -> None:
    (change,) = classify(TRIPS, schema)
    assert change.kind is kind
    assert change.compatible is (kind in (Kind.ADDED, Kind.WIDENED))


def test_a_wider_type_that_no_contract_has_a_word_for_is_another() -> None:
    fares = stream(change={"fare": {"type": "decimal(6, 2)"}})
    (change,) = classify(fares, declared_schema(fares).set(5, pa.field("fare", pa.decimal256(60, 2))))
    assert change.kind is Kind.RETYPED


def test_the_declared_schema_and_other_ways_to_store_it_are_no_change() -> None:
    assert classify(TRIPS, SCHEMA) == ()
    for arrow in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert classify(TRIPS, replaced("carrier", pa.field("carrier", arrow))) == ()
    assert classify(TRIPS, pa.schema([SCHEMA.field(name) for name in reversed(SCHEMA.names)])) == ()


def test_an_alias_and_a_declared_conversion_are_no_change() -> None:
    mended = stream("parquet", change={"distance": {"aliases": ["dist"], "convert": {"km": 0.621371192}}})
    assert classify(mended, replaced("distance", pa.field("dist", pa.float64(), metadata={"unit": "km"}))) == ()
    bare = pa.schema([field.remove_metadata() for field in SCHEMA])
    assert classify(TRIPS, bare) == ()
    assert classify(TRIPS, bare, units={"distance": "km"}) == (Change("distance", Kind.UNIT, "mi", "km"),)


def test_a_table_that_pandas_wrote_keeps_the_contract() -> None:
    arrived = table(range(5)).to_pandas()
    assert classify(TRIPS, pa.Table.from_pandas(arrived).schema) == ()


@given(a=TYPES, b=TYPES)
def test_standing_is_an_order(a: str, b: str) -> None:
    one, other = arrow_type(a), arrow_type(b)
    mirrored = {Standing.WIDER: Standing.NARROWER, Standing.NARROWER: Standing.WIDER}
    there = standing(one, other)
    assert standing(other, one) is mirrored.get(there, there)
    assert (there is Standing.SAME) is (a == b)
    assert type_name(one) == a


@given(a=TYPES, b=TYPES, c=TYPES)
def test_wider_is_transitive(a: str, b: str, c: str) -> None:
    x, y, z = arrow_type(a), arrow_type(b), arrow_type(c)
    if standing(x, y) is standing(y, z) is Standing.WIDER:
        assert standing(x, z) is Standing.WIDER


@given(a=st.sampled_from(INTEGERS), b=st.sampled_from([*INTEGERS, "float32", "float64"]), data=st.data())
def test_every_value_of_the_narrow_type_survives_in_the_wide_one(a: str, b: str, data: st.DataObject) -> None:
    narrow, wide = arrow_type(a), arrow_type(b)
    if standing(narrow, wide) is not Standing.WIDER:
        return
    bits, signed = narrow.bit_width, not a.startswith("u")
    value = data.draw(st.integers(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1))
    assert pa.scalar(value, narrow).cast(wide).as_py() == value


FIELD = st.tuples(st.sampled_from(["id", "carrier", "distance", "delay", "at", "gate", "x"]), TYPES, st.booleans())


@settings(max_examples=150)
@given(fields=st.lists(FIELD, unique_by=lambda field: field[0]))
def test_what_passes_loses_no_declared_field_and_the_proposal_is_its_contract(
    fields: list[tuple[str, str, bool]],
) -> None:
    schema = pa.schema([pa.field(name, arrow_type(kind), nullable=nullable) for name, kind, nullable in fields])
    changes = classify(TRIPS, schema)
    if all(change.compatible for change in changes):
        assert set(TRIPS.field_by_name) <= set(schema.names)
        following = propose(TRIPS, changes)
        assert (following is None) is (not changes)
        if following is not None:
            assert following.version == TRIPS.version + 1
            assert classify(following, schema) == ()  # it passes by the next version without a word
            assert contract_sha(following) != contract_sha(TRIPS)
            # And what passed before still does by the next version, but for types that are now wider than it.
            old = classify(following, SCHEMA)
            assert all(c.kind in (Kind.DROPPED, Kind.NARROWED) for c in old)
    else:
        assert any(not change.compatible for change in changes)
    assert tuple(change_of(change.facts()) for change in changes) == changes


def test_a_proposal_takes_the_widest_and_refuses_to_guess() -> None:
    changes = [Change("x", Kind.ADDED, "", "int32"), Change("x", Kind.ADDED, "", "int64")]
    following = propose(TRIPS, changes)
    assert following is not None
    assert following.field_by_name["x"].type == "int64"
    with pytest.raises(Refused, match="decide which it is to be"):
        propose(TRIPS, [*changes, Change("x", Kind.ADDED, "", "string")])
    assert wider("int8", "int16") == "int16"


def test_the_version_number_alone_is_no_other_contract() -> None:
    assert contract_sha(TRIPS) == contract_sha(TRIPS.model_copy(update={"version": 7}))


def test_a_field_can_be_replaced_for_a_test() -> None:
    wide = with_field(table(range(3)), "distance", pa.field("distance", pa.int64()))
    assert classify(TRIPS, wide.schema)[0].kind is Kind.WIDENED
