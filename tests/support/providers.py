"""A store, a ledger, and a provider with the flights of one day as its recorded feed.

``python -m support.providers FOLDER SPEED`` replays it in a process of its own, which may be killed.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.processes import ROOT, SiteProcesses

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.faults import SupervisedFaults
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.estate import Estate, load_estate
from ninelives.flights.data import Flights, hour_key, to_parquet
from ninelives.home import Home
from ninelives.replication.manifest import BUCKET

DEMO = ROOT / "include" / "estates" / "demo" / "estate.yaml"
NOW = datetime(2026, 11, 29, 9, tzinfo=UTC)
WINDOW = {"days": ["sun"], "begin": "10:00", "end": "12:00", "zone": "Europe/Paris"}
FEED = {"stream": "departures", "prefix": "flights/", "contains": "/hour=", "every": "1h"}


class Stand:
    """What is on disk below ``folder``; the store's process is somebody else's."""

    def __init__(self, folder: Path, *, sandbox: bool = False) -> None:
        self.home, url = Home(folder / "home"), f"sqlite:///{folder / 'ledger.db'}"
        provider = {"name": "airports", "contacts": ["ops@example.org"], "test": [WINDOW], "feed": FEED}
        document = load_estate(DEMO).model_dump(mode="json") | {"providers": [provider | {"sandbox": sandbox}]}
        connections = FileConnections(self.home.connections_file)
        self.faults = SupervisedFaults(connections, self.home)
        self.ledger = SqlLedger(url)
        self.store = S3ObjectStore.from_connection(connections.get("ninelives_paris_store"), "paris")
        self.systems: Any = SimpleNamespace(
            estate=Estate.model_validate(document), home=self.home, connections=connections,
            store=lambda site: self.store, ledger=lambda: self.ledger, faults=lambda: self.faults,
        )  # fmt: skip

    @property
    def keys(self) -> list[str]:
        return sorted(info.key for info in self.store.list(BUCKET))


def connect(folder: Path, site: SiteProcesses, sandbox: dict[str, Any] | None = None) -> None:
    file = Home(folder / "home").connections_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**site.connections(), **({"ninelives_airports_sandbox": sandbox} if sandbox else {})}))
    file.chmod(0o600)


def record(folder: Path, site: SiteProcesses) -> None:
    """Twelve hours of flights in a store that was just started, and an empty ledger."""
    migrate(f"sqlite:///{folder / 'ledger.db'}")
    connect(folder, site)
    store, flights, day = site.store, Flights.load(), date(2013, 1, 2)
    store.ensure_bucket(BUCKET)
    for hour in range(6, 18):
        store.put(BUCKET, hour_key(day, hour), to_parquet(flights.hour(day, hour), day))


if __name__ == "__main__":
    from ninelives.providers.replay import replay_feed

    replay_feed(
        Stand(Path(sys.argv[1])).systems, "airports", holder="killed", seed=7, speed=float(sys.argv[2]), now=NOW
    )
