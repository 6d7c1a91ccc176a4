"""The objects of a data version, as DVC 3 keeps them in a site's store, read without DVC and believed only when hashed.

A version is a list of files, ``<md5>.dir``, and the files, each stored under its MD5. DVC takes what it once pushed to
be there for ever: it says "up to date" over a damaged object and over a missing one, and by default pulls a damaged one
without a word. So everything here reads the bytes. MD5 is DVC's name and finds rot; against forgery a manifest with
SHA-256 lies beside, written last, and the registry holds its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from ninelives.errors import Corrupted
from ninelives.ports import ObjectStore
from ninelives.replication.manifest import (
    Manifest,
    ManifestObject,
    Streaming,
    build_manifest,
    manifest_key,
    read_manifest,
    write_manifest,
)

BUCKET = "dvc"
NAME = re.compile(r"[0-9a-f]{32}(\.dir)?")
_OBJECT = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)")
_MANIFEST = re.compile(r"_manifests/(?P<dataset>[^/]+)/(?P<version>[0-9a-f]{32}\.dir)\.json")


def object_key(name: str) -> str:
    """Where DVC 3 keeps an object, in its cache and in a remote alike."""
    return f"files/md5/{name[:2]}/{name[2:]}"


def object_name(key: str) -> str | None:
    """The reverse of ``object_key``; ``None`` for a key that is not DVC's."""
    found = _OBJECT.fullmatch(key)
    return found[1] + found[2] if found else None


@dataclass(frozen=True)
class Files:
    """What a version consists of: file name to object name, and the list itself."""

    version: str
    files: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Every object, the list first, none twice."""
        return (self.version, *dict.fromkeys(self.files.values()))


def read_files(store: ObjectStore, version: str) -> Files:
    """The version's list of files at a site.

    :raises Corrupted: it is missing, damaged, or names a file outside the version's folder
    :raises Unavailable: the store does not answer
    """
    data = store.get(BUCKET, object_key(version)) if NAME.fullmatch(version) else None
    if data is None or _md5(data) != version.removesuffix(".dir"):
        raise _harmed(store, version, "missing" if data is None else "damaged")
    files = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(data)}
    for path, name in files.items():
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or not NAME.fullmatch(name):
            raise Corrupted(f"version {version} at {store.site} names {path!r} as {name!r}: such a file is not written")
    return Files(version, files)


def pieces(store: ObjectStore, name: str) -> Iterator[bytes] | None:
    """An object in pieces, so that one larger than memory can be read; ``None`` where it does not exist."""
    if isinstance(store, Streaming):
        return store.chunks(BUCKET, object_key(name))
    data = store.get(BUCKET, object_key(name))
    return None if data is None else iter((data,))


def examine(store: ObjectStore, name: str) -> ManifestObject | None:
    """Read an object and hash it against its name; ``None`` where it is missing or damaged.

    :raises Unavailable: the store does not answer
    """
    found = pieces(store, name)
    if found is None:
        return None
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    for piece in found:
        md5.update(piece)
        sha256.update(piece)
        size += len(piece)
    if md5.hexdigest() != name.removesuffix(".dir"):
        return None
    return ManifestObject(key=object_key(name), size=size, sha256=sha256.hexdigest())


def save(store: ObjectStore, name: str, to: Path) -> str:
    """Write an object to the new file ``to`` and return its SHA-256 (hex).

    :raises Corrupted: it is missing or damaged; ``to`` then holds what was read
    :raises Unavailable: the store does not answer
    """
    found = pieces(store, name)
    if found is None:
        raise _harmed(store, name, "missing")
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with to.open("xb") as file:
        for piece in found:
            md5.update(piece)
            sha256.update(piece)
            file.write(piece)
    if md5.hexdigest() != name.removesuffix(".dir"):
        raise _harmed(store, name, "damaged")
    return sha256.hexdigest()


def read_version(store: ObjectStore, version: str) -> dict[str, bytes]:
    """The files of a version bit for bit, from one store alone.

    :raises Corrupted: an object is missing or damaged
    :raises Unavailable: the store does not answer
    """
    contents = {}
    for path, name in read_files(store, version).files.items():
        data = store.get(BUCKET, object_key(name))
        if data is None or _md5(data) != name:
            raise _harmed(store, name, "missing" if data is None else "damaged")
        contents[path] = data
    return contents


# --- manifests ---------------------------------------------------------------------------------------------------


def manifest_name(dataset: str, version: str) -> str:
    return f"{dataset}/{version}"


def record_version(store: ObjectStore, dataset: str, version: str, kept_at: datetime) -> Manifest:
    """Read every object of the version at a site and write its manifest there, last: from now on it is whole.

    :param kept_at: pruning leaves a version alone for a while after this instant
    :raises Corrupted: an object is missing or damaged
    :raises Unavailable: the store does not answer
    """
    found = []
    for name in read_files(store, version).names:
        if (o := examine(store, name)) is None:
            raise _harmed(store, name, "damaged or missing")
        found.append(o)
    manifest = build_manifest(manifest_name(dataset, version), found, kept_at)
    write_manifest(store, manifest, BUCKET)
    return manifest


def read_record(store: ObjectStore, dataset: str, version: str) -> Manifest | None:
    """The version's manifest at a site; ``None`` where there is none or it cannot be trusted: it can be made anew."""
    try:
        return read_manifest(store, manifest_name(dataset, version), BUCKET)
    except Corrupted:
        return None


def record_key(dataset: str, version: str) -> str:
    return manifest_key(manifest_name(dataset, version))


def list_records(store: ObjectStore) -> dict[str, str]:
    """Version to the dataset that it is of, by the manifests of a site.

    :raises Unavailable: the store does not answer
    """
    store.ensure_bucket(BUCKET)
    found = (_MANIFEST.fullmatch(info.key) for info in store.list(BUCKET, "_manifests/"))
    return {match["version"]: match["dataset"] for match in found if match}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _harmed(store: ObjectStore, name: str, how: str) -> Corrupted:
    return Corrupted(f"{BUCKET}/{object_key(name)} at {store.site} is {how}; restore it from another site's copy")
