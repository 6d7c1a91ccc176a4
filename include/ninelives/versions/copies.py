"""Where a data version is whole, and how one site's copy is made whole from another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import ObjectStore, Systems
from ninelives.replication.manifest import Manifest, ManifestObject, build_manifest, write_manifest
from ninelives.replication.transfer import OnProgress, deliver, link_between, some
from ninelives.versions.objects import BUCKET, Files, examine, manifest_name, object_key, read_files, read_record

State = Literal["whole", "harmed", "absent", "unknown"]


@dataclass(frozen=True)
class Copy:
    """What a site has of a version, found by reading every byte."""

    site: str
    state: State
    size: int
    """bytes that are right"""
    problem: str = ""


def look(store: ObjectStore, version: str, files: Files | None) -> Copy:
    """Read and hash what a site has of a version.

    :param files: what it consists of, from any site that has the list; ``None`` where none has
    """
    try:
        store.ensure_bucket(BUCKET)
        if files is None:
            return Copy(store.site, "absent", 0, "no site that answers has its list of files")
        good = {name: examine(store, name) for name in files.names}
        bad = [name for name, found in good.items() if found is None]
        size = sum(found.size for found in good.values() if found)
        if not bad:
            return Copy(store.site, "whole", size)
        there = [name for name in bad if store.head(BUCKET, object_key(name)) is not None]
    except Unavailable as error:
        return Copy(store.site, "unknown", 0, str(error))
    if len(bad) == len(good) and not there:
        return Copy(store.site, "absent", 0)
    damaged = f"damaged: {some(there)}" if there else ""
    missing = f"missing: {some([name for name in bad if name not in there])}" if len(there) < len(bad) else ""
    return Copy(store.site, "harmed", size, "; ".join(filter(None, (damaged, missing))))


def find_files(stores: Sequence[ObjectStore], version: str) -> Files | None:
    """The version's list of files, from the first site that has a good one."""
    for store in stores:
        try:
            return read_files(store, version)
        except (Corrupted, Unavailable):
            continue
    return None


@dataclass(frozen=True)
class Healed:
    """What it took to make a site's copy of a version whole."""

    version: str
    site: str
    objects: int
    """of the version, all read there and right"""
    size: int
    """bytes"""
    hash: str
    """SHA-256 over the version's objects, as the registry has it"""
    copied: Mapping[str, str]
    """object name to the site that it was brought from"""


def make_whole(
    systems: Systems, dataset: str, version: str, site: str, on_progress: OnProgress | None = None
) -> Healed:
    """Read every object of the version at ``site``; delete what is damaged and bring it from a site that has it right.

    A damaged object is deleted only once a good one was read elsewhere. Killed at any instant, a repeat goes on.

    :raises Corrupted: an object is right at no site, or its SHA-256 is not that of the manifest
    :raises Unavailable: the site's store does not answer, or a site that may have the good copy does not
    """
    store = systems.store(site)
    store.ensure_bucket(BUCKET)
    silent: list[str] = []
    stores = [store]  # what the site has itself comes first
    for other in systems.estate.site_names:
        if other != site:
            try:
                stores.append(systems.store(other))
            except Unavailable as error:  # no connection to it here
                silent.append(str(error))
    copied: dict[str, str] = {}
    objects = {version: _bring(systems, stores, version, copied, silent, on_progress)}
    for name in read_files(store, version).names[1:]:
        objects[name] = _bring(systems, stores, name, copied, silent, on_progress)
    manifest = _record(stores, dataset, version, list(objects.values()))
    return Healed(version, site, len(objects), manifest.size, manifest.fingerprint, copied)


def _bring(
    systems: Systems,
    stores: Sequence[ObjectStore],
    name: str,
    copied: dict[str, str],
    silent: list[str],
    on_progress: OnProgress | None,
) -> ManifestObject:
    target, others = stores[0], stores[1:]
    if (found := examine(target, name)) is not None:
        return found
    for source in others:
        try:
            good = examine(source, name)
        except Unavailable as error:
            silent.append(str(error))
            continue
        if good is None:
            continue
        # Not overwritten: some stores go on showing what they remember of the object before.
        target.delete(BUCKET, good.key)
        done = deliver(link_between(systems, source.site, target.site), BUCKET, [good], {}, on_progress)
        if done.problem:
            raise Corrupted(done.problem)
        copied[name] = source.site
        return good
    what = f"{BUCKET}/{object_key(name)} is right neither at {target.site} nor at any other site that answers"
    if silent:
        raise Unavailable(f"{what}; when they are back try again: {'; '.join(dict.fromkeys(silent))}")
    raise Corrupted(f"{what}; restore it from a backup")


def _record(stores: Sequence[ObjectStore], dataset: str, version: str, objects: list[ManifestObject]) -> Manifest:
    """The site's manifest, made from the other site's where it has none: written last, the copy is whole."""
    target = stores[0]
    made = build_manifest(manifest_name(dataset, version), objects, datetime.now(UTC))
    known = None
    for store in stores:
        try:
            known = read_record(store, dataset, version)
        except Unavailable:
            continue
        if known is not None:
            break
    if known is not None and known.fingerprint != made.fingerprint:
        raise Corrupted(
            f"the objects of version {version} at {target.site} have SHA-256 {made.fingerprint}, its manifest says "
            f"{known.fingerprint}: two contents under one MD5, ask who wrote them"
        )
    if known is None or read_record(target, dataset, version) is None:
        write_manifest(target, known or made, BUCKET)
    return known or made
