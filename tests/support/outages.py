"""Seeded outages of a small real service and a small real store, and a record of what truly happened that owes nothing
to what is measured: the service's own log, the writer's own list, and the bytes on the survivor's disk.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stack.test_prober import World
from support.sites import Site

from ninelives.probing.measure import measure_loss
from ninelives.probing.records import CORRECT, Outcome, read_probes, wait_until_complete
from ninelives.replication.acks import Ack, append_ack, read_acks
from ninelives.replication.lag import surviving
from ninelives.replication.manifest import read_manifest

INTERVAL = 0.05
"""Seconds between two probes."""
LASTING = timedelta(seconds=0.4)
KINDS = ("killed", "error", "wrong", "degraded", "held", "flapping", "killed then degraded")

SERVICE = r"""
import asyncio, os, sys, time
ANSWER, LOG, PORT = os.environ["ANSWER"], open(sys.argv[1], "a", buffering=1), int(sys.argv[2])
def say(code, data, more=b""):
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s" % (
        code, more, len(data), data)
def body(value, version=b'"model_version":"3",'):
    return b'{%s"outputs":[{"name":"arrival_delay","shape":[1,1],"datatype":"FP64","data":[%s]}]}' % (version, value)
REPLIES = {
    "good": say(b"200 OK", body(b"6.5")),
    "wrong": say(b"200 OK", body(b"9.9")),
    "degraded": say(b"200 OK", body(b"6.9", b""), b"x-ninelives-degraded: default\r\n"),
    "error": say(b"503 Service Unavailable", b"{}"),
}
class Service(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.got = transport, b""
    def data_received(self, data):
        self.got += data
        head, found, rest = self.got.partition(b"\r\n\r\n")
        if found and len(rest) >= (size := int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])):
            self.got = rest[size:]
            with open(ANSWER) as file: kind = file.read()
            self.transport.write(REPLIES[kind])
            LOG.write("%d %s\n" % (time.time_ns(), kind))
async def main():
    server = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", PORT, reuse_address=True)
    LOG.write("%d serving\n" % time.time_ns())
    await server.serve_forever()
asyncio.run(main())
"""


@dataclass(frozen=True)
class Outage:
    seed: int
    kind: str
    loss_at: datetime
    right: tuple[datetime, datetime]
    """Between these two, a fraction of a millisecond apart, it began to answer correctly, and went on doing so."""
    end: datetime

    @property
    def truth(self) -> tuple[float, float]:
        """Seconds from the loss to what is ``right``."""
        earliest, latest = ((at - self.loss_at).total_seconds() for at in self.right)
        return earliest, latest


class Served(World):
    """The prober's world with a service that notes what it does, by its own clock, before anybody measures it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.log = root / "service.log"
        self.set("good")

    def set(self, kind: str) -> tuple[datetime, datetime]:
        """What it answers from now on, that is from between these two instants on."""
        fresh = self.root / "answer.fresh"
        fresh.write_text(kind)
        before = datetime.now(UTC)
        fresh.replace(self.answer)
        return before, datetime.now(UTC)

    def serve(self) -> datetime:
        """Start it; the instant, as it says itself, from which it accepts requests."""
        before = self.log.read_text().count(" serving") if self.log.exists() else 0
        self.process = self.start(sys.executable, "-S", "-E", "-c", SERVICE, str(self.log), str(self.port))
        while True:
            lines = self.log.read_text().splitlines() if self.log.exists() else []
            starts = [line for line in lines if line.endswith(" serving")]
            if len(starts) > before:
                return datetime.fromtimestamp(int(starts[-1].split()[0]) / 1e9, UTC)
            assert self.process.poll() is None, (self.root / "processes.log").read_text()[-2000:]
            time.sleep(0.005)

    def kill(self) -> datetime:
        at = datetime.now(UTC)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return at

    def outage(self, seed: int) -> Outage:
        """Half a second, more or less, in one of ``KINDS``, at any phase of the prober's schedule."""
        dice = random.Random(seed)
        kind = dice.choice(KINDS)
        time.sleep(dice.uniform(0, INTERVAL))
        if kind == "held":
            loss = datetime.now(UTC)
            right = loss, loss  # late answers, all of them right: users were never without one
            os.kill(self.process.pid, signal.SIGSTOP)
            time.sleep(dice.uniform(0.1, 0.5))
            os.kill(self.process.pid, signal.SIGCONT)
        elif kind in ("error", "wrong", "degraded"):
            loss, _ = self.set(kind)
            time.sleep(dice.uniform(0.11, 0.6))
            right = self.set("good")
        else:
            loss = self.kill()
            time.sleep(dice.uniform(0.05, 0.4))
            if kind == "killed then degraded":
                self.set("degraded")
            serving = self.serve()
            right = serving, serving
            if kind == "flapping":
                time.sleep(dice.uniform(0.1, LASTING.total_seconds() - 0.15))
                self.set("wrong")
            if kind != "killed":
                time.sleep(dice.uniform(0.11, 0.3))
                right = self.set("good")
        time.sleep(LASTING.total_seconds() + 4 * INTERVAL)
        return Outage(seed, kind, loss, right, datetime.now(UTC))


@contextmanager
def served(root: Path) -> Iterator[Served]:
    world = Served(root)
    try:
        world.serve()
        world.start_prober(1 / INTERVAL)
        yield world
    finally:
        world.end()


