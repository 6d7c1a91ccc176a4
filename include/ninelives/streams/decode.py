"""From bytes as they arrived to tables, in the format that the stream declares; what cannot be read is named, not lost.

JSON carries no schema: each record's types are told from its values, as the declared type where the value is exactly
one of it, else as what it plainly is. Records of one shape become one table.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from ninelives.estate.streams import Format, Stream
from ninelives.streams.change import UNIT, renamed_back
from ninelives.streams.types import arrow_type


@dataclass(frozen=True)
class Raw:
    """Bytes as they arrived: one JSON record, or a whole Parquet or Avro file.

    :param row: the offset of a message, the line of a file; 0 for a file of rows
    :param units: unit of measurement per field, where the format has no place for it
    """

    row: int
    data: bytes
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Records of one shape: ``rows`` says where each came from, ``raws`` what each was where that is a record."""

    table: pa.Table
    rows: tuple[int, ...]
    raws: tuple[Raw, ...]
    """One per row for JSON, else the one file."""


@dataclass(frozen=True)
class Poison:
    raw: Raw
    reason: str


def split_lines(data: bytes) -> list[Raw]:
    """A file of JSON lines as its records; lines without anything in them are none."""
    return [Raw(number, line) for number, line in enumerate(data.split(b"\n")) if line.strip()]


def decode(stream: Stream, raws: Sequence[Raw]) -> tuple[list[Part], list[Poison]]:
    """Every record of ``raws``, in exactly one part or poison."""
    if stream.format is Format.JSON_LINES:
        return _decode_json(stream, raws)
    parts, poison = [], []
    read = _read_parquet if stream.format is Format.PARQUET else _read_avro
    for raw in raws:
        try:
            table = read(raw.data)
        # Bytes from outside: the readers raise many kinds of errors, and each of them is a reason for quarantine.
        except Exception as error:
            poison.append(Poison(raw, f"no {stream.format.value} file: {_short(error)}"))
        else:
            rows = tuple(range(table.num_rows)) if len(raws) == 1 and raw.row == 0 else (raw.row,) * table.num_rows
            parts.append(Part(table, rows, (raw,)))
    return parts, poison


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _read_parquet(data: bytes) -> pa.Table:
    # One thread: the same batch takes the same memory wherever it is read.
    table: pa.Table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
    table.validate(full=True)
    return table


# --- Avro ------------------------------------------------------------------------------------------------------------

