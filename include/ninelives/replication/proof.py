"""That old objects are still what they were: bits rot without touching a size or a time, and only reading finds it.

A rotation reads all objects of a copy in the order of their keys, a share in each run, so that a *lap* takes a third of
the time within which every byte has to be read. Two instants are enough to know how old the oldest proof is: whatever
the rotation has passed was read since this lap began, all else since the last lap began or when it arrived later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ninelives.ports import ObjectStore
from ninelives.replication.manifest import ManifestObject

REREAD_OBJECTS = 32
REREAD_BYTES = 4 * 2**20
"""Old objects that may be read again at both sites in each run, even where the rotation asks for less: they cost
little, and runs may be a minute apart, over a network that is paid for."""

LAPS = 3
"""Laps within the time in which every byte has to be read: what a lap passed first is read last in the next one, and
a run may be late."""

_ROUNDING = 1e-9

MOST_NAMED = 100
"""Findings that one piece of evidence names; it counts them all."""


@dataclass(frozen=True)
class Finding:
    """Something that was not as recorded."""

    site: str
    key: str
    what: Literal["damaged", "missing", "foreign", "manifest"]
    outcome: Literal["repaired", "set aside", "found", "lost"]
    """``lost``: no site has a good copy; ``found``: left as it is, because nobody asked for a repair, or because an
    object that nobody recorded is so young that its write may go on."""


class Rotation(BaseModel):
    """How far the rotation is; kept at the target, whose disk it proves."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    after: str = ""
    """the last key read"""
    read_at: AwareDatetime | None = None
    lap_began: AwareDatetime | None = None
    last_lap_began: AwareDatetime | None = None

    @property
    def verified_since(self) -> datetime | None:
        """Every object was read later than this; ``None`` until the first lap is done."""
        return self.last_lap_began

    def share(self, now: datetime, within: timedelta) -> float | None:
        """Of a lap, due now; ``None``: nobody knows when something was last read."""
        if self.read_at is None:
            return None
        return min(1.0, max(0.0, (now - self.read_at) / (within / LAPS)))

    def advanced(self, old: Sequence[ManifestObject], chosen: Sequence[ManifestObject], now: datetime) -> Rotation:
        """After ``chosen`` of ``old`` were read at ``now``."""
        began, last = self.lap_began or now, self.last_lap_began
        if {o.key for o in chosen} >= {max(o.key for o in old)}:
            began, last = now, self.lap_began
        return Rotation(after=chosen[-1].key, read_at=now, lap_began=began, last_lap_began=last)


def begun(now: datetime) -> Rotation:
    """Of a copy that was read as a whole just now."""
    return Rotation(read_at=now, lap_began=now, last_lap_began=now)


def rotation_key(dataset: str, part: str = "") -> str:
    return f"_manifests/{dataset}{part}.reread.json"


def read_rotation(store: ObjectStore, dataset: str, bucket: str, part: str = "") -> Rotation:
    """Where it is; at the start where that is not known: all that is lost is the proof of the past.

    :raises Unavailable: the store does not answer
    """
    data = store.get(bucket, rotation_key(dataset, part))
    try:
        return Rotation.model_validate_json(data) if data else Rotation()
    except ValidationError:
        return Rotation()


def next_to_read(old: Sequence[ManifestObject], after: str, share: float | None = None) -> list[ManifestObject]:
    """The objects that follow ``after`` in key order, around the end: ``share`` of the objects and bytes together.

    As many more as cost little anyway; one that costs more waits until as much as it is due. ``None`` reads one at
    least.
    """
    chosen: list[ManifestObject] = []
    total = sum(o.size for o in old) or 1
    size, done = 0, 0.0
    for o in sorted(old, key=lambda o: (o.key <= after, o.key)):
        # Half by count, half by bytes: whatever the sizes are, the shares of a lap add up to the whole.
        part = (1 / len(old) + o.size / total) / 2
        cheap = len(chosen) < REREAD_OBJECTS and size + o.size <= REREAD_BYTES
        if share is None:
            due = not chosen
        elif chosen:
            due = done < share  # the last one may exceed it: what is read too early is not missing later
        else:
            due = part <= share + _ROUNDING  # or a dataset of one large object would be read in every run
        if not cheap and not due:
            break
        chosen.append(o)
        size += o.size
        done += part
    return chosen


def named(findings: Iterable[Finding], most: int = MOST_NAMED) -> list[dict[str, str]]:
    """The first of them for evidence."""
    return [
        {"site": one.site, "key": one.key, "what": one.what, "outcome": one.outcome}
        for one in sorted(findings, key=lambda one: (one.outcome != "lost", one.site, one.key))[:most]
    ]
