"""Chains, anchors and a store in a folder, for the ledger's tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninelives.errors import Unavailable
from ninelives.evidence.chain import GENESIS, Anchor, record_hash
from ninelives.ports import ObjectInfo, Record

START = datetime(2026, 1, 1, tzinfo=UTC)


def rehash(record: Record, **changes: Any) -> Record:
    """``record`` with ``changes`` and a hash that fits them: what somebody with our software could forge."""
    body = {**vars(record), **changes}
    body.pop("hash")
    return Record(hash=record_hash(**body), **body)


def chain(contents: Sequence[Mapping[str, Any]], after: Sequence[Record] = ()) -> list[Record]:
    """``after``, continued by one record for each of ``contents``."""
    records = list(after)
    for facts in contents:
        blank = Record(
            seq=len(records) + 1,
            kind="drill",
            subject="site-loss",
            facts=facts,
            at=START + timedelta(seconds=len(records)),
            previous=records[-1].hash if records else GENESIS,
            hash="",
            version="1",
        )
        records.append(rehash(blank))
    return records


def anchor_of(record: Record, site: str = "paris") -> Anchor:
    return Anchor(record.seq, record.hash, "2026-01-01T00:00:00.000000Z", site)


class FolderStore:
    """``ports.ObjectStore`` in a folder; with ``down`` it does not answer."""

    def __init__(self, site: str, folder: Path) -> None:
        self.site, self.folder, self.down = site, folder, False

    def _path(self, bucket: str, key: str = "") -> Path:
        if self.down:
            raise Unavailable(f"the store of site {self.site} does not answer")
        return self.folder / bucket / key

    def put(self, bucket: str, key: str, data: bytes) -> None:
        path = self._path(bucket, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get(self, bucket: str, key: str) -> bytes | None:
        path = self._path(bucket, key)
        return path.read_bytes() if path.is_file() else None

    def head(self, bucket: str, key: str) -> ObjectInfo | None:
        path = self._path(bucket, key)
        return self._info(bucket, path) if path.is_file() else None

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        root = self._path(bucket)
        if not root.is_dir():
            raise Unavailable(f"the store of site {self.site} has no bucket {bucket}")
        found = (self._info(bucket, path) for path in sorted(root.rglob("*")) if path.is_file())
        return (info for info in found if info.key.startswith(prefix))

    def delete(self, bucket: str, key: str) -> None:
        self._path(bucket, key).unlink(missing_ok=True)

    def ensure_bucket(self, bucket: str) -> None:
        self._path(bucket).mkdir(parents=True, exist_ok=True)

    def ping(self, timeout: float = 1.0) -> None:
        self._path("")

    def _info(self, bucket: str, path: Path) -> ObjectInfo:
        status = path.stat()
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        return ObjectInfo(str(path.relative_to(self.folder / bucket)), status.st_size, modified)
