"""Airflow and an estate as far as missed intervals are concerned, in memory, and ready to be killed at any call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.models import estate_of_two_sites

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.estate.model import Backfill
from ninelives.gates.interval import Interval
from ninelives.ports import IntervalRun, NativeBackfill, Schedule

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hours(first: int, last: int) -> Interval:
    """From hour ``first`` up to hour ``last`` after ``START``."""
    return Interval(START + first * HOUR, START + last * HOUR)


def hour(number: int) -> Interval:
    return hours(number, number + 1)


class Killed(BaseException):
    """Nobody catches it, as nobody catches ``kill -9``."""


class SimulatedAirflow:
    """An hourly DAG that never ran by itself. Keeps Airflow's rules: one open backfill per DAG; a run that exists is
    not made twice; what is queued or running is never touched.

    :param length: how many whole hours have passed since ``START``
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.runs: dict[datetime, IntervalRun] = {}
        self.started: list[tuple[datetime, datetime]] = []
        self.submitted: list[datetime] = []
        self.most_at_once = 0
        self.open: NativeBackfill | None = None
        self.fails: set[datetime] = set()
        self.paused = False
        self.live = 0
        self.fuse: int | None = None

    def burn(self) -> None:
        if self.fuse is not None:
            if self.fuse == 0:
                self.fuse = None
                raise Killed
            self.fuse -= 1

    # --- ports.Scheduler

    def schedule(self, dag_id: str) -> Schedule:
        self.burn()
        return Schedule(self.paused, True, True, START, START + self.length * HOUR)

    def ticks(self, dag_id: str, start: datetime, end: datetime) -> list[datetime]:
        self.burn()
        busy = {run.start for run in self.runs.values() if run.state in {"queued", "running"}}
        every = (START + number * HOUR for number in range(self.length))
        return [tick for tick in every if start <= tick <= end and tick not in busy]

    def interval_runs(self, dag_id: str, start: datetime, end: datetime) -> list[IntervalRun]:
        self.burn()
        return [run for at, run in sorted(self.runs.items()) if start <= at <= end]

    def open_backfill(self, dag_id: str) -> NativeBackfill | None:
        self.burn()
        return self.open

    def start_backfill(
        self,
        dag_id: str,
        first: datetime,
        last: datetime,
        *,
        again: bool,
        max_active: int,
        conf: Mapping[str, Any] | None = None,
    ) -> int | None:
        self.burn()
        if self.open is not None:
            return None
        for tick in self.ticks(dag_id, first, last):
            before = self.runs.get(tick)
            if before is None or before.state == "failed" or again:
                self.runs[tick] = IntervalRun(tick, "queued", conf=conf or {})
                self.submitted.append(tick)
        self.started.append((first, last))
        self.open = NativeBackfill(len(self.started), first, last, START, False)
        self.burn()  # killed after Airflow has taken it on, before the caller knows
        return self.open.id

    def live_runs(self) -> int:
        return self.live

    # --- for the tests

    def work(self, most: int | None = None, produce: Callable[[datetime], object] = lambda tick: None) -> None:
        """Run what is queued, in order, and complete the backfill once nothing is left."""
        queued = [tick for tick, run in sorted(self.runs.items()) if run.state == "queued"]
        for tick in queued[:most]:
            state = "failed" if tick in self.fails else "success"
            self.runs[tick] = IntervalRun(tick, state, conf=self.runs[tick].conf)
            if state == "success":
                produce(tick)
        if most is None or len(queued) <= most:
            self.open = None

    def states(self) -> list[str]:
        """One per hour; ``-`` where there is no run."""
        ticks = (START + number * HOUR for number in range(self.length))
        return [self.runs[tick].state if tick in self.runs else "-" for tick in ticks]


class Systems:
    """``ports.Systems`` with a simulated Airflow, a real ledger and the given stores."""

    def __init__(self, folder: Path, airflow: SimulatedAirflow, **declared: Any) -> None:
        self.airflow = airflow
        self.declared = Backfill.model_validate({"dag": "hourly", **declared})
        self.estate: Estate = estate_of_two_sites().model_copy(update={"backfills": (self.declared,)})
        self.home = SimpleNamespace(expectations=folder / "expectations", cache=folder / "cache")
        url = f"sqlite:///{folder / 'ledger.db'}"
        migrate(url)
        self._ledger = SqlLedger(url)
        self.stores: dict[str, Any] = {}
        self.closed: set[str] = set()

    def scheduler(self) -> SimulatedAirflow:
        return self.airflow

    def ledger(self) -> SqlLedger:
        return self._ledger

    def store(self, site: str) -> Any:
        return self.stores[site]

    def gateway(self) -> Any:
        return SimpleNamespace(state=lambda: SimpleNamespace(closed_sites=self.closed))


class ReadOnlyAirflow(SimulatedAirflow):
    """Refuses whatever would change something."""

    def start_backfill(self, *args: Any, **kwargs: Any) -> int | None:
        raise Refused("start_backfill", ["a plan must not write"])
