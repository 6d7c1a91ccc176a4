"""Which arm a unit is in: a user, a flight, whatever must always see the same. Nothing is stored: the key says it.

Envoy divides requests by the same hash of the same text (``compilers.envoy``), so that gateways, sites, restarts and
whoever asks this function afterwards agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

PARTS = 10_000
"""An exposure is a whole number of these parts of all units."""
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


class Arm(StrEnum):
    CONTROL = "control"
    EXPERIMENT = "experiment"
    OUTSIDE = "outside"
    """Not in the experiment: served as ever, and not counted."""


@dataclass(frozen=True)
class Experiment:
    """``exposure`` is the share of all units that see what is new; as many again are the control.

    :raises ValueError: a name unlike those of an estate, or an exposure that is too small or leaves no room for a
        control
    """

    name: str
    """The salt: units fall differently under another name, so that experiments side by side do not mix."""
    exposure: float

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not a name; write lower-case letters, digits and -")
        if not 1 / PARTS <= self.exposure <= 0.5:
            raise ValueError(f"an exposure of {self.exposure} is not at least 0.01 % and at most a half")

    @property
    def parts(self) -> int:
        """Of ``PARTS``, for each arm; never more than the exposure."""
        return int(self.exposure * PARTS + 1e-6)


def assign(experiment: Experiment, unit: str) -> Arm:
    """The arm of ``unit``, always the same. More exposure takes units in, and moves none to another arm.

    :raises ValueError: an empty key, under which everybody unknown would share one arm
    """
    if not unit:
        raise ValueError("a unit needs a key")
    point = xxh64(f"{salt(experiment.name)}{unit}".encode("utf-8", "surrogatepass")) % PARTS
    # What is outside lies between the arms: with them side by side, one that grows would push units into the other.
    if point < experiment.parts:
        return Arm.EXPERIMENT
    return Arm.CONTROL if point >= PARTS - experiment.parts else Arm.OUTSIDE


def salt(name: str) -> str:
    """What is written before a unit's key before it is hashed."""
    return f"{name}/"


_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MASK = 2**64 - 1


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0, as its specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) has it."""
    at, length = 0, len(data)
    result = _P5
    if length >= 32:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        while at + 32 <= length:
            lanes = [_round(lane, _word(data, at + 8 * number)) for number, lane in enumerate(lanes)]
            at += 32
        result = sum(_turn(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            result = ((result ^ _round(0, lane)) * _P1 + _P4) & _MASK
    result = (result + length) & _MASK
    while at + 8 <= length:
        result = (_turn(result ^ _round(0, _word(data, at)), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= length:
        result = (_turn(result ^ (_word(data, at, 4) * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        result = _turn(result ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    result = (result ^ result >> 33) * _P2 & _MASK
    result = (result ^ result >> 29) * _P3 & _MASK
    return result ^ result >> 32


def _word(data: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _round(lane: int, word: int) -> int:
    return _turn((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def _turn(value: int, by: int) -> int:
    return (value << by | value >> 64 - by) & _MASK
