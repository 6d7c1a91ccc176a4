"""What of a stream has been landed, and how more is: the manifest is the one commit, written last.

Each unit (a range of offsets of a partition, or one object that arrived) becomes one immutable object with its good
records, named by the unit and by the SHA-256 of all that came of it; what broke the contract lies beside it. How far a
stream has come is told from the names in the manifest and from nothing else, so that landing and position cannot
disagree: a process killed before the manifest was written has landed nothing, and one killed after it lacks nothing.

    <stream>/data/partition=00000/00000000000000000000-00000000000000000100-<sha12>[-q<records in quarantine>].parquet
    <stream>/data/object/<key as it arrived>-<sha12>[-q<records>].parquet
    <stream>/data/replay/<name of what was in quarantine, hashed>-<sha12>[-q<records>].parquet
    <stream>/quarantine/<the same, where there is a q>
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from ninelives.errors import Corrupted, Unavailable
from ninelives.estate.streams import Stream
from ninelives.ports import ObjectStore
from ninelives.replication.manifest import (
    BUCKET,
    Manifest,
    ManifestObject,
    build_manifest,
    extend,
    read_manifest,
    write_manifest,
)
from ninelives.streams.change import contract_sha
from ninelives.streams.sift import Sifted, pack, to_parquet

_NAME = re.compile(r"(?P<unit>.+)-(?P<sha>[0-9a-f]{12})(?:-q(?P<count>[0-9]+))?")
_RANGE = re.compile(r"partition=(?P<partition>[0-9]{5,})/(?P<start>[0-9]{20})-(?P<end>[0-9]{20})")
_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Landed:
    """One unit in the manifest; ``name`` is its key without folder and suffix."""

    name: str
    unit: str
    quarantined: int
    """records"""


def quarantine_of(stream: str) -> str:
    """The dataset, beside the stream's own, that the quarantined parts are listed in; no estate can declare it."""
    return f"{stream}.quarantine"


def data_key(stream: str, name: str) -> str:
    return f"{stream}/data/{name}{_SUFFIX}"


def quarantine_key(stream: str, name: str) -> str:
    return f"{stream}/quarantine/{name}{_SUFFIX}"


def range_unit(partition: int, start: int, end: int) -> str:
    """The messages of a partition from ``start`` up to and without ``end``."""
    return f"partition={partition:05}/{start:020}-{end:020}"


def object_unit(key: str) -> str:
    return f"object/{key}"


def replay_unit(name: str) -> str:
    """What comes of replaying the quarantined part ``name``; once, because a unit is landed once."""
    return f"replay/{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Position:
    """A stream's two manifests as they were read; ``None`` before the first landing."""

    stream: str
    data: Manifest | None
    quarantine: Manifest | None

    @cached_property
    def landed(self) -> dict[str, Landed]:
        """By unit, in order; raises ``Corrupted`` where the manifest lists what no landing has written."""
        found: dict[str, Landed] = {}
        start = f"{self.stream}/data/"
        for listed in self.data.objects if self.data else ():
            name = listed.key.removeprefix(start).removesuffix(_SUFFIX)
            match = _NAME.fullmatch(name)
            if not listed.key.startswith(start) or match is None:
                raise Corrupted(f"the manifest of {self.stream} lists {listed.key}, which landing never writes")
            if match["unit"] in found:
                raise Corrupted(f"the manifest of {self.stream} has {match['unit']} twice; compare with other sites'")
            found[match["unit"]] = Landed(name, match["unit"], int(match["count"] or 0))
        return found

    @cached_property
    def ends(self) -> dict[int, int]:
        """Partition to the offset from which on nothing has been landed yet.

        :raises Corrupted: two ranges overlap, or one is missing between two others
        """
        ends: dict[int, int] = {}
        for unit in sorted(self.landed):  # zero-padded: the order of names is that of offsets
            if match := _RANGE.fullmatch(unit):
                partition, start = int(match["partition"]), int(match["start"])
                if start != ends.get(partition, start):
                    raise Corrupted(
                        f"{self.stream}: partition {partition} was landed up to {ends[partition]}, then from {start}"
                    )
                ends[partition] = int(match["end"])
        return ends

    @property
    def open(self) -> list[Landed]:
        """What is in quarantine and has not been replayed."""
        return [one for one in self.landed.values() if one.quarantined and replay_unit(one.name) not in self.landed]

    def quarantined(self, name: str) -> ManifestObject:
        """The object of a quarantined part; raises ``Corrupted`` where the manifest has lost it."""
        key = quarantine_key(self.stream, name)
        found = self.quarantine.by_key.get(key) if self.quarantine else None
        if found is None:
            raise Corrupted(f"{key} is not in the manifest of {quarantine_of(self.stream)}; restore it from a copy")
        return found


