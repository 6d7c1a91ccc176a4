"""Three-way comparison of what two sites have, against what they last agreed on. Pure; clocks decide nothing.

What only one side changed since the agreement is what both shall have: a key that the agreement lists and one side
lacks was deleted there, one that it does not list was created. What both sides changed is told apart by a person,
except for a deletion: a write beats it, because a deletion can be repeated and a lost write cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class _Undecided:
    """Neither side's value descends from the other's."""


UNDECIDED = _Undecided()
Merged = str | None | _Undecided


@dataclass(frozen=True)
class Side:
    """What one site says it has: key to SHA-256 (hex).

    :param current: it holds the newest agreement. A site that does not was set back or was never told: what it lacks
        is no deletion, and what it has otherwise may be old.
    """

    site: str
    values: Mapping[str, str]
    current: bool = True


def merge_value(base: str | None, a: str | None, b: str | None) -> Merged:
    """What both sides shall have under one key; ``None`` for nothing."""
    if a == b:
        return a
    if a == base:
        return b
    if b == base:
        return a
    if a is None or b is None:
        return a or b
    return UNDECIDED


@dataclass(frozen=True)
class Merge:
    values: Mapping[str, str | None]
    """Key to what both sites shall have, ``None`` where a deletion is to be repeated; without the undecided keys."""
    undecided: tuple[str, ...]
    deletions: Mapping[str, tuple[str, ...]]
    """Site to the keys that the other site has deleted."""
    outlived: tuple[str, ...]
    """Deleted at one site and written anew at the other: the write stays."""


def merge(base: Mapping[str, str], a: Side, b: Side) -> Merge:
    """The outcome for every key that either side or ``base`` knows."""
    values: dict[str, str | None] = {}
    undecided: list[str] = []
    deletions: dict[str, list[str]] = {a.site: [], b.site: []}
    outlived: list[str] = []
    for key in sorted({*base, *a.values, *b.values}):
        agreed = base.get(key)
        at_a, at_b = (_believed(side, key, agreed) for side in (a, b))
        # A value that a site set back may have kept from before the agreement is no change of it.
        doubtful = any(not side.current and value not in (None, agreed) for side, value in ((a, at_a), (b, at_b)))
        merged = merge_value(None if doubtful else agreed, at_a, at_b)
        if isinstance(merged, _Undecided):
            undecided.append(key)
            continue
        values[key] = merged
        if merged is None:
            for side in (a, b):
                if key in side.values:
                    deletions[side.site].append(key)
        elif agreed is not None and None in (at_a, at_b):
            outlived.append(key)
    return Merge(values, tuple(undecided), {site: tuple(keys) for site, keys in deletions.items()}, tuple(outlived))


def _believed(side: Side, key: str, agreed: str | None) -> str | None:
    value = side.values.get(key)
    return agreed if value is None and not side.current else value
