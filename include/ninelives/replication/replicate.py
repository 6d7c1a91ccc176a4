"""Keep a verified copy of a dataset, of models and of the registry's artefacts at another site.

The order makes every instant safe to be killed at: objects first, each read back at the target, the manifest (or the
release pointer) last. What no manifest lists yet is hashed while it is copied, so that it is read once at each end.
Nothing disappears at the target: what was deleted at the source moves to a dated trash, and only where the estate says
so. A run repeated after a kill finds what is already there.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from ninelives.errors import Corrupted, Refused
from ninelives.estate.model import Dataset, Deletions
from ninelives.estate.residency import refuse_breach
from ninelives.ports import Connection, Ledger, ObjectCopier, ObjectInfo, ObjectStore, Record, Systems
from ninelives.replication.manifest import (
    BUCKET,
    Manifest,
    ManifestObject,
    Sha256,
    build_manifest,
    is_data,
    listed,
    read_manifest,
    sort_listing,
    write_manifest,
    write_over,
)
from ninelives.replication.proof import (
    Finding,
    Rotation,
    begun,
    named,
    next_to_read,
    read_rotation,
    rotation_key,
)
from ninelives.replication.transfer import (
    Delivery,
    Link,
    OnProgress,
    deliver,
    empty_trash,
    link_between,
    set_aside,
    some,
    try_each,
)

MODELS = "models"
ARTIFACTS = "mlflow"

MAX_SHRINK = 0.1
"""A source that lost more than this share of the objects known so far was emptied or rolled back, not tidied."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Shard:
    """One of ``of`` disjoint parts of a dataset's keys, so that several workers share its copying and proving."""

    number: int
    """from 1"""
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"there is no shard {self}: shards are counted from 1")

    def holds(self, key: str) -> bool:
        """By the key's SHA-256, so that copy and proof agree whatever engine copies."""
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % self.of == self.number - 1

    @property
    def part(self) -> str:
        return "" if self.of == 1 else f".{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Shard(1, 1)


@dataclass(frozen=True)
class Policy:
    """What the estate declares about a dataset's copies, apart from where they are."""

    verify_within: timedelta = timedelta(days=7)
    deletions: Deletions = Deletions.RESTORE
    trash_for: timedelta = timedelta(days=30)
    max_shrink: float = MAX_SHRINK

    @classmethod
    def of(cls, dataset: Dataset) -> Policy:
        return cls(dataset.verify_within, dataset.deletions, dataset.trash_for)


@dataclass(frozen=True)
class ReplicationResult:
    """What one run did. All counts are objects unless said otherwise."""

    dataset: str
    source: str
    target: str
    objects: int
    """in the target's manifest, or in this shard of it"""
    copied: int
    bytes: int
    """bytes copied"""
    verified: int
    """read at the target and found right in this run"""
    repaired: int
    """were wrong at the target and are right now"""
    seconds: float
    lag_seconds: float
    """Age of the listing that the target now matches: what was written before it has survived."""
    fingerprint: str
    rebuilt: tuple[str, ...] = ()
    """Sites whose manifest could not be read and was made anew from the objects themselves."""
    findings: tuple[Finding, ...] = ()
    """Everything that was not as recorded, at either site."""
    trashed: int = 0
    """were deleted at the source and moved to the target's trash"""
    verified_since: datetime | None = None
    """Every object was read at both sites later than this; ``None`` until the first rotation is done."""
    shard: str = str(WHOLE)

    def facts(self) -> dict[str, object]:
        """For the ledger: bounded, and JSON."""
        since = self.verified_since.isoformat() if self.verified_since else None
        return {
            **asdict(self),
            "findings": named(self.findings),
            "findings_total": len(self.findings),
            "verified_since": since,
        }