def position(store: ObjectStore, stream: str) -> Position:
    """:raises Corrupted: a manifest cannot be trusted
    :raises Unavailable: the store does not answer
    """
    return Position(stream, read_manifest(store, stream), read_manifest(store, quarantine_of(stream)))


def land(
    store: ObjectStore, stream: Stream, known: Position, units: Sequence[tuple[str, Sifted]]
) -> tuple[Position, list[Landed]]:
    """Make units part of the stream, all or none of them; what is there already is left alone.

    :param known: what the caller went on from
    :raises Unavailable: the store does not answer, or another process has landed something since ``known`` was read:
        read the position again
    """
    fresh = [(unit, sifted) for unit, sifted in units if unit not in known.landed]
    data, quarantine, landed = [], [], []
    for unit, sifted in fresh:
        one, good, bad = _as_stored(stream, unit, sifted)
        landed.append(one)
        if bad is not None:
            quarantine.append(_put(store, quarantine_key(stream.name, one.name), bad))
        data.append(_put(store, data_key(stream.name, one.name), good))
    if not fresh:
        return known, []
    now = position(store, stream.name)
    if (now.data, now.quarantine) != (known.data, known.quarantine):
        raise Unavailable(f"another process lands {stream.name} at {store.site}; go on from what it has landed")
    begun = datetime.now(UTC)
    # First what a killed process may leave behind without harm: a part that no unit names is none.
    listed = _extended(quarantine_of(stream.name), known.quarantine, quarantine, begun)
    if listed is not None and listed != known.quarantine:
        write_manifest(store, listed)
    committed = _extended(stream.name, known.data, data, begun)
    assert committed is not None  # noqa: S101  there are fresh units
    write_manifest(store, committed)
    return Position(stream.name, committed, listed), landed


def _as_stored(stream: Stream, unit: str, sifted: Sifted) -> tuple[Landed, bytes, bytes | None]:
    metadata = {"ninelives.stream": stream.name, "ninelives.unit": unit, "ninelives.contract": contract_sha(stream)}
    good = to_parquet(sifted.good, metadata)
    bad = pack(sifted.entries, metadata) if sifted.entries else None
    sha = hashlib.sha256(good + (bad or b"")).hexdigest()[:12]
    mark = f"-q{sifted.quarantined}" if bad is not None else ""
    return Landed(f"{unit}-{sha}{mark}", unit, sifted.quarantined), good, bad


def _put(store: ObjectStore, key: str, data: bytes) -> ManifestObject:
    # The name holds the digest of the bytes: writing it again changes nothing.
    store.put(BUCKET, key, data)
    return ManifestObject(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _extended(
    dataset: str, known: Manifest | None, objects: Iterable[ManifestObject], begun: datetime
) -> Manifest | None:
    objects = list(objects)
    if known is None:
        return build_manifest(dataset, objects, begun) if objects else None
    return extend(known, objects, begun) if objects else known


def read_table(store: ObjectStore, stream: Stream) -> pa.Table:
    """Every landed record, in the declared fields: what a feature is computed from.

    What is in quarantine is not in it, and neither are fields that the contract does not declare. A field that came in
    a wider type has that type.

    :raises Corrupted: an object is not what the manifest says
    :raises Unavailable: the store does not answer, or nothing has been landed
    """
    at = position(store, stream.name)
    if at.data is None:
        raise Unavailable(f"nothing of {stream.name} has been landed at {store.site} yet")
    names = [field.name for field in stream.fields]
    tables = [
        pq.read_table(pa.BufferReader(_verified(store, listed)), columns=names).replace_schema_metadata()
        for listed in at.data.objects
    ]
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def read_quarantined(store: ObjectStore, at: Position, name: str) -> bytes:
    """:raises Corrupted: it is missing, or not what the manifest says"""
    return _verified(store, at.quarantined(name))


def _verified(store: ObjectStore, listed: ManifestObject) -> bytes:
    data = store.get(BUCKET, listed.key)
    if data is None or hashlib.sha256(data).hexdigest() != listed.sha256:
        raise Corrupted(f"{BUCKET}/{listed.key} at {store.site} is not what was landed; restore it from a copy")
    return data
