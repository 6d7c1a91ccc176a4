"""Delete the versions whose time is over, said in the ledger before and after.

What goes is written down first. A killed deletion is found there and finished by the next one, unless somebody has come
to use the version meanwhile. Nothing is deleted while a site, the registry, the gateway, the vault or the ledger does
not answer: it may need everything. An object goes only when no version that stays has it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ninelives.artefacts.holds import LEASE
from ninelives.artefacts.retention import Retention, plan
from ninelives.artefacts.uses import Key, Uses, gather
from ninelives.backups.contents import ARTEFACTS
from ninelives.ports import Ledger, ModelVersion, ObjectStore, Record, Systems
from ninelives.releases.publish import BUCKET, candidate_key, object_key, read_candidate, read_release, signature_key
from ninelives.versions.prune import alone

KIND = "artefact"


@dataclass(frozen=True)
class Deleted:
    model: str
    version: str
    objects: int
    bytes: int
    """Over all sites."""
    evidence: int | None
    """Of the record that it is done; ``None`` where it only would be."""


@dataclass(frozen=True)
class Pruned:
    retention: Retention
    deleted: tuple[Deleted, ...]
    spared: tuple[str, ...] = ()
    """Deletions that a killed run had begun, of versions that somebody has come to use meanwhile."""


def look(systems: Systems, now: datetime) -> tuple[Retention, Uses, list[ModelVersion]]:
    """What stays, why, and what is due; changes nothing. Raises as ``uses.gather``."""
    registered = systems.registry().versions()
    uses = gather(systems, registered, now)
    rules = {model.name: model.retention for model in systems.estate.models}
    return plan(registered, rules, uses, now), uses, registered


def prune(systems: Systems, holder: str, clock: Callable[[], datetime], *, by: str, dry_run: bool = False) -> Pruned:
    """Delete every version that is due, at every site and in the registry; or only say what would go.

    :param by: who asked for it, for the record
    :raises Unavailable: something that may need a version does not answer, or another prunes; run again
    :raises Refused: an alias of the registry names a version that is due; those before it are deleted
    """
    ledger = systems.ledger()
    with alone(ledger, holder, LEASE):
        retention, uses, registered = look(systems, clock())
        places = _Places(systems)
        due = {key: next(one for one in registered if (one.model, one.version) == key) for key in retention.due}
        if dry_run:
            going: dict[Key, Mapping[str, Any]] = {key: places.facts(due[key]) for key in due}
            going |= {key: one.facts for one in unfinished(ledger) if (key := _key(one)) not in uses}
            would = []
            for key in sorted(going, key=_order):
                left = [one for one in registered if (one.model, one.version) != key]
                would.append(_sum(key, places.of(key, going[key], left), None))
            return Pruned(retention, tuple(would))
        deleted, spared = [], []
        for begun in unfinished(ledger):
            key = _key(begun)
            if key in uses:
                why = sorted(uses[key])
                _note(ledger, key, "spared", begun=begun.seq, why=why, by=by)
                spared.append(f"{key[0]}@{key[1]}: {'; '.join(why)}")
            else:
                deleted.append(_carry_out(systems, places, begun, by))
        finished = {(one.model, one.version) for one in deleted}
        for key in sorted(due.keys() - finished, key=_order):
            begun = _note(ledger, key, "deleting", **places.facts(due[key]), why=retention.due[key], by=by)
            deleted.append(_carry_out(systems, places, begun, by))
    return Pruned(retention, tuple(deleted), tuple(spared))


def unfinished(ledger: Ledger) -> list[Record]:
    """Deletions that began and did not end, oldest first."""
    records = ledger.records(kind=KIND)
    over = {one.facts["begun"] for one in records if one.facts["entry"] in ("deleted", "spared")}
    return [one for one in reversed(records) if one.facts["entry"] == "deleting" and one.seq not in over]


def _key(record: Record) -> Key:
    return record.subject, str(record.facts["version"])


def _order(key: Key) -> tuple[str, int]:
    return key[0], int(key[1])


def _note(ledger: Ledger, key: Key, entry: str, **facts: Any) -> Record:
    return ledger.append(KIND, key[0], {"entry": entry, "version": key[1], **facts})


def _carry_out(systems: Systems, places: _Places, begun: Record, by: str) -> Deleted:
    """The registry first, so that nobody finds a version whose bytes are going; then its objects, at every site."""
    key = _key(begun)
    systems.registry().delete_version(*key)
    objects = places.of(key, begun.facts, systems.registry().versions())
    for one in objects:
        one.store.delete(one.bucket, one.key)
    count, size = len(objects), sum(one.size for one in objects)
    done = _note(systems.ledger(), key, "deleted", begun=begun.seq, objects=count, bytes=size, by=by)
    return _sum(key, objects, done.seq)


def _sum(key: Key, objects: Sequence[_Object], evidence: int | None) -> Deleted:
    return Deleted(*key, len(objects), sum(one.size for one in objects), evidence)


@dataclass(frozen=True)
class _Object:
    store: ObjectStore
    bucket: str
    key: str
    size: int


class _Places:
    """Where versions keep their bytes. What the registry said of a version stays true for as long as this lives."""

    def __init__(self, systems: Systems) -> None:
        self._registry = systems.registry()
        self._stores = [systems.store(site) for site in systems.estate.site_names]
        self._artefacts: dict[Key, tuple[str, ...]] = {}

    def artefacts(self, version: ModelVersion) -> tuple[str, ...]:
        key = version.model, version.version
        if key not in self._artefacts:
            self._artefacts[key] = self._registry.artefacts(version)
        return self._artefacts[key]

    def facts(self, version: ModelVersion) -> dict[str, Any]:
        """All that the ledger must know to finish the deletion, and to say later what it was of."""
        return {
            "digests": sorted(self._digests(version)),
            "artefacts": list(self.artefacts(version)),
            "data_version": version.data_version,
            "training": version.run,
            "created_at": version.created_at.isoformat() if version.created_at else None,
        }

    def of(self, key: Key, facts: Mapping[str, Any], left: Sequence[ModelVersion]) -> list[_Object]:
        """Every object that only this version has; what names others first: killed in between, nothing leads nowhere.

        :param facts: as ``facts`` gave them
        :param left: the versions that stay
        """
        model, version = key
        others = [one for one in left if one.model == model]
        wanted = {digest for one in others for digest in self._digests(one)}
        wanted |= {release.digest for store in self._stores if (release := read_release(store, model))}
        names = [candidate_key(model, version), signature_key(model, version)]
        names += [object_key(model, digest) for digest in facts["digests"] if digest not in wanted]
        prefixes = set(facts["artefacts"]) - {prefix for one in left for prefix in self.artefacts(one)}
        found = []
        for store in self._stores:
            for name in names:
                if info := store.head(BUCKET, name):
                    found.append(_Object(store, BUCKET, name, info.size))
            store.ensure_bucket(ARTEFACTS)
            for prefix in sorted(prefixes):
                found += [_Object(store, ARTEFACTS, info.key, info.size) for info in store.list(ARTEFACTS, prefix)]
        return found

    def _digests(self, version: ModelVersion) -> set[str]:
        """Of what is registered, and of what is staged under its number."""
        staged = (read_candidate(store, version.model, version.version) for store in self._stores)
        return {one.digest for one in staged if one} | ({version.digest} if version.digest else set())
