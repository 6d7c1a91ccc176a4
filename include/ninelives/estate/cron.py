"""Five-field cron expressions, checked without running a scheduler."""

from __future__ import annotations

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
