"""Bring two sites together again after they have lived apart: the union of both, nothing lost.

Immutable objects make the union free of conflicts but for one case: the same key with different bytes. Then the site
that kept serving (the *keeper*) keeps the key, because users have seen its bytes since; the other site's bytes move to
``_conflicts/<site>/<key>/<sha256>`` at both sites, for a person to look at. Modification times decide nothing: a clock
one hour ahead would win. No object is overwritten before its bytes are kept there, so a kill at any instant loses
nothing and a further run goes on. Each site's objects are all read: a disk that was lost once is not trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import ObjectStore, Systems
from ninelives.replication.manifest import (
    BUCKET,
    Manifest,
    ManifestObject,
    build_manifest,
    hash_objects,
    read_manifest,
    scan,
    write_over,
)
from ninelives.replication.replicate import (
    MODELS,
    Pointer,
    list_model,
    pointer_key,
    read_pointer,
    utc_now,
)
from ninelives.replication.transfer import Delivery, Link, OnProgress, deliver, some

CONFLICTS = "_conflicts/"


@dataclass(frozen=True)
class Conflict:
    """Both sites had other bytes under one key. Hashes are SHA-256 in hex."""

    key: str
    keeper: str
    """The site whose bytes keep the key."""
    kept: str
    moved_from: str
    moved: str
    moved_to: str
    """Key, at both sites, of the bytes that lost the name."""


@dataclass(frozen=True)
class Plan:
    """What brings two sites to the union; ``to_a`` includes the keeper's bytes where ``b`` keeps a key."""

    to_a: tuple[ManifestObject, ...]
    to_b: tuple[ManifestObject, ...]
    conflicts: tuple[Conflict, ...]
    union: tuple[ManifestObject, ...]


def conflict_key(site: str, o: ManifestObject) -> str:
    return f"{CONFLICTS}{site}/{o.key}/{o.sha256}"


def plan_reconciliation(a: Manifest, b: Manifest, *, sites: tuple[str, str], keeper: str) -> Plan:
    """What is missing where, and which keys are in conflict.

    :param sites: names of the sites that ``a`` and ``b`` describe
    :param keeper: the one of them whose bytes keep a key in conflict
    """
    if keeper not in sites or sites[0] == sites[1]:
        raise ValueError(f"the keeper {keeper} must be one of two different sites, not of {sites}")
    at_a, at_b = a.by_key, b.by_key
    to_a: list[ManifestObject] = []
    to_b: list[ManifestObject] = []
    conflicts: list[Conflict] = []
    union: list[ManifestObject] = []
    for key in sorted({*at_a, *at_b}):
        ours, theirs = at_a.get(key), at_b.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            winner, loser = (ours, theirs) if keeper == sites[0] else (theirs, ours)
            site = sites[1] if keeper == sites[0] else sites[0]
            (to_b if keeper == sites[0] else to_a).append(winner)
            conflicts.append(Conflict(key, keeper, winner.sha256, site, loser.sha256, conflict_key(site, loser)))
            union.append(winner)
        elif ours is None and theirs is not None:
            to_a.append(theirs)
            union.append(theirs)
        elif ours is not None:
            if theirs is None:
                to_b.append(ours)
            union.append(ours)
    return Plan(tuple(to_a), tuple(to_b), tuple(conflicts), tuple(union))


@dataclass(frozen=True)
class ReconcileResult:
    """``site`` has returned, ``other`` kept serving."""

    dataset: str
    site: str
    other: str
    copied_to_site: int
    """objects of the dataset and its models"""
    copied_to_other: int
    conflicts: tuple[Conflict, ...]
    """Found in this run; what earlier ones found is in ``kept_aside``."""
    healed: tuple[str, ...]
    """Keys whose bytes were damaged at one site and came back from the other."""
    releases: dict[str, str | None]
    """Version of each model's release, the same at both sites."""
    kept_aside: tuple[str, ...]
    """Everything below ``_conflicts/`` at the returned site, ``<bucket>/<key>``: a person decides about it."""
    fingerprint: str
    fingerprints_equal: bool
    """False only where somebody wrote to one site meanwhile; the next replication levels that."""


