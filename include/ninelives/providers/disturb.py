"""What goes wrong with a feed, drawn from a seed so that it can be repeated. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

DELAY = 2.5
"""How many batches late a late one is: others overtake it."""


class Kind(StrEnum):
    SOUND = "sound"
    LATE = "late"
    DUPLICATE = "duplicate"
    MISSING = "missing"
    MALFORMED = "malformed"


@dataclass(frozen=True)
class Delivery:
    """One batch as it is sent; ``due`` is in batches since the first."""

    due: float
    batch: int
    kind: Kind
    data: bytes


def disturb(batches: Sequence[bytes], seed: int) -> tuple[list[Delivery], dict[int, Kind]]:
    """Deliveries in their order, and what happens to which batch: a quarter of them, each kind at least once.

    The first batch is sound. A duplicate is sent twice with the same bytes; of a malformed one the second half lacks.

    :raises ValueError: fewer than five batches, too few for every kind
    """
    if len(batches) < 5:
        raise ValueError("five batches are needed at least: a sound one and one of each kind")
    chance = random.Random(seed)  # noqa: S311  (a drill must be repeatable)
    wrong: list[Kind] = [kind for kind in Kind if kind is not Kind.SOUND]
    chosen = chance.sample(range(1, len(batches)), max(len(wrong), len(batches) // 4))
    kinds = {number: wrong[place % len(wrong)] for place, number in enumerate(chosen)}
    sent = []
    for number, data in enumerate(batches):
        kind = kinds.get(number, Kind.SOUND)
        if kind is Kind.MISSING:
            continue
        content = data[: len(data) // 2] if kind is Kind.MALFORMED else data
        sent.append(Delivery(number + (DELAY if kind is Kind.LATE else 0), number, kind, content))
        if kind is Kind.DUPLICATE:
            sent.append(Delivery(number + 1.0, number, kind, content))
    return sorted(sent, key=lambda one: (one.due, one.batch)), kinds
