"""Which intervals of a DAG were missed, and in which stretches they are filled: facts in, plan out.

An interval is missed when Airflow has no run for it, when its run failed, or when its run succeeded but the dataset
that it writes no longer holds it, as after the loss of a site. What runs now, and what the schedule will run by
itself, is nobody's to fill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from ninelives.backfill.landed import covers
from ninelives.gates.interval import Interval
from ninelives.ports import IntervalRun

GAP = "ninelives_gap"
"""Key in the conf of a run that works on a whole gap; its value is the gap, ``START/END``."""

NOT_LANDED = "its source has not landed"


class State(StrEnum):
    DONE = "done"
    RUNNING = "running"
    MISSING = "missing"
    FAILED = "failed"
    LOST = "lost"
    """Done, but what it wrote is gone."""


MISSED = frozenset({State.MISSING, State.FAILED, State.LOST})


@dataclass(frozen=True, order=True)
class Slot:
    """One interval of the schedule and what became of it."""

    interval: Interval
    state: State


@dataclass(frozen=True)
class Stretch:
    """Neighbouring intervals that one native backfill fills.

    :param again: also intervals whose run succeeded are run again, because their data is gone
    """

    intervals: tuple[Interval, ...]
    again: bool = False

    @property
    def whole(self) -> Interval:
        return Interval(self.intervals[0].start, self.intervals[-1].end)


@dataclass(frozen=True)
class Parked:
    """An interval that is missed and cannot be filled yet."""

    interval: Interval
    reason: str


@dataclass(frozen=True)
class Plan:
    """What to do about the missed intervals of one DAG.

    :param stretches: to fill, oldest first
    :param later: missed intervals beyond the bound of one plan; the next one has them
    """

    stretches: tuple[Stretch, ...] = ()
    parked: tuple[Parked, ...] = ()
    running: tuple[Interval, ...] = ()
    done: int = 0
    later: int = 0

    @property
    def fill(self) -> tuple[Interval, ...]:
        return tuple(interval for stretch in self.stretches for interval in stretch.intervals)

    @property
    def whole(self) -> bool:
        """Whether nothing is missed."""
        return not (self.stretches or self.parked or self.later)


def survey(
    ticks: Sequence[datetime],
    runs: Sequence[IntervalRun],
    *,
    end: datetime,
    next_start: datetime | None,
    produced: Sequence[Interval] | None = None,
) -> tuple[Slot, ...]:
    """Every interval of the schedule that ends by ``end``, in order, with what became of it.

    :param ticks: starts of the schedule's intervals; those of running ones may be missing
    :param next_start: start of the first interval that the schedule will run by itself
    :param produced: stretches that the DAG's dataset holds, merged; ``None`` where nobody can tell
    """
    by_start = {run.start: run for run in runs}
    starts = sorted({*ticks, *(run.start for run in runs if not run.by_hand and run.start <= end)})
    if next_start is not None and next_start <= end:
        starts = [*(start for start in starts if start < next_start), next_start]
    elif len(starts) > 1:  # only the schedule knows how long the last one is: as long as the one before
        starts.append(starts[-1] + (starts[-1] - starts[-2]))
    elif starts and starts[0] < end:
        starts.append(end)
    gaps = [(Interval.parse(str(run.conf[GAP])), run.state) for run in runs if GAP in run.conf]
    return tuple(
        Slot(interval, _state(interval, by_start.get(interval.start), gaps, produced))
        for interval in (Interval(*both) for both in pairwise(starts))
        if interval.end <= end
    )


def _state(
    interval: Interval,
    run: IntervalRun | None,
    gaps: Sequence[tuple[Interval, str]],
    produced: Sequence[Interval] | None,
) -> State:
    states = {state for gap, state in gaps if covers([gap], interval)} | ({run.state} if run else set())
    if states & {"queued", "running"}:
        return State.RUNNING
    if "success" in states:
        return State.DONE if produced is None or covers(produced, interval) else State.LOST
    return State.FAILED if states else State.MISSING


def plan(
    slots: Sequence[Slot],
    *,
    available: Sequence[Interval] | None = None,
    why: str = NOT_LANDED,
    refused: Mapping[Interval, str] | None = None,
    most: int = 1000,
) -> Plan:
    """Fill what can be filled, oldest first; park the rest with its reason.

    :param slots: every interval of the schedule, in order
    :param available: stretches of the source that have landed, merged; ``None`` where nobody can tell
    :param why: an interval that is none of them must wait
    :param refused: intervals whose source the gate refused, with why
    :param most: missed intervals that one plan takes on
    """
    refused = refused or {}
    stretches: list[list[Slot]] = []
    parked: list[Parked] = []
    taken = later = 0
    previous: Slot | None = None
    for slot in slots:
        reason = refused.get(slot.interval) or (
            why if available is not None and not covers(available, slot.interval) else None
        )
        before, previous = previous, None
        if slot.state not in MISSED:
            continue
        if taken == most:
            later += 1
            continue
        taken += 1
        if reason:
            parked.append(Parked(slot.interval, reason))
        elif before is not None and (before.state is State.LOST) == (slot.state is State.LOST):
            stretches[-1].append(slot)
            previous = slot
        else:
            stretches.append([slot])
            previous = slot
    return Plan(
        stretches=tuple(
            Stretch(tuple(slot.interval for slot in run), again=run[0].state is State.LOST) for run in stretches
        ),
        parked=tuple(parked),
        running=tuple(slot.interval for slot in slots if slot.state is State.RUNNING),
        done=sum(slot.state is State.DONE for slot in slots),
        later=later,
    )


@dataclass(frozen=True)
class Progress:
    """How far the filling of some intervals is."""

    total: int
    done: int
    failed: int
    running: int
    left: timedelta | None
    """Time left at the pace so far; ``None`` before the first interval is through."""

    @property
    def ended(self) -> bool:
        return self.done + self.failed == self.total

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = f", about {_rounded(self.left)} left" if self.left is not None and not self.ended else ""
        return f"{self.done} of {self.total} filled{failed}, {self.running} running{left}"


def progress(states: Sequence[str | None], elapsed: timedelta) -> Progress:
    """From the state of each interval's run, ``None`` where there is none yet.

    :param elapsed: since the filling began
    """
    done, failed = states.count("success"), states.count("failed")
    through = done + failed
    left = elapsed / through * (len(states) - through) if through else None
    return Progress(len(states), done, failed, states.count("running"), left)


def _rounded(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def why_it_waits(*, paused_dag: bool, paused_backfill: bool, live: int, bound: int, examined: int | None) -> str | None:
    """What keeps a backfill from moving, ``None`` where nothing is known to.

    :param live: runs of any DAG that run now and belong to no backfill
    :param bound: backfill runs that may run side by side
    :param examined: running runs that the scheduler looks at in each loop
    """
    if paused_dag:
        return "the DAG is paused; unpause it"
    if paused_backfill:
        return "somebody paused the backfill; unpause or cancel it in Airflow"
    # In each loop Airflow's scheduler looks at so many runs and no more, live ones first: backfill runs may starve.
    if examined is not None and live + bound > examined:
        return (
            f"{live} live runs are running and the scheduler looks at {examined} runs in each loop, live ones first; "
            "raise [scheduler] max_dagruns_per_loop_to_schedule above both together"
        )
    return None
