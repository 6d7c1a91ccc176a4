"""What a new version did beside the old one, attempt by attempt, in the form that the judge takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ninelives.errors import Refused
from ninelives.ports import Attempt, Replica

ERRORS, LATENCY = "errors", "latency"
MARGIN = {ERRORS: 1.5, LATENCY: 1.25}
"""How much worse, as a ratio, the new version may be before it counts as worse."""

MOST = 20_000
"""Attempts of each version that are judged, spread evenly: a judge needs no more."""


class Decision(StrEnum):
    PROMOTE = "promote"
    ROLL_BACK = "roll back"
    INCONCLUSIVE = "inconclusive"


Judge = Callable[[list[dict[str, Any]]], tuple[Decision, list[str]]]
"""Metrics to a decision with its reasons."""


@dataclass(frozen=True)
class Looked:
    """What the replicas remember since an instant."""

    control: tuple[Attempt, ...]
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
    return Looked(*(tuple(sorted(arm_, key=lambda one: one.at)) for arm_ in (control, experiment)))


def metrics_of(looked: Looked) -> list[dict[str, Any]]:
    """Errors (0 or 1 per attempt) and latency (ms), against a concurrent baseline of the same size."""
    size = min(len(looked.experiment), MOST)
    control, experiment = _spread(looked.control, max(size, 1)), _spread(looked.experiment, MOST)
    return [
        _metric(ERRORS, [float(not one.good) for one in control], [float(not one.good) for one in experiment]),
        _metric(
            LATENCY,
            [one.latency * 1000 for one in control if one.good],
            [one.latency * 1000 for one in experiment if one.good],
        ),
    ]


def judged(metrics: list[dict[str, Any]]) -> tuple[Decision, list[str]]:
    """What the judge of this package says. A judge that cannot be asked has not said yes."""
    from importlib import import_module

    try:
        judge: Any = import_module("ninelives.releases.judge").judge
    except (ImportError, AttributeError) as error:
        return Decision.INCONCLUSIVE, [f"there is no judge: {error}"]
    verdict = judge(metrics, mode="sequential")
    decision = Decision(str(getattr(verdict, "verdict", verdict)).replace("_", " "))
    return decision, [str(reason) for reason in getattr(verdict, "reasons", ())]


def _metric(name: str, control: list[float], experiment: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "control": control,
        "experiment": experiment,
        "direction": "increase",
        "effect_size_measure": "meanRatio",
        "allowed": [0.0, MARGIN[name]],
        "is_critical": True,
    }


def _spread(attempts: Sequence[Attempt], size: int) -> list[Attempt]:
    """At most ``size``, evenly from the whole time."""
    if len(attempts) <= size:
        return list(attempts)
    return [attempts[math.floor(number * len(attempts) / size)] for number in range(size)]


def _summary(attempts: Sequence[Attempt]) -> dict[str, Any]:
    latencies = sorted(one.latency * 1000 for one in attempts if one.good)
    compared = [one.agrees for one in attempts if one.agrees is not None]
    quantile = {
        f"p{int(share * 100)}_ms": round(latencies[min(len(latencies) - 1, int(share * len(latencies)))], 3)
        for share in (0.5, 0.99)
        if latencies
    }
    return {
        "attempts": len(attempts),
        "errors": sum(not one.good for one in attempts),
        **quantile,
        **({"compared": len(compared), "agreed": sum(map(bool, compared))} if compared else {}),
    }
