"""Land what has arrived: what keeps the contract flows, what does not waits in quarantine with its reasons.

The order is what makes it exact: objects, manifests, evidence, offsets. Killed anywhere, the next run goes on from the
manifest, writes the evidence that is missing, and commits the offsets that are due.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import rfc8785

from ninelives.errors import Refused
from ninelives.estate.streams import Stream
from ninelives.ports import Ledger, ObjectStore, Record, Systems
from ninelives.replication.manifest import BUCKET
from ninelives.streams.arrivals import Arrival, Arrivals, FromObjects, FromTopic
from ninelives.streams.change import Change, change_of, contract_sha, propose
from ninelives.streams.landing import (
    Landed,
    Position,
    data_key,
    land,
    position,
    quarantine_key,
    read_quarantined,
    replay_unit,
)
from ninelives.streams.sift import Sifted, reasons, sift, sift_again, unpack

CHANGE, QUARANTINE, REPLAY = "schema_change", "quarantine", "replay"
"""Kinds of evidence."""
CHUNK = 10_000
"""Messages in one unit at most: about a second of work, and a few megabytes."""
_TOGETHER = 16
"""Units behind one write of the manifest: it grows with every unit, and is written whole."""
_TOGETHER_BYTES = 32 * 2**20
_LEASE = timedelta(minutes=1)


@dataclass(frozen=True)
class Ingestion:
    """What one run did; ``reasons`` are records per reason."""

    stream: str
    site: str
    units: int = 0
    landed: int = 0
    """records that keep the contract"""
    quarantined: int = 0
    """records that do not"""
    changes: tuple[Change, ...] = ()
    """compatible ones"""
    reasons: dict[str, int] = field(default_factory=dict)
    evidence: int | None = None
    """The last record it left in the ledger."""

    def plus(self, sifted: Sequence[Sifted]) -> Ingestion:
        counted = dict(self.reasons)
        for one in sifted:
            for reason, rows in reasons(one.entries).items():
                counted[reason] = counted.get(reason, 0) + rows
        return replace(
            self,
            units=self.units + len(sifted),
            landed=self.landed + sum(one.good.num_rows for one in sifted),
            quarantined=self.quarantined + sum(one.quarantined for one in sifted),
            changes=tuple(sorted({*self.changes, *(change for one in sifted for change in one.changes)})),
            reasons=dict(sorted(counted.items())),
        )

    def facts(self) -> dict[str, Any]:
        """Small and plain, for XCom and the command line."""
        return {
            "stream": self.stream,
            "site": self.site,
            "units": self.units,
            "landed": self.landed,
            "quarantined": self.quarantined,
            "changes": [str(change) for change in self.changes],
            "reasons": self.reasons,
            "evidence": self.evidence,
        }


def declared_stream(systems: Systems, name: str) -> Stream:
    """:raises Refused: the estate has no such stream"""
    found = systems.estate.stream_by_name.get(name)
    if found is None:
        raise Refused(f"stream {name}", ["the estate declares no such stream; see its streams"])
    return found


def look(systems: Systems, name: str, *, chunk: int = CHUNK) -> Ingestion:
    """What landing all that has arrived would do, without doing it.

    :raises: as ``ingest``, of which nothing is written
    """
    stream = declared_stream(systems, name)
    store = systems.store(stream.site)
    done = Ingestion(stream.name, stream.site)
    with _arrivals(systems, stream, store, chunk, accept_gap=True) as arrivals:
        for arrival in arrivals.after(position(store, stream.name)):
            done = done.plus([sift(stream, arrival.raws)])
    return done


def ingest(
    systems: Systems,
    name: str,
    *,
    holder: str,
    chunk: int = CHUNK,
    accept_gap: bool = False,
    on_progress: Callable[[Ingestion], None] | None = None,
) -> Ingestion:
    """Land everything that has arrived at the stream's site.

    One at a time per stream: a lease of the ledger keeps others away. Should one be paused beyond its lease and go on,
    the manifest still has each record once.

    :param holder: who asks; the same name takes over from a process that was killed
    :param accept_gap: go on where the broker deleted messages that were never landed
    :raises Refused: no such stream, another holder lands it, or messages were lost at the broker
    :raises Corrupted: a manifest, or the topic, is not what it was
    :raises Unavailable: store, broker or ledger does not answer; what was landed stays, and a repeated call goes on
    """
    stream = declared_stream(systems, name)
    store, ledger = systems.store(stream.site), systems.ledger()
    store.ensure_bucket(BUCKET)
    done = Ingestion(stream.name, stream.site)
    with (
        _alone(ledger, stream, holder) as renew,
        _arrivals(systems, stream, store, chunk, accept_gap=accept_gap) as arrivals,
    ):
        at = position(store, stream.name)
        record = _settle(ledger, store, stream, at, at.landed.values())
        for group in _groups(arrivals.after(at)):
            renew()
            sifted = [(arrival.unit, sift(stream, arrival.raws)) for arrival in group]
            before, done = done, done.plus([one for _, one in sifted])
            # First, because afterwards nothing would tell a next run that they are missing.
            record = _record_changes(ledger, stream, set(done.changes) - set(before.changes)) or record
            at, landed = land(store, stream, at, sifted)
            record = _settle(ledger, store, stream, at, landed) or record
            arrivals.acknowledge(at)
            if on_progress is not None:
                on_progress(done)
        arrivals.acknowledge(at)
    return replace(done, evidence=record.seq if record else None)


def replay(systems: Systems, name: str, *, holder: str, changed_only: bool = False) -> Ingestion:
    """Judge what is in quarantine by the present contract, and land what keeps it now, once.

    What still does not goes on waiting, with its present reasons. Parts of which nothing became good are left as they
    are.

    :param changed_only: leave out what this very contract has put into quarantine
    :raises: as ``ingest``
    """
    stream = declared_stream(systems, name)
    store, ledger = systems.store(stream.site), systems.ledger()
    store.ensure_bucket(BUCKET)
    done = Ingestion(stream.name, stream.site)
    with _alone(ledger, stream, holder) as renew:
        at = position(store, stream.name)
        record = _settle(ledger, store, stream, at, at.landed.values())
        for waiting in at.open:
            renew()
            entries, metadata = unpack(read_quarantined(store, at, waiting.name))
            if changed_only and metadata.get("ninelives.contract") == contract_sha(stream):
                continue
            sifted = sift_again(stream, entries)
            if sifted.good.num_rows == 0:
                continue
            record = _record_changes(ledger, stream, sifted.changes) or record
            at, landed = land(store, stream, at, [(replay_unit(waiting.name), sifted)])
            done = done.plus([sifted])
            record = _settle(ledger, store, stream, at, landed) or record
    return replace(done, evidence=record.seq if record else None)


@dataclass(frozen=True)
class Waiting:
    """One part in quarantine."""

    name: str
    key: str
    records: int
    reasons: dict[str, int]


def waiting(systems: Systems, name: str) -> list[Waiting]:
    """What is in quarantine now and why.

    :raises: as ``ingest``
    """
    stream = declared_stream(systems, name)
    store = systems.store(stream.site)
    at = position(store, stream.name)
    return [
        Waiting(one.name, quarantine_key(stream.name, one.name), one.quarantined, reasons(unpacked))
        for one in at.open
        for unpacked, _ in [unpack(read_quarantined(store, at, one.name))]
    ]


def proposal(ledger: Ledger, stream: Stream) -> Stream | None:
    """The next version of the contract, from every compatible change in evidence; ``None`` where it says them all.

    :raises Refused: a field came with two types of which neither holds the other
    """
    changes: set[Change] = set()
    for record in ledger.records(kind=CHANGE, subject=stream.name):
        changes.add(change_of(record.facts))
    return propose(stream, changes)


@contextmanager
def _arrivals(
    systems: Systems, stream: Stream, store: ObjectStore, chunk: int, *, accept_gap: bool
) -> Iterator[Arrivals]:
    if stream.source.topic is None:
        yield FromObjects(store, stream)
        return
    topic = systems.topic(stream)
    try:
        yield FromTopic(topic, stream.name, chunk=chunk, accept_gap=accept_gap)
    finally:
        topic.close()


@contextmanager
def _alone(ledger: Ledger, stream: Stream, holder: str) -> Iterator[Callable[[], None]]:
    lease = ledger.take_lease(f"stream:{stream.name}", holder, _LEASE)

    def renew() -> None:
        nonlocal lease
        lease = ledger.take_lease(lease.name, holder, _LEASE)

    try:
        yield renew
    finally:
        ledger.release_lease(lease)


def _groups(arrivals: Iterable[Arrival]) -> Iterator[list[Arrival]]:
    """Some at a time: few writes of the manifest, bounded memory."""
    group: list[Arrival] = []
    size = 0
    for arrival in arrivals:
        group.append(arrival)
        size += sum(len(raw.data) for raw in arrival.raws)
        if len(group) == _TOGETHER or size >= _TOGETHER_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


# --- evidence --------------------------------------------------------------------------------------------------------


def _settle(
    ledger: Ledger, store: ObjectStore, stream: Stream, at: Position, landed: Iterable[Landed]
) -> Record | None:
    """See to it that every quarantine and replay that was landed is in the ledger, also of a run that was killed."""
    last = None
    replays = {replay_unit(one.name): one for one in at.landed.values() if one.quarantined}
    for one in landed:
        if one.quarantined and not one.unit.startswith("replay/"):
            last = _quarantined(ledger, store, stream, at, one) or last
        if one.unit in replays:
            last = _replayed(ledger, stream, at, replays[one.unit], one) or last
    return last


def _quarantined(ledger: Ledger, store: ObjectStore, stream: Stream, at: Position, one: Landed) -> Record | None:
    once = _once(QUARANTINE, stream, one.name)
    if ledger.written(once) is not None:
        return None
    packed = read_quarantined(store, at, one.name)
    entries, metadata = unpack(packed)
    facts = {
        "unit": one.unit,
        "records": one.quarantined,
        "reasons": _most(reasons(entries)),
        "object": quarantine_key(stream.name, one.name),
        "sha256": hashlib.sha256(packed).hexdigest(),
        "contract": metadata["ninelives.contract"],
    }
    return ledger.append(QUARANTINE, stream.name, facts, once=once)


def _replayed(ledger: Ledger, stream: Stream, at: Position, before: Landed, one: Landed) -> Record | None:
    once = _once(REPLAY, stream, one.name)
    if ledger.written(once) is not None:
        return None
    facts = {
        "quarantined": quarantine_key(stream.name, before.name),
        "landed": before.quarantined - one.quarantined,
        "still_waiting": one.quarantined,
        "object": data_key(stream.name, one.name),
        "sha256": at.data.by_key[data_key(stream.name, one.name)].sha256 if at.data else "",
    }
    return ledger.append(REPLAY, stream.name, facts, once=once)


def _record_changes(ledger: Ledger, stream: Stream, changes: Iterable[Change]) -> Record | None:
    """Each once per contract, however many units bring it."""
    last = None
    for change in sorted(changes):
        facts: dict[str, Any] = {**change.facts(), "version": stream.version, "contract": contract_sha(stream)}
        once = _once(CHANGE, stream, rfc8785.dumps(facts).decode())
        if ledger.written(once) is None:
            last = ledger.append(CHANGE, stream.name, facts, once=once)
    return last


def _once(kind: str, stream: Stream, what: str) -> str:
    """Names of objects may be longer than a key."""
    return f"{kind}/{stream.name}/{hashlib.sha256(what.encode()).hexdigest()}"


def _most(counted: dict[str, int], most: int = 20) -> dict[str, int]:
    return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[:most])
