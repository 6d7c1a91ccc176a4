"""Two sites in memory with DVC's objects, a registry and a ledger, all behind the real ports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from unit.replication.memory import LONG_AGO, Fuse, MemoryCopier, MemoryStore

from ninelives.errors import Refused, Unavailable
from ninelives.estate import Estate, load_estate
from ninelives.home import Home
from ninelives.ports import Connection, Head, Lease, ModelVersion, Record
from ninelives.versions.objects import BUCKET, object_key, record_version

ESTATE = load_estate(Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml")


class Site(MemoryStore):
    """Its deletes can be the last thing that a process does, too."""

    def delete(self, bucket: str, key: str) -> None:
        self.fuse.burn()
        super().delete(bucket, key)


@dataclass
class MemoryRegistry:
    registered: list[ModelVersion] = field(default_factory=list)
    recorded: dict[str, float] = field(default_factory=dict)
    down: bool = False

    def versions(self) -> list[ModelVersion]:
        self.ping()
        return list(self.registered)

    def metrics(self, version: ModelVersion) -> Mapping[str, float]:
        return self.recorded

    def ping(self) -> None:
        if self.down:
            raise Unavailable("the registry does not answer")


@dataclass
class MemoryLedger:
    """Records and leases without a chain."""

    all: list[Record] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    token: int = 0
    down: bool = False

    def _ask(self) -> None:
        if self.down:
            raise Unavailable("the ledger does not answer")

    def append(self, kind: str, subject: str, facts: Mapping[str, Any], *, once: str | None = None) -> Record:
        self._ask()
        if once and (found := self.written(once)):
            assert found.facts == facts, "other contents under a key already used"
            return found
        record = Record(len(self.all) + 1, kind, subject, dict(facts), datetime.now(UTC), "", "", "", once)
        self.all.append(record)
        return record

    def written(self, once: str) -> Record | None:
        self._ask()
        return next((one for one in self.all if one.once == once), None)

    def records(self, *, kind: str | None = None, subject: str | None = None, **_: Any) -> list[Record]:
        self._ask()
        return [r for r in reversed(self.all) if kind in (None, r.kind) and subject in (None, r.subject)]

    def head(self) -> Head:
        self._ask()
        return Head(len(self.all), "")

    def take_lease(self, name: str, holder: str, ttl: timedelta) -> Lease:
        self._ask()
        held = self.leases.get(name)
        if held and held.holder != holder:
            raise Refused(f"lease {name}", [f"{held.holder} holds it"])
        self.token += held is None
        self.leases[name] = Lease(name, holder, held.token if held else self.token, datetime.now(UTC) + ttl)
        return self.leases[name]

    def release_lease(self, lease: Lease) -> None:
        self._ask()
        self.leases.pop(lease.name, None)


class TwoSites:
    """The demo's estate, in memory."""

    def __init__(self, home: Path | None = None) -> None:
        self.estate: Estate = ESTATE
        self.home = Home(home or Path("unused"))
        self.fuse = Fuse()
        self.sites = {site: Site(site, self.fuse) for site in self.estate.site_names}
        for store in self.sites.values():
            store.ensure_bucket(BUCKET)
        self.the_registry, self.the_ledger = MemoryRegistry(), MemoryLedger()
        self.the_copier = MemoryCopier()
        self.the_copier.stores = {f"ninelives_{site}_store": store for site, store in self.sites.items()}

    paris = property(lambda self: self.sites["paris"])
    dublin = property(lambda self: self.sites["dublin"])

    @property
    def connections(self) -> TwoSites:
        return self

    def get(self, conn_id: str) -> Connection:
        return Connection(conn_id, extra={"endpoint_url": f"http://{conn_id}"})

    def store(self, site: str) -> Site:
        return self.sites[site]

    def copier(self, dataset: str | None = None) -> MemoryCopier:
        return self.the_copier

    def registry(self) -> MemoryRegistry:
        return self.the_registry

    def ledger(self) -> MemoryLedger:
        return self.the_ledger

    # --- for the tests

    def keep(self, files: Mapping[str, bytes], *sites: str, at: datetime = LONG_AGO, dataset: str = "flights") -> str:
        """Put a version under DVC's names at ``sites`` (all by default), with its manifest."""
        version, objects = as_dvc(files)
        for site in sites or self.sites:
            for name, data in objects.items():
                self.sites[site].put(BUCKET, object_key(name), data)
            record_version(self.sites[site], dataset, version, at)
        return version

    def register(self, model: str, number: str, version: str | None, data_hash: str | None = None) -> None:
        self.the_registry.registered.append(ModelVersion(model, number, None, version, data_hash, "run"))

    def names(self, site: str) -> set[str]:
        return {key for key in self.sites[site].objects(BUCKET) if key.startswith("files/")}


def as_dvc(files: Mapping[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """The version's name, and every object by its name, as DVC 3 makes them."""
    objects = {_md5(data): data for data in files.values()}
    listed = [{"md5": _md5(data), "relpath": path} for path, data in sorted(files.items())]
    document = json.dumps(listed).encode()
    version = f"{_md5(document)}.dir"
    return version, {**objects, version: document}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
