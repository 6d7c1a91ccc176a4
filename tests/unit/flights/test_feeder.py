import threading
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path

import pytest
from unit.replication.memory import Fuse, Killed, MemoryStore

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import Estate, load_estate
from ninelives.flights import feeder
from ninelives.flights.data import Flights, hour_key, stream
from ninelives.flights.feeder import feed, resume_after, writable_site
from ninelives.home import Home
from ninelives.ports import GatewayState
from ninelives.replication.acks import JOURNAL, Ack, read_acks
from ninelives.replication.manifest import hash_object


class Estates:
    """The demo's two sites in memory; ``closed`` is what the gateway's state says."""

    def __init__(self, folder: Path, fuse: Fuse | None = None) -> None:
        self.home = Home(folder)
        self.estate: Estate = load_estate(Home.from_environment().estate_file)
        self.sites = {site: MemoryStore(site, fuse) for site in self.estate.site_names}
        self.closed: set[str] = set()

    def store(self, site: str) -> MemoryStore:
        return self.sites[site]

    def gateway(self) -> "Estates":
        return self

    def state(self) -> GatewayState:
        return GatewayState(active={}, closed_sites=frozenset(self.closed), tokens={})

    @property
    def acks(self) -> list[Ack]:
        return read_acks(self.home.feed / JOURNAL)


@pytest.fixture
def systems(tmp_path: Path, flights: Flights, monkeypatch: pytest.MonkeyPatch) -> Estates:
    monkeypatch.setattr(Flights, "load", classmethod(lambda cls: flights))  # the real year, read once for all tests
    monkeypatch.setattr(feeder, "RETRY", 0.001)
    return Estates(tmp_path)


def until(systems: Estates, acks: int) -> Callable[[], bool]:
    return lambda: len(systems.acks) < acks


def test_every_acknowledged_write_is_in_the_store_and_none_is_left_out(systems: Estates, flights: Flights) -> None:
    feed(systems, 0, until(systems, 25))
    acks = systems.acks
    assert [ack.key for ack in acks] == [hour_key(*hour) for hour in islice(stream(flights), 25)]
    assert [ack.seq for ack in acks] == list(range(1, 26))
    for ack in acks:
        stored = hash_object(systems.sites["paris"], "data", ack.key)
        assert stored is not None
        assert (stored.size, stored.sha256, ack.site) == (ack.size, ack.sha256, "paris")
    assert acks == sorted(acks, key=lambda ack: (ack.acked_at, ack.monotonic_ns))


def test_a_restart_goes_on_after_the_last_acknowledged_write(systems: Estates) -> None:
    feed(systems, 0, until(systems, 3))
    feed(systems, 0, until(systems, 6))
    assert [ack.seq for ack in systems.acks] == [1, 2, 3, 4, 5, 6]
    assert len({ack.key for ack in systems.acks}) == 6


def test_a_write_that_was_not_journalled_is_recognised_and_journalled_once(systems: Estates, monkeypatch) -> None:
    feed(systems, 0, until(systems, 2))

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(feeder, "append_ack", die)
        with pytest.raises(Killed):
            feed(systems, 0)
    written = systems.sites["paris"].objects()
    assert len(written) == 3
    assert len(systems.acks) == 2
    feed(systems, 0, until(systems, 3))
    assert systems.sites["paris"].objects() == written
    assert {ack.key for ack in systems.acks} == set(written)


def test_a_torn_last_line_never_counted_and_its_write_is_journalled_again(systems: Estates) -> None:
    feed(systems, 0, until(systems, 3))
    journal = systems.home.feed / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-10])
    assert len(systems.acks) == 2
    feed(systems, 0, until(systems, 4))
    assert [ack.seq for ack in systems.acks] == [1, 2, 3, 4]


def test_a_journal_damaged_in_the_middle_stops_the_feeder(systems: Estates) -> None:
    feed(systems, 0, until(systems, 3))
    journal = systems.home.feed / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b'"seq":2', b'"seq":x'))
    with pytest.raises(Corrupted):
        feed(systems, 0, lambda: False)


def test_a_failed_write_is_tried_again_and_never_skipped(systems: Estates) -> None:
    store, tries = systems.sites["paris"], 0
    store.down = True

    def keep_on() -> bool:
        nonlocal tries
        tries += 1
        store.down = tries < 20
        return len(systems.acks) < 3

    feed(systems, 0, keep_on)
    assert [ack.seq for ack in systems.acks] == [1, 2, 3]
    assert resume_after(systems.acks[0].key) == (date(2013, 11, 1), 5)


def test_while_the_primary_is_only_unreachable_nothing_is_written_elsewhere(systems: Estates) -> None:
    systems.sites["paris"].down = True
    left = 30

    def keep_on() -> bool:
        nonlocal left
        left -= 1
        return left > 0

    feed(systems, 0, keep_on)
    assert systems.acks == []
    assert systems.sites["dublin"].objects() == {}


def test_once_the_primary_is_closed_the_stream_goes_on_at_the_copy_and_returns(systems: Estates) -> None:
    feed(systems, 0, until(systems, 2))
    systems.closed.add("paris")
    feed(systems, 0, until(systems, 4))
    systems.closed.clear()
    feed(systems, 0, until(systems, 6))
    assert [ack.site for ack in systems.acks] == ["paris", "paris", "dublin", "dublin", "paris", "paris"]
    assert len({ack.key for ack in systems.acks}) == 6


def test_with_every_site_closed_there_is_nowhere_to_write(systems: Estates) -> None:
    systems.closed |= {"paris", "dublin"}
    with pytest.raises(Unavailable, match="closed"):
        writable_site(systems)


def test_keys_name_the_hour_they_hold() -> None:
    assert resume_after(hour_key(date(2014, 2, 3), 7)) == (date(2014, 2, 3), 7)


def test_two_feeders_never_write_to_one_journal(systems: Estates) -> None:
    started, stop = threading.Event(), threading.Event()

    def keep_on() -> bool:
        started.set()
        return not stop.is_set()

    first = threading.Thread(target=feed, args=(systems, 0.01, keep_on))
    first.start()
    try:
        assert started.wait(30)
        with pytest.raises(Refused, match="another one writes"):
            feed(systems, 0, lambda: True)
    finally:
        stop.set()
        first.join()
    feed(systems, 0, until(systems, len(systems.acks) + 1))