@dataclass(frozen=True)
class Judged:
    """An outage and what was measured of it; seconds."""

    outage: Outage
    rto: float | None
    low: float
    high: float
    quickest: float
    """That any right answer of its time took: a user who asked at the first right instant had to wait as long."""
    slowest: float

    @property
    def error(self) -> float:
        """Beside when such a user had the answer; negative: it was measured as too short."""
        measured = self.high if self.rto is None else self.rto
        earliest, latest = (truth + self.quickest for truth in self.outage.truth)
        if self.outage.kind == "held":
            return measured
        return measured - latest if measured > latest else min(0.0, measured - earliest)

    @property
    def held(self) -> bool:
        """The truth is in the range that was given."""
        earliest, latest = self.outage.truth
        return self.low <= latest and earliest <= self.high


def judge_outages(world: Served, outages: list[Outage]) -> list[Judged]:
    wait_until_complete(world.probes, outages[-1].end)
    found = []
    for one in outages:
        rows = read_probes(world.probes, one.loss_at - timedelta(seconds=2), one.end)
        impact = measure_loss(rows, loss_at=one.loss_at, until=one.end, lasting=LASTING, interval=INTERVAL)
        latencies = list(zip(rows.column("outcome").to_pylist(), rows.column("latency_s").to_pylist(), strict=True))
        right = [latency for outcome, latency in latencies if outcome in CORRECT]
        slowest = max(latency for _, latency in latencies if latency is not None)
        found.append(Judged(one, impact.rto_seconds, impact.rto_low, impact.rto_high, min(right), slowest))
    return found


def answers(world: Served) -> tuple[dict[str, int], dict[str, int]]:
    """How many wrong and degraded answers the service says that it gave, and how many the prober says it got."""
    lines = [line.split()[1] for line in world.log.read_text().splitlines()]
    rows = read_probes(world.probes, datetime.now(UTC) - timedelta(days=1), datetime.now(UTC))
    got = rows.column("outcome").to_pylist()
    kinds = (Outcome.WRONG, Outcome.DEGRADED)
    return {str(kind): lines.count(str(kind)) for kind in kinds}, {str(kind): got.count(str(kind)) for kind in kinds}


# --- acknowledged writes -----------------------------------------------------------------------------------------


class Writer(threading.Thread):
    """Writes small objects to a store for as long as it is there, and keeps a list of its own beside the journal."""

    def __init__(self, site: Site, journal: Path, dataset: str, seed: int) -> None:
        super().__init__()
        self.site, self.journal, self.dataset, self.dice = site, journal, dataset, random.Random(seed)
        self.done = threading.Event()
        self.list: list[tuple[str, str, datetime]] = []
        """Key, SHA-256 and instant of each acknowledgement."""

    def run(self) -> None:
        from ninelives.errors import Unavailable

        number = 0
        while not self.done.is_set():
            data = self.dice.randbytes(self.dice.randrange(1, 2000))
            key, digest = f"{self.dataset}/{number:04}", hashlib.sha256(data).hexdigest()
            try:
                self.site.store.put("data", key, data)
            except Unavailable:
                return  # it was killed; what it did not acknowledge nobody was promised
            at = datetime.now(UTC)
            self.list.append((key, digest, at))
            append_ack(
                self.journal,
                Ack(seq=number, dataset=self.dataset, key=key, size=len(data), sha256=digest, site=self.site.name,
                    acked_at=at, monotonic_ns=time.monotonic_ns()),
            )  # fmt: skip
            number += 1
            self.done.wait(self.dice.uniform(0, 0.02))


@dataclass(frozen=True)
class Loss:
    """What was measured of a lost store, and what is true: seconds, keys."""

    measured: tuple[float | None, str | None, list[str]]
    """RPO, last survivor, what is lost."""
    true: tuple[float | None, str | None, list[str]]


def lose_store(paris: Site, dublin: Site, folder: Path, seed: int) -> Loss:
    """Write, replicate at some instant, go on writing, and kill the store."""
    dice, dataset = random.Random(seed), f"d{seed}"
    journal = folder / f"{dataset}.jsonl"
    writer = Writer(paris, journal, dataset, seed)
    writer.start()
    try:
        time.sleep(dice.uniform(0, 0.2))
        if dice.random() < 0.9 and writer.list:  # now and then it is lost before the first copy
            run_of(dataset, paris, dublin)
        time.sleep(dice.uniform(0, 0.3))
        lost_at = datetime.now(UTC)
        paris.kill()
    finally:
        writer.done.set()
        writer.join()
        paris.start()

    manifest = read_manifest(dublin.store, dataset)
    hashes = {one.key: one.sha256 for one in manifest.objects} if manifest else {}
    point = surviving([ack for ack in read_acks(journal) if ack.dataset == dataset], hashes, lost_at)
    survivor = point.last_survivor.key if point.last_survivor else None

    disk = {key: hashlib.sha256(data).hexdigest() for key, data in dublin.objects(dataset).items()}
    before, lost, last = True, [], None
    for key, digest, at in writer.list:
        if at > lost_at:
            continue
        if disk.get(key) != digest:
            lost.append(key)
            before = False
        elif before:
            last = (key, at)
    rpo = 0.0 if not lost else (lost_at - last[1]).total_seconds() if last else None
    return Loss((point.rpo_seconds, survivor, [ack.key for ack in point.lost]), (rpo, last and last[0], lost))


def run_of(dataset: str, paris: Site, dublin: Site) -> None:
    from ninelives.adapters.rclone import RcloneCopier
    from ninelives.replication.replicate import replicate

    replicate(dataset, paris.store, dublin.store, RcloneCopier(), paris.connection, dublin.connection)
