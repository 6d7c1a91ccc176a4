"""A service and a clock that exist only here: the prober's own code runs on them, and they know the truth."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninelives.probing.classify import Reply
from ninelives.probing.golden import GoldenFile
from ninelives.probing.prober import Prober, Target
from ninelives.probing.records import Probe

EPOCH = datetime(2013, 1, 1, tzinfo=UTC)
FEATURES = {"carrier": "UA", "hour": 5, "distance": 1400.0}
GOLDEN = {
    "model": "arrival-delay",
    "releases": {"3": {"tolerance": 0.001, "golden": [{"inputs": FEATURES, "outputs": {"arrival_delay": [6.5]}}]}},
}


class _Selector(selectors.SelectSelector):
    """Waits for nothing: time passes by itself."""

    def __init__(self, passing: Callable[[float], None]) -> None:
        super().__init__()
        self._passing = passing

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for something that never comes"
            self._passing(timeout)
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Runs coroutines in simulated time, as fast as it can."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Selector(self.stall))

    def time(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now - 1000.0)

    def stall(self, seconds: float) -> None:
        """Let time pass without running anything, as when the process is stopped."""
        self.now += seconds


@dataclass(frozen=True)
class Phase:
    """From ``start`` (seconds after ``EPOCH``) on, every request sent gets this."""

    start: float
    kind: str
    latency: float = 0.01

    @property
    def correct(self) -> bool:
        return self.kind == "good"


@dataclass
class SimulatedService:
    loop: SimulatedLoop
    phases: Sequence[Phase]
    log: list[tuple[float, str]] = field(default_factory=list)

    def phase_at(self, at: float) -> Phase:
        return next(phase for phase in reversed(self.phases) if phase.start <= at)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        at = self.loop.time() - 1000.0
        phase = self.phase_at(at)
        self.log.append((at, phase.kind))
        if phase.kind == "hang" or phase.latency > timeout:
            await asyncio.sleep(timeout)
            return Reply(error=f"no answer within {timeout:g} s", timed_out=True)
        await asyncio.sleep(phase.latency)
        return reply_of(phase.kind)


def reply_of(kind: str) -> Reply:
    headers = {"x-ninelives-site": "paris", "x-ninelives-model-version": "3"}
    match kind:
        case "good":
            return Reply(200, headers, v2_body(6.5))
        case "wrong":
            return Reply(200, headers, v2_body(7.5))
        case "degraded":
            return Reply(200, {"x-ninelives-degraded": "default"}, v2_body(6.9, version=None))
        case "refused":
            return Reply(error="ClientConnectorError: refused")
        case "error":
            return Reply(503, {}, b"no healthy upstream")
    raise ValueError(kind)


def v2_body(value: float, version: str | None = "3") -> bytes:
    body: dict[str, Any] = {
        "model_name": "arrival-delay",
        "outputs": [{"name": "arrival_delay", "shape": [1, 1], "datatype": "FP64", "data": [value]}],
    }
    return json.dumps(body | ({"model_version": version} if version else {})).encode()


def golden_file(folder: Path, document: Mapping[str, Any] = GOLDEN) -> GoldenFile:
    path = folder / f"{document['model']}.json"
    path.write_text(json.dumps(document))
    golden = GoldenFile(path)
    golden.refresh()
    return golden


def simulate(
    golden: GoldenFile,
    phases: Sequence[Phase],
    *,
    seconds: float,
    interval: float = 0.05,
    stalls: Sequence[tuple[float, float]] = (),
    killed: tuple[float, float] | None = None,
    services: Sequence[str] = ("arrival-delay",),
    objective: float = 0.25,
    **options: Any,
) -> tuple[list[Probe], SimulatedService]:
    """What the prober writes while the service goes through ``phases``, and the service with its own log.

    :param stalls: ``(at, for how long)`` the prober's process does not run
    :param killed: ``(at, restarted at)``: what was not flushed by then is lost, and flushes are a second apart
    """
    loop = SimulatedLoop()
    service = SimulatedService(loop, phases)
    rows: list[Probe] = []

    def prober(run: str) -> Prober:
        targets = [Target(name, f"http://gateway/services/{name}", golden, objective) for name in services]
        return Prober(
            targets, interval=interval, run=run, send=service.send, record=rows.append,
            monotonic=loop.time, wall=loop.wall, **options,
        )  # fmt: skip

    async def life(run: str, until: float, *, kill: bool) -> None:
        stop = asyncio.Event()
        probing = asyncio.ensure_future(prober(run).probe_until(stop))
        await asyncio.sleep(max(0.0, until - (loop.time() - 1000.0)))
        if kill:
            probing.cancel()
            await asyncio.wait([probing])
            return
        stop.set()
        await probing

    async def main() -> None:
        for at, duration in stalls:
            loop.call_at(1000.0 + at, loop.stall, duration)
        if killed is None:
            return await life("a", seconds, kill=False)
        died, back = killed
        await life("a", died, kill=True)
        flushed = EPOCH + timedelta(seconds=int(died))
        rows[:] = [row for row in rows if (row.sent_at or row.scheduled_at) < flushed - timedelta(seconds=1)]
        await asyncio.sleep(back - died)
        return await life("b", seconds, kill=False)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return rows, service