def reconcile(
    systems: Systems, dataset: str, site: str, other: str, on_progress: OnProgress | None = None
) -> ReconcileResult:
    """Reconcile a returned ``site`` with ``other``, which kept serving: the dataset and the models trained on it.

    :raises Corrupted: an object is damaged at one site and the other has no good copy; the rest is reconciled
    :raises Unavailable: a store does not answer; run again
    """
    models = [model.name for model in systems.estate.models if model.trained_on == dataset]
    link = Link(
        systems.store(site),
        systems.store(other),
        systems.copier(),
        systems.connections.get(f"ninelives_{site}_store"),
        systems.connections.get(f"ninelives_{other}_store"),
    )
    return reconcile_stores(dataset, models, link, on_progress=on_progress)


def reconcile_stores(
    dataset: str,
    models: Sequence[str],
    link: Link,
    clock: Callable[[], datetime] = utc_now,
    on_progress: OnProgress | None = None,
) -> ReconcileResult:
    """``reconcile`` on two stores: ``link.source`` has returned, ``link.target`` kept serving and is the keeper."""
    site, other = link.source, link.target
    for store in (site, other):
        store.ensure_bucket(BUCKET)
        store.ensure_bucket(MODELS)
    problems: list[str] = []
    result = _reconcile_dataset(dataset, link, clock, on_progress, problems)
    for model in models:
        to_site, to_other, conflict, healed, version = _reconcile_model(model, link, on_progress, problems)
        result = replace(
            result,
            copied_to_site=result.copied_to_site + to_site.copied,
            copied_to_other=result.copied_to_other + to_other.copied,
            conflicts=(*result.conflicts, *([conflict] if conflict else [])),
            healed=(*result.healed, *healed),
            releases={**result.releases, model: version},
        )
    if problems:
        raise Corrupted(f"reconciliation of {site.site} with {other.site}: {'; '.join(problems)}")
    aside = [f"{bucket}/{info.key}" for bucket in (BUCKET, MODELS) for info in site.list(bucket, CONFLICTS)]
    return replace(result, kept_aside=tuple(sorted(aside)))


def _reconcile_dataset(
    dataset: str,
    link: Link,
    clock: Callable[[], datetime],
    on_progress: OnProgress | None,
    problems: list[str],
) -> ReconcileResult:
    site, other = link.source, link.target
    begun = clock()
    recorded = [_read(store, dataset) for store in (site, other)]
    found = [scan(store, dataset, None, begun) for store in (site, other)]
    changed = [_changed(was, now) for was, now in zip(recorded, found, strict=True)]
    same = set(found[0].objects) & set(found[1].objects)
    # The other site's sound bytes under an old record: a killed run had brought them, but not yet written the manifest.
    brought = {o.key for o in same if (o.key in changed[0]) != (o.key in changed[1])}
    damaged = [bad - brought for bad in changed]
    sound = [
        build_manifest(dataset, [o for o in now.objects if o.key not in bad], begun)
        for now, bad in zip(found, damaged, strict=True)
    ]
    plan = plan_reconciliation(sound[0], sound[1], sites=(site.site, other.site), keeper=other.site)

    for store, bad, now in zip((site, other), damaged, found, strict=True):
        for key in bad:
            _keep_aside(link, BUCKET, store, now.by_key[key])
    for conflict in plan.conflicts:
        _keep_aside(link, BUCKET, site, sound[0].by_key[conflict.key])

    to_other = deliver(link, BUCKET, plan.to_b, _sizes(found[1].objects), on_progress)
    to_site = deliver(link.reversed(), BUCKET, plan.to_a, _sizes(found[0].objects), on_progress)
    problems.extend(done.problem for done in (to_other, to_site) if done.problem)

    # A record without a good copy stays: forgotten, its damaged bytes would pass for new ones next time.
    records = {**(recorded[0].by_key if recorded[0] else {}), **(recorded[1].by_key if recorded[1] else {})}
    whole = {o.key: o for o in plan.union}
    if gone := sorted(set(records) - set(whole)):
        problems.append(f"no site has a good copy of {some(gone)}: restore from a backup")
    union = build_manifest(dataset, {**records, **whole}.values(), begun)
    equal = False
    if not (to_other.failed or to_site.failed):
        written = [write_over(store, union, was) for store, was in zip((site, other), recorded, strict=True)]
        equal = written[0].fingerprint == written[1].fingerprint
    return ReconcileResult(
        dataset=dataset,
        site=site.site,
        other=other.site,
        copied_to_site=to_site.copied,
        copied_to_other=to_other.copied,
        conflicts=plan.conflicts,
        healed=tuple(sorted({key for bad in damaged for key in bad} & set(whole))),
        releases={},
        kept_aside=(),
        fingerprint=union.fingerprint,
        fingerprints_equal=equal,
    )


