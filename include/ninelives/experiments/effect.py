"""The effect on a metric over time, with bounds that hold at every look together, however often one looks.

The difference of the arms' means, with the bounds of the mixture sequential probability ratio test with a normal
mixture (Robbins, 1970; Johari, Koomen, Pekelis and Walsh, Always Valid Inference, Operations Research 70, 2022):
a difference ``d`` with variance ``V`` is compatible with every true one within
``sqrt(V * (V + t**2) / t**2 * (log((V + t**2) / V) - 2 * log(alpha)))`` of it, for all looks at once. ``t`` is the
scale of the mixture; it must be chosen before the data are seen, and is the effect that matters. The variances are
estimated, so that the bounds hold asymptotically (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, 2021), and there
are none until each arm has ``LEAST_UNITS``.

The canary judge's own tests are not used for it: they ask whether a ratio is above a harmless one and have no bounds
of the effect; here a difference may be negative, and a unit is counted once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

LEAST_UNITS = 100
"""Per arm, below which nothing is said."""
MISMATCH = 0.001
"""Chance of calling arms unequal that were assigned equally, over all looks."""


@dataclass(frozen=True)
class Sample:
    """Units of one arm; ``variance`` is that of a sample (divided by one less than the units)."""

    units: int
    mean: float
    variance: float

    def __add__(self, other: Sample) -> Sample:
        """Both together, without the loss of digits that sums of squares have (Chan, Golub and LeVeque, 1983)."""
        if not self.units or not other.units:
            return other if not self.units else self
        units, apart = self.units + other.units, other.mean - self.mean
        squares = self._squares + other._squares + apart**2 * self.units * other.units / units
        return Sample(units, self.mean + apart * other.units / units, squares / (units - 1))

    @property
    def _squares(self) -> float:
        return self.variance * (self.units - 1)


NOBODY = Sample(0, 0.0, 0.0)


@dataclass(frozen=True)
class Effect:
    """Experiment less control, of all units up to a look; the bounds are infinite while nothing can be said."""

    control: int
    """Units."""
    experiment: int
    difference: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def facts(self) -> dict[str, Any]:
        return {
            "control_units": self.control, "experiment_units": self.experiment, "difference": self.difference,
            "low": self.low if self.known else None, "high": self.high if self.known else None,
        }  # fmt: skip


def effects(control: Iterable[Sample], experiment: Iterable[Sample], *, matters: float, alpha: float) -> list[Effect]:
    """After each look, from the units that are new in it.

    :param matters: an effect that would matter, in the metric's unit, chosen beforehand
    :param alpha: chance that any of the bounds misses the true difference
    """
    both = accumulate(control), accumulate(experiment)
    return [_effect(one, other, matters, alpha) for one, other in zip(*both, strict=True)]


def _effect(control: Sample, experiment: Sample, matters: float, alpha: float) -> Effect:
    units = control.units, experiment.units
    difference = experiment.mean - control.mean if all(units) else 0.0
    # An arm in which nothing has varied yet, like no event at all, is no more certain than the other.
    first, second = control.variance or experiment.variance, experiment.variance or control.variance
    if min(units) < LEAST_UNITS or not first:
        return Effect(*units, difference)
    reach = radius(first / units[0] + second / units[1], matters, alpha)
    return Effect(*units, difference, difference - reach, difference + reach)


def radius(variance: float, matters: float, alpha: float) -> float:
    """Half the width of the bounds.

    :param variance: of the difference
    """
    deviation = math.sqrt(variance)
    level = math.log(math.hypot(1, matters / deviation)) - math.log(alpha)
    return deviation * math.hypot(1, deviation / matters) * math.sqrt(2 * level)


def mismatched(control: Sequence[Sample], experiment: Sequence[Sample]) -> int:
    """The first look (from 1) at which the arms cannot be halves of one assignment any more; nought: none.

    A binomial against a uniform mixture of all others (Robbins, 1970), valid at every look: its ratio is
    ``2**(x + y) * B(x + 1, y + 1)``. Arms that are not as large as they were assigned have lost units that differ from
    those that are left, and nothing that is measured on them holds.
    """
    x = y = 0
    for look, (one, other) in enumerate(zip(control, experiment, strict=True), 1):
        x, y = x + one.units, y + other.units
        log = (x + y) * math.log(2) + math.lgamma(x + 1) + math.lgamma(y + 1) - math.lgamma(x + y + 2)
        if log >= -math.log(MISMATCH):
            return look
    return 0