_AVRO = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
}
_AVRO_LOGICAL = {
    "date": pa.date32(),
    "timestamp-millis": pa.timestamp("ms", tz="UTC"),
    "timestamp-micros": pa.timestamp("us", tz="UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
    "uuid": pa.string(),
}


def _read_avro(data: bytes) -> pa.Table:
    import fastavro

    reader = fastavro.reader(io.BytesIO(data))
    written = reader.writer_schema
    if not isinstance(written, dict) or written.get("type") != "record":
        raise ValueError("the records are not of type record")
    schema = pa.schema([_avro_field(described) for described in written["fields"]])
    uuids = [one.name for one in schema if pt.is_string(one.type)]
    records: list[Any] = list(reader)
    for record in records:
        for name in uuids:
            if record[name] is not None and not isinstance(record[name], str):
                record[name] = str(record[name])
    return pa.Table.from_pylist(records, schema=schema)


def _avro_field(described: Mapping[str, Any]) -> pa.Field:
    kind, nullable = described["type"], False
    if isinstance(kind, list):
        nullable, others = "null" in kind, [one for one in kind if one != "null"]
        if len(others) != 1:
            raise ValueError(f"{described['name']} is a union of several types")
        kind = others[0]
    unit = described.get("unit")
    metadata = {UNIT: str(unit).encode()} if unit is not None else None
    return pa.field(described["name"], _avro_type(kind), nullable=nullable, metadata=metadata)


def _avro_type(kind: Any) -> pa.DataType:
    if isinstance(kind, str):
        return _AVRO[kind]
    logical = kind.get("logicalType")
    if logical == "decimal":
        return pa.decimal128(kind["precision"], kind.get("scale", 0))
    if logical in _AVRO_LOGICAL:
        return _AVRO_LOGICAL[logical]
    match kind["type"]:
        case "enum":
            return pa.string()
        case "fixed":
            return pa.binary()
        case "array":
            return pa.list_(_avro_type(kind["items"]))
        case "map":
            return pa.map_(pa.string(), _avro_type(kind["values"]))
        case "record":
            return pa.struct([_avro_field(described) for described in kind["fields"]])
    return _avro_type(kind["type"])


# --- JSON ------------------------------------------------------------------------------------------------------------


def _decode_json(stream: Stream, raws: Sequence[Raw]) -> tuple[list[Part], list[Poison]]:
    shapes: dict[tuple[Any, ...], list[tuple[Raw, dict[str, Any]]]] = {}
    read: list[tuple[Raw, dict[str, pa.DataType], dict[str, Any]]] = []
    poison = []
    told = _Telling(stream)
    for raw in raws:
        try:
            read.append((raw, *told.record(_record(raw.data), raw.units)))
        except (ValueError, RecursionError) as error:
            poison.append(Poison(raw, f"no JSON record: {_short(error)}"))
    # 20 and 20.5 are of one new field: where one record has a fraction, the whole numbers beside it are floats too.
    fractions = {name for _, types, _ in read for name, arrow in types.items() if arrow == pa.float64()}
    for raw, types, values in read:
        for name in fractions & types.keys() - told.declared.keys():
            if types[name] == pa.int64() and abs(values[name]) <= 2**53:
                types[name], values[name] = pa.float64(), float(values[name])
        shape = (tuple(sorted(types.items(), key=lambda pair: pair[0])), tuple(sorted(raw.units.items())))
        shapes.setdefault(shape, []).append((raw, values))
    parts = []
    for (typed, _), records in shapes.items():
        columns = {name: pa.array([values[name] for _, values in records], type=arrow) for name, arrow in typed}
        parts.append(Part(pa.table(columns), tuple(raw.row for raw, _ in records), tuple(raw for raw, _ in records)))
    return parts, poison


class _Telling:
    """Tells types and values of records by a contract."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.declared = {one.name: arrow_type(one.type) for one in stream.fields}
        self.converts = {one.name: one.convert for one in stream.fields}

    def record(
        self, record: Mapping[str, Any], units: Mapping[str, str]
    ) -> tuple[dict[str, pa.DataType], dict[str, Any]]:
        back = renamed_back(self.stream, record)
        types, values = {}, {}
        for name, value in record.items():
            known = back.get(name, name)
            # What will be converted need not be of the declared type yet.
            converted = units.get(known) in self.converts.get(known, {})
            arrow, values[name] = _told(value, None if converted else self.declared.get(known))
            arrow = arrow or self.declared.get(known)
            if arrow is not None:  # an unknown field that is null has no type yet, and nothing to lose
                types[name] = arrow
        if not types:
            raise ValueError("it has no fields")
        return types, values


def _record(data: bytes) -> dict[str, Any]:
    record = json.loads(
        data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_Fraction
    )
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    if rb"\ud" in data.lower():
        json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    return record


class _Fraction(float):
    """With the digits that it was written with, of which a decimal may hold more than a float."""

    def __init__(self, digits: str) -> None:
        if not math.isfinite(self):
            raise ValueError(f"{digits[:30]} is beyond every number here")
        self.digits = digits


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _told(value: Any, declared: pa.DataType | None) -> tuple[pa.DataType | None, Any]:
    """The type that a value has, the declared one if it is exactly a value of it; and the value as Arrow takes it."""
    if value is None:
        return None, None
    if declared is not None:
        fitting = _as_declared(value, declared)
        if fitting is not None:
            return declared, fitting
    match value:
        case bool():
            return pa.bool_(), value
        case int():
            if not -(2**63) <= value < 2**63:
                raise ValueError(f"{str(value)[:30]} does not fit in 64 bits")
            return pa.int64(), value
        case float():
            return pa.float64(), value
        case str():
            return pa.string(), value
        case list():
            return _told_list(value, declared)
    # An object inside: it is not looked into, because no contract can declare it.
    return pa.struct([pa.field(name, pa.string()) for name in sorted(value)]), None


def _told_list(values: list[Any], declared: pa.DataType | None) -> tuple[pa.DataType, Any]:
    inner = declared.value_type if declared is not None and pt.is_list(declared) else None
    told = [_told(value, inner) for value in values]
    types = {kind for kind, _ in told if kind is not None}
    if len(types) > 1:
        raise ValueError("a list has values of several types")
    return pa.list_(types.pop() if types else inner or pa.string()), [value for _, value in told]


def _as_declared(value: Any, declared: pa.DataType) -> Any:
    """``value`` as one of the declared type, ``None`` where it is none exactly."""
    match value:
        case bool():
            return value if pt.is_boolean(declared) else None
        case int() | float() if pt.is_integer(declared):
            # JSON has one kind of number: 3.0 is 3.
            if isinstance(value, float) and not value.is_integer():
                return None
            return int(value) if _fits_integer(int(value), declared) else None
        case int() if pt.is_floating(declared):
            return float(value) if abs(value) <= 2 ** (24 if declared == pa.float32() else 53) else None
        case float() if pt.is_floating(declared):
            return value if abs(value) <= _FLOAT32_MAX or declared == pa.float64() else None
        case int() | float() | str() if pt.is_decimal(declared):
            return _as_decimal(value, declared)
        case str():
            return _as_text(value, declared)
        case list() if pt.is_list(declared):
            inner = [None if one is None else _as_declared(one, declared.value_type) for one in value]
            lost = any(one is None and given is not None for one, given in zip(inner, value, strict=True))
            return None if lost else inner
    return None


_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_NANOSECONDS = (1678, 2261)
"""Years that fit whole into 64 bits of nanoseconds from 1970."""


def _fits_integer(value: int, integer: pa.DataType) -> bool:
    """Whether a whole number is a value of an integer type."""
    signed = pt.is_signed_integer(integer)
    low = -(2 ** (integer.bit_width - 1)) if signed else 0
    return bool(low <= value < 2 ** (integer.bit_width - signed))


def _as_decimal(value: int | float | str, declared: pa.DataType) -> Decimal | None:
    try:
        number = Decimal(value.digits if isinstance(value, _Fraction) else str(value))
        exact = number.quantize(Decimal(1).scaleb(-declared.scale))
    except InvalidOperation:
        return None
    fits = number == exact and number.adjusted() < declared.precision - declared.scale
    return exact if number.is_finite() and fits else None


def _as_text(value: str, declared: pa.DataType) -> Any:
    try:
        if pt.is_string(declared):
            return value
        if pt.is_binary(declared):
            return base64.b64decode(value, validate=True)
        if pt.is_date32(declared):
            return date.fromisoformat(value)
        if pt.is_timestamp(declared):
            instant = datetime.fromisoformat(value)
            if (instant.tzinfo is None) != (declared.tz is None):
                return None
            if instant.microsecond % {"s": 1_000_000, "ms": 1000}.get(declared.unit, 1):
                return None  # finer than what was declared
            if declared.unit == "ns" and not _NANOSECONDS[0] <= instant.year <= _NANOSECONDS[1]:
                return None
            return instant.astimezone(UTC) if declared.tz else instant
    except (ValueError, OverflowError, binascii.Error, pa.ArrowInvalid):
        return None
    return None
