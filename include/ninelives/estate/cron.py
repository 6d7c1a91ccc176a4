"""Five-field cron expressions, checked without running a scheduler."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...], int], ...] = (
    ("minute", 0, 59, (), 0),
    ("hour", 0, 23, (), 0),
    ("day of month", 1, 31, (), 0),
    ("month", 1, 12, _MONTHS, 1),
    ("day of week", 0, 7, _DAYS, 0),
)
"""Name, lowest, highest, words, and the number of the first word."""
_LONGEST = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
"""Days of the months that have fewer than 31."""
_SOME_MONDAY = datetime(2024, 1, 1)  # noqa: DTZ001 - cron knows no zone


def check_cron(expression: str) -> None:
    """Raise ``ValueError`` unless ``expression`` is a cron expression of five fields that comes due on some day.

    Lists, ranges, steps, names of months and days, and ``6#1`` for the first Saturday are known.
    """
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(f"has {len(fields)} fields; write five: minute hour day-of-month month day-of-week")
    values = [_field(text, *rule) for text, rule in zip(fields, _FIELDS, strict=True)]
    days, months = values[2], values[3]
    # Cron takes either day field as enough when both are restricted.
    if fields[4].startswith("*") and not any(min(days) <= _LONGEST.get(month, 31) for month in months):
        raise ValueError("never comes due: none of its months has such a day")


def next_due(expression: str, after: datetime) -> datetime:
    """When an expression that ``check_cron`` takes comes due next, by the same engine that Airflow asks.

    :param after: with its time zone, which is the expression's as well
    """
    from croniter import croniter

    due: datetime = croniter(expression, after).get_next(datetime)
    return due


def _field(text: str, name: str, low: int, high: int, words: tuple[str, ...], first: int) -> set[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        span, slash, step = part.partition("/")
        if name == "day of week" and "#" in span:
            span, _, nth = span.partition("#")
            if slash or "-" in span or nth not in ("1", "2", "3", "4", "5"):
                raise ValueError(f"{name} {part[:40]!r} is wrong; write the day and which one of the month, like 6#1")
        if slash and not (step.isascii() and step.isdigit() and len(step) <= 2 and int(step) > 0):
            raise ValueError(f"{name} {part[:40]!r} is wrong; a step is a whole number above zero, like */15")
        if span == "*":
            start, end = low, high
        else:
            bounds = [_number(bound, words, first) for bound in span.split("-")]
            if len(bounds) > 2 or (slash and len(bounds) == 1) or not all(low <= bound <= high for bound in bounds):
                raise ValueError(f"{name} {part[:40]!r} is wrong; write *, a number from {low} to {high}, or a range")
            start, end = bounds[0], bounds[-1]
            if start > end:
                raise ValueError(f"{name} {part[:40]!r} runs backwards; write the smaller end first")
        found.update(range(start, end + 1, int(step) if slash else 1))
    return found


def _number(text: str, words: tuple[str, ...], first: int) -> int:
    """The number that ``text`` writes; -1 where it writes none."""
    if text in words:
        return words.index(text) + first
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 2 else -1


def longest_gap(expression: str) -> timedelta:
    """The longest time between two times at which ``expression`` comes due, over eight years.

    :raises ValueError: ``check_cron`` would refuse it
    """
    check_cron(expression)
    minutes, hours, days, months, weekdays = (
        _field(text, *rule) for text, rule in zip(expression.split(), _FIELDS, strict=True)
    )
    either = [not field.startswith("*") for field in (expression.split()[2], expression.split()[4])]
    nth = {
        (_number(day, _DAYS, 0) % 7, int(which))
        for part in expression.split()[4].lower().split(",")
        for day, hash_, which in [part.partition("#")]
        if hash_
    }
    times = sorted(timedelta(hours=hour, minutes=minute) for hour in hours for minute in minutes)
    inside = max((after - before for before, after in pairwise(times)), default=timedelta(0))
    last: datetime | None = None
    longest = timedelta(0)
    for number in range(8 * 366):
        day = _SOME_MONDAY + timedelta(days=number)
        weekday = day.isoweekday() % 7
        on_weekday = (weekday, (day.day - 1) // 7 + 1) in nth if nth else bool({weekday, weekday or 7} & weekdays)
        fits = (day.day in days or on_weekday) if all(either) else (day.day in days and on_weekday)
        if day.month in months and fits:
            if last is not None:
                longest = max(longest, day + times[0] - last, inside)
            last = day + times[-1]
    return longest or timedelta(days=8 * 366)
