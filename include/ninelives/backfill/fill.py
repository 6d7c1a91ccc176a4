"""Look at what was missed, fill it stretch by stretch, and leave evidence.

Nothing is remembered between two steps that the next one could not do without: what is missing is asked of Airflow
and the stores each time, so a step that was killed is simply taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from ninelives.backfill.landed import landed, merged
from ninelives.backfill.plan import (
    GAP,
    NOT_LANDED,
    Parked,
    Plan,
    Progress,
    Slot,
    State,
    Stretch,
    plan,
    progress,
    survey,
    why_it_waits,
)
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import Estate
from ninelives.estate.model import Backfill
from ninelives.gates.evidence import usable_verdict
from ninelives.gates.interval import Interval
from ninelives.gates.suite import load_suite, suite_path
from ninelives.ports import NativeBackfill, Record, Schedule, Systems
from ninelives.replication.manifest import BUCKET, read_manifest

KIND = "backfill"
GATED = 48
"""Intervals whose source is judged before the first of them is filled: a verdict costs seconds."""


@dataclass(frozen=True)
class Found:
    """Every interval in a window, and what to do about the missed ones."""

    slots: tuple[Slot, ...]
    plan: Plan


@dataclass(frozen=True)
class Filling:
    """Where the filling of one gap is.

    :param gap: the intervals that were missed when it was planned
    :param after: what begins before this was handed to Airflow already; a run that failed is not tried again
    :param refused: intervals whose source the gate refused, with why
    """

    dag: str
    gap: tuple[Interval, ...]
    after: datetime | None = None
    refused: Mapping[Interval, str] = field(default_factory=dict)

    @property
    def window(self) -> Interval:
        return Interval(self.gap[0].start, self.gap[-1].end)

    def as_json(self) -> dict[str, Any]:
        return {
            "dag": self.dag,
            "gap": [str(interval) for interval in self.gap],
            "after": self.after and self.after.isoformat(),
            "refused": {str(interval): why for interval, why in self.refused.items()},
        }

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> Self:
        after = raw.get("after")
        return cls(
            raw["dag"],
            tuple(Interval.parse(text) for text in raw["gap"]),
            datetime.fromisoformat(after) if after else None,
            {Interval.parse(text): why for text, why in raw.get("refused", {}).items()},
        )


@dataclass(frozen=True)
class Step:
    """What the filling waits for: a native backfill, or nothing any more.

    :param last: nothing is left to hand to Airflow once it has ended
    """

    filling: Filling
    backfill: int | None
    last: bool


def declared_backfill(estate: Estate, dag: str) -> Backfill:
    """Raises ``Refused`` where the estate does not name the DAG."""
    for declared in estate.backfills:
        if declared.dag == dag:
            return declared
    known = ", ".join(one.dag for one in estate.backfills) or "none"
    raise Refused(f"backfill of {dag}", [f"the estate names no such DAG below backfills; it names {known}"])


def window(declared: Backfill, now: datetime, start: datetime | None = None, end: datetime | None = None) -> Interval:
    """Where missed intervals are looked for: by default as far back as the estate says.

    :raises Refused: it ends before it starts
    """
    try:
        return Interval(start or now - declared.look_back, min(end or now, now))
    except ValueError as error:
        raise Refused(f"backfill of {declared.dag}", [str(error)]) from error


def look(systems: Systems, declared: Backfill, where: Interval, refused: Mapping[Interval, str] | None = None) -> Found:
    """What was missed within ``where`` and what to do about it; changes nothing anywhere.

    :raises Refused: Airflow cannot fill this DAG, with every reason
    :raises Unavailable: Airflow or the gateway does not answer
    """
    scheduler, dag = systems.scheduler(), declared.dag
    schedule = scheduler.schedule(dag)
    if reasons := _obstacles(systems, declared, schedule):
        raise Refused(f"backfill of {dag}", reasons)
    start = max(where.start, schedule.start) if schedule.start else where.start
    available, why = _available(systems, declared.source) if declared.source else (None, NOT_LANDED)
    slots = survey(
        scheduler.ticks(dag, start, where.end),
        scheduler.interval_runs(dag, start, _horizon(declared, schedule, where)),
        end=where.end,
        next_start=schedule.next_start,
        produced=_produced(systems, declared.dataset) if declared.dataset else None,
    )
    return Found(slots, plan(slots, available=available, why=why, refused=refused))


def _horizon(declared: Backfill, schedule: Schedule, where: Interval) -> datetime:
    """A run over a whole gap bears the date of the gap's end, which may lie beyond what is looked at."""
    return max(where.end, schedule.next_start or where.end) if declared.whole_gap else where.end


