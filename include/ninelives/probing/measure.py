"""What users felt, from the prober's rows. Pure: rows and instants in, numbers out.

**Recovery.** The RTO runs from the loss to the arrival of the first correct answer that *lasts*: none of the requests
sent within ``lasting`` after it was answered badly (degraded, wrong or failed). A correct answer between bad ones is
flapping. A loss after which answers stay correct for ``lasting`` was no interruption: its RTO is 0. Bad answers after
that, or after a recovery that lasted, are a new interruption, with a clock of its own from its first bad answer. It
must keep the objective as well, and counts up to the end of the measurement where that comes before its end could last.
A single bad answer is an interruption, a short one; how many there may be is the business of the availability
objective, not of the RTO.

**Ignorance.** A slot that nobody looked at could have been anything. Every duration is therefore a range: its low end
takes unknown slots as correct, its high end as bad. An objective is met only if the high end keeps it, missed only if
the low end breaks it, and otherwise the verdict is unknown. What lies between two neighbouring probes cannot be seen:
``resolution_seconds`` says how long that was at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ninelives.probing.records import BAD, CORRECT, SLACK, Outcome, interval_of

LASTING = timedelta(seconds=5)
"""How long answers must stay correct before a recovery counts as one."""
CLOCK_STEP = 0.25
"""Seconds by which wall and monotonic clock may move against each other during a measurement."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_OUTCOMES = tuple(Outcome)


class Verdict(StrEnum):
    """Whether an objective was kept. Unknown is never met."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Interruption:
    """A stretch without lasting correct answers, in seconds."""

    start: float
    """From the loss to the sending of its first bad answer; a little below 0 for a request under way at the loss."""
    shortest: float
    """Between the sendings of its first and its last bad answer."""
    longest: float
    """From the last correct answer before it to the first one after it that lasts, or that holds until the measurement
    ends; infinite where neither was seen."""


@dataclass(frozen=True)
class UserImpact:
    """What users of one service felt between ``loss_at`` and ``until``; durations in seconds.

    ``sent`` = good + slow + degraded + wrong + failed, and ``slots`` = sent + unknown.
    """

    service: str
    loss_at: datetime
    until: datetime
    interval_seconds: float
    lasting_seconds: float
    slots: int
    sent: int
    good: int
    slow: int
    degraded: int
    wrong: int
    failed: int
    unknown: int
    rto_seconds: float | None
    """0: no interruption. ``None``: recovery was not seen, or unknown slots leave more than one answer."""
    rto_low: float
    """To the sending of the last bad answer before the recovery: it took longer than this."""
    rto_high: float
    """To the arrival of the first lasting correct answer; infinite where none was seen."""
    rto_error_seconds: float | None
    """Between the last bad and the first lasting correct probe: the service recovered in between."""
    resolution_seconds: float
    """The longest time between two neighbouring slots."""
    outage_seconds: float
    """Time in which answers were bad, degraded ones included; each answer stands for the time to the next slot."""
    degraded_seconds: float
    unknown_seconds: float
    interruptions: tuple[Interruption, ...]
    """Those with a bad answer, in order."""
    worst_low: float
    """The RTO, or a later interruption where that was longer: at least this."""
    worst_high: float
    """The same: at most this."""
    clock_step_seconds: float
    doubts: tuple[str, ...]
    """What keeps the numbers from being exact, one sentence each."""

    @property
    def interrupted(self) -> bool | None:
        """``None`` where nobody can say: no bad answer was seen, but not every slot was looked at."""
        return True if self.interruptions else None if self.unknown else False

    def verdict(self, objective: timedelta) -> Verdict:
        """Whether the RTO was kept, and by every later interruption too."""
        limit = objective.total_seconds()
        if self.clock_step_seconds > CLOCK_STEP:
            return Verdict.UNKNOWN
        if self.worst_high <= limit:
            return Verdict.MET
        return Verdict.MISSED if self.worst_low > limit else Verdict.UNKNOWN

    def facts(self) -> dict[str, Any]:
        """For the ledger and for JSON: instants in ISO, ``None`` for infinite."""
        facts = asdict(self) | {"loss_at": self.loss_at.isoformat(), "until": self.until.isoformat()}
        facts |= {"interrupted": self.interrupted, "doubts": list(self.doubts)}
        facts["interruptions"] = [_finite(asdict(interruption)) for interruption in self.interruptions]
        return _finite(facts)


def _finite(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (round(value, 6) if math.isfinite(value) else None) if isinstance(value, float) else value
        for key, value in facts.items()
    }


# --- slots -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slots:
    """One service's slots in order of sending, missing ones filled in as unknown; seconds from the start."""

    at: Floats
    """sent, or scheduled where nothing was sent"""
    arrival: Floats
    code: npt.NDArray[np.int64]
    """index in ``_OUTCOMES``"""
    clock_step: float

    def are(self, outcomes: Iterable[Outcome]) -> Flags:
        wanted = set(outcomes)
        return np.array([outcome in wanted for outcome in _OUTCOMES])[self.code]

    def count(self) -> dict[str, int]:
        counts = np.bincount(self.code, minlength=len(_OUTCOMES))
        return {outcome: int(count) for outcome, count in zip(_OUTCOMES, counts, strict=True)}


