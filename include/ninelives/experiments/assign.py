"""Which arm a unit is in: a user, a flight, whatever must always see the same. Nothing is stored: the key says it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


class Arm(StrEnum):
    CONTROL = "control"
    EXPERIMENT = "experiment"
    OUTSIDE = "outside"
    """Not in the experiment: served as ever, and not counted."""


@dataclass(frozen=True)
class Experiment:
    """``exposure`` is the share of all units that see what is new; as many again are the control.

    :raises ValueError: a name unlike those of an estate, or an exposure that leaves no room for a control
    """

    name: str
    """The salt: units fall differently under another name, so that experiments side by side do not mix."""
    exposure: float

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not a name; write lower-case letters, digits and -")
        if not 0 < self.exposure <= 0.5:
            raise ValueError(f"an exposure of {self.exposure} is not above nought and at most a half")


def assign(experiment: Experiment, unit: str) -> Arm:
    """The arm of ``unit``, always the same. More exposure takes units in, and moves none to another arm.

    :raises ValueError: an empty key, under which everybody unknown would share one arm
    """
    if not unit:
        raise ValueError("a unit needs a key")
    # Two points of their own: with one, a growing exposure would push units over from the control.
    if point(experiment.name, "part", unit) >= 2 * experiment.exposure:
        return Arm.OUTSIDE
    return Arm.EXPERIMENT if point(experiment.name, "arm", unit) < 0.5 else Arm.CONTROL


def point(name: str, purpose: str, unit: str) -> float:
    """Within [0, 1), uniform over units: the first 53 bits of SHA-256, as many as a float holds."""
    digest = hashlib.sha256(f"{name}\0{purpose}\0{unit}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
