"""What of a stream has been landed, and how more is: the manifest is the one commit, written last.

Each unit (a range of offsets of a partition, or one object that arrived) becomes one immutable object with its good
records, named by the unit and by the SHA-256 of all that came of it; what broke the contract lies beside it. How far a
stream has come is told from the names in the manifest and from nothing else, so that landing and position cannot
disagree: a process killed before the manifest was written has landed nothing, and one killed after it lacks nothing.

    <stream>/data/partition=00000/00000000000000000000-00000000000000000100-<sha>[-q<records in quarantine>].parquet
    <stream>/data/object/<key as it arrived>-<sha>[-q<records>].parquet
    <stream>/data/replay/<name of what was in quarantine, hashed>-<sha>[-q<records>].parquet
    <stream>/quarantine/<the same, where there is a q>
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from ninelives.errors import Corrupted, Refused, Unavailable
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
from ninelives.streams.sift import Sifted, declared_schema, pack, to_parquet

_NAME = re.compile(r"(?P<unit>.+)-(?P<sha>[0-9a-f]{16})(?:-q(?P<count>[0-9]+))?")
_RANGE = re.compile(r"partition=(?P<partition>[0-9]{5,})/(?P<start>[0-9]{20})-(?P<end>[0-9]{20})")
_SUFFIX = ".parquet"
_DIGITS = 16
"""Of the SHA-256 in a name: no two units of a stream are mixed up, and no damage goes unseen."""


@dataclass(frozen=True)
class Landed:
    """One unit in the manifest; ``name`` is its key without folder and suffix."""

    name: str
    unit: str
    quarantined: int
    """records"""


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
    """A stream's manifest as it was read; ``None`` before the first landing."""

    stream: str
    data: Manifest | None

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


def position(store: ObjectStore, stream: str) -> Position:
    """:raises Corrupted: the manifest cannot be trusted
    :raises Unavailable: the store does not answer
    """
    return Position(stream, read_manifest(store, stream))


def land(
    store: ObjectStore, stream: Stream, known: Position, units: Sequence[tuple[str, Sifted]]
) -> tuple[Position, list[Landed]]:
    """Make units part of the stream, all or none of them; what is there already is left alone.

    :param known: what the caller went on from
    :raises Unavailable: the store does not answer, or another process has landed something since ``known`` was read:
        read the position again
    """
    fresh = [(unit, sifted) for unit, sifted in units if unit not in known.landed]
    if not fresh:
        return known, []
    begun = datetime.now(UTC)
    listed, landed = [], []
    for unit, sifted in fresh:
        one, good, bad = _as_stored(stream, unit, sifted)
        landed.append(one)
        if bad is not None:
            store.put(BUCKET, quarantine_key(stream.name, one.name), bad)
        # The name holds the digest of the bytes: writing it again changes nothing.
        key = data_key(stream.name, one.name)
        store.put(BUCKET, key, good)
        listed.append(ManifestObject(key=key, size=len(good), sha256=hashlib.sha256(good).hexdigest()))
    if position(store, stream.name).data != known.data:
        raise Unavailable(f"another process lands {stream.name} at {store.site}; go on from what it has landed")
    manifest = extend(known.data, listed, begun) if known.data else build_manifest(stream.name, listed, begun)
    write_manifest(store, manifest)
    return Position(stream.name, manifest), landed


def _as_stored(stream: Stream, unit: str, sifted: Sifted) -> tuple[Landed, bytes, bytes | None]:
    metadata = {"ninelives.stream": stream.name, "ninelives.unit": unit, "ninelives.contract": contract_sha(stream)}
    good = to_parquet(sifted.good, metadata)
    bad = pack(sifted.entries, metadata) if sifted.entries else None
    mark = f"-q{sifted.quarantined}" if bad is not None else ""
    return Landed(f"{unit}-{_digest(good, bad)}{mark}", unit, sifted.quarantined), good, bad


def read_table(store: ObjectStore, stream: Stream) -> pa.Table:
    """Every landed record, in the declared fields: what a feature is computed from.

    What is in quarantine is not in it, and neither are fields that the contract does not declare. A field that came in
    a wider type has that type.

    :raises Corrupted: an object is not what the manifest says
    :raises Refused: the contract has changed so that old and new records have no type in common
    :raises Unavailable: the store does not answer, or nothing has been landed
    """
    at = position(store, stream.name)
    if at.data is None:
        raise Unavailable(f"nothing of {stream.name} has been landed at {store.site} yet")
    names = [field.name for field in stream.fields]
    tables = [declared_schema(stream).remove_metadata().empty_table()]
    for listed in at.data.objects:
        file = pq.ParquetFile(pa.BufferReader(_verified(store, listed)))  # a field declared later is not in old ones
        tables.append(file.read(columns=names).replace_schema_metadata())
    try:
        return pa.concat_tables(tables, promote_options="permissive").select(names).combine_chunks()
    except pa.ArrowTypeError as error:
        raise Refused(
            f"read {stream.name}", [f"it was landed by contracts that cannot be read as one: {error}; land it anew"]
        ) from error


def read_quarantined(store: ObjectStore, at: Position, name: str) -> bytes:
    """:raises Corrupted: it is missing, or not what was landed"""
    key = quarantine_key(at.stream, name)
    bad = store.get(BUCKET, key)
    good = at.data.by_key[data_key(at.stream, name)] if at.data else None
    match = _NAME.fullmatch(name)
    if bad is None or good is None or match is None or _digest(_verified(store, good), bad) != match["sha"]:
        raise Corrupted(f"{BUCKET}/{key} at {store.site} is not what was put into quarantine; restore it from a copy")
    return bad


def _digest(good: bytes, bad: bytes | None) -> str:
    return hashlib.sha256(good + (bad or b"")).hexdigest()[:_DIGITS]


def _verified(store: ObjectStore, listed: ManifestObject) -> bytes:
    data = store.get(BUCKET, listed.key)
    if data is None or hashlib.sha256(data).hexdigest() != listed.sha256:
        raise Corrupted(f"{BUCKET}/{listed.key} at {store.site} is not what was landed; restore it from a copy")
    return data
