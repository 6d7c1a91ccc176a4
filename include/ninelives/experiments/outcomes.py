"""The target metric's numbers as they arrive: objects of JSON lines, ``{"unit": "user-17", "value": 1}``.

Each object is one look. A unit counts once, by its first line, and in the arm that its key says, whatever anybody else
says: so the numbers can be read again from the beginning by whoever goes on, and come out the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime

from ninelives.errors import Unavailable
from ninelives.experiments.assign import Arm, Experiment, assign, xxh64
from ninelives.experiments.judge import Look
from ninelives.ports import ObjectInfo, ObjectStore
from ninelives.replication.manifest import BUCKET


class Outcomes:
    """Reads what is new each time.

    :param since: objects from before the users were divided are of no experiment
    """

    def __init__(self, experiment: Experiment, prefix: str, since: datetime) -> None:
        self.experiment, self.prefix, self.since = experiment, prefix, since
        self.control: list[Look] = []
        self.treated: list[Look] = []
        self.problems: list[str] = []
        """Of objects that were not counted."""
        self._read: set[str] = set()
        self._counted: set[int] = set()

    def read(self, stores: Sequence[ObjectStore]) -> None:
        """From every store that answers; a copy of an object is the same object."""
        found: dict[str, tuple[ObjectInfo, ObjectStore]] = {}
        for store in stores:
            try:
                for info in store.list(BUCKET, self.prefix):
                    if info.key not in self._read and info.modified >= self.since:
                        found.setdefault(info.key, (info, store))
            except Unavailable:
                continue  # a lost site's copies are elsewhere, or come when it does
        for key, (_, store) in sorted(found.items(), key=lambda one: (one[1][0].modified, one[0])):
            try:
                data = store.get(BUCKET, key)
            except Unavailable:
                continue
            if data is not None:
                self._read.add(key)
                self._take(key, data)

    def _take(self, key: str, data: bytes) -> None:
        try:
            lines = [_line(line) for line in data.splitlines() if line.strip()]
        except (ValueError, KeyError, TypeError) as error:
            self.problems.append(f"{BUCKET}/{key} was not counted: {str(error)[:200] or type(error).__name__}")
            return
        values: dict[Arm, list[float]] = {arm: [] for arm in Arm}
        for unit, value in lines:
            arm = assign(self.experiment, unit)
            if arm is not Arm.OUTSIDE and (digest := xxh64(unit.encode("utf-8", "surrogatepass"))) not in self._counted:
                self._counted.add(digest)
                values[arm].append(value)
        if values[Arm.CONTROL] or values[Arm.EXPERIMENT]:
            self.control.append(_look(values[Arm.CONTROL]))
            self.treated.append(_look(values[Arm.EXPERIMENT]))


def _line(line: bytes) -> tuple[str, float]:
    document = json.loads(line)
    unit, value = document["unit"], document["value"]
    if not isinstance(unit, str) or not unit:
        raise ValueError(f"the unit {unit!r} is not a key")
    if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e100:
        raise ValueError(f"the value {value!r} is not a finite number")
    return unit, float(value)


def _look(values: Sequence[float]) -> Look:
    """Variance by the two-pass formula, which keeps its digits."""
    if not values:
        return Look(units=0)
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Look(units=len(values), mean=mean, variance=squares / (len(values) - 1) if len(values) > 1 else 0.0)
