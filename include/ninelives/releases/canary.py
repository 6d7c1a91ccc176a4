"""What a new version did beside the old one, attempt by attempt, in the form that the judge takes."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

from ninelives.errors import Refused
from ninelives.ports import Attempt, Replica

ERRORS, LATENCY, TAIL, QUALITY = "errors", "latency-p50", "latency-p99", "quality"

LOOKS = 150
"""Looks at a canary in all its time as declared. Each is of the attempts since the one before, the same for both
versions, and never changes again: what the judge says of all looks together holds only then."""
SHORTEST = 10.0
"""Of a look, seconds: rates that wander for some seconds in one version alone are one value to the judge, not ten."""

REFERENCE, LEAST_REFERENCE = 1000, 100
"""The newest attempts of the old version before a look that say what is slow in it; with fewer nothing is known."""
HARMLESS, HARMLESS_MS = 1.05, 1.0
"""Times and milliseconds that an attempt of the new version may take longer before it counts as slow."""
MEDIAN_MARGIN = 1.25
"""How many times as many attempts may be slower than half of them: there cannot be more than twice as many."""


class Decision(StrEnum):
    PROMOTE = "promote"
    ROLL_BACK = "roll back"
    INCONCLUSIVE = "inconclusive"


Judge = Callable[[list[dict[str, Any]], int], tuple[Decision, list[str]]]
"""Metrics, and the looks after which it may promote, to a decision with its reasons."""


@dataclass(frozen=True)
class Looked:
    """What the replicas remember since an instant."""

    old: str
    new: str
    control: tuple[Attempt, ...]
    """In the order of their times."""
    experiment: tuple[Attempt, ...]

    def facts(self) -> dict[str, Any]:
        return {"control": _summary(self.control), "experiment": _summary(self.experiment)}


def look(
    replicas: Sequence[Replica], model: str, boots: dict[str, str], *, arm: str, old: str, new: str, since: float
) -> Looked:
    """Ask every replica; those that are warm with the new version are ``boots``: URL to boot.

    :param since: unix time, s
    :raises Refused: one of them was started anew, or has lost the version: whatever ended it, users had a try there
    :raises Unavailable: one of them does not answer
    """
    control: list[Attempt] = []
    experiment: list[Attempt] = []
    for replica in replicas:
        if replica.url not in boots:
            continue
        found = replica.attempts(model)
        if found.boot != boots[replica.url]:
            raise Refused("canary", [f"{replica.url} was started anew while it had version {new}"])
        if new not in found.loaded:
            raise Refused("canary", [f"{replica.url} has no version {new} any more"])
        for (which, version), attempts in found.by_arm.items():
            recent = [one for one in attempts if one.at >= since]
            if which == arm and version == new:
                experiment += recent
            elif which == "stable" and version == old:
                control += recent
    return Looked(old, new, *(tuple(sorted(arm_, key=lambda one: one.at)) for arm_ in (control, experiment)))


@dataclass(frozen=True)
class Labels:
    """Answers of which the truth has come, by version: how many were right, and how many wrong."""

    at: float
    """When it came: unix time, s."""
    right: Mapping[str, int]
    wrong: Mapping[str, int]


class Counted(NamedTuple):
    """What happened between two looks: ``bad`` of so many ``tried``, for both versions."""

    control_bad: int = 0
    control_tried: int = 0
    bad: int = 0
    tried: int = 0


class Series:
    """Looks at a canary, at equal distances from a fixed beginning. What was counted once is not counted anew."""

    def __init__(self, since: float, declared: float, quality: float, *, labels: bool = False) -> None:
        """
        :param since: unix time, s, when the first request could go to the new version
        :param declared: seconds, the sum of all holds, after which the judge may promote
        :param quality: share of correct answers that is promised: fewer errors than it allows never matter
        :param labels: the truth comes later, and is judged too
        """
        self.since = since
        self.every = max(declared / LOOKS, SHORTEST)
        self.horizon = max(1, math.ceil(round(declared / self.every, 6)))
        self.floors = {ERRORS: round(1 - quality, 9), LATENCY: 0.5, TAIL: 0.01, **({QUALITY: 0.0} if labels else {})}
        self.counted: dict[str, list[Counted]] = {name: [] for name in self.floors}
        self._before: tuple[Attempt, ...] | None = None

    @property
    def looks(self) -> int:
        return len(self.counted[ERRORS])

    @property
    def begins(self) -> datetime:
        """The look that is not complete yet."""
        return datetime.fromtimestamp(self.since + self.looks * self.every, UTC)

    def document(self) -> dict[str, list[list[int]]]:
        return {name: [list(one) for one in counted] for name, counted in self.counted.items()}

    def go_on(self, every: float, document: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """From what an earlier step has counted, unless the estate declares other looks since."""
        if every == self.every and document.keys() == self.counted.keys():
            self.counted = {name: [Counted(*one) for one in counted] for name, counted in document.items()}

    def add(self, looked: Looked, now: float, labels: Sequence[Labels] = ()) -> bool:
        """Count what is complete; whether there was anything new.

        :param looked: attempts of a replica may be missing that it has forgotten already
        :param now: unix time, s, before the replicas were asked
        """
        complete = int((now - self.since) / self.every)
        if complete <= self.looks:
            return False
        cut = [self.since + number * self.every for number in range(self.looks, complete + 1)]
        # A busy replica has forgotten by the next look what was slow in this one, so that is kept.
        times = [[one.at for one in arm] for arm in (looked.control, looked.experiment)]
        for first, last in pairwise(cut):
            begin = bisect_left(times[0], first)
            control = looked.control[begin : bisect_left(times[0], last)]
            experiment = looked.experiment[bisect_left(times[1], first) : bisect_left(times[1], last)]
            if self._before is None:
                self._before = looked.control[:begin]
            before = sorted(one.latency for one in self._before[-REFERENCE:] if one.good)
            self._before = (*self._before[-REFERENCE:], *control)[-REFERENCE:]
            self.counted[ERRORS].append(_errors(control, experiment))
            self.counted[LATENCY].append(_slower(control, experiment, before, 0.5))
            self.counted[TAIL].append(_slower(control, experiment, before, 0.99))
            if QUALITY in self.counted:
                come = [one for one in labels if first <= one.at < last]
                self.counted[QUALITY].append(_wrong(come, looked.old, looked.new))
        return True

    def metrics(self) -> list[dict[str, Any]]:
        """For the judge, with as many looks as there were."""
        return [_metric(name, self.floors[name], counted) for name, counted in self.counted.items()]


def judged(metrics: list[dict[str, Any]], horizon: int) -> tuple[Decision, list[str]]:
    """What the judge of this package says."""
    from ninelives.releases.judge import judge

    verdict = judge(metrics, mode="sequential", horizon=horizon)
    return Decision(str(verdict.verdict)), list(verdict.reasons)


def _errors(control: Sequence[Attempt], experiment: Sequence[Attempt]) -> Counted:
    wrong = [sum(not one.good for one in arm) for arm in (control, experiment)]
    return Counted(wrong[0], len(control), wrong[1], len(experiment))


def _slower(
    control: Sequence[Attempt], experiment: Sequence[Attempt], before: Sequence[float], share: float
) -> Counted:
    """Attempts slower than that share of the old version's before them.

    A quantile of each look's own attempts would depend on how many there are, and a canary has fewer.
    """
    if len(before) < LEAST_REFERENCE:
        return Counted()
    slow = before[min(len(before) - 1, int(share * len(before)))]
    allowed = slow * HARMLESS + HARMLESS_MS / 1000
    arms = [[one.latency for one in arm if one.good] for arm in (control, experiment)]
    late = sum(one > slow for one in arms[0]), sum(one > allowed for one in arms[1])
    return Counted(late[0], len(arms[0]), late[1], len(arms[1]))


def _wrong(labels: Sequence[Labels], old: str, new: str) -> Counted:
    (control, control_right), (experiment, right) = (
        (sum(one.wrong.get(version, 0) for one in labels), sum(one.right.get(version, 0) for one in labels))
        for version in (old, new)
    )
    return Counted(control, control + control_right, experiment, experiment + right)


def _metric(name: str, floor: float, counted: Sequence[Counted]) -> dict[str, Any]:
    return {
        "name": name,
        "direction": "increase",
        "control": [one.control_bad for one in counted],
        "experiment": [one.bad for one in counted],
        "control_attempts": [one.control_tried for one in counted],
        "experiment_attempts": [one.tried for one in counted],
        "floor": floor,
        **({"allowed": [1, MEDIAN_MARGIN]} if name == LATENCY else {}),
    }


def _summary(attempts: Sequence[Attempt]) -> dict[str, Any]:
    latencies = sorted(one.latency * 1000 for one in attempts if one.good)
    compared = [one.agrees for one in attempts if one.agrees is not None]
    quantiles = {
        f"p{int(100 * share)}_ms": round(latencies[min(len(latencies) - 1, int(share * len(latencies)))], 3)
        for share in (0.5, 0.99)
        if latencies
    }
    return {
        "attempts": len(attempts),
        "errors": sum(not one.good for one in attempts),
        **quantiles,
        **({"compared": len(compared), "agreed": sum(map(bool, compared))} if compared else {}),
    }
