"""Bring objects from one site to another and believe nothing that was not read back there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Protocol, TypeVar, runtime_checkable

from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.ports import Connection, CopyProgress, CopyReport, ObjectCopier, ObjectStore, Systems
from ninelives.replication.manifest import ManifestObject, hash_objects, read_objects

Item = TypeVar("Item")
Done = TypeVar("Done")
OnProgress = Callable[[CopyProgress], None]

ENGINE_OBJECTS = 64
ENGINE_BYTES = 64 * 2**20
"""From here on the copier's own hashing is worth its start: it reads small objects at a quarter of Python's cost."""

TRASH = "_trash"
"""``_trash/<day>/<time>/<key>``: what was removed or replaced, kept for a while."""


@runtime_checkable
class Hashing(Protocol):
    """A copier that can also read and hash what a store holds."""

    def hashes(self, connection: Connection, bucket: str, keys: Iterable[str]) -> dict[str, str]:
        """SHA-256 (hex) of every object that exists."""
        ...


@dataclass(frozen=True)
class Link:
    """Two stores and what copies between them."""

    source: ObjectStore
    target: ObjectStore
    copier: ObjectCopier
    source_conn: Connection
    target_conn: Connection

    def reversed(self) -> Link:
        return Link(self.target, self.source, self.copier, self.target_conn, self.source_conn)

    def hash_source(self, bucket: str, sizes: Mapping[str, int]) -> dict[str, ManifestObject | None]:
        """Read and hash objects at the source, by the engine where they are many; ``None`` for one that is not there.

        :param sizes: key to size in bytes
        :raises Unavailable: the store does not answer
        """
        copier = self.copier
        if not isinstance(copier, Hashing) or not _worth_the_engine(sizes):
            return hash_objects(self.source, bucket, sizes)
        named, odd = _sort_by_name(sizes)
        digests = copier.hashes(self.source_conn, bucket, named)
        found = hash_objects(self.source, bucket, {key: sizes[key] for key in odd})
        for key in named:
            found[key] = ManifestObject(key=key, size=sizes[key], sha256=digests[key]) if key in digests else None
        return found

    def read_source(self, bucket: str, sizes: Mapping[str, int]) -> dict[str, ManifestObject | None]:
        """``hash_source``, for comparing with what is recorded: what the disk does not give any more is ``None`` too.

        :raises Unavailable: the store does not answer
        """
        try:
            return self.hash_source(bucket, sizes)
        except Unavailable:
            self.source.ping()
            return read_objects(self.source, bucket, sizes)

    def read_target(self, bucket: str, sizes: Mapping[str, int]) -> dict[str, ManifestObject | None]:
        return self.reversed().read_source(bucket, sizes)

    def copy(
        self,
        bucket: str,
        keys: Iterable[str],
        on_progress: OnProgress | None = None,
        *,
        into: str = "",
        hashed: bool = False,
    ) -> CopyReport:
        """Copy objects without a look at the target: it may still report the ETag from before its bytes went bad.

        What the engine cannot name goes through this process, one whole object after the other. One that a store does
        not take is in the report's errors; whoever reads everything back finds out.

        :raises Unavailable: a store does not answer, or the copy failed; a further run goes on from there
        """
        named, odd = _sort_by_name(keys)
        report = CopyReport(0, 0, 0.0)
        if named:
            report = self.copier.copy(
                self.source_conn,
                self.target_conn,
                bucket=bucket,
                keys=named,
                on_progress=on_progress,
                force=True,
                into=into,
                hashed=hashed,
            )
        for key in odd:
            try:
                if (data := self.source.get(bucket, key)) is None:
                    continue
                self.target.put(bucket, f"{into}/{key}" if into else key, data)
            except Unavailable as error:
                report = replace(report, errors=(*report.errors, str(error)))
            else:
                report = replace(report, objects=report.objects + 1, bytes=report.bytes + len(data))
        return report

    def copy_hashed(
        self, bucket: str, sizes: Mapping[str, int], on_progress: OnProgress | None = None
    ) -> tuple[dict[str, ManifestObject | None], CopyReport]:
        """Copy objects of which nothing is known yet and hash them at the source, in one reading where the copier can.

        :param sizes: key to size in bytes; ``None`` is found for one that is not there any more
        :raises Unavailable: a store does not answer, or the copy failed; a further run goes on from there
        """
        if not sizes:
            return {}, CopyReport(0, 0, 0.0)
        report = self.copy(bucket, sizes, on_progress, hashed=_worth_the_engine(sizes))
        sha256 = report.sha256
        found = self.hash_source(bucket, {key: size for key, size in sizes.items() if key not in sha256})
        for key in sizes.keys() & sha256.keys():
            found[key] = ManifestObject(key=key, size=sizes[key], sha256=sha256[key])
        return found, report


def link_between(systems: Systems, source: str, target: str, dataset: str | None = None) -> Link:
    """Two sites of a connected estate, and what copies ``dataset`` between them.

    :raises Refused: both are one store, which would be taken for its own copy
    :raises Unavailable: a site has no connection
    """
    ends = [systems.connections.get(f"ninelives_{site}_store") for site in (source, target)]
    places = [(str(one.extra.get("endpoint_url") or "AWS").rstrip("/"), one.bucket("")) for one in ends]
    if places[0] == places[1]:
        raise Refused(
            f"copying between {source} and {target}",
            [
                f"{' and '.join(one.conn_id for one in ends)} name one store, {places[0][0]}, which would be taken for "
                "its own copy: give each site its own, or on AWS a bucket_prefix of its own"
            ],
        )
    return Link(systems.store(source), systems.store(target), systems.copier(dataset), *ends)


def _sort_by_name(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """The keys that an engine can name, and the others: it takes a key for a path and reads one a line.

    A folder's marker, which AWS's console makes, ends in a slash.
    """
    named: list[str] = []
    odd: list[str] = []
    for key in keys:
        tidy = "\n" not in key and "\r" not in key and not {"", ".", ".."} & set(key.split("/"))
        (named if tidy else odd).append(key)
    return named, odd


def _worth_the_engine(sizes: Mapping[str, int]) -> bool:
    return len(sizes) >= ENGINE_OBJECTS or sum(sizes.values()) >= ENGINE_BYTES


@dataclass(frozen=True)
class Delivery:
    copied: int = 0
    """objects"""
    bytes: int = 0
    verified: int = 0
    """objects read at the target and found right"""
    repaired: int = 0
    """objects that were at the target with wrong bytes and are right now"""

    failed: tuple[str, ...] = ()
    """keys that could not be brought over as they should be"""
    problem: str = ""
    """why they could not, and what to do"""
    healed: tuple[str, ...] = ()
    """keys of the repaired ones"""

    def __add__(self, other: Delivery) -> Delivery:
        return Delivery(
            self.copied + other.copied,
            self.bytes + other.bytes,
            self.verified + other.verified,
            self.repaired + other.repaired,
            self.failed + other.failed,
            "; ".join(problem for problem in (self.problem, other.problem) if problem),
            self.healed + other.healed,
        )


def deliver(
    link: Link,
    bucket: str,
    wanted: Sequence[ManifestObject],
    at_target: Mapping[str, int],
    on_progress: OnProgress | None = None,
) -> Delivery:
    """Bring every object of ``wanted`` to the target; each is read there and hashed before it counts.

    What a killed run has copied already is found right and not copied again. What is wrong after copying is copied
    once more; what is then still wrong is damaged on the way or at the source: it is in ``failed``, for the caller to
    raise ``Corrupted`` once the sound objects are safe.

    :param at_target: key to size of what the target's listing shows
    :raises Unavailable: a store does not answer, or the copy failed; a further run goes on from there
    """
    right = {o.key: o for o in wanted}
    there = {key: o.size for key, o in right.items() if at_target.get(key) == o.size}
    missing = _wrong(right.values(), link.read_target(bucket, there))
    damaged = {o.key for o in missing if o.key in at_target}
    copied = size = 0
    said: Sequence[str] = ()
    wrong = missing
    for _attempt in range(2):
        if not wrong:
            break
        report = link.copy(bucket, [o.key for o in right.values() if o in wrong], on_progress)
        said = report.errors
        copied += report.objects
        size += report.bytes
        still = _wrong(wrong, link.read_target(bucket, {o.key: o.size for o in wrong}))
        damaged |= {o.key for o in still}
        wrong = still
    failed = tuple(sorted(o.key for o in wrong))
    problem = _blame(link, bucket, wrong, said) if wrong else ""
    healed = tuple(sorted(damaged - set(failed)))
    return Delivery(copied, size, len(right) - len(failed), len(healed), failed, problem, healed)


def _wrong(wanted: Iterable[ManifestObject], found: Mapping[str, ManifestObject | None]) -> set[ManifestObject]:
    return {o for o in wanted if found.get(o.key) != o}


def _blame(link: Link, bucket: str, wrong: Iterable[ManifestObject], said: Sequence[str]) -> str:
    at_source = link.read_source(bucket, {o.key: o.size for o in wrong})
    bad = sorted(o.key for o in wrong if at_source.get(o.key) != o)
    if bad:
        return (
            f"{some(bad)} at {link.source.site} is not what was recorded, and {link.target.site} has no good copy: "
            "restore from a backup"
        )
    return (
        f"{some(sorted(o.key for o in wrong))} is right at {link.source.site} and still wrong at {link.target.site} "
        f"after several copies: check the disk and the network there{f' ({some(said)})' if said else ''}"
    )


def set_aside(link: Link, bucket: str, sizes: Mapping[str, int], at: datetime, *, keep: bool = False) -> None:
    """Move objects at the target into its trash of the day; nothing is removed before its copy there was read.

    :param sizes: key to size in bytes, as listed
    :param keep: leave the objects where they are: they are about to be overwritten
    :raises Unavailable: the store does not answer; run again
    """
    if not sizes:
        return
    here = Link(link.target, link.target, link.copier, link.target_conn, link.target_conn)
    folder = f"{TRASH}/{at:%Y-%m-%d/%H%M%S}"
    here.copy(bucket, sizes, into=folder)
    before = here.hash_source(bucket, sizes)
    kept = here.hash_source(bucket, {f"{folder}/{key}": size for key, size in sizes.items()})
    for key, o in before.items():
        copy = kept[f"{folder}/{key}"]
        if o is not None and (copy is None or copy.sha256 != o.sha256):
            raise Unavailable(f"{bucket}/{key} at {link.target.site} could not be kept in {folder}; run again")
    if not keep:
        for key in sizes:
            link.target.delete(bucket, key)


def empty_trash(store: ObjectStore, bucket: str, today: date, keep: timedelta) -> int:
    """Remove what was put into the trash more than ``keep`` ago; return how many objects that were.

    :raises Unavailable: the store does not answer
    """
    removed = 0
    for info in list(store.list(bucket, f"{TRASH}/")):
        try:
            day = date.fromisoformat(info.key.split("/")[1])
        except ValueError:
            continue  # not ours
        if today - day > keep:
            store.delete(bucket, info.key)
            removed += 1
    return removed


def try_each(act: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
    """What ``act`` returns for each; all are tried, so that one that fails keeps none of the others behind.

    :raises NinelivesError: the error most worth a retry, with the others as its notes
    """
    done: list[Done] = []
    errors: list[NinelivesError] = []
    for item in items:
        try:
            done.append(act(item))
        except NinelivesError as error:
            errors.append(error)
    if errors:
        first = next((error for error in errors if isinstance(error, Unavailable)), errors[0])
        for other in errors:
            if other is not first:
                first.add_note(f"and {type(other).__name__}: {other}")
        raise first
    return done


def some(keys: Sequence[str], most: int = 5) -> str:
    """The first few keys, for a message."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
