"""A site's copy of a dataset on this machine's disk, byte for byte what its manifest says.

The cache is addressed by content, so sites and datasets share it and only new objects are fetched. An index per site
remembers when an object was read and matched: it is read again as soon as its size or time of change at the site is
another one, or when the caller does not want to trust that.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ninelives.errors import Unavailable
from ninelives.ports import ObjectInfo, ObjectStore
from ninelives.replication.manifest import BUCKET, Manifest, ManifestObject

MAX_BYTES = 20 * 2**30
"""What the cache may hold beyond the dataset at hand."""
_WORKERS = 8


@dataclass(frozen=True)
class LocalCopy:
    """``files``: key to a local file with the listed bytes; ``problems``: what the site does not have intact."""

    files: Mapping[str, Path]
    problems: tuple[str, ...]


def fetch(
    store: ObjectStore, manifest: Manifest, cache: Path, *, trust_times: bool = True, max_bytes: int = MAX_BYTES
) -> LocalCopy:
    """Bring the objects of ``manifest`` here and verify each against its size and SHA-256.

    :param trust_times: take an object that did not change its size and time of change since it was last read and
        verified as still intact; bits that rot on the site's disk touch neither
    :raises Unavailable: the store does not answer, or the cache's disk is full
    """
    try:
        return _fetch(store, manifest, cache, trust_times, max_bytes)
    except OSError as error:
        raise Unavailable(f"the gate's cache {cache} cannot be written: {error}; free some space") from error


def _fetch(store: ObjectStore, manifest: Manifest, cache: Path, trust_times: bool, max_bytes: int) -> LocalCopy:
    objects = cache / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    index = cache / "index" / store.site / f"{manifest.dataset}.json"
    verified = _read_index(index) if trust_times else {}
    there = {info.key: info for info in store.list(BUCKET, f"{manifest.dataset}/")}
    seen = {o.key: _state(o, there[o.key]) for o in manifest.objects if o.key in there}

    wanted: list[ManifestObject] = []
    problems: dict[str, str] = {}
    for listed in manifest.objects:
        info = there.get(listed.key)
        if info is None:
            problems[listed.key] = f"{listed.key} is in the manifest and not at {store.site}"
        elif info.size != listed.size:
            problems[listed.key] = (
                f"{listed.key} at {store.site} has {info.size} bytes, the manifest says {listed.size}"
            )
        elif verified.get(listed.key) != seen[listed.key] or not _is_cached(objects / listed.sha256, listed.size):
            wanted.append(listed)
    problems |= _read_and_verify(store, wanted, objects)
    files = {o.key: objects / o.sha256 for o in manifest.objects if o.key not in problems}
    _write_index(index, {key: seen[key] for key in files})
    _evict(objects, keep={path.name for path in files.values()}, max_bytes=max_bytes)
    return LocalCopy(files, tuple(problems.values()))


def _state(listed: ManifestObject, info: ObjectInfo) -> list[str | int]:
    return [listed.sha256, info.size, info.modified.isoformat()]


def _is_cached(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _read_and_verify(store: ObjectStore, wanted: Sequence[ManifestObject], objects: Path) -> dict[str, str]:
    """Read every wanted object from the site; return what is wrong by key."""

    def one(listed: ManifestObject) -> tuple[str, str] | None:
        data = store.get(BUCKET, listed.key)
        if data is None:
            return listed.key, f"{listed.key} disappeared from {store.site} while it was read"
        if (actual := hashlib.sha256(data).hexdigest()) != listed.sha256:
            return listed.key, f"{listed.key} at {store.site} hashes to {actual}, the manifest says {listed.sha256}"
        _put(objects / listed.sha256, data)
        return None

    if not wanted:
        return {}
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="gate-fetch") as pool:
        try:
            return dict(found for found in pool.map(one, wanted) if found is not None)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # a store that went away fails once, not once per object
            raise


def _put(path: Path, data: bytes) -> None:
    """All or nothing, also when the machine stops: a file under its hash must never hold less."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _read_index(path: Path) -> dict[str, list[str | int]]:
    """Empty when it is missing or unreadable: everything is then read again."""
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _write_index(path: Path, index: Mapping[str, list[str | int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path, json.dumps(index).encode())


def _evict(objects: Path, *, keep: set[str], max_bytes: int) -> None:
    """Remove what was not used for longest until the rest fits; never what is about to be judged."""
    others = []
    for entry in os.scandir(objects):
        with suppress(FileNotFoundError):  # another gate tidies up as well
            if entry.name in keep:
                os.utime(entry.path)
            else:
                others.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = sum(size for _, size, _ in others)
    for _, size, path in sorted(others):
        if total <= max_bytes:
            return
        with suppress(FileNotFoundError):
            Path(path).unlink()
        total -= size
