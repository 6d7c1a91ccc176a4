"""Objects that no version names, and versions whose artefact is gone: found and told, never mended by themselves."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from ninelives.backups.contents import ARTEFACTS
from ninelives.errors import Corrupted
from ninelives.ports import ModelVersion, ObjectStore, Record, Systems
from ninelives.releases.journal import read
from ninelives.releases.publish import BUCKET, object_key, read_candidate, read_release

KIND = "orphans"
GRACE = timedelta(days=1)
"""A younger object is left out: whoever wrote it may not have registered it yet."""
MOST_LISTED = 100

_STAGED = re.compile(r"(?P<model>[^/]+)/releases/(?P<version>[0-9]+)\.(json|sig)")


@dataclass(frozen=True, order=True)
class Orphan:
    site: str
    bucket: str
    key: str
    size: int
    """bytes"""
    modified: datetime


@dataclass(frozen=True, order=True)
class Gone:
    """A version that the registry has, and something of it that is nowhere."""

    model: str
    version: str
    what: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}: {self.what}"


@dataclass(frozen=True)
class Found:
    orphans: tuple[Orphan, ...]
    gone: tuple[Gone, ...]

    @property
    def verdict(self) -> str:
        return "missed" if self.orphans or self.gone else "met"

    def report(self) -> dict[str, Any]:
        orphans = [asdict(one) | {"modified": one.modified.isoformat()} for one in self.orphans]
        gone = [asdict(one) for one in self.gone]
        return {"verdict": self.verdict, "orphans": orphans, "gone": gone}


def find(systems: Systems, now: datetime) -> Found:
    """Compare what the stores hold with what registry, releases and promotions name.

    :raises Unavailable: the registry, the ledger or a site's store does not answer: what it holds may name the rest
    """
    registry, estate = systems.registry(), systems.estate
    registered = registry.versions()
    stores = [systems.store(site) for site in estate.site_names]
    for store in stores:
        for bucket in (BUCKET, ARTEFACTS):
            store.ensure_bucket(bucket)
    # Listed before what names it is read: what comes meanwhile is named by then.
    held = {(store.site, bucket): list(store.list(bucket)) for store in stores for bucket in (BUCKET, ARTEFACTS)}
    known = registry.known_artefacts()
    named = _named(systems, stores, registered)
    orphans = [
        Orphan(site, bucket, info.key, info.size, info.modified)
        for (site, bucket), objects in held.items()
        for info in objects
        if now - info.modified >= GRACE
        and not info.key.startswith("_")
        and not (_belongs(info.key, named) if bucket == BUCKET else _below(info.key, known))
    ]
    weights = {info.key for (_, bucket), objects in held.items() if bucket == BUCKET for info in objects}
    files = [info.key for (_, bucket), objects in held.items() if bucket == ARTEFACTS for info in objects]
    return Found(tuple(sorted(orphans)), tuple(sorted(_gone(systems, registered, weights, files))))


def record(systems: Systems, found: Found, *, run: str = "") -> Record:
    """Leave what was found as evidence: kind ``orphans``, subject the estate."""
    facts = found.report()
    more = sum(max(0, len(facts[part]) - MOST_LISTED) for part in ("orphans", "gone"))
    facts |= {part: facts[part][:MOST_LISTED] for part in ("orphans", "gone")}
    return systems.ledger().append(KIND, systems.estate.name, {**facts, "more": more, "run": run})


@dataclass(frozen=True)
class _Named:
    models: frozenset[str]
    versions: frozenset[tuple[str, str]]
    objects: frozenset[str]


def _named(systems: Systems, stores: list[ObjectStore], registered: list[ModelVersion]) -> _Named:
    models = systems.estate.model_by_name
    versions = {(one.model, one.version) for one in registered}
    for service in systems.estate.services:
        for journal in read(systems.ledger(), service.name):
            if journal.open:  # what is staged before it is registered
                versions |= {(service.model, journal.plan.old), (service.model, journal.plan.new)}
    objects = {object_key(one.model, one.digest) for one in registered if one.digest}
    for store in stores:
        for model in models:
            if release := read_release(store, model):
                objects.add(release.object)
        for model, version in versions:
            if model in models and (staged := read_candidate(store, model, version)):
                objects.add(staged.object)
    return _Named(frozenset(models), frozenset(versions), frozenset(objects))


def _belongs(key: str, named: _Named) -> bool:
    model, _, rest = key.partition("/")
    if staged := _STAGED.fullmatch(key):
        return (staged["model"], staged["version"]) in named.versions
    return model in named.models and (rest == "release.json" or rest.startswith("moves/") or key in named.objects)


def _below(key: str, prefixes: frozenset[str]) -> bool:
    """Whether one of the folders that the key is in is among ``prefixes``, which end with a slash."""
    parts = key.split("/")
    return any("/".join(parts[:depth]) + "/" in prefixes for depth in range(1, len(parts)))


def _gone(systems: Systems, registered: list[ModelVersion], weights: set[str], files: list[str]) -> list[Gone]:
    found = []
    for one in registered:
        if one.model not in systems.estate.model_by_name:
            continue  # somebody else's model in the same registry
        if one.digest and object_key(one.model, one.digest) not in weights:
            found.append(Gone(one.model, one.version, f"no site has {BUCKET}/{object_key(one.model, one.digest)}"))
        for prefix in systems.registry().artefacts(one):
            if not any(key.startswith(prefix) for key in files):
                found.append(Gone(one.model, one.version, f"no site has anything below {ARTEFACTS}/{prefix}"))
    return found


def refuse(found: Found, evidence: int) -> None:
    """:raises Corrupted: a version's artefact is gone; orphans alone cost space and nothing else"""
    if found.gone:
        said = "; ".join(str(one) for one in found.gone[:10])
        raise Corrupted(f"{said}; restore them from a backup (`ninelives backup list`), see evidence {evidence}")