def replicate(
    dataset: str,
    source: ObjectStore,
    target: ObjectStore,
    copier: ObjectCopier,
    source_conn: Connection,
    target_conn: Connection,
    clock: Callable[[], datetime] = utc_now,
    on_progress: OnProgress | None = None,
    *,
    policy: Policy | None = None,
    shard: Shard = WHOLE,
) -> ReplicationResult:
    """Bring every object of ``dataset`` at ``source`` to ``target`` and prove it there.

    :param shard: only these keys; then ``complete`` writes the manifests once all shards are done
    :raises Refused: the source is empty or much smaller than what is known of it
    :raises Corrupted: an object is not what it was; everything that is sound has been replicated all the same
    :raises Unavailable: a store does not answer; run again
    """
    link = Link(source, target, copier, source_conn, target_conn)
    return _Run(link, dataset, BUCKET, f"{dataset}/", clock, on_progress, policy=policy or Policy(), shard=shard).run()


def replicate_artifacts(
    source: ObjectStore,
    target: ObjectStore,
    copier: ObjectCopier,
    source_conn: Connection,
    target_conn: Connection,
    clock: Callable[[], datetime] = utc_now,
    on_progress: OnProgress | None = None,
    *,
    prefix: str = "",
) -> ReplicationResult:
    """The same for the registry's artefacts (bucket ``mlflow``), which may change and may be tidied away there.

    :raises Refused: artefacts that were there are gone all at once
    """
    source.ensure_bucket(ARTIFACTS)
    link = Link(source, target, copier, source_conn, target_conn)
    return _Run(link, "artifacts", ARTIFACTS, prefix, clock, on_progress, immutable=False).run()