def _obstacles(systems: Systems, declared: Backfill, schedule: Schedule) -> list[str]:
    found = []
    if schedule.paused:
        found.append("the DAG is paused, and a backfill of it would wait for ever; unpause it")
    if not schedule.periodic:
        found.append("its schedule has no intervals that Airflow can fill; use a CronDataIntervalTimetable")
    elif not schedule.has_intervals and (declared.source or declared.dataset or declared.whole_gap):
        found.append(
            "its runs stand for instants, not for stretches of time (Airflow reads a cron string so); use a "
            "CronDataIntervalTimetable, or name neither source nor dataset nor whole_gap"
        )
    for dataset in filter(None, (declared.source, declared.dataset)):
        suite = systems.estate.dataset_by_name[dataset].suite
        if load_suite(suite_path(systems.home.expectations, suite)).of_interval is None:
            found.append(f"suite {suite} of {dataset} cannot judge one interval; declare its time column")
    return found


def open_site(systems: Systems, dataset: str) -> str | None:
    """The first site that holds the dataset, is open and answers, the primary before its copies."""
    declared = systems.estate.dataset_by_name[dataset]
    closed = systems.gateway().state().closed_sites
    for site in (declared.primary, *declared.copies):
        if site not in closed:
            try:
                systems.store(site).ping()
            except Unavailable:
                continue
            return site
    return None


def _available(systems: Systems, source: str) -> tuple[Sequence[Interval] | None, str]:
    """Stretches that the source's manifest lists, and why an interval that is none of them must wait."""
    site = open_site(systems, source)
    if site is None:
        return (), f"no open site that holds {source} answers"
    try:
        manifest = read_manifest(systems.store(site), source)
    except Corrupted as error:
        return (), str(error)
    return landed(o.key for o in manifest.objects) if manifest else (), NOT_LANDED


def _produced(systems: Systems, dataset: str) -> Sequence[Interval] | None:
    """Stretches whose objects a site really has; ``None`` where nothing can be told, above all from an empty store."""
    site = open_site(systems, dataset)
    if site is None:
        return None
    return landed(info.key for info in systems.store(site).list(BUCKET, f"{dataset}/")) or None


def take_step(
    systems: Systems, declared: Backfill, filling: Filling, tell: Callable[[str], object] = lambda line: None
) -> Step:
    """Hand the next stretch to Airflow, once its source has passed the gate, or say that nothing is left.

    While another backfill of the DAG is open, whoever started it, that one is waited for.

    :raises Refused: Airflow cannot fill this DAG
    :raises Unavailable: Airflow, a store or the ledger does not answer
    """
    scheduler = systems.scheduler()
    while True:
        found = look(systems, declared, filling.window, filling.refused)
        todo = [one for one in found.plan.stretches if filling.after is None or one.whole.start >= filling.after]
        if running := scheduler.open_backfill(declared.dag):
            return Step(filling, running.id if todo or _touches(running, found.plan) else None, last=not todo)
        if not todo:
            return Step(filling, None, last=True)
        stretch = Stretch(todo[0].intervals[:GATED], todo[0].again) if declared.source else todo[0]
        if declared.source and (refused := _judge(systems, declared.source, stretch.intervals, tell)):
            filling = Filling(filling.dag, filling.gap, filling.after, {**filling.refused, **refused})
            continue
        started = start_stretch(systems, declared, stretch)
        if started is not None:
            tell(f"Backfill {started} of {declared.dag} fills {len(stretch.intervals)} intervals, {stretch.whole}.")
            filling = Filling(filling.dag, filling.gap, stretch.whole.end, filling.refused)
            return Step(filling, started, last=stretch == todo[-1])


def _touches(running: NativeBackfill, planned: Plan) -> bool:
    return any(running.first <= interval.start <= running.last for interval in planned.running)


def start_stretch(systems: Systems, declared: Backfill, stretch: Stretch) -> int | None:
    """Start Airflow's own backfill over one stretch; ``None`` while another one of the DAG is open."""
    first, last = stretch.intervals[0].start, stretch.intervals[-1].start
    conf = {GAP: str(stretch.whole)} if declared.whole_gap else None
    return systems.scheduler().start_backfill(
        declared.dag,
        last if declared.whole_gap else first,
        last,
        again=stretch.again,
        max_active=declared.max_active,
        conf=conf,
    )