def _of_service(probes: pa.Table, service: str | None) -> pa.Table:
    if service is not None:
        return probes.filter(pc.equal(probes.column("service"), service))
    if len(names := pc.unique(probes.column("service"))) > 1:
        raise ValueError(f"rows of several services ({', '.join(sorted(names.to_pylist()))}): say which one is meant")
    return probes


def _interval(rows: pa.Table, given: float | None) -> float:
    if interval := given or interval_of(rows):
        return interval
    raise ValueError("there are too few probes to tell their interval from; pass the interval")


def _slots(rows: pa.Table, start: datetime, end: datetime, interval: float) -> _Slots:
    """The slots of ``[start, end)``, and those before whose answer was still awaited at ``start``."""
    scheduled_at = rows.column("scheduled_at")
    low, high = (pa.scalar(at, scheduled_at.type) for at in (start - SLACK, end + SLACK))
    rows = rows.filter(pc.and_(pc.greater_equal(scheduled_at, low), pc.less(scheduled_at, high)))
    origin, length = round(start.timestamp() * 1e6), (end - start).total_seconds()
    scheduled = _seconds(rows.column("scheduled_at"), origin)
    sent = _seconds(rows.column("sent_at"), origin)
    at = np.where(np.isnan(sent), scheduled, sent)
    arrival = at + np.nan_to_num(rows.column("latency_s").to_numpy().astype(np.float64))
    code = pc.index_in(rows.column("outcome"), value_set=pa.array([str(outcome) for outcome in _OUTCOMES])).to_numpy()

    missing = _missing(np.sort(scheduled), length, interval)
    at, arrival = np.append(at, missing), np.append(arrival, missing)
    code = np.append(code, np.full(len(missing), _OUTCOMES.index(Outcome.UNKNOWN))).astype(np.int64)
    order = np.argsort(at, kind="stable")
    order = order[((at >= 0) | (arrival > 0))[order] & (at < length)[order]]
    return _Slots(at[order], arrival[order], code[order], _clock_step(rows))


def _seconds(column: pa.ChunkedArray, origin: int) -> Floats:
    """Seconds since ``origin`` (microseconds since the epoch); NaN for null."""
    since = pc.subtract(column.cast(pa.int64()), origin).cast(pa.float64())
    return np.asarray(since.to_numpy(), dtype=np.float64) / 1e6


def _missing(scheduled: Floats, length: float, interval: float) -> Floats:
    """Slots in ``[0, length)`` of which there is no row, although the schedule must have had them.

    Where no row bounds the time on a side, the schedule is taken to have gone on up to there.
    """
    first = [-interval / 2] if not len(scheduled) or scheduled[0] > 0 else []
    last = [length + interval / 2] if not len(scheduled) or scheduled[-1] < length else []
    edges = np.concatenate([first, scheduled, last])
    gaps = np.diff(edges)
    found = [np.empty(0)]
    for hole in np.flatnonzero(gaps > 1.5 * interval):
        count = round(gaps[hole] / interval)
        found.append(edges[hole] + gaps[hole] / count * np.arange(1, count))
    slots: Floats = np.concatenate(found)
    return slots[(slots >= 0) & (slots < length)]