@dataclass
class _Run:
    link: Link
    dataset: str
    bucket: str
    prefix: str
    clock: Callable[[], datetime]
    on_progress: OnProgress | None
    immutable: bool = True
    policy: Policy = field(default_factory=Policy)
    shard: Shard = WHOLE
    rebuilt: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    _gone: dict[str, Gone] = field(default_factory=dict)
    """what was deleted at the source on purpose"""

    def run(self) -> ReplicationResult:
        started = time.monotonic()
        source, target = self.link.source, self.link.target
        target.ensure_bucket(self.bucket)
        known, copy = self._read(source), self._read(target)
        begun_at = self.clock()
        here, there = self._list_both()
        self._refuse_shrunk(here, known, copy)
        self._note_deleted(here, known, begun_at)

        unrecorded = self._unrecorded(here, there, known, copy)
        arrived, sent = self.link.copy_hashed(self.bucket, unrecorded, self.on_progress)
        found = self._scan(here, there, known, copy, begun_at, arrived)
        sound, recorded = self._sort_out_changed(found, known, copy)
        if self.shard == WHOLE:
            write_over(source, recorded, known, self.bucket)

        before = copy.by_key if copy else {}
        sizes = {**{key: info.size for key, info in there.items()}, **unrecorded}
        new = {o.key: o for o in sound if before.get(o.key) != o or sizes.get(o.key) != o.size}
        done = Delivery(sent.objects, sent.bytes)
        done += deliver(self.link, self.bucket, list(new.values()), sizes, self.on_progress)
        lost = [key for key, o in new.items() if before.get(key) == o and key not in there]
        self._find(target, "missing", lost, done.failed)
        self._find(target, "damaged", [key for key in done.healed if key not in lost], ())

        sound = [o for o in sound if o.key not in done.failed]
        if self.shard == WHOLE:
            moved = self._move_to_trash(there, copy, begun_at)
            manifest = self._write_target_manifest(sound, found.created_at)
            for key in moved:
                target.delete(self.bucket, key)
            self._check_only_copies(manifest, known, {*here, *found.by_key}, there)
            self._empty_trash(begun_at)
        else:
            moved = []
            manifest = build_manifest(self.dataset, sound, found.created_at)
            target.put(self.bucket, part_key(self.dataset, self.shard), manifest.model_dump_json().encode())
        again, rotation = self._read_again([o for o in sound if o.key not in new], sizes, begun_at, copy is None)
        done += again
        if done.problem:
            self.problems.append(done.problem)
        if self.problems:
            raise Corrupted(f"replication of {self.dataset} {source.site} → {target.site}: {'; '.join(self.problems)}")
        return ReplicationResult(
            dataset=self.dataset,
            source=source.site,
            target=target.site,
            objects=len(manifest.objects),
            copied=done.copied,
            bytes=done.bytes,
            verified=done.verified,
            repaired=done.repaired,
            seconds=time.monotonic() - started,
            lag_seconds=max(0.0, (self.clock() - found.created_at).total_seconds()),
            fingerprint=manifest.fingerprint,
            rebuilt=tuple(self.rebuilt),
            findings=tuple(self.findings),
            trashed=len(moved),
            verified_since=rotation.verified_since,
            shard=str(self.shard),
        )

    def _read(self, store: ObjectStore) -> Manifest | None:
        """The site's manifest; a damaged one is made anew below from objects that are all read again."""
        try:
            return read_manifest(store, self.dataset, self.bucket)
        except Corrupted:
            self.rebuilt.append(store.site)
            self.findings.append(Finding(store.site, self.dataset, "manifest", "repaired"))
            return None

    def _list_both(self) -> list[dict[str, ObjectInfo]]:
        """Of a large dataset nothing else takes long where nothing has changed."""
        with ThreadPoolExecutor(2, thread_name_prefix="list") as pool:
            return list(pool.map(self._list, (self.link.source, self.link.target)))

    def _list(self, store: ObjectStore) -> dict[str, ObjectInfo]:
        return {info.key: info for info in store.list(self.bucket, self.prefix) if is_data(info.key)}

    def _find(self, store: ObjectStore, what: str, keys: Iterable[str], lost: Iterable[str]) -> None:
        for key in keys:
            outcome = "lost" if key in lost else "repaired"
            self.findings.append(Finding(store.site, key, what, outcome))  # type: ignore[arg-type]

    def _refuse_shrunk(self, here: Mapping[str, ObjectInfo], known: Manifest | None, copy: Manifest | None) -> None:
        baseline = set(known.by_key) if known else set()
        if copy and (self.immutable or known is None):
            baseline |= set(copy.by_key)
        if self.immutable and self.policy.deletions is Deletions.FOLLOW:
            baseline -= set(self._read_gone(self.link.source))
        missing = baseline - set(here)
        where = f"{self.bucket}/{self.prefix} at {self.link.source.site}"
        reasons = []
        if not here and (baseline or self.immutable):
            reasons.append(f"{where} is empty: write the data first, or check that the right disk is there")
        elif len(missing) > self.policy.max_shrink * len(baseline):
            reasons.append(
                f"{len(missing)} of {len(baseline)} objects known so far are gone from {where} "
                f"({some(sorted(missing))}): reconcile the sites first"
            )
        if reasons:
            raise Refused(f"replication of {self.dataset} to {self.link.target.site}", reasons)

    def _unrecorded(
        self,
        here: Mapping[str, ObjectInfo],
        there: Mapping[str, ObjectInfo],
        known: Manifest | None,
        copy: Manifest | None,
    ) -> dict[str, int]:
        """Size by key of what can be copied unseen: nobody has said what its bytes should be, and none are there."""
        recorded = {*(known.by_key if known else ()), *(copy.by_key if copy else ())}
        return {
            key: info.size
            for key, info in here.items()
            if key not in there and key not in recorded and self.shard.holds(key)
        }

    def _scan(
        self,
        here: Mapping[str, ObjectInfo],
        there: Mapping[str, ObjectInfo],
        known: Manifest | None,
        copy: Manifest | None,
        begun_at: datetime,
        arrived: Mapping[str, ManifestObject | None],
    ) -> Manifest:
        """What the source holds, with what was lost there brought back from the copy.

        :param arrived: what was hashed already when it was copied
        """
        mine = (info for key, info in here.items() if key not in arrived and self.shard.holds(key))
        unchanged, to_hash = sort_listing(mine, known)
        hashed = {**self.link.hash_source(self.bucket, to_hash), **arrived}
        back = self._bring_back(here, there, known, copy)
        objects = [*unchanged, *(o for o in hashed.values() if o is not None), *back]
        return build_manifest(self.dataset, objects, begun_at)

    def _bring_back(
        self,
        here: Mapping[str, ObjectInfo],
        there: Mapping[str, ObjectInfo],
        known: Manifest | None,
        copy: Manifest | None,
    ) -> list[ManifestObject]:
        """The objects that the source has lost and the copy still has: few, or the source would have been refused."""
        if not self.immutable or self.policy.deletions is not Deletions.RESTORE:
            return []
        records = {**(known.by_key if known else {}), **(copy.by_key if copy else {})}
        lost = [o for key, o in records.items() if key not in here and key in there and self.shard.holds(key)]
        done = deliver(self.link.reversed(), self.bucket, lost, {}, self.on_progress)
        self._find(self.link.source, "missing", [o.key for o in lost], done.failed)
        if done.problem:
            self.problems.append(done.problem)
        return [o for o in lost if o.key not in done.failed]

    def _sort_out_changed(
        self, found: Manifest, known: Manifest | None, copy: Manifest | None
    ) -> tuple[list[ManifestObject], Manifest]:
        """The objects to replicate, and the source's new manifest.

        An immutable object with other bytes than recorded is not copied over the good copy, and its record stays.
        """
        if not self.immutable:
            return list(found.objects), found
        at_source, at_target = known.by_key if known else {}, copy.by_key if copy else {}
        damaged = [o.key for o in found.objects if at_source.get(o.key, o) != o]
        differing = [o.key for o in found.objects if at_target.get(o.key, o) != o and at_source.get(o.key, o) == o]
        if damaged:
            self.problems.append(
                f"{some(damaged)} changed at {self.link.source.site} after being recorded there; not copied over the "
                f"copy at {self.link.target.site}: `ninelives replicate verify` brings the good copy back, or "
                "reconcile the sites"
            )
        if differing:
            self.problems.append(f"{some(differing)} is recorded with other bytes at each site: reconcile the sites")
        unsound = {*damaged, *differing}
        self.findings += [Finding(self.link.source.site, key, "damaged", "found") for key in sorted(unsound)]
        recorded = {o.key: at_source.get(o.key, o) for o in found.objects}
        if self.policy.deletions is Deletions.RESTORE:
            # What is at neither site stays recorded: forgotten, nobody would ever hear of it.
            recorded = {**at_source, **recorded}
        return (
            [o for o in found.objects if o.key not in unsound],
            build_manifest(self.dataset, recorded.values(), found.created_at),
        )

    def _write_target_manifest(self, sound: Sequence[ManifestObject], created_at: datetime) -> Manifest:
        """Written last. Read again just before: another run may have added to it, and nothing is forgotten."""
        objects = {o.key: o for o in sound}
        readable = self.link.target.site not in self.rebuilt
        if self.immutable and readable and (now := read_manifest(self.link.target, self.dataset, self.bucket)):
            objects = {**objects, **{key: o for key, o in now.by_key.items() if not self._is_gone(o)}}
            created_at = max(created_at, now.created_at)
        manifest = build_manifest(self.dataset, objects.values(), created_at)
        write_manifest(self.link.target, manifest, self.bucket)
        return manifest

    def _check_only_copies(
        self,
        manifest: Manifest,
        known: Manifest | None,
        here: Iterable[str],
        there: Iterable[str],
    ) -> None:
        recorded = {*manifest.by_key, *(known.by_key if known and self.immutable else ())}
        gone = sorted(recorded - set(here) - set(there) - set(self._gone))
        if gone:
            self.findings += [Finding(self.link.source.site, key, "missing", "lost") for key in gone]
            self.problems.append(f"{some(gone)} is at neither site any more: restore from a backup")

    # --- deletions

    def _read_gone(self, store: ObjectStore) -> dict[str, Gone]:
        data = store.get(self.bucket, gone_key(self.dataset))
        try:
            return _GONE.validate_json(data) if data else {}
        except ValidationError:
            return {}  # then nothing was deleted, and the copy keeps it

    def _note_deleted(self, here: Mapping[str, ObjectInfo], known: Manifest | None, now: datetime) -> None:
        """What the source once recorded and has deleted: written down before its manifest forgets it."""
        if not self.immutable or self.policy.deletions is not Deletions.FOLLOW:
            return
        source = self.link.source
        before = self._read_gone(source)
        gone = {key: one for key, one in before.items() if key not in here and now - one.at <= self.policy.trash_for}
        for key, o in (known.by_key if known else {}).items():
            if key not in here:
                gone.setdefault(key, Gone(sha256=o.sha256, at=now))
        if gone != before and self.shard == WHOLE:
            source.put(self.bucket, gone_key(self.dataset), _GONE.dump_json(gone))
        self._gone = gone

    def _is_gone(self, o: ManifestObject) -> bool:
        return o.key in self._gone and self._gone[o.key].sha256 == o.sha256

    def _move_to_trash(self, there: Mapping[str, ObjectInfo], copy: Manifest | None, now: datetime) -> list[str]:
        """Copy what was deleted at the source into the target's trash; return what may be removed."""
        at_target = copy.by_key if copy else {}
        moved = [key for key in self._gone if key in there and (key not in at_target or self._is_gone(at_target[key]))]
        if len(moved) > self.policy.max_shrink * max(len(at_target), len(there)):
            raise Refused(
                f"replication of {self.dataset} to {self.link.target.site}",
                [
                    f"{len(moved)} of {len(there)} objects there were deleted at {self.link.source.site}: "
                    "look at what deletes them; `ninelives replicate run --max-shrink` allows more"
                ],
            )
        set_aside(self.link, self.bucket, {key: there[key].size for key in moved}, now, keep=True)
        return moved

    def _empty_trash(self, now: datetime) -> None:
        if self.immutable:
            for store in (self.link.source, self.link.target):
                empty_trash(store, self.bucket, now.date(), self.policy.trash_for)

    # --- proof of what has been there for long

    def _read_again(
        self, old: Sequence[ManifestObject], there: Mapping[str, int], now: datetime, all_new: bool
    ) -> tuple[Delivery, Rotation]:
        """Read the next old objects at both sites; each site's damage is repaired from the other."""
        link = self.link
        rotation = begun(now) if all_new else read_rotation(link.target, self.dataset, self.bucket, self.shard.part)
        chosen = next_to_read(old, rotation.after, rotation.share(now, self.policy.verify_within))
        done = Delivery()
        if chosen:
            sizes = {o.key: o.size for o in chosen}
            at_source = link.read_source(self.bucket, sizes)
            rotten = [o for o in chosen if at_source.get(o.key) != o]
            sound = [o for o in chosen if o not in rotten]
            done = deliver(link, self.bucket, sound, there, self.on_progress)
            self._find(link.target, "damaged", done.healed, ())
            done += self._repair_source(rotten)
            rotation = rotation.advanced(old, chosen, now)
        if chosen or all_new:
            key = rotation_key(self.dataset, self.shard.part)
            link.target.put(self.bucket, key, rotation.model_dump_json().encode())
        return done, rotation

    def _repair_source(self, rotten: Sequence[ManifestObject]) -> Delivery:
        """From the copy, as far as that is good. Size and time are as they were: nobody wrote these bytes."""
        if not rotten:
            return Delivery()
        link = self.link
        at_target = link.read_target(self.bucket, {o.key: o.size for o in rotten})
        good = [o for o in rotten if at_target.get(o.key) == o] if self.immutable else []
        done = deliver(link.reversed(), self.bucket, good, {})
        lost = {o.key for o in rotten if o not in good} | set(done.failed)
        self._find(link.source, "damaged", [o.key for o in rotten], lost)
        if lost:
            self.problems.append(
                f"{some(sorted(lost))} is damaged at {link.source.site} and {link.target.site} has no good copy: "
                "restore from a backup"
            )
        return Delivery(done.copied, done.bytes, done.verified, len(good) - len(done.failed))


