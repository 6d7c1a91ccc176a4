"""A recorded feed through a real HTTP server into a real store, with everything that can go wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from support.processes import ROOT, SiteProcesses, stopping

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.errors import Refused
from ninelives.estate import Estate, load_estate
from ninelives.flights.data import Flights, hour_key, to_parquet
from ninelives.providers.disturb import Kind
from ninelives.providers.replay import KIND, replay_feed
from ninelives.replication.manifest import BUCKET

DEMO = ROOT / "include" / "estates" / "demo" / "estate.yaml"
pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
NOW = datetime(2026, 11, 29, 9, tzinfo=UTC)
WINDOW = {"days": ["sun"], "begin": "10:00", "end": "12:00", "zone": "Europe/Paris"}


class Stand:
    """A store, a ledger, and a provider with the flights of one day as its recorded feed."""

    def __init__(self, store: S3ObjectStore, ledger: SqlLedger) -> None:
        feed = {"stream": "departures", "prefix": "flights/", "contains": "/hour=", "every": "1h"}
        provider = {"name": "airports", "contacts": ["ops@example.org"], "test": [WINDOW], "feed": feed}
        document = load_estate(DEMO).model_dump(mode="json") | {"providers": [provider]}
        self.store, self.ledger = store, ledger
        self.systems: Any = SimpleNamespace(
            estate=Estate.model_validate(document), store=lambda site: store, ledger=lambda: ledger
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("providers")
    url = f"sqlite:///{folder / 'ledger.db'}"
    migrate(url)
    processes = SiteProcesses("paris", folder / "paris", models="", replicas=0)
    with stopping(processes):
        store, flights, day = processes.start_store(), Flights.load(), date(2013, 1, 2)
        store.ensure_bucket(BUCKET)
        for hour in range(6, 18):
            store.put(BUCKET, hour_key(day, hour), to_parquet(flights.hour(day, hour), day))
        yield Stand(store, SqlLedger(url))


def keys(site: Stand) -> list[str]:
    return sorted(info.key for info in site.store.list(BUCKET))


def test_of_a_disturbed_feed_each_sound_record_lands_once_and_nothing_of_the_drill_is_left(site: Stand) -> None:
    before = keys(site)
    found, record = replay_feed(site.systems, "airports", holder="test", seed=7, speed=36_000, now=NOW)
    assert found.met, found.facts()
    assert found.landed == found.unique == found.expected > 100
    kinds = found.kinds
    assert {kind: (one.batches, one.sent) for kind, one in kinds.items()} == {
        Kind.SOUND: (8, 8), Kind.LATE: (1, 1), Kind.DUPLICATE: (1, 2), Kind.MISSING: (1, 0), Kind.MALFORMED: (1, 1),
    }  # fmt: skip
    assert kinds[Kind.LATE].landed > 0
    assert kinds[Kind.DUPLICATE].dropped == 1
    assert (kinds[Kind.MALFORMED].landed, kinds[Kind.MALFORMED].quarantined) == (0, 1)
    assert found.stalest >= timedelta(hours=2), "an hour that is missing is two between its neighbours"
    assert (record.kind, record.subject, record.facts["verdict"]) == (KIND, "airports", "met")
    assert keys(site) == before


def test_what_a_killed_drill_left_is_removed_by_the_next(site: Stand) -> None:
    before = keys(site)
    site.store.put(BUCKET, "_drills/provider=airports/killed/arrived/1.parquet", b"left")
    site.store.put(BUCKET, "_manifests/_drills/provider=airports/killed.json", b"left")
    replay_feed(site.systems, "airports", holder="test", seed=1, speed=360_000, batches=5, now=NOW)
    assert keys(site) == before


def test_outside_of_the_window_nothing_is_touched_and_the_next_is_named(site: Stand) -> None:
    before = keys(site)
    with pytest.raises(Refused, match="the next one opens 2026-12-06 09:00 UTC"):
        replay_feed(
            site.systems, "airports", holder="test", seed=7, speed=36_000, now=NOW + timedelta(hours=1, minutes=58)
        )
    assert keys(site) == before
    assert site.systems.ledger().current_lease("provider:airports") is None
