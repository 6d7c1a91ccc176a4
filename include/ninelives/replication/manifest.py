"""What a dataset consists of at one site: every object with its SHA-256, in one small document written last.

A manifest is the commit of a write: objects that no manifest lists are not yet part of the dataset, and an object
whose bytes do not hash to what the manifest says is damaged. User metadata is no place for hashes: some stores keep it
in memory only, and ETags of multipart uploads are not comparable between stores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Protocol, Self, runtime_checkable
from weakref import WeakValueDictionary

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ninelives.errors import Corrupted, NoBucket, Unavailable
from ninelives.ports import ObjectInfo, ObjectStore

BUCKET = "data"
WORKERS = 8
"""Objects read and hashed at once: hashing releases the GIL, and loopback stores saturate two cores well below this."""

MEMORY = 256 * 2**20
"""Bytes of whole objects held at once while hashing from a store that cannot stream."""

HINT_MARGIN = timedelta(seconds=2)
"""Stores give times in whole seconds, so one just before a scan may stand for a write during it."""

OUR_OWN = ("_manifests/", "_conflicts/", "_trash/")
"""Prefixes that belong to no dataset."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestObject(BaseModel):
    """One immutable object: ``size`` in bytes, ``sha256`` in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Manifest(BaseModel):
    """The objects of a dataset, sorted by key, none twice; ``fingerprint`` names exactly this content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    created_at: AwareDatetime
    """When the listing behind it began: an object written later may not be in it."""
    objects: tuple[ManifestObject, ...]
    fingerprint: Sha256

    @field_validator("objects")
    @classmethod
    def _sorted_and_unique(cls, objects: tuple[ManifestObject, ...]) -> tuple[ManifestObject, ...]:
        return _in_order(objects)

    @model_validator(mode="after")
    def _fingerprint_is_of_the_objects(self) -> Self:
        if (actual := fingerprint(self.objects)) != self.fingerprint:
            raise ValueError(f"the fingerprint is {self.fingerprint}, the objects' is {actual}")
        return self

    @property
    def by_key(self) -> dict[str, ManifestObject]:
        return {o.key: o for o in self.objects}

    @property
    def size(self) -> int:
        """bytes"""
        return sum(o.size for o in self.objects)


def _in_order(objects: Iterable[ManifestObject]) -> tuple[ManifestObject, ...]:
    ordered = tuple(sorted(objects, key=lambda o: o.key))
    for before, after in pairwise(ordered):
        if before.key == after.key:
            raise ValueError(f"{after.key} is listed twice")
    return ordered


def fingerprint(objects: Iterable[ManifestObject]) -> str:
    """SHA-256 (hex) of the canonical JSON (RFC 8785) of the objects sorted by key."""
    ordered = sorted(objects, key=lambda o: o.key)
    # Of texts and whole numbers the standard library makes the same bytes as rfc8785, five times as fast (tested).
    document = [{"key": o.key, "sha256": o.sha256, "size": o.size} for o in ordered]
    canonical = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def build_manifest(dataset: str, objects: Iterable[ManifestObject], created_at: datetime) -> Manifest:
    """:raises ValueError: a key is listed twice"""
    ordered = _in_order(objects)
    # Not validated again: that would sort and hash all of it once more.
    return Manifest.model_construct(
        dataset=dataset, created_at=created_at, objects=ordered, fingerprint=fingerprint(ordered)
    )


def extend(manifest: Manifest, new_objects: Iterable[ManifestObject], created_at: datetime | None = None) -> Manifest:
    """The manifest with ``new_objects`` added.

    :raises Corrupted: a key is already there with other bytes: objects are immutable
    """
    merged = manifest.by_key
    for new in new_objects:
        if merged.setdefault(new.key, new) != new:
            raise Corrupted(
                f"{new.key} is in the manifest of {manifest.dataset} with sha256 {merged[new.key].sha256}, now it "
                f"comes with {new.sha256}: objects are immutable, write changed data under a new key"
            )
    return build_manifest(manifest.dataset, merged.values(), created_at or manifest.created_at)


def manifest_key(dataset: str) -> str:
    return f"_manifests/{dataset}.json"


_read: WeakValueDictionary[bytes, Manifest] = WeakValueDictionary()
"""By the SHA-256 of their bytes, those that somebody holds: a run reads each once more before it writes over it."""


def read_manifest(store: ObjectStore, dataset: str, bucket: str = BUCKET) -> Manifest | None:
    """The dataset's manifest at a site, ``None`` where there is none.

    :raises Corrupted: it is truncated, not a manifest, another dataset's, or its fingerprint is not its objects'
    :raises Unavailable: the store does not answer
    """
    data = store.get(bucket, manifest_key(dataset))
    if data is None:
        return None
    where = f"the manifest of {dataset} at {store.site} ({bucket}/{manifest_key(dataset)})"
    try:
        if (manifest := _read.get(digest := hashlib.sha256(data).digest())) is None:
            _read[digest] = manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise Corrupted(f"{where} cannot be trusted: {why}; compare with the other sites'") from error
    if manifest.dataset != dataset:
        raise Corrupted(f"{where} is of {manifest.dataset}")
    return manifest


def write_manifest(store: ObjectStore, manifest: Manifest, bucket: str = BUCKET) -> None:
    """Write it; the caller has made sure that every object it lists is there.

    :raises Unavailable: the store does not answer
    """
    store.put(bucket, manifest_key(manifest.dataset), manifest.model_dump_json().encode())


