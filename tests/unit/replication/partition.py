"""Two sites in memory that write, delete, lose each other and are killed, for the tests of reconciliation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from unit.replication.memory import MemoryCopier, MemoryStore, Pair

from ninelives.replication.manifest import Manifest, build_manifest, read_manifest, scan, write_manifest
from ninelives.replication.questions import Decision, Question
from ninelives.replication.reconcile import ReconcileResult, Reconciliation
from ninelives.replication.reconcile_objects import Meeting

DATASET = "flights"


class Store(MemoryStore):
    """A kill may also come before a deletion."""

    def delete(self, bucket: str, key: str) -> None:
        self.fuse.burn()
        super().delete(bucket, key)


class Partition(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.paris, self.dublin = Store("paris", self.fuse), Store("dublin", self.fuse)
        self.copier = MemoryCopier(self.paris, self.dublin)

    @property
    def stores(self) -> dict[str, MemoryStore]:
        return {"paris": self.paris, "dublin": self.dublin}

    def write(self, site: str, key: str, data: bytes, *, commit: bool = True) -> None:
        """As a writer does: the object, then the manifest that lists it."""
        self.stores[site].put("data", key, data)
        if commit:
            self.commit(site)

    def commit(self, site: str) -> Manifest:
        """List what is there and was not listed yet."""
        store = self.stores[site]
        recorded = read_manifest(store, DATASET)
        listed = {o.key: o for o in scan(store, DATASET, None, self.now).objects}
        listed |= recorded.by_key if recorded else {}
        manifest = build_manifest(DATASET, listed.values(), self.clock())
        write_manifest(store, manifest)
        return manifest

    def delete(self, site: str, *keys: str) -> None:
        """On purpose: the objects, and their lines in the manifest."""
        store = self.stores[site]
        recorded = read_manifest(store, DATASET)
        assert recorded is not None
        for key in keys:
            MemoryStore.delete(store, "data", key)
        left = [o for o in recorded.objects if o.key not in keys]
        write_manifest(store, build_manifest(DATASET, left, self.clock()))

    def reconciliation(
        self, decisions: Mapping[str, Decision] | None = None, keeper: str | None = None, models: Iterable[str] = ()
    ) -> Reconciliation:
        meeting = Meeting(DATASET, self.link, keeper=keeper, decisions=decisions or {})
        return Reconciliation(meeting, list(models), self.clock)

    def plan(self, **settings: object) -> ReconcileResult:
        return self.reconciliation(**settings).plan()  # type: ignore[arg-type]

    def apply(self, **settings: object) -> ReconcileResult:
        """Reconcile; killed or not, no site may have lost bytes that it does not keep elsewhere."""
        before = {site: self.objects(site) for site in self.stores}
        try:
            return self.reconciliation(**settings).apply()  # type: ignore[arg-type]
        finally:
            for site, store in self.stores.items():
                kept = store.objects(prefix="_trash/") | store.objects(prefix="_conflicts/")
                for key, data in before[site].items():
                    kept_here = (data for place, data in kept.items() if place.split("/", 2)[2].startswith(f"{key}/"))
                    assert self.objects(site).get(key) == data or data in kept_here, (site, key)

    def objects(self, site: str) -> dict[str, bytes]:
        return self.stores[site].objects(prefix=f"{DATASET}/")


def decide(question: Question, choice: str) -> dict[str, Decision]:
    return {question.id: Decision(choice=choice, by="ada", at=datetime(2026, 1, 1, tzinfo=UTC))}