class Gone(BaseModel):
    """An object that was deleted at the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    at: AwareDatetime
    """when that was noticed"""


_GONE = TypeAdapter(dict[str, Gone])


def gone_key(dataset: str) -> str:
    return f"_manifests/{dataset}.gone.json"


# --- shards ------------------------------------------------------------------------------------------------------


def part_key(dataset: str, shard: Shard) -> str:
    """Of what a shard has proven at the target: only with all parts is there a manifest."""
    return f"_manifests/{dataset}.parts/{shard.number}-of-{shard.of}.json"


def complete(
    dataset: str,
    shards: int,
    source: ObjectStore,
    target: ObjectStore,
    copier: ObjectCopier,
    source_conn: Connection,
    target_conn: Connection,
    clock: Callable[[], datetime] = utc_now,
    *,
    policy: Policy | None = None,
) -> ReplicationResult:
    """Write the manifests of a dataset whose shards have all been replicated; repeating it is harmless.

    :raises Refused: a shard has not finished yet
    :raises Corrupted: a part is damaged, or objects are at neither site
    :raises Unavailable: a store does not answer; run again
    """
    started = time.monotonic()
    link = Link(source, target, copier, source_conn, target_conn)
    run = _Run(link, dataset, BUCKET, f"{dataset}/", clock, None, policy=policy or Policy())
    parts = [_read_part(target, dataset, Shard(number, shards)) for number in range(1, shards + 1)]
    known, copy = run._read(source), run._read(target)
    now = clock()
    here, there = run._list_both()
    run._refuse_shrunk(here, known, copy)
    run._note_deleted(here, known, now)
    proven = [o for part in parts for o in part.objects if o.key in there and there[o.key].size == o.size]
    created_at = min(part.created_at for part in parts)
    found = build_manifest(dataset, [o for o in proven if o.key in here], created_at)
    _, recorded = run._sort_out_changed(found, known, copy)
    write_over(source, recorded, known)
    moved = run._move_to_trash(there, copy, now)
    manifest = run._write_target_manifest(proven, created_at)
    for key in moved:
        target.delete(BUCKET, key)
    run._check_only_copies(manifest, known, here, there)
    run._empty_trash(now)
    if run.problems:
        raise Corrupted(f"replication of {dataset} {source.site} → {target.site}: {'; '.join(run.problems)}")
    since = [read_rotation(target, dataset, BUCKET, Shard(n, shards).part).verified_since for n in range(1, shards + 1)]
    return ReplicationResult(
        dataset=dataset,
        source=source.site,
        target=target.site,
        objects=len(manifest.objects),
        copied=0,
        bytes=0,
        verified=0,
        repaired=0,
        seconds=time.monotonic() - started,
        lag_seconds=max(0.0, (clock() - created_at).total_seconds()),
        fingerprint=manifest.fingerprint,
        rebuilt=tuple(run.rebuilt),
        findings=tuple(run.findings),
        trashed=len(moved),
        verified_since=oldest(since),
        shard=f"all of {shards}",
    )


def _read_part(target: ObjectStore, dataset: str, shard: Shard) -> Manifest:
    data = target.get(BUCKET, part_key(dataset, shard))
    if data is None:
        raise Refused(f"the manifest of {dataset} at {target.site}", [f"shard {shard} has not finished; run it first"])
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise Corrupted(f"what shard {shard} of {dataset} proved at {target.site} is damaged; run it again") from error


def proven_parts(target: ObjectStore, dataset: str, shards: int, since: datetime | None = None) -> bool:
    """Whether every shard has proven its part at the target, at ``since`` or later.

    :raises Unavailable: the store does not answer
    """
    for number in range(1, shards + 1):
        try:
            part = _read_part(target, dataset, Shard(number, shards))
        except (Refused, Corrupted):
            return False  # its own run has said so, or is not done yet
        if since is not None and part.created_at < since:
            return False
    return True


def oldest(instants: Sequence[datetime | None]) -> datetime | None:
    """``None`` (unknown) as soon as one is."""
    known = [one for one in instants if one is not None]
    return min(known) if known and len(known) == len(instants) else None


# --- models ------------------------------------------------------------------------------------------------------


class Pointer(BaseModel):
    """What replication needs of ``<model>/release.json``; the bytes themselves are copied as they are."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    version: str
    digest: str
    object: str

    @property
    def number(self) -> int:
        return int(self.version)


