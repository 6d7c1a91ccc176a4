"""When a provider's weekly windows are, in UTC, whatever its clocks do. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from ninelives.errors import Refused
from ninelives.estate.outside import Day, Provider, Window

AHEAD = timedelta(days=15)
"""How far a next window is looked for: two weeks, as a window may fall into the hour that spring leaves out."""


@dataclass(frozen=True, order=True)
class Span:
    """From ``begin`` up to and without ``end``, both in UTC."""

    begin: datetime
    end: datetime


def spans(windows: Sequence[Window], after: datetime, until: datetime) -> list[Span]:
    """Every time that a window is open between two instants, in order; whole, also where it began before ``after``.

    A time of day that comes twice in autumn means the first; one that spring leaves out is an hour later on the clock.
    """
    return sorted({span for window in windows for span in _spans(window, after, until)})


def _spans(window: Window, after: datetime, until: datetime) -> Iterator[Span]:
    zone, days = ZoneInfo(window.zone), tuple(Day)
    begin, end = time.fromisoformat(window.begin), time.fromisoformat(window.end)
    day = after.astimezone(zone).date() - timedelta(days=2)
    while day <= until.astimezone(zone).date():
        if days[day.weekday()] in window.days:
            last = day if end > begin else day + timedelta(days=1)
            span = Span(_instant(day, begin, zone), _instant(last, end, zone))
            if span.begin < span.end and span.end > after and span.begin < until:
                yield span
        day += timedelta(days=1)


def _instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, at, zone).astimezone(UTC)


def next_span(provider: Provider, now: datetime) -> Span | None:
    """The test window that is open or opens next and does not begin in maintenance; ``None``: none within ``AHEAD``."""
    closed = spans(provider.maintenance, now, now + AHEAD)
    for span in _joined(spans(provider.test, now, now + AHEAD)):
        begin = max(span.begin, now)
        for away in closed:
            if away.begin <= begin < away.end:
                begin = away.end
        if begin < span.end:
            return Span(begin, span.end)
    return None


def _joined(found: Sequence[Span]) -> list[Span]:
    """One where the next begins before the last has ended: midnight interrupts nothing."""
    joined: list[Span] = []
    for span in found:
        if joined and span.begin <= joined[-1].end:
            joined[-1] = Span(joined[-1].begin, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def check_window(provider: Provider, now: datetime, lasting: timedelta) -> Span:
    """The window in which a drill of this length may begin now.

    :raises Refused: none is open for so long; says when the next one opens
    """
    span = next_span(provider, now)
    what = f"drill of {provider.name}"
    if span is None:
        raise Refused(what, [f"no test window opens within {AHEAD.days} days; ask {', '.join(provider.contacts)}"])
    if span.begin > now:
        raise Refused(what, [f"no test window is open; the next one opens {_shown(span.begin)}"])
    for away in spans(provider.maintenance, now, span.end):
        span = Span(span.begin, min(span.end, away.begin))
    if now + lasting > span.end:
        need = f"it takes {lasting.total_seconds():.0f} s, and the window closes {_shown(span.end)}"
        later = next_span(provider, span.end)
        raise Refused(what, [f"{need}; the next one opens {_shown(later.begin) if later else 'nobody knows when'}"])
    return span


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
