"""A service with two sites in memory: every port a small real thing that may be cut off at any call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.models import ROW, estate_of_two_sites, sum_model

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.errors import Unavailable
from ninelives.estate import Estate
from ninelives.home import Home
from ninelives.ports import (
    Answer,
    Attempt,
    Attempts,
    Features,
    GatewayState,
    ModelVersion,
    ObjectInfo,
    VersionSplit,
)
from ninelives.releases.publish import (
    BUCKET,
    GoldenAnswer,
    Release,
    candidate_key,
    digest_of,
    object_key,
    publish,
    read_candidate,
    read_release,
    record_golden,
    stage,
)

MODEL = "alpha"


class Killed(BaseException):
    """kill -9: nothing of ours catches it."""


class Fuse:
    """Burns after so many calls."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.watch: Callable[[], None] = lambda: None
        self.calls = 0

    def step(self) -> None:
        self.calls += 1
        self.watch()
        if self.left is not None:
            if self.left == 0:
                self.left = None
                raise Killed
            self.left -= 1


class MemoryStore:
    def __init__(self, site: str, fuse: Fuse) -> None:
        self.site, self.fuse, self.objects = site, fuse, dict[tuple[str, str], bytes]()

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.fuse.step()
        self.objects[bucket, key] = data

    def get(self, bucket: str, key: str) -> bytes | None:
        return self.objects.get((bucket, key))

    def head(self, bucket: str, key: str) -> ObjectInfo | None:
        data = self.get(bucket, key)
        return None if data is None else ObjectInfo(key, len(data), datetime.now(UTC))

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        for where, key in list(self.objects):
            if where == bucket and key.startswith(prefix):
                yield ObjectInfo(key, len(self.objects[where, key]), datetime.now(UTC))

    def delete(self, bucket: str, key: str) -> None:
        self.objects.pop((bucket, key), None)

    def ensure_bucket(self, bucket: str) -> None: ...

    def ping(self, timeout: float = 1.0) -> None: ...


class MemoryReplica:
    """Answers with what its store named when it was told to load."""

    def __init__(self, url: str, store: MemoryStore, fuse: Fuse) -> None:
        self.url, self.store, self.fuse = url, store, fuse
        self.machine = ""
        self.boot, self.up = "1", True
        self.served: Release | None = None
        self.beside: dict[str, Release] = {}
        self.load(MODEL)

    def live(self) -> bool:
        return self.up

    def ready(self, model: str) -> bool:
        return self.served is not None

    def load(self, model: str) -> None:
        self.fuse.step()
        release = read_release(self.store, model)  # type: ignore[arg-type]
        if release and self.served and release.version != self.served.version:
            self.beside[self.served.version] = self.served
        self.served = release
        if release:
            self.beside.pop(release.version, None)

    def unload(self, model: str) -> None:
        self.served = None

    def infer(self, model: str, rows: Sequence[Features]) -> Answer:
        assert self.served
        return self._answer(self.served)

    def load_version(self, model: str, version: str) -> None:
        self.fuse.step()
        if not self.up:
            raise Unavailable(f"{self.url} is down")
        release = read_candidate(self.store, model, version)  # type: ignore[arg-type]
        assert release
        if self.served is None or self.served.version != version:
            self.beside[version] = release

    def unload_version(self, model: str, version: str) -> None:
        self.fuse.step()
        self.beside.pop(version, None)

    def infer_version(self, model: str, version: str, rows: Sequence[Features]) -> Answer:
        return self._answer(self.version(version))

    def version(self, version: str) -> Release:
        return self.served if self.served and self.served.version == version else self.beside[version]

    def attempts(self, model: str) -> Attempts:
        now = datetime.now(UTC).timestamp() + 1
        rows = tuple(Attempt(now, 0.001, True) for _ in range(10))
        loaded = (*([self.served.version] if self.served else []), *self.beside)
        arms = {("canary", version): rows for version in loaded} | {("stable", version): rows for version in loaded}
        return Attempts(self.boot, loaded, arms)

    @staticmethod
    def _answer(release: Release) -> Answer:
        return Answer({k: list(v) for k, v in release.golden[0].outputs.items()}, release.version, None, 0.0)


class MemoryGateway:
    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse
        self._state = GatewayState({MODEL: ("paris",)}, frozenset(), {})
        self.used: VersionSplit | None = None
        """What it really does: its state is written first."""

    def state(self) -> GatewayState:
        return self._state

    def split(self, service: str, split: VersionSplit | None, *, token: int) -> None:
        self.fuse.step()
        versions = {MODEL: split} if split else {}
        self._state = replace(self._state, versions=versions)
        self.fuse.step()
        self.used = split
        self.fuse.step()


