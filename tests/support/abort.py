"""How long a drill takes to notice that it must stop: real probe files, written as the prober writes them."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from support.processes import wait_until

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.faults import SupervisedFaults
from ninelives.drills.run import WATCH_EVERY, watched
from ninelives.drills.scenario import Drill
from ninelives.drills.scenarios import SCENARIOS
from ninelives.drills.watch import SURVIVOR_WINDOW, State, Watch
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.injections import Injection, open_injection
from ninelives.probing.journal import ProbeJournal
from ninelives.probing.measure import steady_state
from ninelives.probing.records import Heartbeat, Outcome, Probe, to_table
from ninelives.probing.service import FLUSH_IN_FAULT

ESTATE = load_estate(Path(__file__).parents[2] / "include" / "estates" / "demo" / "estate.yaml")
DRILL = Drill("drill-1", "site-loss", "arrival-delay", "paris")
INTERVAL = 0.05


class Probing:
    """A prober's journal while users get good answers, until the survivor's turn bad ``bad_after`` seconds from now."""

    def __init__(self, folder: Path, bad_after: float) -> None:
        self.home = Home(folder)
        self.started = datetime.now(UTC)
        self.bad_at = self.started + timedelta(seconds=bad_after)
        self.rows: list[Probe] = []
        self.decided_at: datetime | None = None
        """When the answer came after which survivors were certainly below the declared share."""

    def row(self, seq: int, service: str, at: datetime) -> Probe:
        bad = service == "late-arrival" and at >= self.bad_at
        # The drilled service never recovers here, so that nothing but the abort ends the watch.
        outcome = Outcome.FAILED if bad else Outcome.GOOD if service == "late-arrival" else Outcome.DEGRADED
        return Probe("run", seq, service, at, at, int(at.timestamp() * 1e9), outcome, latency_s=0.002)

    def write(self, stop: threading.Event) -> None:
        seq = -int(6 / INTERVAL)
        waiting: list[Probe] = []
        with ProbeJournal(self.home.probes) as journal:
            flushed = 0.0
            while not stop.is_set():
                now = datetime.now(UTC)
                while (at := self.started + timedelta(seconds=seq * INTERVAL)) <= now:
                    for service in ("arrival-delay", "late-arrival"):
                        waiting.append(self.row(seq + 200, service, at))
                    seq += 1
                    self.decide(waiting, at)
                if time.monotonic() - flushed >= FLUSH_IN_FAULT:
                    flushed = time.monotonic()
                    beat = Heartbeat("run", 1, now, INTERVAL, ("arrival-delay", "late-arrival"), at)
                    journal.flush(waiting, beat)
                    waiting = []
                time.sleep(0.005)

    def decide(self, fresh: list[Probe], at: datetime) -> None:
        if self.decided_at is not None or at < self.bad_at:
            return
        known = {(row.seq, row.service): row for row in [*self.rows, *fresh]}
        self.rows = list(known.values())
        until = at + timedelta(seconds=INTERVAL)
        share = steady_state(
            to_table(self.rows), since=until - SURVIVOR_WINDOW, until=until, service="late-arrival", interval=INTERVAL
        ).high
        if share < ESTATE.drills.min_good:
            self.decided_at = datetime.now(UTC)


def abort_latency(folder: Path, bad_after: float) -> float:
    """Seconds from the answer that decides to the decision, watched as the trigger watches."""
    probing, stop = Probing(folder, bad_after), threading.Event()
    writer = threading.Thread(target=probing.write, args=(stop,))
    systems: Any = SimpleNamespace(home=probing.home, estate=ESTATE)
    watch = Watch(systems, DRILL, ["late-arrival"], probing.started - timedelta(seconds=6))
    writer.start()
    try:
        while not watch.due() or watch.look().state is State.ONGOING:
            time.sleep(WATCH_EVERY)
        decided = datetime.now(UTC)
    finally:
        stop.set()
        writer.join()
    assert watch.look().state is State.ABORT
    assert probing.decided_at is not None
    return (decided - probing.decided_at).total_seconds()


def mid_pause_latency(folder: Path, bad_after: float) -> float:
    """Seconds from the answer that decides to the end of a user's experiment, which is in a pause of ten minutes."""
    home, mark = Home(folder), folder / "mark"
    systems: Any = SimpleNamespace(home=home, estate=ESTATE)
    faults = SupervisedFaults(FileConnections(folder / "none.json"), home)
    systems.faults = lambda: faults
    drill = Drill("drill-1", "experiment", "arrival-delay", "mark")
    home.experiments.mkdir(parents=True)
    program = {"type": "process", "path": "touch", "arguments": str(mark)}
    pause = {"type": "action", "name": "make", "provider": program, "pauses": {"after": 600}}
    back = {"type": "action", "name": "remove", "provider": {**program, "path": "rm"}}
    document = {"title": "mark", "description": "-", "method": [pause], "rollbacks": [back]}
    (home.experiments / "mark.json").write_text(json.dumps(document))
    (fault,) = SCENARIOS["experiment"].plan(systems, drill)
    now = datetime.now(UTC)
    lost_at = now - timedelta(seconds=6)  # the whole window of survivors counts, as in ``Probing.decide``
    begun = Injection(id=drill.id, scenario=drill.scenario, site=drill.site, service=drill.service, started_at=now,
                      expires_at=now + timedelta(minutes=5), faults=(fault,), lost_at=lost_at)  # fmt: skip
    open_injection(home, begun)
    faults.inject(fault)
    wait_until(mark.exists, "the pause")
    (child,) = (one for one in psutil.Process().children() if "ninelives.adapters.chaos" in one.cmdline())
    probing, stop = Probing(folder, bad_after), threading.Event()
    writer = threading.Thread(target=probing.write, args=(stop,))
    writer.start()
    try:
        with watched(systems, drill, ["late-arrival"]) as reasons:
            gone = lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE  # noqa: E731
            wait_until(gone, "its end", every=0.005)
            ended = datetime.now(UTC)
    finally:
        stop.set()
        writer.join()
    assert reasons, "it was stopped, and for a reason"
    assert not mark.exists(), "and rolled back"
    assert probing.decided_at is not None
    return (ended - probing.decided_at).total_seconds()
