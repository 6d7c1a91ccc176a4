"""A site with a real object store, a real ledger, and a month of real flights, for the gate's tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from support.postgres import postgres
from support.processes import ROOT, SiteProcesses, stopping

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import migrate
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.estate import load_estate
from ninelives.flights.data import Flights, day_key, read_source, to_parquet
from ninelives.home import Home
from ninelives.replication.manifest import BUCKET, Manifest, ManifestObject, build_manifest, write_manifest


def january() -> Flights:
    """The smallest thing that counts as the dataset."""
    table = read_source()
    return Flights(table.filter(pc.equal(table["month"], 1)))


def objects(flights: Flights) -> dict[str, bytes]:
    """Key to Parquet, one object per day."""
    days = [date(2013, 1, number) for number in range(1, 32)]
    return {day_key(day): to_parquet(flights.day(day), day) for day in days}


def publish(store: S3ObjectStore, objects: dict[str, bytes]) -> Manifest:
    """Write every object, then the manifest."""
    listed = [ManifestObject(key=k, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for k, d in objects.items()]
    for key, data in objects.items():
        store.put(BUCKET, key, data)
    manifest = build_manifest("flights", listed, datetime.now(UTC))
    write_manifest(store, manifest)
    return manifest


@dataclass
class GatedSite:
    """``home`` has the connections; ``connections`` are the same for ``AIRFLOW_CONN_…``."""

    home: Home
    processes: SiteProcesses
    store: S3ObjectStore
    connections: dict[str, dict[str, Any]]

    def systems(self) -> ConnectedEstate:
        estate = load_estate(ROOT / "include" / "estates" / "demo" / "estate.yaml")
        return ConnectedEstate(estate, FileConnections(self.home.connections_file), self.home)

    def disk(self, key: str) -> Path:
        """Where the site keeps the object."""
        return self.processes.folder / "store" / BUCKET / key


@contextmanager
def gated_site(folder: Path, name: str = "dublin") -> Iterator[GatedSite]:
    """A running site; nothing of it is left afterwards."""
    processes = SiteProcesses(name, folder / name, models="", replicas=0)
    with postgres() as url, stopping(processes):
        migrate(url)
        store = processes.start_store()
        store.ensure_bucket(BUCKET)
        ledger = {
            "conn_type": "postgres",
            "host": url.query.get("host") or url.host,
            "port": url.port,
            "login": url.username,
            "password": url.password or "",
            "schema": url.database,
        }
        connections = {**processes.connections(), "ninelives_ledger": ledger}
        home = Home(folder / "home")
        home.connections_file.parent.mkdir(parents=True)
        home.connections_file.write_text(json.dumps(connections))
        home.connections_file.chmod(0o600)
        yield GatedSite(home, processes, store, connections)