class MemoryRegistry:
    def __init__(self, fuse: Fuse) -> None:
        self.fuse, self.alias, self.digests = fuse, "1", dict[str, str]()

    def versions(self) -> list[ModelVersion]:
        known = [release_of(str(number), number - 1.0)[0] for number in (1, 2, 3)]
        return [
            ModelVersion(MODEL, one.version, self.digests.get(one.version, one.digest), None, None) for one in known
        ]

    def champion(self, model: str) -> str | None:
        return self.alias

    def set_champion(self, model: str, version: str) -> None:
        self.fuse.step()
        self.alias = version
        self.fuse.step()


class CountingLedger(SqlLedger):
    fuse: Fuse

    def append(self, kind: str, subject: str, facts: Mapping[str, Any], *, once: str | None = None) -> Any:
        self.fuse.step()
        record = super().append(kind, subject, facts, once=once)
        self.fuse.step()
        return record


class Memory:
    """``ports.Systems``, as far as a promotion goes."""

    def __init__(self, folder: Path, policy: Mapping[str, Any] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.fuse, self.home = Fuse(), Home(folder)
        url = f"sqlite:///{folder / 'ledger.db'}"
        migrate(url)
        self._ledger = CountingLedger(url)
        self._ledger.fuse = self.fuse
        document = estate_of_two_sites().model_dump(mode="json")
        document["drills"]["approval"] = "none"
        document["services"] = [document["services"][0] | {"release": {**POLICY, **(policy or {})}}]
        self.estate = Estate.model_validate(document)
        self._stores = {site: MemoryStore(site, self.fuse) for site in self.estate.site_names}
        one, self.two = release_of("1", 0.0), release_of("2", 1.0)
        for store in self._stores.values():
            publish(store, one[0], one[1])  # type: ignore[arg-type]
        record_golden(self.home, one[0])
        stage(self._stores["paris"], *self.two)  # type: ignore[arg-type]
        self._replicas = {
            site: [MemoryReplica(f"http://{site}", store, self.fuse)] for site, store in self._stores.items()
        }
        self._gateway, self._registry = MemoryGateway(self.fuse), MemoryRegistry(self.fuse)

    def store(self, site: str) -> MemoryStore:
        return self._stores[site]

    def stores(self) -> dict[str, MemoryStore]:
        return self._stores

    def replicas(self, site: str) -> list[MemoryReplica]:
        return self._replicas[site]

    def gateway(self) -> MemoryGateway:
        return self._gateway

    def registry(self) -> MemoryRegistry:
        return self._registry

    def ledger(self) -> CountingLedger:
        return self._ledger

    def client(self, service: Any) -> Callable[[Sequence[Features]], Answer]:
        turn = itertools.count()

        def ask(rows: Sequence[Features]) -> Answer:
            replica = self._replicas["paris"][0]
            split = self._gateway.used
            wanted = [version for version, share in (split.shares if split else {}).items() if share]
            if not wanted:
                return replica.infer(MODEL, rows)
            return replica.infer_version(MODEL, wanted[next(turn) % len(wanted)], rows)

        return ask

    def answering(self) -> set[str]:
        """Versions that some request may be answered with now, the gateway and every replica taken together."""
        split = self._gateway.used
        if split is None:
            return {one.served.version for site in self._replicas.values() for one in site if one.served}
        return {version for version, share in split.shares.items() if share}


POLICY = {
    "hardware": "cpu",
    "shadow": 20,
    "shadow_for": "1ms",
    "canary": [{"share": 5, "hold": "1ms"}, {"share": 50, "hold": "1ms"}],
    "patience": "200ms",
    "keep_for": "1ms",
}


def release_of(version: str, bias: float, onnx: bytes | None = None) -> tuple[Release, bytes]:
    """A release whose answer to ``ROW`` is ``3.5 + bias``."""
    onnx = onnx or sum_model(bias)
    digest = digest_of(onnx)
    release = Release(
        model=MODEL, version=version, digest=digest, object=object_key(MODEL, digest), size=len(onnx),
        data_version="none", tolerance=0.001, golden=(GoldenAnswer(inputs=ROW, outputs={"total": (3.5 + bias,)}),),
        created_at=datetime.now(UTC),
    )  # fmt: skip
    return release, onnx


@contextmanager
def killed_after(fuse: Fuse, calls: int) -> Iterator[None]:
    """The block is cut off at its ``calls``-th change of anything, if it makes so many."""
    fuse.left = calls
    try:
        yield
    except Killed:
        pass
    finally:
        fuse.left = None


__all__ = ["BUCKET", "Memory", "candidate_key", "killed_after", "release_of"]
