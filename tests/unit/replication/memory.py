"""Two sites in memory behind the real ports, and a way to be killed between any two of their steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

from ninelives.errors import Unavailable
from ninelives.ports import Connection, CopyProgress, CopyReport, ObjectInfo
from ninelives.replication.transfer import Link

LONG_AGO = datetime(2013, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    """Nobody catches it, as nobody catches ``kill -9``."""


class Fuse:
    """Burns down one step per change of a store; at zero the process dies before the change."""

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps

    def burn(self) -> None:
        if self.steps is not None:
            if self.steps == 0:
                raise Killed
            self.steps -= 1


class MemoryStore:
    def __init__(self, site: str, fuse: Fuse | None = None) -> None:
        self.site = site
        self.fuse = fuse or Fuse()
        self.buckets: dict[str, dict[str, tuple[bytes, datetime]]] = {"data": {}, "models": {}}
        self.down = False
        self.reads: list[str] = []
        self.deletes: list[str] = []

    def _bucket(self, bucket: str) -> dict[str, tuple[bytes, datetime]]:
        if self.down or bucket not in self.buckets:
            raise Unavailable(f"the store of {self.site} does not answer")
        return self.buckets[bucket]

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.fuse.burn()
        self._bucket(bucket)[key] = (data, LONG_AGO)

    def get(self, bucket: str, key: str) -> bytes | None:
        found = self._bucket(bucket).get(key)
        self.reads.append(key)
        return found[0] if found else None

    def head(self, bucket: str, key: str) -> ObjectInfo | None:
        found = self._bucket(bucket).get(key)
        return ObjectInfo(key, len(found[0]), found[1]) if found else None

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        for key, (data, modified) in sorted(self._bucket(bucket).items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(data), modified)

    def delete(self, bucket: str, key: str) -> None:
        self.deletes.append(key)
        self._bucket(bucket).pop(key, None)

    def ensure_bucket(self, bucket: str) -> None:
        if self.down:
            raise Unavailable(f"the store of {self.site} does not answer")
        self.buckets.setdefault(bucket, {})

    def ping(self, timeout: float = 1.0) -> None:
        self._bucket("data")

    # --- for the tests

    def flip(self, key: str, bucket: str = "data") -> None:
        """One bit, with size and time kept: what no listing shows."""
        data, modified = self.buckets[bucket][key]
        self.buckets[bucket][key] = (bytes([data[0] ^ 1]) + data[1:], modified)

    def objects(self, bucket: str = "data", prefix: str = "") -> dict[str, bytes]:
        return {key: data for key, (data, _) in self.buckets[bucket].items() if key.startswith(prefix)}


class MemoryCopier:
    """Copies between the stores that the connections' ids name.

    :param damage: how many further copies of a key arrive with a flipped bit
    """

    def __init__(self, *stores: MemoryStore) -> None:
        self.stores = {store.site: store for store in stores}
        self.damage: dict[str, int] = {}
        self.copied: list[tuple[str, str]] = []

    def copy(
        self,
        source: Connection,
        target: Connection,
        *,
        bucket: str,
        keys: Iterable[str] | None = None,
        prefix: str = "",
        on_progress: Callable[[CopyProgress], None] | None = None,
        force: bool = False,
        into: str = "",
        hashed: bool = False,
    ) -> CopyReport:
        a, b = self.stores[source.conn_id], self.stores[target.conn_id]
        size = count = 0
        seen: dict[str, str] = {}
        for key in list(keys) if keys is not None else [info.key for info in a.list(bucket, prefix)]:
            data = a._bucket(bucket).get(key)
            name = f"{into}/{key}" if into else key
            there = b._bucket(bucket).get(name)
            if data is None or (not force and there is not None and len(there[0]) == len(data[0])):
                continue  # as a store that remembers the ETag of the bytes it once had
            b.fuse.burn()
            b._bucket(bucket)[name] = (data[0], data[1])
            if hashed:
                seen[key] = hashlib.sha256(data[0]).hexdigest()
            self.copied.append((b.site, name))
            count, size = count + 1, size + len(data[0])
            if self.damage.get(key, 0) > 0:
                self.damage[key] -= 1
                b.flip(name, bucket)
        if on_progress is not None:
            on_progress(CopyProgress(count, size, size, 0.0))
        return CopyReport(count, size, 0.0, sha256=seen)


class Pair:
    """Paris and Dublin, connected; the same fuse burns for both."""

    def __init__(self) -> None:
        self.fuse = Fuse()
        self.paris, self.dublin = MemoryStore("paris", self.fuse), MemoryStore("dublin", self.fuse)
        self.copier = MemoryCopier(self.paris, self.dublin)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    @property
    def link(self) -> Link:
        return Link(self.paris, self.dublin, self.copier, Connection("paris"), Connection("dublin"))

    @property
    def ends(self) -> tuple[MemoryStore, MemoryStore, MemoryCopier, Connection, Connection]:
        return self.paris, self.dublin, self.copier, Connection("paris"), Connection("dublin")

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now
