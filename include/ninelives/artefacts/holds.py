"""Legal holds: who wants a version of a model to stay, why, and until when. They are records of the ledger.

A hold ends when it is released, or at its own end; nothing else ends it, also not that its version seems to be gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ninelives.errors import Refused
from ninelives.ports import Ledger, Record, Systems
from ninelives.versions.prune import alone

KIND = "hold"
LEASE = "artefacts"
"""Held while versions are deleted and while a hold is placed: a hold never comes too late without being told."""


@dataclass(frozen=True)
class Hold:
    number: int
    """Of its record in the ledger."""
    model: str
    version: str
    by: str
    why: str
    until: datetime | None
    """Its end; ``None``: until it is released."""

    def __str__(self) -> str:
        end = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "until it is released"
        return f"held by {self.by} {end}: {self.why} (evidence {self.number})"


def place(systems: Systems, model: str, version: str, *, by: str, why: str, until: datetime | None = None) -> Record:
    """Keep a version from being deleted.

    :param until: with a time zone; none: until somebody releases it
    :raises Refused: the registry has no such version, nobody says why, or the end is past
    :raises Unavailable: registry or ledger do not answer, or versions are being deleted just now; try again
    """
    what = f"hold {model}@{version}"
    if not why.strip():
        raise Refused(what, ["say why: whoever wants to delete it will ask"])
    if until is not None and until <= datetime.now(UTC):
        raise Refused(what, [f"{until:%Y-%m-%d %H:%M} UTC is past; name a later end, or none"])
    ledger = systems.ledger()
    with alone(ledger, f"{what} for {by}", LEASE):
        known = [one.version for one in systems.registry().versions() if one.model == model]
        if version not in known:
            there = ", ".join(sorted(known, key=int)) or "none"
            raise Refused(what, [f"the registry has no such version of {model}; it has {there}"])
        end = until.astimezone(UTC).isoformat() if until else None
        return ledger.append(KIND, model, {"entry": "placed", "version": version, "by": by, "why": why, "until": end})


def release(ledger: Ledger, number: int, *, by: str, why: str) -> Record:
    """End a hold; one that was released before stays as it was.

    :raises Refused: there is no such hold, or nobody says why
    """
    what = f"release hold {number}"
    if not why.strip():
        raise Refused(what, ["say why: the record of a hold must say why it ended"])
    placed = [one for one in ledger.records(kind=KIND) if one.seq == number and one.facts["entry"] == "placed"]
    if not placed:
        raise Refused(what, ["no hold has that number; `ninelives artefacts list` shows them"])
    key = f"{KIND}/{number}/released"
    facts = {"entry": "released", "hold": number, "version": placed[0].facts["version"], "by": by, "why": why}
    return ledger.written(key) or ledger.append(KIND, placed[0].subject, facts, once=key)


def standing(records: Sequence[Record], now: datetime) -> list[Hold]:
    """The holds among records of this kind that have not ended, by number."""
    released = {one.facts["hold"] for one in records if one.facts["entry"] == "released"}
    holds = [
        Hold(
            one.seq,
            one.subject,
            one.facts["version"],
            one.facts["by"],
            one.facts["why"],
            datetime.fromisoformat(one.facts["until"]) if one.facts["until"] else None,
        )
        for one in records
        if one.facts["entry"] == "placed" and one.seq not in released
    ]
    return sorted((one for one in holds if one.until is None or one.until > now), key=lambda one: one.number)
