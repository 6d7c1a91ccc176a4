"""What a new version did beside the old one, attempt by attempt, in the form that the judge takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ninelives.errors import Refused
from ninelives.ports import Attempt, Replica

ERRORS, LATENCY, TAIL = "errors", "latency-p50", "latency-p99"

LOOKS = 30
"""Stretches of equal length that the time of a canary is divided into, the same for both versions."""

HARMLESS_MS = 1.0
"""Added to each latency: nobody feels a tenth more of a fraction of a millisecond."""


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


def metrics_of(looked: Looked, quality: float) -> list[dict[str, Any]]:
    """Errors per attempt, and the median and 99th percentile of latency (ms), side by side over the same stretches.

    :param quality: share of correct answers that is promised: fewer errors than it allows never matter
    """
    both = [*looked.control, *looked.experiment]
    if not both:
        return [_errors([], [], quality), _level(LATENCY, 0.5, [], []), _level(TAIL, 0.99, [], [])]
    first, last = min(one.at for one in both), max(one.at for one in both)
    control, experiment = (_stretches(arm, first, last) for arm in (looked.control, looked.experiment))
    return [
        _errors(control, experiment, quality),
        _level(LATENCY, 0.5, control, experiment),
        _level(TAIL, 0.99, control, experiment),
    ]


def judged(metrics: list[dict[str, Any]]) -> tuple[Decision, list[str]]:
    """What the judge of this package says, however often it is asked."""
    from ninelives.releases.judge import judge

    verdict = judge(metrics, mode="sequential")
    return Decision(str(verdict.verdict)), list(verdict.reasons)


def _stretches(attempts: Sequence[Attempt], first: float, last: float) -> list[list[Attempt]]:
    parts: list[list[Attempt]] = [[] for _ in range(LOOKS)]
    for one in attempts:
        parts[min(LOOKS - 1, int((one.at - first) / max(last - first, 1e-9) * LOOKS))].append(one)
    return parts


def _errors(control: list[list[Attempt]], experiment: list[list[Attempt]], quality: float) -> dict[str, Any]:
    return {
        "name": ERRORS,
        "direction": "increase",
        "control": [float(sum(not one.good for one in part)) for part in control],
        "experiment": [float(sum(not one.good for one in part)) for part in experiment],
        "control_attempts": [float(len(part)) for part in control],
        "experiment_attempts": [float(len(part)) for part in experiment],
        "floor": round(1 - quality, 9),
    }


def _level(name: str, share: float, control: list[list[Attempt]], experiment: list[list[Attempt]]) -> dict[str, Any]:
    return {
        "name": name,
        "direction": "increase",
        "control": [_quantile(part, share) for part in control],
        "experiment": [_quantile(part, share) for part in experiment],
    }


def _quantile(attempts: Sequence[Attempt], share: float) -> float | None:
    latencies = sorted(one.latency * 1000 for one in attempts if one.good)
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))] + HARMLESS_MS if latencies else None


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
