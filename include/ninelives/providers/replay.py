"""A drill of a provider: its recorded feed comes again, late, twice, not at all and broken, and is landed as ever.

It comes through a local HTTP server and lands in a folder of its own, which is removed whatever happens: no record of a
drill meets a real one. What a killed drill left is removed by the next one of the same provider.
"""

from __future__ import annotations

import hashlib
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

from ninelives.errors import Refused, Unavailable
from ninelives.estate.outside import Feed, Provider
from ninelives.estate.streams import Source, Stream
from ninelives.ports import ObjectStore, Record, Systems
from ninelives.providers.disturb import Delivery, Kind, disturb
from ninelives.providers.server import serving
from ninelives.providers.windows import check_window
from ninelives.replication.manifest import BUCKET, manifest_key
from ninelives.streams.alone import WithStream
from ninelives.streams.decode import Raw
from ninelives.streams.ingest import ingest
from ninelives.streams.landing import read_table
from ninelives.streams.sift import sift

KIND = "provider_drill"
BATCHES = 12
PATIENCE = timedelta(minutes=5)
"""Beyond the replay itself: to land and to clean up."""
ANSWER = 60.0
"""Seconds beyond the time between two batches that the local server may take."""


@dataclass(frozen=True)
class Became:
    """What became of the batches of one kind; ``landed`` and ``quarantined`` are records."""

    batches: int = 0
    sent: int = 0
    landed: int = 0
    quarantined: int = 0
    dropped: int = 0
    """Deliveries of bytes that had been landed before."""


@dataclass(frozen=True)
class Replay:
    """What the estate did with a disturbed feed; ``met`` where each sound record landed once and nothing else did."""

    provider: str
    stream: str
    seed: int
    speed: float
    kinds: dict[Kind, Became]
    expected: int
    """Records of all whole batches that keep the contract."""
    landed: int
    """Records in the landed table, read again."""
    unique: int
    """Of them, with different keys."""
    stalest: timedelta
    """By the recording's clock, the longest that the newest landed batch was old; landing takes its share of it."""

    @property
    def met(self) -> bool:
        broken, twice = self.kinds[Kind.MALFORMED], self.kinds[Kind.DUPLICATE]
        return (
            self.landed == self.unique == self.expected
            and broken.landed == 0
            and broken.quarantined == broken.sent
            and twice.dropped == twice.batches
        )

    def facts(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "stream": self.stream,
            "seed": self.seed,
            "speed": self.speed,
            "kinds": {kind.value: asdict(became) for kind, became in self.kinds.items()},
            "expected": self.expected,
            "landed": self.landed,
            "unique": self.unique,
            "stalest_seconds": round(self.stalest.total_seconds(), 3),
            "verdict": "met" if self.met else "missed",
        }


def replay_feed(
    systems: Systems, name: str, *, holder: str, seed: int, speed: float, batches: int = BATCHES, now: datetime
) -> tuple[Replay, Record]:
    """Replay a provider's recorded feed, disturbed, and say what became of it; leaves evidence.

    :param speed: how many times faster than recorded
    :raises Refused: no such provider or feed, too few batches, outside its test window, or another drill of it runs
    :raises Unavailable: store or ledger does not answer
    """
    provider, feed = _declared(systems, name)
    if batches < 5 or speed <= 0:
        raise Refused(f"drill of {name}", ["it needs five batches at least and a speed above zero"])
    check_window(provider, now, feed.every * (batches + 3) / speed + PATIENCE)
    ledger, stream = systems.ledger(), systems.estate.stream_by_name[feed.stream]
    lease = ledger.take_lease(f"provider:{name}", holder, feed.every * (batches + 3) / speed + PATIENCE)
    try:
        store = systems.store(stream.site)
        recorded = _recorded(store, feed, batches)
        with _folder(store, name, f"{now:%Y%m%dT%H%M%S}-{seed}") as folder:
            found = _replay(systems, provider, stream, folder, recorded, seed, speed, holder)
        return found, ledger.append(KIND, name, found.facts())
    finally:
        ledger.release_lease(lease)


