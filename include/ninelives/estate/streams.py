"""Streams: what arrives all the time, and the contract that each record of it keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, WithJsonSchema

from ninelives.estate.declared import Declared
from ninelives.estate.units import Duration, Name, Value, shown

_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PLAIN = r"bool|u?int(?:8|16|32|64)|float(?:32|64)|string|binary|date|timestamp\[(?:s|ms|us|ns)(?:, UTC)?\]"
_TYPE = re.compile(rf"(?:{_PLAIN}|decimal\(([0-9]{{1,2}}), ([0-9]{{1,2}})\)|list<(?:{_PLAIN})>)")
_NUMBER = re.compile(r"u?int|float|decimal")


def is_field_name(name: str) -> bool:
    return _FIELD_NAME.fullmatch(name) is not None


def _field_name(value: Any) -> Any:
    if isinstance(value, str) and not is_field_name(value):
        raise ValueError(
            f"{shown(value)} is not a field's name; write letters, digits and underscores, no digit first, at most 64"
        )
    return value


def _field_type(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _TYPE.fullmatch(value)
    if match is None or (match[1] and not int(match[2]) <= int(match[1]) <= 38):
        raise ValueError(
            f"{shown(value)} is not a type; write bool, int8 to int64, uint8 to uint64, float32, float64, string, "
            "binary, date, timestamp[us, UTC], decimal(12, 2) or a list like list<string>"
        )
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is not a number; write one")
    return value


FieldName = Annotated[str, BeforeValidator(_field_name), WithJsonSchema({"type": "string"})]
FieldType = Annotated[
    str,
    BeforeValidator(_field_type),
    WithJsonSchema({"type": "string", "examples": ["int64", "string", "timestamp[us, UTC]"]}),
]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]


class Format(StrEnum):
    PARQUET = "parquet"
    JSON_LINES = "json-lines"
    AVRO = "avro"


class StreamField(Declared):
    """One field of every record: what it must be, and which of its past mistakes are mended on arrival."""

    name: FieldName
    type: FieldType
    nullable: StrictBool = False
    unit: str | None = Field(default=None, max_length=40, description="Of measurement, like min or mi.")
    allowed: tuple[Value, ...] = Field(default=(), description="The only values it may have; none: all.")
    at_least: Number | None = None
    at_most: Number | None = None
    aliases: tuple[FieldName, ...] = Field(default=(), description="Other names under which it arrives.")
    convert: dict[str, Number] = Field(
        default={}, description="Other unit to the factor that makes the declared one of it; whole numbers are rounded."
    )

    @property
    def is_number(self) -> bool:
        return _NUMBER.match(self.type) is not None


class Source(Declared):
    """Where a stream comes from: a broker's topic, or the objects that land below a prefix of the site's store."""

    topic: str | None = Field(default=None, min_length=1, max_length=249)
    group: str = Field(default="ninelives", min_length=1, description="Consumer group that the offsets belong to.")
    prefix: str | None = Field(default=None, min_length=1, description="Of the keys in the bucket named data.")
    contains: str = Field(default="", description="Only keys with this text in them.")


class Stream(Declared):
    """Records that arrive all the time, and their contract."""

    name: Name
    site: Name = Field(description="Where it arrives and where it is landed.")
    source: Source
    format: Format
    every: Duration = Field(description="How often what has arrived is landed.")
    version: int = Field(ge=1, strict=True, description="Of the contract.")
    keys: tuple[FieldName, ...] = Field(min_length=1, description="Fields that together name one record.")
    fields: tuple[StreamField, ...] = Field(min_length=1)
    absent_is_null: StrictBool = Field(
        default=False, description="JSON only: a nullable field that is not there is null, not dropped."
    )

    @property
    def field_by_name(self) -> dict[str, StreamField]:
        return {field.name: field for field in self.fields}


def contract_problems(stream: Stream) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What a stream says about itself that cannot be true, as place relative to it and message."""
    landed = f"{stream.name}/"
    if (stream.source.topic is None) == (stream.source.prefix is None):
        yield ("source",), "must name either the topic or the prefix of landed objects; give exactly one of them"
    elif (prefix := stream.source.prefix or "") and (prefix.startswith(landed) or landed.startswith(prefix)):
        yield ("source", "prefix"), f"meets the place where the stream is landed ({landed}); name another place"
    names: dict[str, int] = {}
    for index, field in enumerate(stream.fields):
        for part, name in (("name", field.name), *(("aliases", alias) for alias in field.aliases)):
            if names.setdefault(name, index) != index:
                yield ("fields", index, part), f"{name} is a name of two fields; choose another"
        for loc, message in _field_problems(field):
            yield ("fields", index, *loc), message
    for index, key in enumerate(stream.keys):
        declared = stream.field_by_name.get(key)
        if declared is None:
            yield ("keys", index), f"{key} is not one of the fields; declare it or correct the name"
        elif declared.nullable:
            yield ("keys", index), f"{key} is nullable, and null names no record; choose another key"
        elif declared.type.startswith("list"):
            yield ("keys", index), f"{key} is a list, which names no record; choose another key"


def _field_problems(field: StreamField) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if (field.at_least is not None or field.at_most is not None) and not field.is_number:
        yield ("at_least" if field.at_least is not None else "at_most",), f"{field.type} has no range; remove it"
    if field.at_least is not None and field.at_most is not None and field.at_least > field.at_most:
        yield ("at_most",), f"is below at_least ({field.at_least:g}); nothing could be allowed"
    if field.allowed and field.type not in ("string", "bool") and not field.is_number:
        yield ("allowed",), f"cannot list values of {field.type}; remove it"
        return
    for index, value in enumerate(field.allowed):
        fits = {"string": str, "bool": bool}.get(field.type, int | float)
        if not isinstance(value, fits) or (isinstance(value, bool) and fits is not bool):
            yield ("allowed", index), f"{shown(value)} is no {field.type}; write values of the field's type"
    if field.convert and (field.unit is None or not field.is_number):
        yield ("convert",), "needs a number that declares its unit; add the unit or remove the conversion"
    for unit, factor in field.convert.items():
        if factor <= 0:
            yield ("convert", unit), "is not above zero; write the factor that makes the declared unit of it"
