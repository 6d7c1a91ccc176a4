"""Which stretches of time a dataset holds, told from the keys of its objects alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from ninelives.gates.interval import Interval

_PART = re.compile(r"(?:^|/)(year|month|day|date|dt|ds|hour)=(\d{4}-\d{2}-\d{2}|\d{1,4})(?=[/.]|$)")


def period_of(key: str) -> Interval | None:
    """The day or hour whose rows an object has, from a key like ``flights/day=2013-11-01/hour=05.parquet``.

    Read are ``day=``, ``date=``, ``dt=`` or ``ds=`` with a date, ``year=/month=/day=`` with numbers, and ``hour=``
    below either; ``None`` where the key says no time of that kind.
    """
    parts = {"day" if name in {"date", "dt", "ds"} else name: value for name, value in _PART.findall(key)}
    day = parts.get("day", "")
    try:
        if "-" in day:
            start = datetime.fromisoformat(day).replace(tzinfo=UTC)
        else:
            start = datetime(int(parts["year"]), int(parts["month"]), int(day), tzinfo=UTC)
        if "hour" not in parts:
            return Interval(start, start + timedelta(days=1))
        start = start.replace(hour=int(parts["hour"]))
        return Interval(start, start + timedelta(hours=1))
    except (KeyError, ValueError):
        return None


def landed(keys: Iterable[str]) -> tuple[Interval, ...] | None:
    """The stretches that are there, merged and in order; ``None`` where some key says no time: then nobody can tell."""
    periods = [period_of(key) for key in keys]
    known = [period for period in periods if period is not None]
    return merged(known) if len(known) == len(periods) else None


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same stretches of time, in order, none touching another."""
    found: list[Interval] = []
    for interval in sorted(intervals):
        if found and interval.start <= found[-1].end:
            found[-1] = Interval(found[-1].start, max(found[-1].end, interval.end))
        else:
            found.append(interval)
    return tuple(found)


def covers(stretches: Sequence[Interval], interval: Interval) -> bool:
    """Whether every instant of ``interval`` lies in ``stretches``, which are merged."""
    return any(one.start <= interval.start and interval.end <= one.end for one in stretches)
