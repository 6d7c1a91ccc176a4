"""Writes probes to disk as they come, merges small files into larger ones and removes old ones; one writer a folder.

A file appears under its name only when it is whole, and a merged file appears before the files it replaces go. Killed
at any instant, nothing that was flushed is lost; what stands there twice is read once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ninelives.errors import Refused
from ninelives.probing.records import (
    MERGED,
    SLACK,
    Heartbeat,
    Probe,
    distinct,
    file_name,
    file_start,
    heartbeat_file,
    probe_files,
    read_file,
    to_table,
)


class ProbeJournal:
    """Owns the folder of probes while it is open.

    :param retention: days whose newest slot is older are removed
    :raises Refused: another prober writes here
    """

    def __init__(self, folder: Path, *, retention: timedelta = timedelta(days=7)) -> None:
        self.folder = folder
        self.retention = retention
        self._written = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Refused("prober", [f"another prober writes to {folder}; stop it first"]) from None
        for left_over in folder.glob("*/.tmp-*"):  # of a writer that was killed; never read by anyone
            left_over.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.close()

    def flush(self, probes: Sequence[Probe], beat: Heartbeat) -> None:
        """Write ``probes`` as one file, then the heartbeat that promises them."""
        if probes:
            self._write(to_table(probes), ".parquet")
        _replace(
            heartbeat_file(self.folder),
            json.dumps(
                {**vars(beat), "at": beat.at.isoformat(), "complete_until": beat.complete_until.isoformat()}
            ).encode(),
        )

    def tidy(self, now: datetime) -> None:
        """Merge the files of each past minute and of each past hour into one, and remove days past retention."""
        files = probe_files(self.folder)
        settled = now - SLACK
        for period in (timedelta(minutes=1), timedelta(hours=1)):
            groups: dict[datetime, list[Path]] = {}
            for path in files:
                begin = _floor(file_start(path), period)
                if begin + period <= settled:
                    groups.setdefault(begin, []).append(path)
            for group in groups.values():
                if len(group) > 1:
                    self._merge(group)
            files = probe_files(self.folder)
        for day in {path.parent for path in files}:
            ends = datetime.strptime(day.name, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
            if ends < now - self.retention:
                shutil.rmtree(day)

    def _merge(self, group: Sequence[Path]) -> None:
        target = self._write(distinct(pa.concat_tables([read_file(path) for path in group])), f"-{MERGED}")
        for path in group:
            if path != target:
                path.unlink()

    def _write(self, table: pa.Table, ending: str) -> Path:
        start: datetime = pc.min(table.column("scheduled_at")).as_py()
        self._written += 1
        path = self.folder / f"{start:%Y-%m-%d}" / file_name(start, f"{os.getpid()}-{self._written}{ending}")
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        path.parent.mkdir(exist_ok=True)
        _replace(path, sink.getvalue())
        return path


def _floor(at: datetime, period: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return at - (at - epoch) % period


def _replace(path: Path, data: bytes | pa.Buffer) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
