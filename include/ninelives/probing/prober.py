"""Asks every service on a fixed schedule, whatever the answers do (an open loop), and says what a user would have got.

Scheduling and latency use the monotonic clock; the wall clock only stamps. When the prober itself was held up, it says
so: slots that it missed are unknown, and so is an answer that its own stall may have spoiled.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from ninelives.probing.classify import Judgement, Reply, classify
from ninelives.probing.golden import Case, GoldenFile
from ninelives.probing.records import DRILL, PROBE, Outcome, Probe
from ninelives.serving.protocol import TRAFFIC_HEADER

Send = Callable[[str, Mapping[str, str], bytes, float], Awaitable[Reply]]
"""URL, headers, body, seconds until giving up."""

STALL = 0.25
"""Seconds. Slots that the prober wakes up later for are missed; shorter delays are sent late, stamped as sent."""
_NOTICED = 0.005
"""Seconds of lateness too small to keep."""
_TICK = 0.05
"""Seconds between wake-ups at most, so that a stall is seen at low rates as well."""


@dataclass(frozen=True)
class Target:
    """One service as the prober sees it."""

    service: str
    url: str
    golden: GoldenFile
    objective: float
    """seconds; the latency that was promised"""

    @property
    def timeout(self) -> float:
        """Seconds after which no user waits any more."""
        return max(1.0, 4 * self.objective)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Prober:
    """One run: one schedule over fixed targets.

    :param interval: seconds between two probes of one service; the services take turns
    :param run: identifies this schedule among all that ever wrote to the same folder
    :param send: the transport; must return after the given timeout at the latest, and raise for its own faults only
    :param record: takes each finished probe; called in the event loop
    :param max_in_flight: requests without an answer, over all services; what exceeds it counts as failed
    :param in_drill: whether something is broken on purpose just now; asked before and after each request
    :param monotonic: seconds; the clock of the running event loop
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        interval: float,
        run: str,
        send: Send,
        record: Callable[[Probe], None],
        max_in_flight: int = 512,
        in_drill: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = utc_now,
    ) -> None:
        if not targets:
            raise ValueError("there is no service to probe")
        self.targets = tuple(targets)
        self.interval = interval
        self.run = run
        self._send = send
        self._record = record
        self._max_in_flight = max_in_flight
        self._in_drill = in_drill
        self._monotonic = monotonic
        self._wall = wall
        self._step = interval / len(self.targets)
        self._stall = max(STALL, interval)
        self._start = monotonic()
        self._slot = 0
        self._wake_at = self._start
        self._held: deque[tuple[float, float]] = deque()
        self._in_flight: dict[int, float] = {}

    async def probe_until(self, stop: asyncio.Event) -> None:
        """Keep to the schedule until ``stop`` is set, then wait for the answers that are still due."""
        async with asyncio.TaskGroup() as requests:
            while not stop.is_set():
                now = await self._sleep(self._due(self._slot))
                due = self._due(self._slot)
                if now < due or stop.is_set():
                    continue
                if now - due > self._stall:
                    self._miss(now)
                    continue
                target = self.targets[self._slot % len(self.targets)]
                self._start_request(requests, target, self._slot, now)
                self._slot += 1
            while self._in_flight:  # awake as before, or the wait for the last answers would look like a stall
                await self._sleep(math.inf)

    def complete_until(self) -> datetime:
        """The instant before which every slot has been given to ``record``."""
        now = self._monotonic()
        oldest = next(iter(self._in_flight.values()), self._due(self._slot))
        return self._wall() - timedelta(seconds=now - oldest)

    def _due(self, slot: int) -> float:
        return self._start + slot * self._step

    async def _sleep(self, until: float) -> float:
        """Sleep until then, but not long, and note how late the sleep ended."""
        now = self._monotonic()
        self._wake_at = min(max(now, until), now + _TICK)
        await asyncio.sleep(self._wake_at - now)
        now = self._monotonic()
        if now - self._wake_at > _NOTICED:
            self._held.append((self._wake_at, now))
            horizon = now - 2 * max(target.timeout for target in self.targets) - self._stall
            while self._held[0][1] < horizon:
                self._held.popleft()
        return now

    def _held_since(self, sent: float, now: float) -> float:
        """Seconds between ``sent`` and ``now`` in which this process did not run when it wanted to."""
        late = [*self._held, (self._wake_at, now)]  # the last: woken for an answer before the schedule's own wake-up
        return sum(max(0.0, min(end, now) - max(begin, sent)) for begin, end in late)

    def _miss(self, now: float) -> None:
        """Give every slot that is more than one interval old to ``record`` as unknown."""
        while (due := self._due(self._slot)) < now - self.interval:
            late = now - due
            self._record(
                self._row(self._slot, now, self._wall(), Outcome.UNKNOWN, f"the prober was held up for {late:.3f} s")
            )
            self._slot += 1

    def _row(self, slot: int, now: float, stamp: datetime, outcome: Outcome, error: str | None) -> Probe:
        """A row without a request; ``now`` and ``stamp`` are the same instant on both clocks."""
        due = self._due(slot)
        return Probe(
            run=self.run,
            seq=slot // len(self.targets),
            service=self.targets[slot % len(self.targets)].service,
            scheduled_at=stamp - timedelta(seconds=now - due),
            sent_at=None,
            monotonic_ns=round(due * 1e9),
            outcome=outcome,
            error=error,
            traffic=self._traffic(),
        )

    def _traffic(self) -> str:
        return DRILL if self._in_drill() else PROBE

    def _start_request(self, requests: asyncio.TaskGroup, target: Target, slot: int, now: float) -> None:
        cases = target.golden.cases
        if not cases:
            self._record(self._row(slot, now, self._wall(), Outcome.UNKNOWN, "no golden answers yet"))
        elif len(self._in_flight) >= self._max_in_flight:
            full = f"{self._max_in_flight} requests are without an answer already"
            self._record(self._row(slot, now, self._wall(), Outcome.FAILED, full))
        else:
            self._in_flight[slot] = self._due(slot)
            requests.create_task(self._request(target, cases[slot // len(self.targets) % len(cases)], slot))

    async def _request(self, target: Target, case: Case, slot: int) -> None:
        sent, sent_at, traffic = self._monotonic(), self._wall(), self._traffic()
        headers = {
            "content-type": "application/json",
            "user-agent": "ninelives-prober",
            "x-ninelives-probe": str(slot // len(self.targets)),
            TRAFFIC_HEADER: traffic,
        }
        reply = await self._send(target.url, headers, case.body, target.timeout)
        now = self._monotonic()
        judgement = self._judge(target, case, reply, now - sent)
        held = self._held_since(sent, now)
        if _spoiled(judgement, reply, held, self._stall, target.timeout):
            judgement = replace(
                judgement, outcome=Outcome.UNKNOWN, error=f"the prober was held up for {held:.3f} s while it waited"
            )
        self._record(
            replace(
                self._row(slot, sent, sent_at, judgement.outcome, judgement.error),
                sent_at=sent_at,
                monotonic_ns=round(sent * 1e9),
                latency_s=now - sent,
                status=reply.status,
                site=judgement.site,
                model_version=judgement.model_version,
                traffic=DRILL if traffic == DRILL else self._traffic(),  # the fault may have come while it waited
            )
        )
        del self._in_flight[slot]

    def _judge(self, target: Target, case: Case, reply: Reply, latency: float) -> Judgement:
        judgement = classify(reply, case, latency=latency, objective=target.objective)
        if judgement.unknown_version and target.golden.refresh():  # a release is published just now
            for fresh in target.golden.cases:
                if fresh.body == case.body:
                    return classify(reply, fresh, latency=latency, objective=target.objective)
            return replace(judgement, outcome=Outcome.UNKNOWN, error="the golden requests changed meanwhile")
        return judgement


def _spoiled(judgement: Judgement, reply: Reply, held: float, stall: float, timeout: float) -> bool:
    """Whether the prober's own delay may be what made the answer late or lost.

    What an answer says does not depend on when it was read, and a good one was fast in spite of the delay.
    """
    in_doubt = reply.error is not None or judgement.outcome is Outcome.SLOW
    return in_doubt and (held > stall or (reply.timed_out and held > timeout / 10))
