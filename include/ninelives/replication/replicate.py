"""Keep a verified copy of a dataset, of models and of the registry's artefacts at another site.

The order makes every instant safe to be killed at: objects first, each read back at the target, the manifest (or the
release pointer) last. Nothing is ever deleted at the target. A run repeated after a kill finds what is already there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from ninelives.errors import Corrupted, Refused
from ninelives.ports import Connection, Ledger, ObjectCopier, ObjectStore, Record, Systems
from ninelives.replication.manifest import (
    BUCKET,
    Manifest,
    ManifestObject,
    build_manifest,
    hash_objects,
    read_manifest,
    scan,
    write_manifest,
    write_over,
)
from ninelives.replication.transfer import Delivery, Link, OnProgress, deliver, some

MODELS = "models"
ARTIFACTS = "mlflow"

MAX_SHRINK = 0.1
"""A source that lost more than this share of the objects known so far was emptied or rolled back, not tidied."""

REREAD_OBJECTS = 32
REREAD_BYTES = 64 * 2**20
"""Old objects read again at both sites in each run: bits rot, and only reading bytes finds it."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class ReplicationResult:
    """What one run did. All counts are objects unless said otherwise."""

    dataset: str
    source: str
    target: str
    objects: int
    """in the target's manifest"""
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


def replicate(
    dataset: str,
    source: ObjectStore,
    target: ObjectStore,
    copier: ObjectCopier,
    source_conn: Connection,
    target_conn: Connection,
    clock: Callable[[], datetime] = utc_now,
    on_progress: OnProgress | None = None,
) -> ReplicationResult:
    """Bring every object of ``dataset`` at ``source`` to ``target`` and prove it there.

    :raises Refused: the source is empty or much smaller than what is known of it
    :raises Corrupted: an object is not what it was; everything that is sound has been replicated all the same
    :raises Unavailable: a store does not answer; run again
    """
    link = Link(source, target, copier, source_conn, target_conn)
    return _Run(link, dataset, BUCKET, f"{dataset}/", clock, on_progress).run()


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
    rebuilt: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def run(self) -> ReplicationResult:
        started = time.monotonic()
        source, target = self.link.source, self.link.target
        target.ensure_bucket(self.bucket)
        known, copy = self._read(source), self._read(target)
        found = scan(source, self.dataset, known, self.clock(), bucket=self.bucket, prefix=self.prefix)
        self._refuse_shrunk(found, known, copy)

        sound, recorded = self._sort_out_changed(found, known, copy)
        write_over(source, recorded, known, self.bucket)

        before = copy.by_key if copy else {}
        there = {info.key: info.size for info in target.list(self.bucket, self.prefix)}
        new = {o.key: o for o in sound if before.get(o.key) != o or there.get(o.key) != o.size}
        done = deliver(self.link, self.bucket, list(new.values()), there, self.on_progress)

        manifest = self._write_target_manifest([o for o in sound if o.key not in done.failed], found.created_at)
        self._check_only_copies(manifest, found, there)
        done += self._read_again([o for o in sound if o.key not in new], there)
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
        )

    def _read(self, store: ObjectStore) -> Manifest | None:
        """The site's manifest; a damaged one is made anew below from objects that are all read again."""
        try:
            return read_manifest(store, self.dataset, self.bucket)
        except Corrupted:
            self.rebuilt.append(store.site)
            return None

    def _refuse_shrunk(self, found: Manifest, known: Manifest | None, copy: Manifest | None) -> None:
        baseline = set(known.by_key) if known else set()
        if copy and (self.immutable or known is None):
            baseline |= set(copy.by_key)
        missing = baseline - set(found.by_key)
        where = f"{self.bucket}/{self.prefix} at {self.link.source.site}"
        reasons = []
        if not found.objects and (baseline or self.immutable):
            reasons.append(f"{where} is empty: write the data first, or check that the right disk is there")
        elif len(missing) > MAX_SHRINK * len(baseline):
            reasons.append(
                f"{len(missing)} of {len(baseline)} objects known so far are gone from {where} "
                f"({some(sorted(missing))}): reconcile the sites first"
            )
        if reasons:
            raise Refused(f"replication of {self.dataset} to {self.link.target.site}", reasons)

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
                f"copy at {self.link.target.site}: reconcile the sites to bring the good copy back"
            )
        if differing:
            self.problems.append(f"{some(differing)} is recorded with other bytes at each site: reconcile the sites")
        if not damaged and not differing:
            return list(found.objects), found
        unsound = {*damaged, *differing}
        recorded = [at_source.get(o.key, o) for o in found.objects]
        return (
            [o for o in found.objects if o.key not in unsound],
            build_manifest(self.dataset, recorded, found.created_at),
        )

    def _write_target_manifest(self, sound: Sequence[ManifestObject], created_at: datetime) -> Manifest:
        """Written last. Read again just before: another run may have added to it, and nothing is forgotten."""
        objects = {o.key: o for o in sound}
        readable = self.link.target.site not in self.rebuilt
        if self.immutable and readable and (now := read_manifest(self.link.target, self.dataset, self.bucket)):
            objects = {**objects, **now.by_key}
            created_at = max(created_at, now.created_at)
        manifest = build_manifest(self.dataset, objects.values(), created_at)
        write_manifest(self.link.target, manifest, self.bucket)
        return manifest

    def _check_only_copies(self, manifest: Manifest, found: Manifest, there: Mapping[str, int]) -> None:
        gone = sorted(set(manifest.by_key) - set(found.by_key) - set(there))
        if gone:
            self.problems.append(f"{some(gone)} is at neither site any more: restore from a backup")

    def _read_again(self, old: Sequence[ManifestObject], there: Mapping[str, int]) -> Delivery:
        """Read the next few old objects at both sites; repair the target, report the source."""
        source, target = self.link.source, self.link.target
        cursor = f"_manifests/{self.dataset}.reread.json"
        chosen = next_to_read(old, _read_cursor(target.get(self.bucket, cursor)))
        if not chosen:
            return Delivery()
        sizes = {o.key: o.size for o in chosen}
        at_source = hash_objects(source, self.bucket, sizes)
        rotten = [o for o in chosen if at_source.get(o.key) != o]
        if rotten:
            self.problems.append(
                f"{some([o.key for o in rotten])} is damaged at {source.site}: "
                f"reconcile the sites to bring the copy at {target.site} back"
            )
        done = deliver(self.link, self.bucket, [o for o in chosen if o not in rotten], there, self.on_progress)
        target.put(self.bucket, cursor, json.dumps({"after": chosen[-1].key}).encode())
        return done


