"""How an estate writes durations (``60s``, ``15min``, ``28d``) and ratios (``99.9%`` or ``0.999``)."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|min|h|d)")
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)\s?%")


def parse_duration(value: Any) -> timedelta:
    """Read ``15min``; raises ``ValueError`` with the accepted forms."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write a number and a unit, like 250ms, 60s, 15min, 4h or 28d")
    seconds = float(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= 10 * 366 * 86400:
        raise ValueError(f"{value!r} must be more than zero and at most ten years")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest exact form: 900 s is ``15min``."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit in ("d", "h", "min", "s"):
        size = round(_UNITS[unit] * 1000)
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def parse_ratio(value: Any) -> float:
    """Read ``99.9%`` or ``0.999``; raises ``ValueError``."""
    number: float | None = None
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        number = round(float(match[1]) / 100, 12)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if number is None or not 0 < number <= 1:
        raise ValueError(f"{value!r} is not a share; write a percentage like 99.9% or a number between 0 and 1")
    return number


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,9}(\.\d{1,6})?(ms|s|min|h|d)$", "examples": ["60s", "15min"]}),
]
Ratio = Annotated[
    float,
    BeforeValidator(parse_ratio),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,9})?\s?%$"},
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            ],
            "examples": ["99.9%", 0.999],
        }
    ),
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