def _clock_step(rows: pa.Table) -> float:
    """Seconds by which the wall clock moved against the monotonic one; a reboot in between looks like one, rightly."""
    rows = rows.filter(pc.is_valid(rows.column("sent_at")))
    if rows.num_rows == 0:
        return 0.0
    wall = rows.column("sent_at").cast(pa.int64()).to_numpy()
    return float(np.ptp(wall - rows.column("monotonic_ns").to_numpy() // 1000)) / 1e6


# --- the loss --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Down:
    """Bad slots without a lasting recovery between them. Seconds from the loss."""

    before: float
    """sending of the slot before the first bad one"""
    first: float
    last: float
    """sendings of the first and the last bad one"""
    up: float
    """sending of the first slot after which it lasts; infinite where that was not seen"""
    arrival: float
    """earliest arrival of a correct answer that lasts"""
    over: float
    """the same, or the end of the measurement where only correct answers were seen up to there; else infinite"""


_UNTOUCHED = _Down(before=0, first=0, last=0, up=0, arrival=0, over=0)
_UNSEEN = _Down(before=0, first=0, last=0, up=math.inf, arrival=math.inf, over=math.inf)


def _downs(slots: _Slots, bad: Flags, lasting: float, length: float) -> list[_Down]:
    """The loss's own first: ``_UNTOUCHED`` where nothing bad followed it for ``lasting``, ``_UNSEEN`` if too short."""
    hit = np.flatnonzero(bad)
    ends = np.append(slots.at, length)
    # A recovery could begin with the slot after each bad one; it lasts if no bad one is sent within ``lasting``.
    lasts = np.append(slots.at[hit[1:]], length) - ends[hit + 1] >= lasting if len(hit) else np.empty(0, np.bool_)
    downs = []
    if not len(hit) or slots.at[hit[0]] >= lasting:
        downs.append(_UNTOUCHED if length >= lasting else _UNSEEN)
    cuts = np.flatnonzero(lasts[:-1]) + 1
    for group in np.split(hit, cuts) if len(hit) else []:
        first, last = group[0], group[-1]
        up = last + 1
        after = hit[np.searchsorted(hit, up)] if hit[-1] >= up else len(slots.at)
        seen = after > up and (after < len(slots.at) or bool(lasts[-1]))
        arrival = float(np.min(slots.arrival[up:after])) if after > up else math.inf
        downs.append(
            _Down(
                before=float(slots.at[first - 1]) if first else 0.0,
                first=float(slots.at[first]),
                last=float(slots.at[last]),
                up=float(slots.at[up]) if seen else math.inf,
                arrival=arrival if seen else math.inf,
                over=arrival if seen or after == up else max(arrival, length),
            )
        )
    return downs


def measure_loss(
    probes: pa.Table,
    *,
    loss_at: datetime,
    until: datetime,
    service: str | None = None,
    interval: float | None = None,
    lasting: timedelta = LASTING,
) -> UserImpact:
    """Measure from the loss until ``until``: the end of the loss, or of the observation.

    :param probes: as ``read_probes`` gives them, from some seconds before the loss; wait until the prober has written
        everything (``wait_until_complete``), or what is missing counts as unknown
    :param service: may be left out where the rows are of one service only
    :param interval: seconds between two probes, taken from the rows where not given
    :param lasting: how long answers must stay correct for a recovery to count
    :raises ValueError: ``until`` is not after the loss, or the rows do not tell interval or service
    """
    if until <= loss_at:
        raise ValueError(f"the measurement must end after the loss at {loss_at}, not at {until}")
    rows = _of_service(probes, service)
    interval = _interval(rows, interval)
    length, wait = (until - loss_at).total_seconds(), lasting.total_seconds()
    slots = _slots(rows, loss_at, until, interval)
    bad, unknown = slots.are(BAD), slots.are([Outcome.UNKNOWN])
    surely, perhaps = _downs(slots, bad, wait, length), _downs(slots, bad | unknown, wait, length)
    low, high = max(0.0, surely[0].last), perhaps[0].arrival
    exact = surely[0] == perhaps[0] and math.isfinite(high)

    counts = slots.count()
    held = np.diff(np.append(np.maximum(slots.at, 0.0), length))
    doubts = []
    if counts[Outcome.UNKNOWN]:
        doubts.append(f"{counts[Outcome.UNKNOWN]} of {len(slots.at)} slots are unknown")
    if not math.isfinite(perhaps[-1].up):
        doubts.append(f"no recovery that lasted {wait:g} s was seen before the measurement ended")
    if slots.clock_step > CLOCK_STEP:
        doubts.append(f"the wall clock moved by {slots.clock_step:.3f} s against the monotonic clock")
    return UserImpact(
        service=service or (rows.column("service")[0].as_py() if rows.num_rows else ""),
        loss_at=loss_at,
        until=until,
        interval_seconds=interval,
        lasting_seconds=wait,
        slots=len(slots.at),
        sent=len(slots.at) - counts[Outcome.UNKNOWN],
        good=counts[Outcome.GOOD],
        slow=counts[Outcome.SLOW],
        degraded=counts[Outcome.DEGRADED],
        wrong=counts[Outcome.WRONG],
        failed=counts[Outcome.FAILED],
        unknown=counts[Outcome.UNKNOWN],
        rto_seconds=high if exact else None,
        rto_low=low,
        rto_high=high,
        rto_error_seconds=surely[0].up - surely[0].last if exact else None,
        resolution_seconds=float(held.max()) if len(held) else length,
        outage_seconds=float(held[bad].sum()),
        degraded_seconds=float(held[slots.are([Outcome.DEGRADED])].sum()),
        unknown_seconds=float(held[unknown].sum()),
        interruptions=tuple(
            Interruption(down.first, down.last - down.first, _around(down, perhaps))
            for down in surely
            if down not in (_UNTOUCHED, _UNSEEN)
        ),
        worst_low=max([low, *(down.last - down.first for down in surely[1:])]),
        worst_high=max([high, *(down.over - down.before for down in perhaps[1:])]),
        clock_step_seconds=slots.clock_step,
        doubts=tuple(doubts),
    )


def _around(down: _Down, perhaps: list[_Down]) -> float:
    """How long an interruption may have been at most: the one that it is part of if all unknown slots were bad."""
    around = [longer for longer in perhaps if longer.first <= down.first <= longer.last]
    return max(longer.over - longer.before for longer in around)


# --- steady state and pictures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SteadyState:
    """What all slots of a while came to. Unknown ones are taken as bad in ``low`` and as correct in ``high``."""

    good: int
    slow: int
    degraded: int
    wrong: int
    failed: int
    unknown: int
    outage_since: datetime | None
    """The first of the bad answers that no correct one followed; ``None`` where the last known answer was correct."""

    @property
    def sent(self) -> int:
        return self.good + self.slow + self.degraded + self.wrong + self.failed

    @property
    def slots(self) -> int:
        return self.sent + self.unknown

    @property
    def low(self) -> float:
        """Share of correct answers that is certain: ask for it before something risky. 0 where there was no slot."""
        return (self.good + self.slow) / self.slots if self.slots else 0.0

    @property
    def high(self) -> float:
        """Share that is possible: if it is below a limit, so are the answers. 1 where there was no slot."""
        return (self.good + self.slow + self.unknown) / self.slots if self.slots else 1.0


def steady_state(
    probes: pa.Table, *, since: datetime, until: datetime, service: str | None = None, interval: float | None = None
) -> SteadyState:
    """Count the slots of ``[since, until)``; an ``until`` after the heartbeat's ``complete_until`` adds unknown ones.

    :param interval: seconds; needed where the rows may be too few to tell it
    :raises ValueError: as ``measure_loss``
    """
    rows = _of_service(probes, service)
    slots = _slots(rows, since, until, _interval(rows, interval))
    bad, correct = np.flatnonzero(slots.are(BAD)), np.flatnonzero(slots.are(CORRECT))
    open_bad = bad[bad > (correct[-1] if len(correct) else -1)]
    down = since + timedelta(seconds=float(slots.at[open_bad[0]])) if len(open_bad) else None
    return SteadyState(**slots.count(), outage_since=down)