def _judge(
    systems: Systems, dataset: str, intervals: Iterable[Interval], tell: Callable[[str], object]
) -> dict[Interval, str]:
    """Intervals that the gate refuses, with why."""
    refused: dict[Interval, str] = {}
    site = open_site(systems, dataset)
    for interval in intervals:
        if site is None:
            raise Unavailable(f"no open site that holds {dataset} answers")
        try:
            usable_verdict(systems, dataset, site, interval=interval)
        except Refused as error:
            refused[interval] = f"the gate refused {dataset} at {site}: {'; '.join(error.reasons)}"
            tell(f"{interval}: {refused[interval]}")
    return refused


def watch(
    systems: Systems, declared: Backfill, backfill: int, *, now: datetime, examined: int | None
) -> tuple[Progress | None, str | None]:
    """How far a native backfill is, ``None`` once it is completed, and what it waits for, if anything is known.

    :param examined: running runs that Airflow's scheduler looks at in each loop
    """
    scheduler = systems.scheduler()
    running = scheduler.open_backfill(declared.dag)
    if running is None or running.id != backfill:
        return None, None
    runs = scheduler.interval_runs(declared.dag, running.first, running.last)
    seen = progress([run.state for run in runs if not run.by_hand], now - running.created)
    reason = why_it_waits(
        paused_dag=scheduler.schedule(declared.dag).paused,
        paused_backfill=running.paused,
        live=scheduler.live_runs(),
        bound=declared.max_active,
        examined=examined,
    )
    return seen, reason


def finish(
    systems: Systems,
    declared: Backfill,
    filling: Filling,
    *,
    run: str,
    begun: datetime,
    now: datetime,
    late: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Record:
    """Judge what was filled and record what became of every interval of the gap, once per run.

    :raises Unavailable: Airflow, a store or the ledger does not answer
    """
    ledger, once = systems.ledger(), f"backfill/{run}/{declared.dag}"
    if written := ledger.written(once):
        return written
    found = look(systems, declared, filling.window, filling.refused)
    states = {slot.interval: slot.state for slot in found.slots}
    of_gap: dict[State, list[Interval]] = {state: [] for state in State}
    for interval in filling.gap:
        # One that the schedule no longer has, because it was changed meanwhile, was not filled.
        of_gap[states.get(interval, State.MISSING)].append(interval)
    parked = [one for one in found.plan.parked if one.interval in set(filling.gap)]
    waiting = {one.interval for one in parked}
    failed = [i for state in (State.FAILED, State.LOST, State.MISSING) for i in of_gap[state] if i not in waiting]
    bad = _judge(systems, declared.dataset, of_gap[State.DONE], tell) if declared.dataset else {}
    facts = {
        "run": run,
        "intervals": len(filling.gap),
        "filled": _stretches(of_gap[State.DONE]),
        "failed": _stretches(failed),
        "running": _stretches(of_gap[State.RUNNING]),
        "parked": _reasons(parked),
        "gate": _reasons([Parked(interval, why) for interval, why in bad.items()]),
        "judged": len(of_gap[State.DONE]) if declared.dataset else 0,
        "seconds": round((now - begun).total_seconds(), 1),
        "outcome": outcome(late=late, failed=bool(failed or bad), parked=bool(parked)),
    }
    return ledger.append(KIND, declared.dag, facts, once=once)


def outcome(*, late: bool, failed: bool, parked: bool) -> str:
    """``failed`` before ``late`` before ``parked`` before ``filled``."""
    return "failed" if failed else "late" if late else "parked" if parked else "filled"


def _stretches(intervals: Iterable[Interval]) -> list[str]:
    return [str(stretch) for stretch in merged(intervals)]


def _reasons(parked: Iterable[Parked]) -> list[dict[str, Any]]:
    """Neighbours with the same reason as one entry."""
    by_reason: dict[str, list[Interval]] = {}
    for one in parked:
        by_reason.setdefault(one.reason, []).append(one.interval)
    return [{"reason": reason, "intervals": _stretches(found)} for reason, found in by_reason.items()]


def arrived(systems: Systems) -> dict[str, int]:
    """DAG to the record in which intervals were parked whose source has landed since.

    :raises Unavailable: the ledger or the gateway does not answer
    """
    found = {}
    for declared in systems.estate.backfills:
        if declared.source and (records := systems.ledger().records(kind=KIND, subject=declared.dag, limit=1)):
            waiting = [
                Interval.parse(text)
                for parked in records[0].facts["parked"]
                for text in parked["intervals"]
                if not parked["reason"].startswith("the gate refused")
            ]
            available, _ = _available(systems, declared.source)
            if waiting and (available is None or any(_overlap(available, interval) for interval in waiting)):
                found[declared.dag] = records[0].seq
    return found


def _overlap(stretches: Sequence[Interval], interval: Interval) -> bool:
    return any(one.start < interval.end and interval.start < one.end for one in stretches)
