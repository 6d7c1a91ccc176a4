"""What the prober writes down: one row per slot of its schedule, whether a request was sent in it or not.

Rows are Parquet files in ``<folder>/<YYYY-MM-DD>/`` (UTC day of the file's first slot), beside ``heartbeat.json``. A
slot without a row was never looked at: the prober was dead, or was killed before it wrote. Readers count it as unknown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ninelives.errors import Corrupted, Unavailable


class Outcome(StrEnum):
    """How one slot of the schedule ended."""

    GOOD = "good"
    """correct, within the latency objective"""
    SLOW = "slow"
    """correct, later than the latency objective"""
    DEGRADED = "degraded"
    """a fallback answered, and said so"""
    WRONG = "wrong"
    """status 200, but not the known answer of the model version that answered"""
    FAILED = "failed"
    """an error, another status, or no answer in time"""
    UNKNOWN = "unknown"
    """the prober did not look, or its own stall spoiled what it saw"""


PROBE, DRILL = "probe", "drill"
"""Kinds of traffic that no user sent; the second is while something is broken on purpose."""

CORRECT = (Outcome.GOOD, Outcome.SLOW)
BAD = (Outcome.DEGRADED, Outcome.WRONG, Outcome.FAILED)


@dataclass(frozen=True)
class Probe:
    """One slot of the schedule. ``sent_at`` is ``None`` where nothing was sent."""

    run: str
    """one prober process with one schedule; ``(run, service, seq)`` is unique"""
    seq: int
    service: str
    scheduled_at: datetime
    sent_at: datetime | None
    monotonic_ns: int
    """at sending, or the scheduled instant where nothing was sent"""
    outcome: Outcome
    latency_s: float | None = None
    """seconds from sending to the last byte of the answer, or to giving up"""
    status: int | None = None
    site: str | None = None
    model_version: str | None = None
    error: str | None = None
    traffic: str | None = None
    """``probe`` or ``drill``; unknown in files of older versions."""


_STAMP = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("service", pa.string(), nullable=False),
        pa.field("scheduled_at", _STAMP, nullable=False),
        pa.field("sent_at", _STAMP),
        pa.field("monotonic_ns", pa.int64(), nullable=False),
        pa.field("latency_s", pa.float64()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("status", pa.int32()),
        pa.field("site", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("error", pa.string()),
        pa.field("traffic", pa.string()),
    ]
)

MERGED = "m.parquet"
"""How the name of a file ends that replaces smaller ones."""
LONGEST_FILE = timedelta(hours=1)
"""No file spans more than this, plus the slack."""
SLACK = timedelta(minutes=2)
"""A row is written when its answer is there, so a file may hold slots out of order by at most this."""
_HEARTBEAT = "heartbeat.json"
_KEY = ["run", "service", "seq"]


def to_table(probes: Iterable[Probe]) -> pa.Table:
    """Columns of ``SCHEMA``, in the order given."""
    rows = list(probes)
    return pa.Table.from_arrays(
        [pa.array([getattr(row, field.name) for row in rows], field.type) for field in SCHEMA], schema=SCHEMA
    )


def file_name(start: datetime, suffix: str) -> str:
    """A name that sorts by time: ``20130101T101500.000000Z-<suffix>``."""
    return f"{start.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{suffix}"


def file_start(path: Path) -> datetime:
    """The earliest scheduled instant in a probe file, from its name; raises ``Corrupted`` for a name that has none."""
    try:
        return datetime.strptime(path.name.partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise Corrupted(f"{path}: not a file that the prober wrote; move it out of the folder of probes") from error


def probe_files(folder: Path) -> list[Path]:
    """Every whole file, oldest first; a folder that does not exist holds none."""
    found: list[Path] = []
    try:
        days = [day for day in folder.iterdir() if day.is_dir()]
    except FileNotFoundError:
        return found
    for day in days:
        try:
            found += [path for path in day.iterdir() if path.suffix == ".parquet" and not path.name.startswith(".")]
        except FileNotFoundError:  # retention removed the day meanwhile
            continue
    return sorted(found, key=lambda path: path.name)


def distinct(table: pa.Table) -> pa.Table:
    """Each slot once: a merged file stands beside the files it replaces when the prober was killed in between."""
    keyed = table.select(_KEY).append_column("row", pa.array(np.arange(table.num_rows)))
    first = keyed.group_by(_KEY, use_threads=False).aggregate([("row", "min")]).column("row_min")
    return table if len(first) == table.num_rows else table.take(np.sort(first.to_numpy()))


def read_file(path: Path) -> pa.Table:
    """:raises FileNotFoundError: the file was merged away meanwhile
    :raises Corrupted: the file is not whole Parquet; files appear under their name only when they are"""
    try:
        found = pq.ParquetFile(path, memory_map=False).read()
        if "traffic" not in found.column_names:  # of an older version
            found = found.append_column("traffic", pa.nulls(found.num_rows, pa.string()))
        return found.cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise Corrupted(f"{path}: not a whole probe file ({error})") from error


def read_probes(folder: Path, start: datetime, end: datetime, service: str | None = None) -> pa.Table:
    """Rows scheduled in ``[start, end)``, of one service or of all, ordered by schedule; safe beside a live prober.

    :raises Unavailable: the files kept changing while they were read
    :raises Corrupted: a file cannot be read
    """
    for _ in range(20):
        before = probe_files(folder)
        try:
            tables = [
                _select(read_file(path), start, end, service)
                for path in before
                if start - LONGEST_FILE - SLACK <= file_start(path) < end
            ]
        except FileNotFoundError:
            continue
        after = set(probe_files(folder))
        # Nothing that was listed is gone, and no merged file is new: then the first listing missed no row, although
        # listing a folder is no snapshot.
        if after.issuperset(before) and not any(path.name.endswith(MERGED) for path in after.difference(before)):
            table = distinct(pa.concat_tables(tables) if tables else SCHEMA.empty_table())
            return table.sort_by([("scheduled_at", "ascending"), ("service", "ascending")])
    raise Unavailable(f"{folder}: the files of probes changed each time they were read; try again")


def _select(table: pa.Table, start: datetime, end: datetime, service: str | None) -> pa.Table:
    at = table.column("scheduled_at")
    keep = pc.and_(pc.greater_equal(at, pa.scalar(start, _STAMP)), pc.less(at, pa.scalar(end, _STAMP)))
    if service is not None:
        keep = pc.and_(keep, pc.equal(table.column("service"), service))
    return table.filter(keep)


# --- the prober's heartbeat ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heartbeat:
    """What the prober last said of itself, once per flush."""

    run: str
    pid: int
    at: datetime
    interval_s: float
    """between two probes of one service"""
    services: tuple[str, ...]
    complete_until: datetime
    """Every row that this run will ever write for slots before this instant is on disk."""


def heartbeat_file(folder: Path) -> Path:
    return folder / _HEARTBEAT


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """``None`` where no prober has ever flushed."""
    try:
        data = json.loads(heartbeat_file(folder).read_text("utf-8"))
        return Heartbeat(
            run=data["run"],
            pid=data["pid"],
            at=datetime.fromisoformat(data["at"]),
            interval_s=data["interval_s"],
            services=tuple(data["services"]),
            complete_until=datetime.fromisoformat(data["complete_until"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupted(f"{heartbeat_file(folder)}: not a heartbeat ({error}); restart the prober") from error


def wait_until_complete(folder: Path, until: datetime, *, timeout: float = 15.0, poll: float = 0.1) -> Heartbeat:
    """Return once every probe scheduled before ``until`` is on disk, so that a measurement misses none.

    :param timeout: seconds
    :raises Unavailable: it did not get there; what is missing then counts as unknown
    """
    deadline = time.monotonic() + timeout
    while True:
        beat = read_heartbeat(folder)
        if beat is not None and beat.complete_until >= until:
            return beat
        if time.monotonic() >= deadline:
            seen = "there is no heartbeat" if beat is None else f"they are complete until {beat.complete_until}"
            raise Unavailable(
                f"probes until {until} are not on disk after {timeout:g} s: {seen}; is the prober running?"
            )
        time.sleep(poll)


def interval_of(probes: pa.Table) -> float | None:
    """Seconds between two slots of one service as the rows themselves tell; ``None`` where too few rows can.

    Within a run slots are evenly spaced, so first and last slot of each run and their numbers give it exactly.
    """
    if probes.num_rows < 2:
        return None
    numbered = probes.append_column("at", probes.column("scheduled_at").cast(pa.int64()))
    spans = numbered.group_by(["run", "service"], use_threads=False).aggregate(
        [("at", "min"), ("at", "max"), ("seq", "min"), ("seq", "max")]
    )
    found: Sequence[tuple[int, float]] = [
        (slots, (row["at_max"] - row["at_min"]) / 1e6 / slots)
        for row in spans.to_pylist()
        if (slots := row["seq_max"] - row["seq_min"]) > 0
    ]
    return max(found)[1] if found else None