def pointer_key(model: str) -> str:
    return f"{model}/release.json"


def read_pointer(store: ObjectStore, model: str) -> tuple[Pointer, bytes] | None:
    """The release that a site serves, and the document as stored; ``None`` where there is none.

    :raises Corrupted: it is truncated, or names an object by another digest than its own
    """
    data = store.get(MODELS, pointer_key(model))
    if data is None:
        return None
    where = f"the release pointer {pointer_key(model)} at {store.site}"
    try:
        pointer = Pointer.model_validate_json(data)
        pointer.number  # noqa: B018 - a version that is no number cannot be compared
    except ValueError as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise Corrupted(f"{where} cannot be trusted: {why}; publish the release again") from error
    digest = pointer.digest.removeprefix("sha256:")
    if pointer.model != model or object_digest(model, pointer.object) != digest:
        raise Corrupted(f"{where} names {pointer.object} with digest {pointer.digest}; publish the release again")
    return pointer, data


def object_digest(model: str, key: str) -> str | None:
    """SHA-256 (hex) that a model object's key promises; ``None`` for a key of another form."""
    found = re.fullmatch(re.escape(model) + r"/sha256/([0-9a-f]{64})(\.[A-Za-z0-9._-]+)?", key)
    return found[1] if found else None


def list_model(store: ObjectStore, model: str) -> dict[str, ManifestObject]:
    """Every object of a model at a site, with the digest that its key promises."""
    return {
        info.key: ManifestObject(key=info.key, size=info.size, sha256=digest)
        for info in listed(store, MODELS, f"{model}/sha256/")
        if (digest := object_digest(model, info.key))
    }


