"""A site's copy of a dataset on this machine's disk, byte for byte what its manifest says.

The cache is addressed by content, so sites and datasets share it. An index per site remembers which objects were read
there and matched. An object is read again as soon as the site lists another size or time of change for it; but bits rot
without that, and some stores list what they remember. So every run also reads again the objects that it has not read
for longest, up to a budget: all of a small dataset, a rotating part of a large one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ninelives.errors import Unavailable
from ninelives.ports import ObjectInfo, ObjectStore
from ninelives.replication.manifest import BUCKET, Manifest, ManifestObject

MAX_BYTES = 20 * 2**30
"""What the cache may hold beyond the dataset at hand."""
REREAD_BYTES = 256 * 2**20
REREAD_OBJECTS = 1000
"""What is read again in each run of what looks unchanged: a few seconds' worth, less than the engine takes to start."""
_WORKERS = 8
_Seen = list[str | int]
"""SHA-256, size in bytes, time of change, and number of the run that last read it."""


@dataclass(frozen=True)
class LocalCopy:
    """``files``: key to a local file with the listed bytes; ``problems``: what the site does not have intact."""

    files: Mapping[str, Path]
    problems: tuple[str, ...]


def fetch(
    store: ObjectStore,
    manifest: Manifest,
    cache: Path,
    *,
    reread_bytes: int | None = REREAD_BYTES,
    max_bytes: int = MAX_BYTES,
) -> LocalCopy:
    """Bring the objects of ``manifest`` here and verify each against its size and SHA-256.

    :param reread_bytes: how much of what looks unchanged is read again; ``None``: all of it
    :raises Unavailable: the store does not answer, or the cache's disk is full
    """
    try:
        return _fetch(store, manifest, cache, reread_bytes, max_bytes)
    except OSError as error:
        raise Unavailable(f"the gate's cache {cache} cannot be written: {error}; free some space") from error


def _fetch(store: ObjectStore, manifest: Manifest, cache: Path, reread_bytes: int | None, max_bytes: int) -> LocalCopy:
    objects = cache / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    index = cache / "index" / store.site / f"{manifest.dataset}.json"
    verified = _read_index(index)
    run = 1 + max((int(entry[3]) for entry in verified.values()), default=0)
    there = {info.key: info for info in store.list(BUCKET, f"{manifest.dataset}/")}
    wanted: list[ManifestObject] = []
    unchanged: list[ManifestObject] = []
    problems: dict[str, str] = {}
    for listed in manifest.objects:
        info = there.get(listed.key)
        if info is None:
            problems[listed.key] = f"{listed.key} is in the manifest and not at {store.site}"
        elif info.size != listed.size:
            problems[listed.key] = (
                f"{listed.key} at {store.site} has {info.size} bytes, the manifest says {listed.size}"
            )
        elif verified.get(listed.key, [])[:3] == _state(listed, info) and _is_cached(
            objects / listed.sha256, info.size
        ):
            unchanged.append(listed)
        else:
            wanted.append(listed)
    unchanged.sort(key=lambda o: int(verified[o.key][3]))
    wanted += _within(unchanged, reread_bytes)
    problems |= _read_and_verify(store, wanted, objects)
    files = {o.key: objects / o.sha256 for o in manifest.objects if o.key not in problems}
    read_now = {listed.key for listed in wanted}
    _write_index(
        index,
        {
            o.key: [*_state(o, there[o.key]), run if o.key in read_now else verified[o.key][3]]
            for o in manifest.objects
            if o.key in files
        },
    )
    _evict(objects, keep={path.name for path in files.values()}, max_bytes=max_bytes)
    return LocalCopy(files, tuple(problems.values()))


def _state(listed: ManifestObject, info: ObjectInfo) -> _Seen:
    return [listed.sha256, info.size, info.modified.isoformat()]


def _within(ordered: Sequence[ManifestObject], budget: int | None) -> Sequence[ManifestObject]:
    """As many of the first as fit, and at least one: the rotation must not stop at an object above the budget."""
    if not budget:
        return ordered if budget is None else ()
    totals = list(accumulate(o.size for o in ordered[:REREAD_OBJECTS]))
    return ordered[: max(1, bisect_right(totals, budget))]


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
        local = objects / listed.sha256
        if not (_is_cached(local, len(data)) and local.read_bytes() == data):
            _put(local, data)
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


def _read_index(path: Path) -> dict[str, _Seen]:
    """Empty when it is missing or unreadable: everything is then read again."""
    try:
        index = json.loads(path.read_bytes())
        return {str(key): [str(sha), int(size), str(at), int(run)] for key, (sha, size, at, run) in index.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_index(path: Path, index: Mapping[str, _Seen]) -> None:
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
