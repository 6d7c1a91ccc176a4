"""Replays the flights as a stream of acknowledged writes, so that a recovery point can be measured."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.flights.data import DATASET, Flights, hour_key, put_once, stream
from ninelives.ports import ObjectStore, Systems
from ninelives.replication.acks import JOURNAL, Ack, append_ack, read_acks

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds until a write that was not acknowledged is tried again."""


def writable_site(systems: Systems) -> str:
    """Where new data goes: the dataset's primary, or its first copy that is open while the primary is closed.

    :raises Unavailable: every site that holds the dataset is closed
    """
    dataset = systems.estate.dataset_by_name[DATASET]
    closed = systems.gateway().state().closed_sites
    for site in (dataset.primary, *dataset.copies):
        if site not in closed:
            return site
    raise Unavailable(f"every site of {DATASET} is closed")


def resume_after(key: str) -> tuple[date, int]:
    """Day and hour of a key that ``hour_key`` made."""
    day, hour = key.split("/day=")[1].removesuffix(".parquet").split("/hour=")
    return date.fromisoformat(day), int(hour)


def feed(systems: Systems, every: float, keep_on: Callable[[], bool] = lambda: True) -> None:
    """Write one hour of flights each ``every`` seconds, for as long as ``keep_on`` says so.

    A write counts when the store has acknowledged it and the journal has it on disk. One that fails is tried again, at
    whichever site is writable then, and never skipped. Killed between the two, it is found in the store by its bytes
    and journalled by the next process.

    :raises Refused: another feeder writes to this journal
    :raises Corrupted: the journal is damaged, or an object is there with other rows
    """
    with _alone(systems.home.feed):
        _feed(systems, every, keep_on)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two feeders would acknowledge the same write twice; the kernel drops the lock of one that is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "feeder.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("feeder", [f"another one writes to {folder}; stop it first"]) from None
        yield


def _feed(systems: Systems, every: float, keep_on: Callable[[], bool]) -> None:
    journal = systems.home.feed / JOURNAL
    acks = read_acks(journal)
    flights = Flights.load()
    seq = acks[-1].seq if acks else 0
    due = time.monotonic()
    for day, hour in stream(flights, resume_after(acks[-1].key) if acks else None):
        seq += 1
        while keep_on():
            try:
                append_ack(journal, _write(systems.store(writable_site(systems)), flights, day, hour, seq))
                break
            except Unavailable as error:
                log.warning("%s is not written yet: %s", hour_key(day, hour), error)
                time.sleep(RETRY)
        due = max(due + every, time.monotonic() - every)  # after an outage it catches up by one write, not by all
        while keep_on() and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))
        if not keep_on():
            return


def _write(store: ObjectStore, flights: Flights, day: date, hour: int, seq: int) -> Ack:
    written, _ = put_once(store, hour_key(day, hour), flights.hour(day, hour), day)
    return Ack(
        seq=seq,
        dataset=DATASET,
        key=written.key,
        size=written.size,
        sha256=written.sha256,
        site=store.site,
        acked_at=datetime.now(UTC),
        monotonic_ns=time.monotonic_ns(),
    )


def wait_for_history(systems: Systems, keep_on: Callable[[], bool]) -> None:
    """Return when the history is there: the stream follows it."""
    from ninelives.replication.manifest import read_manifest

    while keep_on():
        try:
            if read_manifest(systems.store(writable_site(systems)), DATASET) is not None:
                return
        except NinelivesError as error:
            log.warning("waiting for the history of %s: %s", DATASET, error)
        time.sleep(RETRY)
