"""What the replicas answered in each arm, look by look, and the guard-rails that are made of it.

A replica remembers its last tries only, and nothing when it is started anew; so each look takes what is new since the
look before and keeps it. The file is appended to, a whole line at a time: whoever goes on after kill -9 goes on from
the last line.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ninelives.errors import Corrupted
from ninelives.experiments.judge import ERRORS
from ninelives.files import append_lines
from ninelives.ports import Attempt, Attempts
from ninelives.releases.judge import Metric
from ninelives.releases.judge.sequential import ALPHA

SLOW, MEDIAN, TAIL = "latency-slow", "latency-p50", "latency-p99"
"""Tries that took longer than was promised, and what the others took."""
SLOW_FLOOR = 0.01
"""A share of slow tries that never matters, whatever the control has."""
HARMLESS_MS = 1.0
"""Added to each latency: nobody feels a tenth more of a fraction of a millisecond."""
ARMS = ("control", "experiment")
STRETCH = 1000
"""Looks after which the guard-rails begin anew: what turns bad late is found as soon as what was bad from the first."""


@dataclass(frozen=True)
class Row:
    """One look; pairs are of control and experiment."""

    at: str
    """ISO, UTC."""
    cursors: Mapping[str, tuple[str, float]]
    """Per replica, its boot and until when (unix time, s, by its clock) its tries were counted."""
    attempts: tuple[int, int] = (0, 0)
    errors: tuple[int, int] = (0, 0)
    slow: tuple[int, int] = (0, 0)
    p50: tuple[float | None, float | None] = (None, None)
    """ms, of good tries"""
    p99: tuple[float | None, float | None] = (None, None)
    troubles: tuple[str, ...] = ()
    """What a lost site or replica takes from the room that the experiment needs."""


@dataclass
class Counted:
    """New tries of one look, over all replicas."""

    cursors: dict[str, tuple[str, float]]
    control: list[Attempt] = field(default_factory=list)
    experiment: list[Attempt] = field(default_factory=list)

    def add(self, url: str, found: Attempts, *, control: str, experiment: str) -> None:
        """What a replica has answered since its cursor; all of it where it was started anew."""
        boot, until = self.cursors.get(url, ("", 0.0))
        until = until if boot == found.boot else 0.0
        self.cursors[url] = (found.boot, max([until, *(one.at for arm in found.by_arm.values() for one in arm)]))
        for (arm, version), attempts in found.by_arm.items():
            new = [one for one in attempts if one.at > until]
            if (arm, version) == ("control", control):
                self.control += new
            elif (arm, version) == ("experiment", experiment):
                self.experiment += new

    def row(self, at: datetime, promised: float, troubles: Sequence[str]) -> Row:
        """:param promised: latency, s"""
        arms = self.control, self.experiment
        wrong = [sum(not one.good for one in arm) for arm in arms]
        slow = [sum(one.latency > promised for one in arm) for arm in arms]
        return Row(
            at=at.isoformat(),
            cursors=self.cursors,
            attempts=(len(arms[0]), len(arms[1])),
            errors=(wrong[0], wrong[1]),
            slow=(slow[0], slow[1]),
            p50=(quantile(arms[0], 0.5), quantile(arms[1], 0.5)),
            p99=(quantile(arms[0], 0.99), quantile(arms[1], 0.99)),
            troubles=tuple(troubles),
        )


def quantile(attempts: Sequence[Attempt], share: float) -> float | None:
    """Of the latencies of good tries, ms, with ``HARMLESS_MS`` on it; ``None`` where there is none."""
    latencies = sorted(one.latency * 1000 for one in attempts if one.good)
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))] + HARMLESS_MS if latencies else None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While somebody looks and appends, nobody else does: two that watch would count the same tries twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # the kernel gives the lock back when the file is closed, also after kill -9


def append(path: Path, row: Row) -> None:
    append_lines(path, (json.dumps(asdict(row)) + "\n").encode())


def read_rows(path: Path) -> list[Row]:
    """Oldest first; a line that was cut off by a kill never counted. Raises ``Corrupted`` for any other bad line."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    try:
        return [_row(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupted(
            f"{path} cannot be read ({error!r}); end the experiment with ninelives experiment stop"
        ) from error


def _row(document: dict[str, object]) -> Row:
    cursors = {url: (str(boot), float(until)) for url, (boot, until) in document.pop("cursors").items()}  # type: ignore[attr-defined]
    return Row(cursors=cursors, **{name: tuple(v) if isinstance(v, list) else v for name, v in document.items()})  # type: ignore[arg-type]


def guard_rails(rows: Sequence[Row], availability: float) -> tuple[Metric, ...]:
    """Errors and latencies of the current stretch.

    Its tests are valid over its own looks; the k-th stretch may be wrong with ``6 / (pi * k)**2`` of the judge's chance
    of a false stop, which over all stretches adds up to that chance (Basel).

    :param availability: what is promised: fewer errors than it allows never matter
    """
    number = max(len(rows) - 1, 0) // STRETCH
    part = rows[number * STRETCH :]
    confidence = 1 - 2 * ALPHA * 6 / (math.pi * (number + 1)) ** 2
    shared = {"direction": "increase", "confidence": confidence}
    attempts = {f"{arm}_attempts": [one.attempts[side] for one in part] for side, arm in enumerate(ARMS)}
    counts = {ERRORS: ([one.errors for one in part], 1 - availability), SLOW: ([one.slow for one in part], SLOW_FLOOR)}
    levels = {MEDIAN: [one.p50 for one in part], TAIL: [one.p99 for one in part]}
    found = [
        {"name": name, "floor": round(floor, 9), **_sides(pairs), **attempts} for name, (pairs, floor) in counts.items()
    ]
    found += [{"name": name, **_sides(pairs)} for name, pairs in levels.items()]
    return tuple(Metric.model_validate({**one, **shared}) for one in found)


def folded(rows: Sequence[Row]) -> list[Row]:
    """Everything seen, in at most ``STRETCH`` looks of neighbours taken together, for what all of it must show."""
    size = math.ceil(len(rows) / STRETCH)
    return [_together(rows[first : first + size]) for first in range(0, len(rows), size)] if size > 1 else list(rows)


def _together(rows: Sequence[Row]) -> Row:
    def total(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
        return sum(one for one, _ in pairs), sum(other for _, other in pairs)

    def middle(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
        sides = [[value for value in side if value is not None] for side in zip(*pairs, strict=True)]
        means = [math.fsum(side) / len(side) if side else None for side in sides]
        return means[0], means[1]

    return Row(
        at=rows[-1].at,
        cursors=rows[-1].cursors,
        attempts=total([one.attempts for one in rows]),
        errors=total([one.errors for one in rows]),
        slow=total([one.slow for one in rows]),
        p50=middle([one.p50 for one in rows]),
        p99=middle([one.p99 for one in rows]),
    )


def _sides(pairs: Sequence[tuple[float | None, float | None]]) -> dict[str, Any]:
    return {arm: [pair[side] for pair in pairs] for side, arm in enumerate(ARMS)}