@dataclass(frozen=True)
class ModelReplication:
    """What one run did for one model."""

    model: str
    source: str
    target: str
    version: str | None
    """The release at the target now; ``None``: neither site has one."""
    moved: bool
    """Whether the target's pointer was moved by this run."""
    copied: int
    bytes: int
    verified: int
    repaired: int


def replicate_models(
    models: Sequence[str],
    source: ObjectStore,
    target: ObjectStore,
    copier: ObjectCopier,
    source_conn: Connection,
    target_conn: Connection,
    clock: Callable[[], datetime] = utc_now,
    on_progress: OnProgress | None = None,
) -> list[ModelReplication]:
    """Bring every model's objects to ``target``, verify their digests there, and move its release pointer last.

    A pointer never moves backwards and never names an object that was not read at the target.

    :raises Refused: a pointer names an object that the source does not have, or both sites call different objects by
        the same version
    :raises Corrupted: an object's bytes are not its digest's, or a pointer is damaged
    :raises Unavailable: a store does not answer; run again
    """
    target.ensure_bucket(MODELS)
    link = Link(source, target, copier, source_conn, target_conn)
    return try_each(lambda model: _replicate_model(link, model, on_progress), models)


def _replicate_model(link: Link, model: str, on_progress: OnProgress | None) -> ModelReplication:
    ours, theirs = read_pointer(link.source, model), read_pointer(link.target, model)
    objects = list_model(link.source, model)
    there = {info.key: info.size for info in link.target.list(MODELS, f"{model}/sha256/")}
    what = f"replication of model {model} to {link.target.site}"
    if ours and ours[0].object not in objects:
        raise Refused(what, [f"release {ours[0].version} names {ours[0].object}, which {link.source.site} has not"])
    if ours and theirs and ours[0].number == theirs[0].number and ours[0].digest != theirs[0].digest:
        raise Refused(
            what,
            [f"it and {link.source.site} mean different objects by release {ours[0].version}: reconcile the sites"],
        )
    # The released object is read at the target in each run: it is what a failover will load.
    wanted = [o for o in objects.values() if there.get(o.key) != o.size or (ours and o.key == ours[0].object)]
    done = deliver(link, MODELS, wanted, there, on_progress)
    if done.problem:
        raise Corrupted(f"{what}: {done.problem}")
    moved = ours is not None and (theirs is None or theirs[0].number < ours[0].number)
    if ours and moved:
        link.target.put(MODELS, pointer_key(model), ours[1])
        if (written := read_pointer(link.target, model)) is None or written[0].number < ours[0].number:
            raise Corrupted(f"{pointer_key(model)} at {link.target.site} is not what was just written there")
    newest = ours if moved else theirs
    return ModelReplication(
        model,
        link.source.site,
        link.target.site,
        newest[0].version if newest else None,
        moved,
        done.copied,
        done.bytes,
        done.verified,
        done.repaired,
    )


