"""A light estate that can fail over: two stores, a model server each, Envoy, and a ledger in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.models import estate_of_two_sites, publish
from support.processes import GatewayProcess, SiteProcesses, stopping

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.estate import Estate
from ninelives.gates.evidence import KIND, subject
from ninelives.gates.suite import load_suite, suite_path
from ninelives.home import Home
from ninelives.ports import Record
from ninelives.releases.publish import Release, read_release, record_golden
from ninelives.replication.manifest import BUCKET, build_manifest, read_manifest, scan, write_manifest

MODELS = ("alpha", "beta", "gamma")


class Systems(ConnectedEstate):
    """Everything as it is, but for the ledger, which is a file."""

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.home.root / 'ledger.db'}")


class World:
    """``alpha`` is at paris with dublin as its standby; both hold the same data, on which the gate has a fresh yes."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.home.connections_file.parent.mkdir(parents=True)
        migrate(f"sqlite:///{self.home.root / 'ledger.db'}")
        self.sites = {
            name: SiteProcesses(name, folder / name, models=",".join(MODELS), replicas=1)
            for name in ("paris", "dublin")
        }
        self.envoy = GatewayProcess(self.estate(), list(self.sites.values()), self.home.gateway)
        gateway = {"folder": str(self.home.gateway), "url": self.envoy.url, "admin": self.envoy.admin}
        connections = {name: value for site in self.sites.values() for name, value in site.connections().items()}
        document = {**connections, "ninelives_gateway": {"conn_type": "generic", "extra": gateway}}
        self.home.connections_file.write_text(json.dumps(document))
        self.home.connections_file.chmod(0o600)

    def estate(self, **changes: Any) -> Estate:
        document = estate_of_two_sites().model_dump(mode="json")
        document["datasets"][0]["suite"] = "flights"  # a suite that is there; the gate itself is not run
        document["drills"]["approval"] = "none"
        back = {"after": "1ms", "shares": [50], "hold": "200ms"}
        document["recovery"] = {"failovers_per_hour": 1000, "failback": back}
        return Estate.model_validate(document | changes)

    def systems(self, **changes: Any) -> Systems:
        return Systems(self.estate(**changes), FileConnections(self.home.connections_file), self.home)

    def start(self) -> None:
        for site in self.sites.values():
            store = site.start_store()
            store.ensure_bucket(BUCKET)
            store.put(BUCKET, "rows/one", b"one")
            listed = scan(store, "rows", None).objects
            write_manifest(store, build_manifest("rows", listed, datetime.now(UTC)))
            for model in MODELS:
                publish(store, model)
            site.start_replicas()
        for model in MODELS:
            release = read_release(self.sites["paris"].store, model)
            assert isinstance(release, Release)
            record_golden(self.home, release)
        self.vouch()
        self.envoy.start()
        for model in MODELS:
            self.envoy.await_healthy(model, paris=1, dublin=1)

    def vouch(self, verdict: str = "pass", *sites: str) -> list[Record]:
        """The gate's verdict on exactly the data that each site has now."""
        systems, records = self.systems(), []
        for site in sites or self.sites:
            manifest = read_manifest(systems.store(site), "rows")
            assert manifest
            facts = {
                "verdict": verdict,
                "fingerprint": manifest.fingerprint,
                "suite_sha256": load_suite(suite_path(self.home.expectations, "flights")).sha256,
                "interval": None,
                "references": {},
            }
            records.append(systems.ledger().append(KIND, subject("rows", site), facts))
        return records


@contextmanager
def two_sites(folder: Path) -> Iterator[World]:
    """Started and healthy; nothing of it is left running."""
    world = World(folder)
    with stopping(*world.sites.values(), world.envoy):
        world.start()
        yield world
