"""The rules of Kayenta's judge ``NetflixACAJudge-v1.0``, written from what it does: same labels on the same numbers.

Two samples are compared by the interval of the Mann-Whitney test: normal approximation with correction for ties and
for continuity (Hollander and Wolfe, Nonparametric Statistical Methods, ch. 4), its ends found by inverting the test
in the shift. Its known weaknesses are kept, because they are what "compatible" means: the tolerance is a share of the
estimated shift itself, so no practical margin; ends are found to within 1e-4, which is coarse for small rates; and
two different constants are told apart with noise (here seeded, so that the same numbers give the same label).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ninelives.releases.judge.metric import Metric

Array = npt.NDArray[np.float64]
TOLERANCE, CONFIDENCE = 0.25, 0.98
_PRECISION = 1e-4
_NOISE = 1e-5


@dataclass(frozen=True)
class Label:
    name: str
    label: str
    """Pass, High, Low, Nodata or Error."""
    critical: bool = False

    def facts(self) -> dict[str, object]:
        return {"name": self.name, "label": self.label, "critical": self.critical}


def label(metric: Metric) -> Label:
    """What Kayenta says of one metric."""
    control, experiment = (_cleaned(values, metric.nan_strategy) for values in (metric.control, metric.experiment))
    if not len(control) or not len(experiment):
        missing = metric.nan_strategy == "remove"
        return Label(metric.name, "Nodata" if missing else "Pass", missing and metric.is_critical)
    if np.array_equal(np.sort(control), np.sort(experiment)) or len(np.unique([*control, *experiment])) == 1:
        return Label(metric.name, "Pass")
    try:
        low, high, estimate, effect = _compared(control, experiment, metric)
    except ArithmeticError:
        return Label(metric.name, "Error")
    neutral = 0.5 if metric.effect_size_measure == "cles" else 1.0
    allowed, critical = metric.allowed or (neutral, neutral), metric.critical_thresholds or (neutral, neutral)
    bound = (TOLERANCE if metric.tolerance is None else metric.tolerance) * abs(estimate)
    unknown = bool(np.isnan(effect))
    if metric.direction != "decrease" and low > bound and (unknown or effect >= allowed[1]):
        return Label(metric.name, "High", metric.is_critical and (unknown or bool(effect >= critical[1])))
    if metric.direction != "increase" and high < -bound and (unknown or effect <= allowed[0]):
        return Label(metric.name, "Low", metric.is_critical and (unknown or bool(effect <= critical[0])))
    return Label(metric.name, "Pass")


def _cleaned(values: tuple[float, ...], strategy: str) -> Array:
    array = np.array(values, dtype=float)
    missing = np.isnan(array)
    return np.where(missing, 0.0, array) if strategy == "replace" else array[~missing]


def _compared(control: Array, experiment: Array, metric: Metric) -> tuple[float, float, float, float]:
    """Ends of the interval of the shift, its estimate, and the effect size."""
    if np.ptp(control) == 0 and np.ptp(experiment) == 0:
        noise = np.random.default_rng(0)
        control, experiment = (
            one + noise.standard_normal(len(one)) * abs(one[0]) * _NOISE for one in (control, experiment)
        )
    confidence = CONFIDENCE if metric.confidence is None else metric.confidence
    return *shift_interval(control, experiment, confidence), _effect(control, experiment, metric.effect_size_measure)


def _effect(control: Array, experiment: Array, measure: str) -> float:
    if measure == "cles":
        # The chance that a value of the experiment is above one of the control (Vargha and Delaney, 2000).
        return float(_above(experiment, np.sort(control)) / (len(control) * len(experiment)))
    means = _mean(control), _mean(experiment)
    return means[1] / means[0] if all(means) else float("nan")


def _mean(values: Array) -> float:
    """In two passes, as Kayenta's library takes it: a ratio that lies on a threshold hangs on the last bit."""
    first = float(np.cumsum(values)[-1]) / len(values)
    return first + float(np.cumsum(values - first)[-1]) / len(values)


def shift_interval(control: Array, experiment: Array, confidence: float) -> tuple[float, float, float]:
    """Lower end, upper end and estimate of how far the experiment lies above the control.

    :raises ArithmeticError: all is tied, so there is no interval
    """
    from scipy.stats import norm

    quantile = float(norm.isf((1 - confidence) / 2))
    ends = float(experiment.min() - control.max()), float(experiment.max() - control.min())
    ordered = np.sort(control)

    def z(shift: float) -> float:
        return _z(experiment - shift, ordered)

    def end(wanted: float) -> float:
        first, last = z(ends[0]) - wanted, z(ends[1]) - wanted
        if first <= 0:
            return ends[0]
        return ends[1] if last >= 0 else _root(lambda shift: z(shift) - wanted, *ends, first, last)

    return end(quantile), end(-quantile), _root(z, *ends, z(ends[0]), z(ends[1]))


def _above(experiment: Array, ordered: Array) -> float:
    """Pairs in which the experiment is above the control; a tie is half a pair."""
    sides = np.searchsorted(ordered, experiment, "left"), np.searchsorted(ordered, experiment, "right")
    return float(sides[0].sum() + sides[1].sum()) / 2


def _z(experiment: Array, ordered: Array) -> float:
    n, m = len(experiment), len(ordered)
    off = _above(experiment, ordered) - n * m / 2
    ties = np.unique(np.concatenate([experiment, ordered]), return_counts=True)[1].astype(float)
    variance = n * m / 12 * ((n + m + 1) - float((ties**3 - ties).sum()) / ((n + m) * (n + m - 1)))
    if variance <= 0:
        raise ArithmeticError("every observation is tied")
    return float((off - np.sign(off) * 0.5) / np.sqrt(variance))


def _root(function: Callable[[float], float], a: float, b: float, fa: float, fb: float) -> float:
    """Brent's zero finder (Algorithms for Minimization without Derivatives, 1973, ch. 4).

    The test is a step function of the shift: only the same steps end on the same side of a step, so not scipy's.
    """
    if fa == 0:
        return a
    if fb == 0:
        return b
    c, fc = a, fa
    for _ in range(1001):
        before = b - a
        if abs(fc) < abs(fb):
            a, b, c = b, c, b
            fa, fb, fc = fb, fc, fb
        least = 2 * np.finfo(float).eps * abs(b) + _PRECISION / 2
        step = (c - b) / 2
        if abs(step) <= least or fb == 0:
            return b
        if abs(before) >= least and abs(fa) > abs(fb):
            width, t = c - b, fb / fa
            if a == c:
                p, q = width * t, 1 - t
            else:
                r, u = fa / fc, fb / fc
                p = t * (width * r * (r - u) - (b - a) * (u - 1))
                q = (r - 1) * (u - 1) * (t - 1)
            p, q = (p, -q) if p > 0 else (-p, q)
            if p < 0.75 * width * q - abs(least * q) / 2 and p < abs(before * q / 2):
                step = p / q
        if abs(step) < least:
            step = least if step > 0 else -least
        a, fa = b, fb
        b += step
        fb = function(b)
        if fb * fc > 0:
            c, fc = a, fa
    return b