def _declared(systems: Systems, name: str) -> tuple[Provider, Feed]:
    provider = systems.estate.provider_by_name.get(name)
    if provider is None:
        raise Refused(f"drill of {name}", ["the estate declares no such provider; see its providers"])
    if provider.feed is None:
        raise Refused(f"drill of {name}", ["it has no recorded feed; declare one"])
    return provider, provider.feed


def _recorded(store: ObjectStore, feed: Feed, batches: int) -> list[bytes]:
    found = []
    for info in store.list(BUCKET, feed.prefix):
        if feed.contains in info.key and (data := store.get(BUCKET, info.key)):
            found.append(data)
        if len(found) == batches:
            return found
    raise Refused("drill", [f"{BUCKET}/{feed.prefix} at {store.site} has {len(found)} batches, fewer than {batches}"])


@contextmanager
def _folder(store: ObjectStore, provider: str, drill: str) -> Iterator[str]:
    """A folder for one drill; nothing of it, nor of an earlier one of this provider, is left."""
    ours = f"_drills/provider={provider}/"
    _remove(store, ours)
    try:
        yield f"{ours}{drill}"
    finally:
        _remove(store, ours)


def _remove(store: ObjectStore, ours: str) -> None:
    # Manifests first: one without its objects would look like a loss.
    for prefix in (manifest_key(ours).removesuffix(".json"), ours):
        for info in list(store.list(BUCKET, prefix)):
            store.delete(BUCKET, info.key)


def _replay(
    systems: Systems,
    provider: Provider,
    stream: Stream,
    folder: str,
    recorded: Sequence[bytes],
    seed: int,
    speed: float,
    holder: str,
) -> Replay:
    assert provider.feed is not None  # noqa: S101  (the caller looked)
    every = provider.feed.every.total_seconds()
    own = stream.model_copy(update={"name": folder, "source": Source(prefix=f"{folder}/arrived/")})
    only, store = cast(Systems, WithStream(systems, own)), systems.store(stream.site)
    deliveries, of = disturb(recorded, seed)
    batches = Counter(of.get(number, Kind.SOUND) for number in range(len(recorded)))
    became = {kind: Became(batches=batches[kind]) for kind in Kind}
    newest, stalest, start = 0.0, 0.0, time.monotonic()
    with serving(deliveries, every / speed) as url:
        for number, delivery in enumerate(deliveries):
            data = _fetch(f"{url}/{number}", every / speed * 3 + ANSWER)
            store.put(BUCKET, f"{folder}/arrived/{hashlib.sha256(data).hexdigest()}.parquet", data)
            done = ingest(only, folder, holder=holder)
            stalest = max(stalest, (time.monotonic() - start) * speed - newest)
            if done.landed:
                newest = max(newest, delivery.batch * every)
            became[delivery.kind] = _plus(became[delivery.kind], done.landed, done.quarantined, known=not done.units)
    table = read_table(store, own)
    keys = table.select(list(stream.keys)).group_by(list(stream.keys)).aggregate([])
    expected = sum(_sound(stream, data) for data in _whole(deliveries).values())
    return Replay(
        provider.name, stream.name, seed, speed, became, expected, table.num_rows, keys.num_rows,
        timedelta(seconds=stalest),
    )  # fmt: skip


def _plus(became: Became, landed: int, quarantined: int, *, known: bool) -> Became:
    return replace(
        became,
        sent=became.sent + 1,
        landed=became.landed + landed,
        quarantined=became.quarantined + quarantined,
        dropped=became.dropped + known,
    )


def _whole(deliveries: Sequence[Delivery]) -> dict[int, bytes]:
    return {one.batch: one.data for one in deliveries if one.kind is not Kind.MALFORMED}


def _sound(stream: Stream, data: bytes) -> int:
    return int(sift(stream, [Raw(0, data)]).good.num_rows)


def _fetch(url: str, patience: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=patience) as answer:  # noqa: S310  (our own server on loopback)
            found: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise Unavailable(f"the local server of the recorded feed did not answer: {error}") from error
    return found
