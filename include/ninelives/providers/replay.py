"""A drill of a provider: its recorded feed comes again, late, twice, not at all and broken, and is landed as ever.

It comes through a local HTTP server and lands in a folder of its own, which is removed whatever happens: no record of a
drill meets a real one. The folder is in the journal of faults before anything lands in it, so that the keeper removes
what a killed drill leaves.
"""

from __future__ import annotations

import hashlib
import math
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from ninelives.errors import Refused, Unavailable
from ninelives.estate.model import ScenarioName
from ninelives.estate.outside import Feed, Provider
from ninelives.estate.streams import Source, Stream
from ninelives.injections import Injection, Replayed, open_injection, open_injections, prolong, undo_injection
from ninelives.ports import Lease, ObjectStore, Record, Systems
from ninelives.providers.disturb import DELAY, Delivery, Kind, disturb
from ninelives.providers.server import serving
from ninelives.providers.windows import check_window
from ninelives.replication.manifest import BUCKET
from ninelives.streams.alone import WithStream
from ninelives.streams.decode import Raw
from ninelives.streams.ingest import ingest
from ninelives.streams.landing import read_table
from ninelives.streams.sift import sift

KIND = "provider_drill"
BATCHES = 12
ALIVE = timedelta(minutes=5)
"""A replay that has not been heard of for so long is dead: its lease is free, and what it left is removed."""
BREATH = 20.0
"""Seconds of waiting between two signs of life."""
ANSWER = 60.0
"""Seconds that a sandbox, or the local server, may take for a batch."""


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
    source: str
    """``recording`` or ``sandbox``."""
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
            "source": self.source,
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

    :param holder: of the lease; no two replays may have the same
    :param speed: how many times faster than recorded
    :raises Refused: no such provider or feed, too few batches, outside its test window, or another drill of it runs
    :raises Unavailable: sandbox, store or ledger does not answer
    """
    provider, feed = _declared(systems, name)
    if batches < 5 or not 0 < speed < math.inf:
        raise Refused(f"drill of {name}", ["it needs five batches at least and a finite speed above zero"])
    check_window(provider, now, lasting(feed, batches) / speed + ALIVE)
    fault = Replayed(
        provider=name, site=systems.estate.stream_by_name[feed.stream].site, bucket=BUCKET,
        folder=f"_drills/provider={name}/",
    )  # fmt: skip
    with _lease(systems, name, holder) as renew, _journalled(systems, fault) as still_ours:

        def alive() -> None:
            renew()
            still_ours()

        found = replay_into(systems, fault, seed=seed, speed=speed, batches=batches, holder=holder, alive=alive)
    return found, systems.ledger().append(KIND, name, found.facts())


def replay_in_drill(
    systems: Systems, fault: Replayed, *, holder: str, seed: int, within: timedelta, alive: Callable[[], None]
) -> Replay:
    """The same for a drill whose journal has ``fault`` already: at the recorded pace, or as much faster as it must be.

    :param within: how long the replay may take
    :param alive: called every 20 s at least, and before each landing; what it raises ends the replay
    """
    _, feed = _declared(systems, fault.provider)
    speed = max(1.0, lasting(feed) / within)
    with _lease(systems, fault.provider, holder) as renew:

        def both() -> None:
            renew()
            alive()

        return replay_into(systems, fault, seed=seed, speed=speed, batches=BATCHES, holder=holder, alive=both)


def lasting(feed: Feed, batches: int = BATCHES) -> timedelta:
    """How long it takes at the recorded pace, the late ones included."""
    return feed.every * (batches + DELAY)


def check_feed(systems: Systems, name: str) -> None:
    """Whether there is enough to replay; looks, and changes nothing.

    :raises Refused: no feed, or too few batches of it
    """
    provider, feed = _declared(systems, name)
    _batches(systems, provider, feed, BATCHES)


@contextmanager
def _lease(systems: Systems, name: str, holder: str) -> Iterator[Callable[[], None]]:
    """One drill of a provider at a time; yields what renews the lease."""
    ledger = systems.ledger()
    held: list[Lease] = []

    def renew() -> None:
        held[:] = [ledger.take_lease(f"provider:{name}", holder, ALIVE)]

    renew()
    try:
        yield renew
    finally:
        ledger.release_lease(held[0])


@contextmanager
def _journalled(systems: Systems, fault: Replayed) -> Iterator[Callable[[], None]]:
    """In the journal of faults meanwhile, and of what an earlier one left nothing; yields the sign of life."""
    home, faults = systems.home, systems.faults()
    for one in open_injections(home):
        if fault in one.faults:  # whoever it was has lost the lease
            undo_injection(home, faults, one.id, by=f"the next replay of {fault.provider}")
    now = datetime.now(UTC)
    found = Injection(
        id=f"provider-{fault.provider}-{now:%Y%m%dT%H%M%S%f}", scenario=ScenarioName.PROVIDER_REPLAY, site="",
        service="", started_at=now, expires_at=now + ALIVE, faults=(fault,), lost_at=now,
    )  # fmt: skip
    open_injection(home, found)
    try:
        yield lambda: prolong(home, found.id, datetime.now(UTC) + ALIVE)
    finally:
        undo_injection(home, faults, found.id, by=f"the replay of {fault.provider}")


def _declared(systems: Systems, name: str) -> tuple[Provider, Feed]:
    provider = systems.estate.provider_by_name.get(name)
    if provider is None:
        raise Refused(f"drill of {name}", ["the estate declares no such provider; see its providers"])
    if provider.feed is None:
        raise Refused(f"drill of {name}", ["it has no recorded feed; declare one"])
    return provider, provider.feed


def _batches(systems: Systems, provider: Provider, feed: Feed, wanted: int) -> list[bytes]:
    """The first batches, of the sandbox where the provider has one, else of the recording."""
    if provider.sandbox:
        return _from_sandbox(systems, provider, wanted)
    store: ObjectStore = systems.store(systems.estate.stream_by_name[feed.stream].site)
    found = []
    for info in store.list(BUCKET, feed.prefix):
        if feed.contains in info.key and (data := store.get(BUCKET, info.key)):
            found.append(data)
        if len(found) == wanted:
            return found
    raise Refused("drill", [f"{BUCKET}/{feed.prefix} at {store.site} has {len(found)} batches, fewer than {wanted}"])


def _from_sandbox(systems: Systems, provider: Provider, wanted: int) -> list[bytes]:
    connection = systems.connections.get(f"ninelives_{provider.name}_sandbox")
    headers = {}
    if connection.login:
        pair = f"{connection.login}:{connection.password or ''}".encode()
        headers["authorization"] = f"Basic {b64encode(pair).decode()}"
    elif connection.password:
        headers["authorization"] = f"Bearer {connection.password}"
    place = f"{connection.url}/{(connection.schema or '').strip('/')}".rstrip("/")
    return [_fetch(f"{place}/{number}", ANSWER, f"the sandbox of {provider.name}", headers) for number in range(wanted)]


def replay_into(
    systems: Systems,
    fault: Replayed,
    *,
    seed: int,
    speed: float,
    batches: int,
    holder: str,
    alive: Callable[[], None],
) -> Replay:
    """Replay into the folder of ``fault``, emptied first: what a killed try of the same drill left counts for nothing.

    :param alive: called every 20 s at least, and before each landing; what it raises ends the replay
    """
    provider, feed = _declared(systems, fault.provider)
    stream, folder = systems.estate.stream_by_name[feed.stream], fault.folder.rstrip("/")
    recorded = _batches(systems, provider, feed, batches)
    systems.faults().undo(fault)
    every = feed.every.total_seconds()
    own = stream.model_copy(update={"name": folder, "source": Source(prefix=f"{folder}/arrived/")})
    only, store = cast(Systems, WithStream(systems, own)), systems.store(stream.site)
    deliveries, of = disturb(recorded, seed)
    sent = Counter(of.get(number, Kind.SOUND) for number in range(len(recorded)))
    became = {kind: Became(batches=sent[kind]) for kind in Kind}
    newest, stalest, start = 0.0, 0.0, time.monotonic()
    with serving(deliveries, every / speed) as url:
        for number, delivery in enumerate(deliveries):
            alive()
            while (left := start + delivery.due * every / speed - time.monotonic()) > 0:
                time.sleep(min(left, BREATH))
                alive()
            data = _fetch(f"{url}/{number}", ANSWER, "the local server of the recorded feed")
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
        provider.name, stream.name, "sandbox" if provider.sandbox else "recording", seed, speed, became, expected,
        table.num_rows, keys.num_rows, timedelta(seconds=stalest),
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


def _fetch(url: str, patience: float, who: str, headers: Mapping[str, str] | None = None) -> bytes:
    try:
        request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310  (declared, or our own server)
        with urllib.request.urlopen(request, timeout=patience) as answer:  # noqa: S310
            found: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise Unavailable(f"{who} did not give {url}: {error}") from error
    return found
