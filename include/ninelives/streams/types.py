"""A contract's types as Arrow's, and how one type stands to another."""

from __future__ import annotations

import re
from enum import Enum

import pyarrow as pa
import pyarrow.types as pt

from ninelives.errors import Refused

_NAMES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    **{f"timestamp[{unit}]": pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")},
    **{f"timestamp[{unit}, UTC]": pa.timestamp(unit, tz="UTC") for unit in ("s", "ms", "us", "ns")},
}
_BY_TYPE = {arrow: name for name, arrow in _NAMES.items()}
_UNITS = ("s", "ms", "us", "ns")
_EXACT = {pa.float32(): 24, pa.float64(): 53}
"""Bits of whole numbers that a float holds exactly."""


class Standing(Enum):
    """How a type that arrived stands to the declared one."""

    SAME = "same"
    WIDER = "wider"
    """Holds every value of the declared type, and more."""
    NARROWER = "narrower"
    OTHER = "other"


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a contract's ``type``."""
    if match := re.fullmatch(r"decimal\((\d+), (\d+)\)", name):
        return pa.decimal128(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"list<(.+)>", name):
        return pa.list_(_NAMES[match[1]])
    return _NAMES[name]


def type_name(arrow: pa.DataType) -> str | None:
    """How a contract would declare the type; ``None`` for one that it cannot declare."""
    plain = plain_type(arrow)
    if pt.is_decimal(plain):
        return f"decimal({plain.precision}, {plain.scale})" if plain.precision <= 38 and plain.scale >= 0 else None
    if pt.is_list(plain):
        inner = _BY_TYPE.get(plain.value_type)
        return f"list<{inner}>" if inner else None
    return _BY_TYPE.get(plain)


def plain_type(arrow: pa.DataType) -> pa.DataType:
    """Without what only says how values are stored: large, view and dictionary types."""
    if pt.is_dictionary(arrow):
        return plain_type(arrow.value_type)
    if pt.is_large_string(arrow) or pt.is_string_view(arrow):
        return pa.string()
    if pt.is_large_binary(arrow) or pt.is_binary_view(arrow):
        return pa.binary()
    if pt.is_large_list(arrow) or pt.is_list(arrow):
        return pa.list_(plain_type(arrow.value_type))
    if pt.is_timestamp(arrow) and arrow.tz in ("+00:00", "Etc/UTC", "Z", "utc"):
        return pa.timestamp(arrow.unit, tz="UTC")
    if pt.is_decimal(arrow) and arrow.precision <= 38:
        return pa.decimal128(arrow.precision, arrow.scale)
    return arrow


def standing(declared: pa.DataType, found: pa.DataType) -> Standing:
    """Compare what arrived with what was declared; both plain."""
    if declared == found:
        return Standing.SAME
    if _holds(found, declared):
        return Standing.WIDER
    return Standing.NARROWER if _holds(declared, found) else Standing.OTHER


def _holds(wide: pa.DataType, narrow: pa.DataType) -> bool:
    """Whether every value of ``narrow`` is exactly a value of ``wide``."""
    if pt.is_integer(wide) and pt.is_integer(narrow):
        (low, high), (least, most) = _range(wide), _range(narrow)
        return bool(low <= least and most <= high)
    if wide in _EXACT and pt.is_integer(narrow):
        return bool(narrow.bit_width - pt.is_signed_integer(narrow) <= _EXACT[wide])
    if wide in _EXACT and narrow in _EXACT:
        return _EXACT[wide] >= _EXACT[narrow]
    if pt.is_decimal(wide) and pt.is_decimal(narrow):
        return bool(wide.scale >= narrow.scale and wide.precision - wide.scale >= narrow.precision - narrow.scale)
    if pt.is_timestamp(wide) and pt.is_timestamp(narrow):
        # The years that nanoseconds leave out (before 1678, after 2262) are no data of ours.
        return wide.tz == narrow.tz and _UNITS.index(wide.unit) >= _UNITS.index(narrow.unit)
    if pt.is_list(wide) and pt.is_list(narrow):
        return wide.value_type == narrow.value_type or _holds(wide.value_type, narrow.value_type)
    return False


def _range(integer: pa.DataType) -> tuple[int, int]:
    bits = integer.bit_width
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pt.is_signed_integer(integer) else (0, 2**bits - 1)


def wider(a: str, b: str) -> str:
    """The wider of two types of a contract; raises ``Refused`` where neither holds the other."""
    match standing(arrow_type(a), arrow_type(b)):
        case Standing.WIDER:
            return b
        case Standing.SAME | Standing.NARROWER:
            return a
    raise Refused("propose a contract", [f"neither {a} nor {b} holds the other's values; decide which it is to be"])
