"""A model that learns in a folder, updates for it, and a process that dies between any two changes of the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from unit.replication.memory import Killed

from ninelives.adapters.river_model import RiverLinear
from ninelives.ports import Features
from ninelives.state.learner import Spec
from ninelives.state.log import Update
from ninelives.state.model import StatefulModel

FIRST = Spec(numbers=("hour", "distance"), texts=("carrier",))
SLOWER = Spec(numbers=("hour", "distance"), texts=("carrier",), learning_rate=0.01)
WIDER = Spec(numbers=("hour", "distance", "weekday"), texts=("carrier",), adds=("weekday",))


def features(number: int) -> dict[str, Any]:
    return {
        "hour": number % 24, "distance": 100.5 + number * 37 % 900, "weekday": number % 7,
        "carrier": "ABCDE"[number % 5], "unused": "x",
    }  # fmt: skip


def update(number: int) -> Update:
    return Update(key=f"k{number}", features=features(number), target=(number * 7919) % 61 - 20.25)


def updates(*numbers: int) -> list[Update]:
    return [update(number) for number in numbers]


HELD: list[Features] = [features(number) for number in range(1000, 1020)]


def model(folder: Path) -> StatefulModel:
    """Versions 1 and 2 differ in how fast they learn, 3 takes one feature more."""
    made = StatefulModel(folder / "delay", RiverLinear)
    for version, spec in (("1", FIRST), ("2", SLOWER), ("3", WIDER)):
        made.add(version, spec)
    return made


@contextmanager
def killed_at(change: int | None, torn: float = 0.5) -> Iterator[None]:
    """Die at that change of the disk from now on; of a write in mid-line only the ``torn`` part arrives."""
    left = change

    def fused(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                left = None  # it is dead: what Python does on the way out is no change of its own
                if real is write:
                    write(arguments[0], arguments[1][: int(len(arguments[1]) * torn)])
                raise Killed
            if left is not None:
                left -= 1
            return real(*arguments, **named)

        return call

    write = os.write
    with pytest.MonkeyPatch.context() as patched:
        for name in ("write", "fsync", "replace", "unlink"):
            patched.setattr(os, name, fused(getattr(os, name)))
        yield
