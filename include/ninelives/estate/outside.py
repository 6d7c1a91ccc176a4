"""Who is outside of the estate: providers of its data, and consumers of its services."""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, StrictBool, WithJsonSchema

from ninelives.estate.declared import Declared
from ninelives.estate.units import Duration, ModelVersion, Name, shown


def _zone(value: Any) -> Any:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ValueError(f"{shown(value)} is not a time zone; write one like Europe/Paris or UTC") from None
    return value


Zone = Annotated[str, BeforeValidator(_zone), WithJsonSchema({"type": "string", "examples": ["Europe/Paris"]})]


def _clock(value: Any) -> Any:
    if not (isinstance(value, str) and re.fullmatch(_CLOCK, value)):
        raise ValueError(f'{shown(value)} is not a time of day; write it in quotes, from "00:00" to "23:59"')
    return value


_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
Clock = Annotated[str, Field(pattern=_CLOCK), BeforeValidator(_clock)]
Contact = Annotated[str, Field(min_length=1, max_length=200)]
FieldName = Annotated[str, Field(min_length=1, max_length=200)]


class Day(StrEnum):
    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class Window(Declared):
    """A time that comes every week, on the clocks of a place."""

    days: tuple[Day, ...] = Field(min_length=1, description="On which it begins.")
    begin: Clock
    end: Clock = Field(description="Not after begin: on the next day.")
    zone: Zone = Field(description="Whose clocks, with their changes in spring and autumn.")


class Feed(Declared):
    """What a provider sent once, kept as objects of micro-batches at the stream's site, in the order of their keys."""

    stream: Name = Field(description="Of landed Parquet objects: whose contract and site.")
    prefix: str = Field(min_length=1, description="Of the keys in the bucket named data.")
    contains: str = Field(default="", description="Only keys with this text in them.")
    every: Duration = Field(description="How far apart the batches came: the recorded pace.")


class Provider(Declared):
    """Somebody outside whose data the estate lives on."""

    name: Name
    contacts: tuple[Contact, ...] = Field(min_length=1, description="Whom to tell, as they are reached.")
    test: tuple[Window, ...] = Field(default=(), description="When drills may be held; none: never.")
    maintenance: tuple[Window, ...] = Field(default=(), description="When it may be away, and no drill is held.")
    feed: Feed | None = Field(default=None, description="What a drill replays.")
    sandbox: StrictBool = Field(
        default=False,
        description="The batches come from its sandbox instead, at the Connection ninelives_<name>_sandbox.",
    )


class Datatype(StrEnum):
    """Of a tensor, as the Open Inference Protocol V2 names it."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    INT8 = "INT8"
    INT32 = "INT32"
    INT64 = "INT64"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class Stay(Declared):
    """A version that somebody calls by its own address for a while, although a newer one breaks them."""

    version: ModelVersion
    until: date = Field(description="The last day, in UTC; after it a version that breaks them is not promoted.")


class Consumer(Declared):
    """A program that calls a service, and what it relies on."""

    name: Name
    service: Name
    contact: str = Field(min_length=1, description="Whom to ask before it is broken.")
    sends: dict[FieldName, Datatype] = Field(min_length=1)
    reads: dict[FieldName, Datatype] = Field(min_length=1)
    stays_on: Stay | None = Field(
        default=None, description="The version that it calls by its own address until it has moved; none: what serves."
    )