def _read(store: ObjectStore, dataset: str) -> Manifest | None:
    try:
        return read_manifest(store, dataset)
    except Corrupted:
        return None  # every object is read anyway, and the manifest is written anew


def _changed(recorded: Manifest | None, found: Manifest) -> set[str]:
    """Keys whose bytes are not what the site itself has recorded: immutable objects do not change, disks do."""
    was = recorded.by_key if recorded else {}
    return {o.key for o in found.objects if was.get(o.key, o) != o}


def _sizes(objects: Iterable[ManifestObject]) -> dict[str, int]:
    return {o.key: o.size for o in objects}


def _keep_aside(link: Link, bucket: str, owner: ObjectStore, o: ManifestObject) -> str:
    """Keep the owner's bytes of ``o`` under ``_conflicts/`` at both sites; return the key there."""
    key = conflict_key(owner.site, o)
    data = owner.get(bucket, o.key)
    if data is None or hashlib.sha256(data).hexdigest() != o.sha256:
        raise Unavailable(f"{o.key} at {owner.site} changed while the sites were being reconciled; run again")
    for store in (link.source, link.target):
        store.put(bucket, key, data)
        if store.get(bucket, key) != data:
            raise Corrupted(f"{bucket}/{key} at {store.site} is not what was just written; check the disk there")
    return key


def _reconcile_model(
    model: str, link: Link, on_progress: OnProgress | None, problems: list[str]
) -> tuple[Delivery, Delivery, Conflict | None, tuple[str, ...], str | None]:
    """Union of the model's objects, then one release pointer at both sites: the higher version."""
    site, other = link.source, link.target
    listed = [list_model(store, model) for store in (site, other)]
    sound, damaged = [], []
    for store, objects in zip((site, other), listed, strict=True):
        hashed = hash_objects(store, MODELS, _sizes(objects.values()))
        sound.append({key: o for key, o in objects.items() if hashed[key] == o})
        damaged.append(set(objects) - set(sound[-1]))
    to_other = deliver(link, MODELS, _missing(sound[0], sound[1]), _sizes(listed[1].values()), on_progress)
    to_site = deliver(link.reversed(), MODELS, _missing(sound[1], sound[0]), _sizes(listed[0].values()), on_progress)
    problems.extend(done.problem for done in (to_other, to_site) if done.problem)
    union = {*sound[0], *sound[1]} - {*to_other.failed, *to_site.failed}
    bad = damaged[0] | damaged[1]
    if bad - union:
        problems.append(f"no site has a good copy of {some(sorted(bad - union))}: publish the release again")
    conflict, version, healed = _reconcile_pointer(model, link, union, problems)
    return to_site, to_other, conflict, (*sorted(bad & union), *healed), version


def _missing(here: Mapping[str, ManifestObject], there: Mapping[str, ManifestObject]) -> list[ManifestObject]:
    return [o for key, o in here.items() if key not in there]


def _reconcile_pointer(
    model: str, link: Link, objects: set[str], problems: list[str]
) -> tuple[Conflict | None, str | None, tuple[str, ...]]:
    """The conflict if there is one, the version that both sites have now, and the pointer's key if it was damaged."""
    site, other = link.source, link.target
    key = pointer_key(model)
    read: list[tuple[Pointer, bytes] | None] = []
    complaints: list[str] = []
    for store in (site, other):
        try:
            read.append(read_pointer(store, model))
        except Corrupted as error:
            read.append(None)
            complaints.append(str(error))
    ours, theirs = read
    if ours is None and theirs is None:
        problems.extend(complaints)
        return None, None, ()
    site_wins = theirs is None or (ours is not None and ours[0].number > theirs[0].number)
    winner = ours if site_wins else theirs
    assert winner is not None  # noqa: S101 - one of the two is there
    if winner[0].object not in objects:
        problems.append(f"release {winner[0].version} of {model} names {winner[0].object}, which no site has")
        return None, None, ()
    conflict = None
    if ours and theirs and ours[0].number == theirs[0].number and ours[0].digest != theirs[0].digest:
        old, new = (ManifestObject(key=key, size=len(doc), sha256=_sha256(doc)) for doc in (ours[1], theirs[1]))
        conflict = Conflict(key, other.site, new.sha256, site.site, old.sha256, _keep_aside(link, MODELS, site, old))
    for store, has in ((site, ours), (other, theirs)):
        if has is None or has[1] != winner[1]:
            store.put(MODELS, key, winner[1])
    return conflict, winner[0].version, (key,) if complaints else ()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
