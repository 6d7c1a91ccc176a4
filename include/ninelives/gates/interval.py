"""A stretch of time in a dataset: from ``start``, which belongs to it, up to ``end``, which does not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, order=True)
class Interval:
    """``[start, end)`` in UTC; without a zone a time is taken as UTC.

    :raises ValueError: it is empty or ends before it starts
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            at = getattr(self, name)
            try:
                object.__setattr__(self, name, at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
            except OverflowError:
                raise ValueError(f"{at.isoformat()} is no time in UTC") from None
        if self.start >= self.end:
            raise ValueError(f"{self} has no time in it; write START/END, and the end is not part of it")

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read ``2013-11-01T00:00/2013-11-01T06:00`` (ISO 8601); raises ``ValueError``."""
        parts = text.split("/")
        if len(parts) != 2:
            raise ValueError(f"{text!r} is not an interval; write START/END, like 2013-11-01/2013-11-02")
        return cls(*(datetime.fromisoformat(part.strip()) for part in parts))

    def __str__(self) -> str:
        return "/".join(at.isoformat().replace("+00:00", "Z") for at in (self.start, self.end))
