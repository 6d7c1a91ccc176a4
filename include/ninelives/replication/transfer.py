"""Bring objects from one site to another and believe nothing that was not read back there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ninelives.ports import Connection, CopyProgress, ObjectCopier, ObjectStore
from ninelives.replication.manifest import ManifestObject, hash_objects

OnProgress = Callable[[CopyProgress], None]


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

    def __add__(self, other: Delivery) -> Delivery:
        return Delivery(
            self.copied + other.copied,
            self.bytes + other.bytes,
            self.verified + other.verified,
            self.repaired + other.repaired,
            self.failed + other.failed,
            "; ".join(problem for problem in (self.problem, other.problem) if problem),
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
    missing = _wrong(right.values(), hash_objects(link.target, bucket, there))
    damaged = {o.key for o in missing if o.key in at_target}
    copied = size = 0
    wrong = missing
    for _attempt in range(2):
        if not wrong:
            break
        # Forced: the target may still report the ETag from before its bytes went bad.
        report = link.copier.copy(
            link.source_conn,
            link.target_conn,
            bucket=bucket,
            keys=[o.key for o in wanted if o in wrong],
            on_progress=on_progress,
            force=True,
        )
        copied += report.objects
        size += report.bytes
        still = _wrong(wrong, hash_objects(link.target, bucket, {o.key: o.size for o in wrong}))
        damaged |= {o.key for o in still}
        wrong = still
    failed = tuple(sorted(o.key for o in wrong))
    problem = _blame(link, bucket, wrong) if wrong else ""
    return Delivery(copied, size, len(right) - len(failed), len(damaged - set(failed)), failed, problem)


def _wrong(wanted: Iterable[ManifestObject], found: Mapping[str, ManifestObject | None]) -> set[ManifestObject]:
    return {o for o in wanted if found.get(o.key) != o}


def _blame(link: Link, bucket: str, wrong: Iterable[ManifestObject]) -> str:
    at_source = hash_objects(link.source, bucket, {o.key: o.size for o in wrong})
    bad = sorted(o.key for o in wrong if at_source.get(o.key) != o)
    if bad:
        return (
            f"{some(bad)} at {link.source.site} is not what was recorded, and {link.target.site} has no good copy: "
            "restore from a backup"
        )
    return (
        f"{some(sorted(o.key for o in wrong))} is right at {link.source.site} and still wrong at {link.target.site} "
        "after two copies: check the disk and the network there"
    )


def some(keys: Sequence[str], most: int = 5) -> str:
    """The first few keys, for a message."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
