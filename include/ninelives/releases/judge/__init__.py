"""The canary judge: metrics of a canary and of the baseline that ran beside it in, a verdict out.

from ninelives.releases.judge import judge
judge([{"name": "errors", "control": [1, 0, 2], "experiment": [9, 7, 8], "direction": "increase",
        "control_attempts": [300] * 3, "experiment_attempts": [300] * 3}], horizon=30).verdict
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from ninelives.releases.judge.kayenta import Label, label
from ninelives.releases.judge.metric import Metric, metrics_of, read_metrics
from ninelives.releases.judge.sequential import (
    ALPHA,
    BLOCKS,
    COUNT_MARGIN,
    LEVEL_MARGIN,
    Array,
    Found,
    Plan,
    judge_counts,
    judge_levels,
    needed_attempts,
    needed_looks,
)

__all__ = [
    "Finding",
    "Judged",
    "Label",
    "Metric",
    "Verdict",
    "judge",
    "needed_attempts",
    "needed_looks",
    "read_metrics",
]


class Verdict(StrEnum):
    PROMOTE = "promote"
    ROLL_BACK = "roll back"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """What one metric says."""

    name: str
    verdict: Verdict
    reason: str
    ratio: float | None = None
    """Experiment over control."""
    look: int | None = None
    """The first look, from 1, that rolled back."""

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name, "verdict": self.verdict.value, "reason": self.reason,
            "ratio": self.ratio, "look": self.look,
        }  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """``verdict`` over all metrics; in Kayenta's mode ``labels``, in sequential mode ``findings`` say why."""

    mode: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    labels: tuple[Label, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        said = [f"{one.name}: {one.reason}" for one in self.findings]
        return tuple(said + [f"{one.name}: {one.label}{' (critical)' * one.critical}" for one in self.labels])

    def facts(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "verdict": self.verdict.value,
            "metrics": [one.facts() for one in self.findings] + [one.facts() for one in self.labels],
        }


def judge(
    metrics: Iterable[Metric | Mapping[str, Any]],
    mode: Literal["sequential", "kayenta"] = "sequential",
    *,
    horizon: int | None = None,
) -> Judged:
    """Judge a canary.

    :param horizon: sequential mode: looks after which the canary ends. Given, the test is at its strongest then, and
        nothing is promoted before; not given, every call may decide, however often it is asked.
    :raises EstateError: the metrics cannot be judged as they are; names every place
    """
    if mode not in ("sequential", "kayenta"):
        raise ValueError(f"there is no mode {mode!r}; modes are sequential and kayenta")
    if horizon is not None and horizon < 1:
        raise ValueError(f"a horizon of {horizon} looks is none")
    given = metrics_of([one.model_dump() if isinstance(one, Metric) else one for one in metrics])
    if mode == "kayenta":
        labels = tuple(label(one) for one in given)
        passed = all(one.label == "Pass" for one in labels)
        unknown = not passed and all(one.label in ("Pass", "Nodata", "Error") for one in labels)
        verdict = Verdict.PROMOTE if passed else Verdict.INCONCLUSIVE if unknown else Verdict.ROLL_BACK
        return Judged(mode, verdict, labels=labels)
    findings = tuple(_find(one, len(given), horizon) for one in given)
    found = {one.verdict for one in findings}
    for verdict in (Verdict.ROLL_BACK, Verdict.INCONCLUSIVE):
        if verdict in found:
            return Judged(mode, verdict, findings)
    return Judged(mode, Verdict.PROMOTE, findings)


def _find(metric: Metric, metrics: int, horizon: int | None) -> Finding:
    """Both directions where both are bad; what is worse speaks."""
    directions = ["increase", "decrease"] if metric.direction == "either" else [metric.direction]
    found = [_directed(metric, one, metrics * len(directions), horizon) for one in directions]
    for verdict in (Verdict.ROLL_BACK, Verdict.INCONCLUSIVE):
        for one in found:
            if one.verdict is verdict:
                return one
    return found[0]


def _directed(metric: Metric, direction: str, parts: int, horizon: int | None) -> Finding:
    """A decrease of the experiment is an increase of the control beside it."""
    alpha = ALPHA if metric.confidence is None else (1 - metric.confidence) / 2
    arms = (metric.experiment, metric.experiment_attempts), (metric.control, metric.control_attempts)
    (values, attempts), (others, other_attempts) = arms if direction == "increase" else arms[::-1]
    worse, beside = (np.array(one, float) for one in (values, others))
    if np.isnan(worse).all() or np.isnan(beside).all():  # also of an empty arm, and of one that noughts would stand for
        return Finding(metric.name, Verdict.INCONCLUSIVE, "not enough data: none in one of the arms")
    if min(np.nanmin(worse), np.nanmin(beside)) < 0:
        return Finding(metric.name, Verdict.INCONCLUSIVE, "a ratio says nothing of negative values")
    counted = attempts is not None
    binary = not counted and bool(np.isin(np.concatenate([worse, beside]), (0.0, 1.0, np.nan)).all())
    floor = metric.floor if direction == "increase" and (counted or binary) else 0.0
    plan = Plan(_margin(metric, direction, counted or binary), alpha / parts, horizon, floor)
    if counted:
        pairs = min(len(worse), len(beside))
        tried, other_tried = np.array(attempts, float)[:pairs], np.array(other_attempts, float)[:pairs]
        found = judge_counts(*_known(worse[:pairs], tried), *_known(beside[:pairs], other_tried), plan, alpha)
    elif binary:
        found = judge_counts(*_blocks(_kept(worse, metric)), *_blocks(_kept(beside, metric)), plan, alpha)
    else:
        found = _levels(worse, beside, metric, plan, alpha)
    return _told(metric, direction, found, plan)


def _told(metric: Metric, direction: str, found: Found, plan: Plan) -> Finding:
    ratio = float(found.ratio[0])
    ratio = ratio if direction == "increase" else (1 / ratio if ratio else float("inf"))
    shown = round(ratio, 4) if np.isfinite(ratio) else None
    seen = f"{ratio:.3g} times the baseline"
    if look := int(found.rolled_back_at[0]):
        return Finding(metric.name, Verdict.ROLL_BACK, f"{seen}; worse beyond what is harmless", shown, look)
    limit = plan.margin if direction == "increase" else 1 / plan.margin
    if found.promoted[0]:
        return Finding(metric.name, Verdict.PROMOTE, f"{seen}; not worse than {limit:.3g} times, or rare", shown)
    why = "neither worse nor shown to be as good yet" if found.enough[0] else "not enough data yet"
    return Finding(metric.name, Verdict.INCONCLUSIVE, f"{seen}; {why}", shown)


def _margin(metric: Metric, direction: str, counted: bool) -> float:
    """What the user allows. Kayenta's neutral sizes and those of the other measure leave the default."""
    default = COUNT_MARGIN if counted else LEVEL_MARGIN
    if metric.allowed is None or metric.effect_size_measure == "cles":
        return default
    allowed = metric.allowed[1] if direction == "increase" else 1 / metric.allowed[0] if metric.allowed[0] else 0.0
    return allowed if allowed > 1 else default


def _kept(values: Array, metric: Metric) -> Array:
    if metric.nan_strategy == "replace":
        return np.nan_to_num(values, nan=0.0)
    return values[~np.isnan(values)]


def _known(values: Array, attempts: Array) -> tuple[Array, Array]:
    known = ~(np.isnan(values) | np.isnan(attempts))
    return np.where(known, values, 0.0), np.where(known, attempts, 0.0)


def _blocks(values: Array) -> tuple[Array, Array]:
    """Attempts in their order, each good or not, as counts of at most ``BLOCKS`` looks."""
    parts = np.array_split(values, BLOCKS)
    return np.array([part.sum() for part in parts]), np.array([float(len(part)) for part in parts])


def _levels(worse: Array, beside: Array, metric: Metric, plan: Plan, alpha: float) -> Found:
    """One value per look where the arms are as long as a canary has looks; else attempts, as means of blocks."""
    if metric.nan_strategy == "replace":
        worse, beside = np.nan_to_num(worse, nan=0.0), np.nan_to_num(beside, nan=0.0)
    if len(worse) == len(beside) and len(worse) <= max(plan.horizon or 0, 2 * BLOCKS):
        return judge_levels(worse, beside, plan, alpha)
    worse, beside = worse[~np.isnan(worse)], beside[~np.isnan(beside)]
    size = min(len(worse), len(beside))
    blocks = min(BLOCKS, size)
    first, second = (np.array([part.mean() for part in np.array_split(one, blocks)]) for one in (worse, beside))
    planless = Plan(plan.margin, plan.alpha, None, plan.floor)
    return judge_levels(first, second, planless, alpha, observations=size)
