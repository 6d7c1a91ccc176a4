"""How far a copy is behind, and what a loss cost: both measured against the journal of acknowledged writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from ninelives.ports import ObjectInfo
from ninelives.replication.acks import Ack
from ninelives.replication.manifest import Manifest


def replication_lag(acks: Iterable[Ack], at_target: Manifest | None, now: datetime) -> float | None:
    """Age in seconds of the oldest acknowledged write that the copy's manifest does not hold with the right bytes.

    0 when it holds them all: a dataset that nobody writes to does not fall behind. ``None`` (unknown) where there is
    neither a copy nor a write to compare it with.

    :param acks: of one dataset; those acknowledged after ``now`` do not count
    """
    held = _hashes(at_target)
    written = [ack for ack in acks if ack.acked_at <= now]
    if not written and at_target is None:
        return None
    missing = [ack.acked_at for ack in written if held.get(ack.key) != ack.sha256]
    return (now - min(missing)).total_seconds() if missing else 0.0


def listing_lag(listing: Iterable[ObjectInfo], at_target: Manifest | None, now: datetime) -> float:
    """The same where nobody journals writes: age of the oldest object at the source that the copy has not.

    Less exact: by the source's own clock, and an object changed in place with its size kept is not seen.
    """
    held = {o.key: o.size for o in at_target.objects} if at_target else {}
    missing = [info.modified for info in listing if held.get(info.key) != info.size]
    return max(0.0, (now - min(missing)).total_seconds()) if missing else 0.0


@dataclass(frozen=True)
class RecoveryPoint:
    """What a loss cost in data."""

    rpo_seconds: float | None
    """0 when no acknowledged write is lost; ``None`` when none survived, which no objective allows."""
    last_survivor: Ack | None
    """The last acknowledged write such that it and all before it survived."""
    lost: list[Ack]
    """Acknowledged before the loss and not found with the right bytes, in the order written."""


def surviving(acks: Iterable[Ack], hashes: Mapping[str, str], loss_at: datetime) -> RecoveryPoint:
    """The recovery point, exact to the last acknowledged write.

    Writes count in the order of ``seq``: a stepped wall clock reorders times, not the journal.

    :param acks: of one dataset
    :param hashes: key to SHA-256 (hex) of what is there after the loss
    :param loss_at: a write acknowledged later than this was not promised to survive
    """
    promised = sorted((ack for ack in acks if ack.acked_at <= loss_at), key=lambda ack: ack.seq)
    lost = [ack for ack in promised if hashes.get(ack.key) != ack.sha256]
    if not lost:
        return RecoveryPoint(0.0, promised[-1] if promised else None, [])
    whole = promised[: promised.index(lost[0])]
    if not whole:
        return RecoveryPoint(None, None, lost)
    return RecoveryPoint((loss_at - whole[-1].acked_at).total_seconds(), whole[-1], lost)


def _hashes(manifest: Manifest | None) -> dict[str, str]:
    return {o.key: o.sha256 for o in manifest.objects} if manifest else {}