def write_over(store: ObjectStore, manifest: Manifest, known: Manifest | None, bucket: str = BUCKET) -> Manifest:
    """Write it, with what others have added to the site's manifest since ``known`` was read; return what was written.

    :raises Unavailable: the store does not answer
    """
    try:
        now = read_manifest(store, manifest.dataset, bucket)
    except Corrupted:
        now = None  # damaged before: it is being made anew
    seen = {*manifest.by_key, *(known.by_key if known else {})}
    added = [o for o in now.objects if o.key not in seen] if now else []
    if added:
        manifest = build_manifest(manifest.dataset, [*manifest.objects, *added], manifest.created_at)
    write_manifest(store, manifest, bucket)
    return manifest


def scan(
    store: ObjectStore,
    dataset: str,
    known: Manifest | None,
    created_at: datetime | None = None,
    *,
    bucket: str = BUCKET,
    prefix: str | None = None,
) -> Manifest:
    """The manifest of what the store really holds under ``prefix`` (by default ``<dataset>/``).

    An object is read and hashed unless ``known`` lists it with the same size and it was last modified before ``known``
    was begun. That is a hint only (clocks differ, and bits rot without touching a time): ``replicate`` re-reads a
    rotating few of the old objects in each run.

    :param created_at: when the listing begins, by default now
    :raises Unavailable: the store does not answer
    """
    begun = created_at or datetime.now(UTC)
    listing = [o for o in listed(store, bucket, f"{dataset}/" if prefix is None else prefix) if is_data(o.key)]
    unchanged, to_hash = sort_listing(listing, known)
    hashed = hash_objects(store, bucket, to_hash)
    return build_manifest(dataset, [*unchanged, *(o for o in hashed.values() if o is not None)], begun)


def listed(store: ObjectStore, bucket: str, prefix: str) -> list[ObjectInfo]:
    """What is below ``prefix``; nothing where nobody has made the bucket yet, for a look that may not make it.

    :raises Unavailable: the store does not answer
    """
    try:
        return list(store.list(bucket, prefix))
    except NoBucket:
        return []


def is_data(key: str) -> bool:
    return not key.startswith(OUR_OWN)


def sort_listing(listing: Iterable[ObjectInfo], known: Manifest | None) -> tuple[list[ManifestObject], dict[str, int]]:
    """What ``known`` can be believed about, and the sizes of what has to be read."""
    trusted = known.by_key if known else {}
    unchanged: list[ManifestObject] = []
    to_hash: dict[str, int] = {}
    for info in listing:
        before = trusted.get(info.key)
        if before is not None and known is not None and _looks_unchanged(info, before, known):
            unchanged.append(before)
        else:
            to_hash[info.key] = info.size
    return unchanged, to_hash


def _looks_unchanged(info: ObjectInfo, before: ManifestObject, known: Manifest) -> bool:
    return info.size == before.size and info.modified < known.created_at - HINT_MARGIN


@runtime_checkable
class Streaming(Protocol):
    """A store that hands out an object in pieces, so that one larger than memory can be hashed."""

    def chunks(self, bucket: str, key: str) -> Iterator[bytes] | None:
        """``None`` where the object does not exist."""
        ...


def read_pieces(store: ObjectStore, bucket: str, key: str) -> Iterator[bytes] | None:
    """The object's bytes, in pieces where the store can; ``None`` where it does not exist.

    :raises Unavailable: the store does not answer
    """
    if isinstance(store, Streaming):
        return store.chunks(bucket, key)
    data = store.get(bucket, key)
    return None if data is None else iter((data,))


def hash_object(store: ObjectStore, bucket: str, key: str) -> ManifestObject | None:
    """Read the object's bytes and hash them; ``None`` where it does not exist.

    :raises Unavailable: the store does not answer
    """
    if (pieces := read_pieces(store, bucket, key)) is None:
        return None
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return ManifestObject(key=key, size=size, sha256=digest.hexdigest())


def hash_objects(
    store: ObjectStore, bucket: str, sizes: Mapping[str, int], *, workers: int = WORKERS
) -> dict[str, ManifestObject | None]:
    """Read and hash many objects in parallel; ``None`` for one that does not exist.

    :param sizes: key to size in bytes, which bounds how many are read at once
    :raises Unavailable: the store does not answer
    """
    found: dict[str, ManifestObject | None] = {}
    if not sizes:
        return found
    streams = isinstance(store, Streaming)
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        # In batches: bounded memory, and a store that went away is noticed after one batch, not after every key.
        for batch in _batches(sizes, workers * 4, None if streams else MEMORY):
            found.update(zip(batch, pool.map(lambda key: hash_object(store, bucket, key), batch), strict=True))
    return found


def read_objects(store: ObjectStore, bucket: str, sizes: Mapping[str, int]) -> dict[str, ManifestObject | None]:
    """``hash_objects`` where ``None`` also stands for one that cannot be read, asked twice, though the store answers.

    :raises Unavailable: the store does not answer, or gives none of several: that is the store, not an object
    """

    def attempt(key: str) -> ManifestObject | Unavailable | None:
        try:
            return hash_object(store, bucket, key)
        except Unavailable as error:
            return error

    found: dict[str, ManifestObject | None] = {}
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="read") as pool:
        for batch in _batches(sizes, WORKERS * 4, MEMORY):
            first = dict(zip(batch, pool.map(attempt, batch), strict=True))
            if silent := [key for key, one in first.items() if isinstance(one, Unavailable)]:
                store.ping()
                first |= zip(silent, pool.map(attempt, silent), strict=True)
            errors = [one for one in first.values() if isinstance(one, Unavailable)]
            if len(errors) == len(batch) > 1:
                raise errors[0]
            found |= {key: None if isinstance(one, Unavailable) else one for key, one in first.items()}
    return found


def _batches(sizes: Mapping[str, int], count: int, memory: int | None) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for key, size in sizes.items():
        if batch and (len(batch) == count or (memory is not None and held + size > memory)):
            yield batch
            batch, held = [], 0
        batch.append(key)
        held += size
    if batch:
        yield batch
