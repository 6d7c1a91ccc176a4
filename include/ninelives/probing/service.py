"""The prober as a process that is always on: plan from the estate, probe, write every second, tidy every minute."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.ports import Connections
from ninelives.probing.golden import GoldenFile
from ninelives.probing.journal import ProbeJournal
from ninelives.probing.prober import Prober, Send, Target, utc_now
from ninelives.probing.records import Heartbeat, Outcome, Probe, file_name

log = logging.getLogger("ninelives.prober")

FLUSH_EVERY = 1.0
"""Seconds; what a kill can lose, and what is lost then counts as unknown."""
FLUSH_IN_FAULT = 0.1
"""Seconds, while something is broken on purpose: a drill that must stop has to know at once."""
TIDY_EVERY = 60.0
"""Seconds."""
_MOST_WAITING = 200_000
"""Probes kept in memory while the disk refuses them; beyond it the oldest go, and are unknown."""


def plan_targets(home: Home, connections: Connections, only: Sequence[str] = ()) -> tuple[Target, ...]:
    """Every service of the estate, or ``only`` some, through the gateway.

    :raises EstateError: the estate cannot be read
    :raises Unavailable: nobody wrote down yet where the gateway is
    :raises Refused: ``only`` names a service that the estate does not have
    """
    estate = load_estate(home.estate_file)
    if missing := sorted(set(only) - set(estate.service_by_name)):
        raise Refused("prober", [f"the estate has no service {name}" for name in missing])
    gateway = connections.get("ninelives_gateway").extra.get("url")
    if not gateway:
        raise Unavailable("connection ninelives_gateway: extra.url is missing; run `ninelives stack up`")
    goldens = {model.name: GoldenFile(home.golden / f"{model.name}.json") for model in estate.models}
    return tuple(
        Target(
            service=service.name,
            url=f"{gateway.rstrip('/')}/services/{service.name}/v2/models/{service.model}/infer",
            golden=goldens[service.model],
            objective=service.objective.latency.total_seconds(),
        )
        for service in estate.services
        if not only or service.name in only
    )


@dataclass
class _Watched:
    """Files whose change makes a new plan necessary."""

    paths: Sequence[Path]
    seen: tuple[int | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.seen = self._look()

    def changed(self) -> bool:
        before, self.seen = self.seen, self._look()
        return before != self.seen

    def _look(self) -> tuple[int | None, ...]:
        return tuple(path.stat().st_mtime_ns if path.exists() else None for path in self.paths)


class ProberService:
    """Probes until stopped; a changed estate or gateway starts a new run in the same process.

    :param rate: probes per second and service
    :param retention: how long probes are kept
    """

    def __init__(
        self,
        home: Home,
        connections: Connections,
        send: Send,
        *,
        rate: float = 20.0,
        services: Sequence[str] = (),
        retention: timedelta = timedelta(days=7),
    ) -> None:
        if not 0 < rate <= 1000:
            raise ValueError(f"rate {rate} must be more than 0 and at most 1000 probes per second and service")
        self._home = home
        self._connections = connections
        self._send = send
        self._interval = 1 / rate
        self._services = tuple(services)
        self._retention = retention
        self._waiting: list[Probe] = []
        self._last: dict[str, Outcome] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Raises what ``plan_targets`` raises if there is no plan to begin with, ``Refused`` beside another prober."""
        watched = _Watched((self._home.estate_file, self._home.connections_file))
        targets = self._plan()
        with ProbeJournal(self._home.probes, retention=self._retention) as journal:
            async with _every(TIDY_EVERY, lambda: _tidy(journal)):
                while not stop.is_set():
                    targets = await self._run_once(targets, journal, watched, stop)

    def _plan(self) -> tuple[Target, ...]:
        targets = plan_targets(self._home, self._connections, self._services)
        _refresh(targets)
        return targets

    async def _run_once(
        self, targets: tuple[Target, ...], journal: ProbeJournal, watched: _Watched, stop: asyncio.Event
    ) -> tuple[Target, ...]:
        """One schedule, until ``stop`` or until the plan changes; returns the targets of the next one."""
        run = file_name(utc_now(), str(os.getpid()))
        prober = Prober(targets, interval=self._interval, run=run, send=self._send, record=self._waiting.append,
                        in_drill=self._in_drill)  # fmt: skip
        log.info("run %s: %s every %g s", run, ", ".join(target.service for target in targets), self._interval)
        done = asyncio.Event()
        probing = asyncio.create_task(prober.probe_until(done))
        stopping = asyncio.create_task(stop.wait())
        flushed = time.monotonic()
        try:
            while not (probing.done() or stop.is_set()):
                await asyncio.wait({probing, stopping}, timeout=FLUSH_IN_FAULT, return_when=asyncio.FIRST_COMPLETED)
                if not (probing.done() or stop.is_set()) and not self._due(flushed):
                    continue
                flushed = time.monotonic()
                _refresh(targets)
                await self._flush(prober, journal)
                if watched.changed():
                    try:
                        fresh = self._plan()
                    except (NinelivesError, OSError) as error:
                        log.error("keeping the old plan: %s", error)
                        continue
                    if _differ(fresh, targets):
                        return fresh
            return targets
        finally:
            done.set()
            stopping.cancel()
            try:
                await probing
            finally:
                await self._flush(prober, journal)

    def _due(self, flushed: float) -> bool:
        """Whether to write again, the last time having been at ``flushed`` on the monotonic clock."""
        return time.monotonic() - flushed >= FLUSH_EVERY or self._in_drill()

    def _in_drill(self) -> bool:
        return any(self._home.injections.glob("*.json"))

    async def _flush(self, prober: Prober, journal: ProbeJournal) -> None:
        complete_until, probes = prober.complete_until(), self._waiting[:]
        beat = Heartbeat(
            run=prober.run,
            pid=os.getpid(),
            at=utc_now(),
            interval_s=prober.interval,
            services=tuple(target.service for target in prober.targets),
            complete_until=complete_until,
        )
        try:
            await asyncio.to_thread(journal.flush, probes, beat)
        except OSError as error:  # a full disk: the heartbeat grows old, probing goes on
            log.error("probes are not written: %s", error)
            del self._waiting[: max(0, len(self._waiting) - _MOST_WAITING)]
            return
        del self._waiting[: len(probes)]
        for probe in probes:
            if self._last.get(probe.service) != probe.outcome:
                self._last[probe.service] = probe.outcome
                log.info("%s: %s since %s %s", probe.service, probe.outcome, probe.scheduled_at, probe.error or "")


def _differ(one: Sequence[Target], other: Sequence[Target]) -> bool:
    def key(targets: Sequence[Target]) -> list[tuple[str, str, float]]:
        return [(target.service, target.url, target.objective) for target in targets]

    return key(one) != key(other)


def _refresh(targets: Sequence[Target]) -> None:
    for golden in {id(target.golden): target.golden for target in targets}.values():
        try:
            golden.refresh()
        except (NinelivesError, OSError) as error:
            log.error("keeping the golden answers read before: %s", error)


def _tidy(journal: ProbeJournal) -> None:
    try:
        journal.tidy(utc_now())
    except (NinelivesError, OSError) as error:  # probes stay where they are; probing is what matters
        log.error("probe files are not tidied: %s", error)


@contextlib.asynccontextmanager
async def _every(seconds: float, work: Callable[[], None]) -> AsyncIterator[None]:
    """Do ``work`` in a thread again and again; the last one is finished before the context ends."""
    ending = asyncio.Event()

    async def loop() -> None:
        while not ending.is_set():
            await asyncio.to_thread(work)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), seconds)

    task = asyncio.create_task(loop())
    try:
        yield
    finally:
        ending.set()
        await task