# --- by name, on a connected estate ------------------------------------------------------------------------------


def replicate_dataset(
    systems: Systems,
    dataset: str,
    source: str,
    target: str,
    on_progress: OnProgress | None = None,
    *,
    shard: Shard = WHOLE,
    max_shrink: float = MAX_SHRINK,
) -> ReplicationResult:
    """``replicate`` between two sites of a connected estate, as the estate declares it.

    :raises Refused: also where the data may not leave its regions
    """
    refuse_breach(systems.estate, dataset, target)
    policy = replace(Policy.of(systems.estate.dataset_by_name[dataset]), max_shrink=max_shrink)
    ends = _ends(systems, source, target, dataset)
    return replicate(dataset, *ends, on_progress=on_progress, policy=policy, shard=shard)


def complete_dataset(
    systems: Systems, dataset: str, source: str, target: str, shards: int, *, max_shrink: float = MAX_SHRINK
) -> ReplicationResult:
    """``complete`` between two sites of a connected estate, once all shards are replicated."""
    policy = replace(Policy.of(systems.estate.dataset_by_name[dataset]), max_shrink=max_shrink)
    return complete(dataset, shards, *_ends(systems, source, target, dataset), policy=policy)


def replicate_releases(
    systems: Systems, models: Sequence[str], source: str, target: str, on_progress: OnProgress | None = None
) -> list[ModelReplication]:
    """``replicate_models`` between two sites of a connected estate.

    :raises Refused: also where the data that a model was made of may not leave its regions
    """
    for model in models:
        refuse_breach(systems.estate, systems.estate.model_by_name[model].trained_on, target)
    return replicate_models(models, *_ends(systems, source, target), on_progress=on_progress)


def replicate_registry(
    systems: Systems, source: str, target: str, on_progress: OnProgress | None = None
) -> ReplicationResult:
    """``replicate_artifacts`` between two sites of a connected estate.

    :raises Refused: also where the data that one of the models was made of may not leave its regions: all their
        artefacts are in one bucket
    """
    for model in systems.estate.models:
        refuse_breach(systems.estate, model.trained_on, target)
    return replicate_artifacts(*_ends(systems, source, target), on_progress=on_progress)


def record_replication(ledger: Ledger, result: ReplicationResult) -> Record:
    """Leave evidence of a run: kind ``replication``, subject ``<dataset>@<target>``."""
    return ledger.append("replication", f"{result.dataset}@{result.target}", result.facts())


def _ends(
    systems: Systems, source: str, target: str, dataset: str | None = None
) -> tuple[ObjectStore, ObjectStore, ObjectCopier, Connection, Connection]:
    link = link_between(systems, source, target, dataset)
    return link.source, link.target, link.copier, link.source_conn, link.target_conn
