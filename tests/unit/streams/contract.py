"""A small stream with one field of each kind that matters, and records that keep its contract."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ninelives.estate.streams import Stream
from ninelives.streams.sift import declared_schema

FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "int64"},
    {"name": "carrier", "type": "string", "allowed": ["UA", "AA", "DL"]},
    {"name": "distance", "type": "int32", "unit": "mi", "at_least": 0},
    {"name": "delay", "type": "float64", "unit": "min", "nullable": True},
    {"name": "at", "type": "timestamp[us, UTC]"},
]


def stream(format: str = "json-lines", /, **changes: Any) -> Stream:
    fields = {field["name"]: field for field in FIELDS}
    for name, change in changes.pop("change", {}).items():
        fields[name] = {**fields.get(name, {"name": name}), **change}
    return Stream.model_validate(
        {
            "name": "trips",
            "site": "paris",
            "source": {"prefix": "arrivals/"},
            "format": format,
            "every": "1min",
            "version": 1,
            "keys": ["id"],
            "fields": list(fields.values()),
            **changes,
        }
    )


def record(number: int, **changes: Any) -> dict[str, Any]:
    """``changes`` to ``None`` is null; to ``...`` is left out."""
    whole = {
        "id": number,
        "carrier": ("UA", "AA", "DL")[number % 3],
        "distance": 100 + number,
        "delay": None if number % 5 == 0 else number / 4,
        "at": f"2013-11-01T05:{number % 60:02}:00+00:00",
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def line(number: int, **changes: Any) -> bytes:
    return json.dumps(record(number, **changes)).encode()


def table(numbers: Iterable[int]) -> pa.Table:
    """As a Parquet file brings it: the declared schema, without units."""
    schema = declared_schema(stream()).remove_metadata()
    from datetime import datetime

    rows = [record(number) for number in numbers]
    for row in rows:
        row["at"] = datetime.fromisoformat(row["at"])
    return pa.Table.from_pylist(rows, schema=pa.schema([field.remove_metadata() for field in schema]))


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def with_field(table: pa.Table, name: str, field: pa.Field, values: Any = None) -> pa.Table:
    """``name`` replaced by ``field``, or ``field`` appended."""
    if name in table.column_names:
        index = table.column_names.index(name)
        column = table[name] if values is None else values
        return table.set_column(index, field, column.cast(field.type))
    return table.append_column(field, pa.array(values, field.type))


def ids(tables: Iterable[pa.Table]) -> list[int]:
    return sorted(number for one in tables for number in one["id"].to_pylist())


def avro(schema_fields: list[Mapping[str, Any]], rows: list[Mapping[str, Any]]) -> bytes:
    import fastavro

    buffer = io.BytesIO()
    fastavro.writer(buffer, {"type": "record", "name": "trip", "fields": schema_fields}, rows)
    return buffer.getvalue()