def next_to_read(old: Sequence[ManifestObject], after: str) -> list[ManifestObject]:
    """The objects that follow ``after`` in key order, around the end, within the bounds; at least one if any."""
    ordered = sorted(old, key=lambda o: (o.key <= after, o.key))
    chosen: list[ManifestObject] = []
    size = 0
    for o in ordered[:REREAD_OBJECTS]:
        size += o.size
        if chosen and size > REREAD_BYTES:
            break
        chosen.append(o)
    return chosen


def _read_cursor(data: bytes | None) -> str:
    try:
        after = json.loads(data)["after"] if data else ""
    except (ValueError, KeyError, TypeError):
        return ""  # only a hint: start from the beginning
    return after if isinstance(after, str) else ""


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
        for info in store.list(MODELS, f"{model}/sha256/")
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
    return [_replicate_model(link, model, on_progress) for model in models]


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
    systems: Systems, dataset: str, source: str, target: str, on_progress: OnProgress | None = None
) -> ReplicationResult:
    """``replicate`` between two sites of a connected estate."""
    return replicate(dataset, *_ends(systems, source, target), on_progress=on_progress)


def replicate_releases(
    systems: Systems, models: Sequence[str], source: str, target: str, on_progress: OnProgress | None = None
) -> list[ModelReplication]:
    """``replicate_models`` between two sites of a connected estate."""
    return replicate_models(models, *_ends(systems, source, target), on_progress=on_progress)


def replicate_registry(
    systems: Systems, source: str, target: str, on_progress: OnProgress | None = None
) -> ReplicationResult:
    """``replicate_artifacts`` between two sites of a connected estate."""
    return replicate_artifacts(*_ends(systems, source, target), on_progress=on_progress)


def record_replication(ledger: Ledger, result: ReplicationResult) -> Record:
    """Leave evidence of a run: kind ``replication``, subject ``<dataset>@<target>``."""
    return ledger.append("replication", f"{result.dataset}@{result.target}", asdict(result))


def _ends(
    systems: Systems, source: str, target: str
) -> tuple[ObjectStore, ObjectStore, ObjectCopier, Connection, Connection]:
    at_source, at_target = (systems.connections.get(f"ninelives_{site}_store") for site in (source, target))
    return systems.store(source), systems.store(target), systems.copier(), at_source, at_target
