"""Every data version of the estate: what it is of, who needs it, and where it is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ninelives.errors import NinelivesError, Unavailable
from ninelives.ports import ModelVersion, ObjectStore, Systems
from ninelives.replication.manifest import Manifest
from ninelives.versions.copies import Copy, find_files, look
from ninelives.versions.objects import BUCKET, list_records, object_name, read_record


@dataclass(frozen=True)
class Known:
    """What manifests say of a version; one without a manifest was kept before there were any, or is half pruned."""

    dataset: str | None = None
    manifest: Manifest | None = None
    kept_at: datetime | None = None
    """The latest time at which a site was asked to keep it; without a manifest, when its list was written."""


@dataclass(frozen=True)
class VersionStatus:
    version: str
    dataset: str | None
    hash: str | None
    """SHA-256 over its objects"""
    kept_at: datetime | None
    size: int | None
    """bytes"""
    models: tuple[str, ...]
    """``NAME@VERSION`` of the registered models trained on it"""
    copies: tuple[Copy, ...]

    @property
    def whole_at(self) -> tuple[str, ...]:
        return tuple(copy.site for copy in self.copies if copy.state == "whole")

    @property
    def met(self) -> bool:
        """Whether what a model needs is whole somewhere; one that nobody needs breaks no promise."""
        return bool(self.whole_at) or not self.models


def list_versions(systems: Systems) -> tuple[list[VersionStatus], str | None]:
    """Every version that a site has or a model names, each read at every site; and why the models are unknown, if so.

    A site that does not answer is in ``copies`` as unknown.
    """
    problem, registered = None, list[ModelVersion]()
    try:
        registered = systems.registry().versions()
    except Unavailable as error:
        problem = str(error)
    stores = [systems.store(site) for site in systems.estate.site_names]
    users: dict[str, list[str]] = {}
    for one in registered:
        if one.data_version is not None:
            users.setdefault(one.data_version, []).append(f"{one.model}@{one.version}")
    known: dict[str, Known] = {version: Known() for version in users}
    for store in stores:
        try:
            known = merge(known, known_at(store))
        except NinelivesError:
            continue  # the copies below say that it is unknown, and why
    return [_status(version, known[version], users.get(version, []), stores) for version in sorted(known)], problem


def _status(version: str, known: Known, users: Sequence[str], stores: Sequence[ObjectStore]) -> VersionStatus:
    files = find_files(stores, version)
    return VersionStatus(
        version=version,
        dataset=known.dataset,
        hash=known.manifest.fingerprint if known.manifest else None,
        kept_at=known.kept_at,
        size=known.manifest.size if known.manifest else None,
        models=tuple(sorted(users)),
        copies=tuple(look(store, version, files) for store in stores),
    )


def known_at(store: ObjectStore) -> dict[str, Known]:
    """Every version that a site has a manifest or a list of files of.

    :raises Unavailable: the store does not answer
    """
    found: dict[str, Known] = {}
    datasets = list_records(store)
    for info in store.list(BUCKET, "files/md5/"):
        name = object_name(info.key)
        if name is not None and name.endswith(".dir"):
            found[name] = Known(kept_at=info.modified)
    for version, dataset in datasets.items():
        manifest = read_record(store, dataset, version)
        before = found.get(version, Known()).kept_at
        found[version] = Known(dataset, manifest, manifest.created_at if manifest else before)
    return found


def merge(left: Mapping[str, Known], right: Mapping[str, Known]) -> dict[str, Known]:
    """What two sites know together; the later time at which a version was kept counts."""
    both = dict(left)
    for version, there in right.items():
        here = both.get(version, Known())
        times = [at for at in (here.kept_at, there.kept_at) if at is not None]
        both[version] = Known(here.dataset or there.dataset, here.manifest or there.manifest, max(times, default=None))
    return both
