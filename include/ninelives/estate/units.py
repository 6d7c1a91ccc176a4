"""How an estate writes durations (``60s``, ``15min``, ``28d``), ratios (``99.9%`` or ``0.999``) and plain values."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

_MILLISECONDS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|min|h|d)")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)\s?%")
_TABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,62}\.[A-Za-z_][A-Za-z0-9_]{0,62}$")
_PRINCIPAL = re.compile(r"^[A-Za-z0-9+=,.@_-]{1,64}$")
MAX_TEXT = 1000
"""Characters in a value of a golden request or a fallback answer."""


def shown(value: object) -> str:
    """``value`` as a message quotes it: one short line, whatever a file contains."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case str():
            return repr(value) if len(value) <= 60 else f"{value[:57]!r}..."
        case int() if abs(value) >= 2**64:
            return "a number beyond 64 bits"
    return repr(value)


def parse_duration(value: Any) -> timedelta:
    """Read ``15min``, exact to the millisecond; raises ``ValueError`` with the accepted forms."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{shown(value)} is not a duration; write a number and a unit, like 250ms, 60s, 15min, 4h or 28d"
        )
    milliseconds = Decimal(match[1]) * _MILLISECONDS[match[2]]
    if milliseconds % 1 or not 0 < milliseconds <= 10 * 366 * 86_400_000:
        raise ValueError(f"{value!r} is out of range; write whole milliseconds, from 1ms to ten years")
    return timedelta(milliseconds=int(milliseconds))


def format_duration(value: timedelta) -> str:
    """The shortest exact form: 900 s is ``15min``. Durations are whole milliseconds."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit in ("d", "h", "min", "s"):
        if milliseconds % _MILLISECONDS[unit] == 0:
            return f"{milliseconds // _MILLISECONDS[unit]}{unit}"
    return f"{milliseconds}ms"


def parse_ratio(value: Any) -> float:
    """Read ``99.9%`` or ``0.999``; raises ``ValueError``."""
    number: float | None = None
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        number = float(Decimal(match[1]) / 100)
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        number = float(value)
    if number is None or not 0 < number <= 1:
        raise ValueError(
            f"{shown(value)} is not a share; write a percentage like 99.9% or a number above 0 and at most 1"
        )
    return number


def check_value(value: Any) -> Any:
    """Refuse what a model's input or output tensor cannot carry; raises ``ValueError``."""
    match value:
        case str() if len(value) > MAX_TEXT:
            raise ValueError(f"{shown(value)} is longer than {MAX_TEXT} characters; shorten it")
        case int() if not -(2**63) <= value < 2**63:
            raise ValueError(f"{shown(value)} does not fit in 64 bits; put it in quotes if it is an identifier")
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number; JSON requests cannot carry it")
        case str() | int() | float():
            return value
    raise ValueError(f"{shown(value)} is not a plain value; write text, a number, true or false")


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\d{1,12}(\.\d{1,6})?(ms|s|min|h|d)$", "examples": ["60s", "15min"]}
    ),
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
Percent = Annotated[int, Field(ge=1, le=99)]
"""A share that is neither nothing nor all."""
DagId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,250}$")]
"""As Airflow allows it."""
NAME, VERSION = r"^[a-z][a-z0-9-]{0,39}$", r"^[1-9][0-9]{0,17}$"
Name = Annotated[str, Field(pattern=NAME)]
ModelVersion = Annotated[str, Field(pattern=VERSION)]
"""Of a model in the registry; in quotes, because it is a name."""


def check_table_name(value: Any) -> Any:
    """Refuse what is not a schema and a table; raises ``ValueError``."""
    if isinstance(value, str) and _TABLE.fullmatch(value):
        return value
    raise ValueError(f"{shown(value)} is not a table; write schema.name, in the case that the database has it in")


TableName = Annotated[str, BeforeValidator(check_table_name), Field(pattern=_TABLE.pattern)]
"""A table or view in a database, with its schema."""


def check_principal(value: Any) -> Any:
    """Refuse what no user or role can be called; raises ``ValueError``."""
    if isinstance(value, str) and _PRINCIPAL.fullmatch(value):
        return value
    raise ValueError(
        f"{shown(value)} is not the name of a user or role; write letters, digits and any of + = , . @ _ -"
    )


Principal = Annotated[str, BeforeValidator(check_principal), Field(pattern=_PRINCIPAL.pattern)]
"""A user or role as a site's policies name it."""
Value = Annotated[
    StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, Field(max_length=MAX_TEXT)],
    BeforeValidator(check_value),
]
