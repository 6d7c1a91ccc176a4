"""A verdict that may be asked for at any time: promote, roll back, or not known yet.

Three ratios of experiment to control matter, all from the margin M of a metric: up to M**(1/4) a difference is harmless
and is what a rollback has to refute; an estimate below M**(1/2) is never a reason to roll back; and only when M itself
is refuted may the canary be promoted (non-inferiority). What refutes neither is inconclusive.

- **Counts out of attempts** are compared given their sum, which is then binomial (Przyborowski and Wilenski, 1940),
  look by look: shares of traffic may change, and rates that change in both arms alike are no difference.
  Always valid is a mixture of likelihood ratios over four alternatives and over the look at which they begin, a test
  martingale under the null (Robbins, 1970; Ville's inequality): it finds what begins late. Spread beyond the binomial
  is measured by Pearson's statistic per arm, with what neighbouring looks have in common, and divides the counts.
- **Levels** (a latency, one value per look) are compared as the mean of ``experiment - ratio * control``, pairwise by
  look, so that what both arms feel cancels. Its variance is inflated for autocorrelation of first order, with Kendall's
  correction of its bias (1954), and its degrees of freedom are those of the independent looks that are left (Student).
- **With a horizon** the error is spent by a plan: parts of it on the martingale, on the first looks, on those before
  the last, and most at the horizon, on all looks and on their last third, where the test is then nearly as strong as
  one of fixed size. The parts are added (Bonferroni), which holds however looks depend on each other. Promotion waits
  for the horizon: before it nobody can know of what begins late. What is undecided there may be asked on; a part of the
  error of promoting is kept for that. **Without one** levels use a time-uniform confidence sequence, valid
  asymptotically (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, 2021).

Rollback by several metrics shares the error between them (Bonferroni); promotion needs all of them, which needs no
correction (Berger, 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betainc
from scipy.stats import norm
from scipy.stats import t as student

Array = npt.NDArray[np.float64]

ALPHA = 0.01
"""Chance of a false rollback, over all looks and metrics, and of promoting what is worse by the margin."""
COUNT_MARGIN, LEVEL_MARGIN = 1.5, 1.1
LEAST_ATTEMPTS, LEAST_LOOKS = 100, 10
"""Per arm, below which nothing is promoted: attempts of a count, looks of a level (nor is a level rolled back)."""
LEAST_TRIED, LEAST_EVENTS = 20, 8
"""Below which a count rolls nothing back: attempts per arm, and events in both."""
LEAST_RATE = 1e-12
BLOCKS = 30
_FOLDS = (1.5, 2.0, 4.0, 10.0)
_SURCHARGE = 1.42
"""Measured by ``bench_judge.py`` at 30 looks: with it the power of the formula is that of the judge."""
_E, _EARLY, _INTERIM, _LAST, _LATE = 0.15, 0.1, 0.03, 0.58, 0.14
"""Parts of a rollback's error: martingale, first looks, those before the last, all looks and the last third at the end.
"""
_PLANNED = 0.8
"""Part of a promotion's error that is spent at the horizon; the rest is for all looks after it."""
_LASTS = 3
"""Horizons within which a change for the worse may begin: a canary that is undecided goes on."""
_FIRST = 3
"""Planned looks among which the early part is shared: what is very bad is gone within them."""
_VARIES, _WORTH = 0.3, 6.0
"""Coefficient of variation of a rate between looks that is expected, and how many looks' evidence that is worth."""


@dataclass(frozen=True)
class Plan:
    """What is tested, for the direction in which more is worse."""

    margin: float
    alpha: float = ALPHA
    horizon: int | None = None
    floor: float = 0.0

    @property
    def harmless(self) -> float:
        return math.sqrt(math.sqrt(self.margin))

    @property
    def matters(self) -> float:
        return math.sqrt(self.margin)

    @property
    def every(self) -> int:
        """Looks from one that is planned to the next: there are thirty, or as many as looks."""
        return max(1, (self.horizon or 0) // BLOCKS)

    def spent_at(self, look: int) -> float:
        """Error that the planned test may spend at this look (from 1)."""
        if self.horizon is None or look > self.horizon:
            return 0.0
        if look == self.horizon:
            return self.alpha * _LAST
        if look % self.every:
            return 0.0
        planned = (self.horizon - 1) // self.every
        first = min(_FIRST, planned)
        return self.alpha * (_EARLY / first if look <= first * self.every else _INTERIM / (planned - first))


@dataclass(frozen=True)
class Found:
    """Per run (row): the first look (from 1) that rolls back, nought where none does, and if all of it promotes."""

    rolled_back_at: npt.NDArray[np.int64]
    promoted: npt.NDArray[np.bool_]
    ratio: Array
    enough: npt.NDArray[np.bool_]


def judge_counts(
    events: Array, attempts: Array, control_events: Array, control_attempts: Array, plan: Plan, promote_alpha: float
) -> Found:
    """Compare counts; arrays are runs by looks.

    A look without attempts in one of the arms says nothing. At the horizon it counts with the next that has both.
    """
    given = [np.atleast_2d(np.asarray(one, float)) for one in (events, attempts, control_events, control_attempts)]
    both = (given[1] > 0) & (given[3] > 0)
    pairs = _Counts(plan, *(np.where(both, one, 0.0) for one in given))
    runs, looks = both.shape
    rolled, planned = np.zeros(runs, np.int64), np.zeros(runs, bool)
    weights = _starts(_LASTS * plan.horizon if plan.horizon else looks)
    grown, rest = np.zeros((len(_FOLDS), runs)), 1.0
    steps = np.stack([pairs.log_ratio(plan.harmless, plan.harmless * fold) for fold in _FOLDS])
    for look in range(1, looks + 1):
        counts, spread = pairs, pairs.spread(look)
        weight = weights[look - 1] if look <= len(weights) else 0.0
        rest = max(rest - weight, 0.0)
        grown = (grown + weight) * np.exp(np.clip(steps[:, :, look - 1] / spread, -600, 600))
        grown = np.minimum(grown, 1e200)
        sure = grown.mean(0) + rest >= 1 / (plan.alpha * (_E if plan.horizon else 1.0))
        if look == plan.horizon:
            counts = _Counts(plan, *_together(*given))
            spread = counts.spread(look)
        # What began late is small in the mean of all looks, so the last third may speak as well.
        whole, late = counts.until(look), counts.until(look, max(0, look - max(3, look // 3)))
        if look == plan.horizon:
            sure |= late.tail(spread) <= plan.alpha * _LATE
            alpha = promote_alpha * _PLANNED
            rare = betainc(whole.x / spread + 1, np.maximum(whole.n - whole.x, 1e-9) / spread, plan.floor) >= 1 - alpha
            planned = (whole.better_tail(spread) <= alpha) | rare
        if spent := plan.spent_at(look):
            sure |= whole.tail(spread) <= spent
        enough = (whole.n >= LEAST_TRIED) & (whole.m >= LEAST_TRIED) & (whole.x + whole.y >= LEAST_EVENTS)
        large = np.maximum(whole.ratio, late.ratio) >= plan.matters
        rate = np.maximum(_share(whole.x, whole.n), _share(late.x, late.n))
        rolled = np.where((rolled == 0) & sure & enough & large & (rate > plan.floor), look, rolled)
    ratio, alpha = whole.ratio, promote_alpha * ((1 - _PLANNED) if plan.horizon else 1.0)
    enough = (whole.n >= LEAST_ATTEMPTS) & (whole.m >= LEAST_ATTEMPTS)
    logs = [pairs.log_ratio(plan.margin, plan.margin * part).sum(1) / spread for part in (0.5, 1 / plan.margin)]
    fine = np.logaddexp(*logs) - math.log(2) >= -math.log(alpha)
    rare = _rare(whole.x, whole.n, plan.floor, spread) >= -math.log(alpha)
    # Who passed at the horizon and has become worse since is asked on.
    planned &= (ratio < plan.matters) | (_share(whole.x, whole.n) <= plan.floor) | (looks == plan.horizon)
    promoted = (rolled == 0) & enough & (planned | fine | rare) & (looks >= (plan.horizon or 0))
    return Found(rolled, promoted, ratio, enough)


def judge_levels(experiment: Array, control: Array, plan: Plan, promote_alpha: float, observations: int = 0) -> Found:
    """Compare levels; arrays are runs by looks, NaN where a look has none.

    :param observations: how many values each look's stand for in all, where they are means; nought: one each
    """
    e, c = np.atleast_2d(np.asarray(experiment, float)), np.atleast_2d(np.asarray(control, float))
    runs, looks = e.shape
    rolled, planned = np.zeros(runs, np.int64), np.zeros(runs, bool)
    e, c = np.where(np.isnan(c), np.nan, e), np.where(np.isnan(e), np.nan, c)
    ratio, enough, better = np.full(runs, np.nan), np.zeros(runs, bool), np.ones(runs)
    first = looks if observations else LEAST_LOOKS
    for look in range(min(first, looks), looks + 1):
        E, C = e[:, :look], c[:, :look]
        valid = (~np.isnan(E)).sum(1)
        ratio = _level_ratio(E, C, valid)
        enough = valid >= LEAST_LOOKS
        worse = _mean_above(E, C, plan.harmless)
        if plan.horizon and look <= plan.horizon:
            allowed = plan.spent_at(look) * (1 - _E) / (1 - _E - _LATE)
        else:
            allowed = _uniform(plan.alpha * (_E if plan.horizon else 1.0), observations or look)
        sure = (worse <= allowed) & enough & (ratio >= plan.matters)
        rolled = np.where((rolled == 0) & sure, look, rolled)
        better = 1 - _mean_above(E, C, plan.margin)
        if look == plan.horizon:
            planned = enough & (better <= promote_alpha * _PLANNED)
    alpha = promote_alpha * ((1 - _PLANNED) if plan.horizon else 1.0)
    planned &= (ratio < plan.matters) | (looks == plan.horizon)
    sure = planned | (better <= _uniform(alpha, observations or looks))
    promoted = (rolled == 0) & enough & sure & (looks >= (plan.horizon or 0))
    return Found(rolled, promoted, ratio, enough)


def needed_attempts(rate: float, *, margin: float = COUNT_MARGIN, alpha: float = ALPHA, power: float = 0.8,
                    control_share: float = 1.0) -> int:  # fmt: skip
    """Attempts of the canary that promote an equally good one with this power.

    Two Poisson counts, normal approximation of the logarithm of their ratio (Ng and Tang, Statistics in Medicine 24,
    2005): ``n = (z_alpha + z_power)**2 * (1 + 1 / k) / (rate * ln(margin)**2)``, ``k`` controls per canary attempt;
    and ``_SURCHARGE`` on it, because the judge measures how much a rate varies and does not take it as given.

    :param rate: events per attempt of the baseline
    :param control_share: attempts of the control for each of the canary
    :raises ValueError: a rate that is not between nought and one (or so small that nobody could wait), a margin not
        above one
    """
    if not LEAST_RATE <= rate < 1 or not 1 < margin < math.inf or not 0 < alpha < 0.5 or not 0.5 <= power < 1:
        raise ValueError(f"rate from {LEAST_RATE:g} and below 1, margin above 1, alpha below 0.5, power from 0.5")
    if not control_share > 0:
        raise ValueError("the baseline has a share of attempts above 0")
    z = float(norm.isf(alpha) + norm.isf(1 - power))
    return math.ceil(_SURCHARGE * z**2 * (1 + 1 / control_share) / (rate * math.log(margin) ** 2))


def needed_looks(variation: float, *, margin: float = LEVEL_MARGIN, alpha: float = ALPHA, power: float = 0.8,
                 correlation: float = 0.0) -> int:  # fmt: skip
    """Looks that promote a canary with an equal level: Student's paired non-inferiority, solved by iteration.

    :param variation: standard deviation of one look's value over its mean, in each arm apart from what they share
    :param correlation: of neighbouring looks (first order)
    """
    spread = variation**2 * (1 + margin**2) * (1 + correlation) / (1 - correlation)
    looks = float(LEAST_LOOKS)
    for _ in range(60):
        freedom = max(looks * (1 - correlation) / (1 + correlation) - 1, 1.0)
        z = float(student.isf(alpha, freedom) + norm.isf(1 - power))
        looks = max(LEAST_LOOKS, (looks + z**2 * spread / (margin - 1) ** 2) / 2)
    return math.ceil(looks)


def _starts(looks: int) -> Array:
    """Weights of the look at which a canary turns bad: half on the first."""
    return np.array([1.0]) if looks == 1 else np.array([0.5, *[0.5 / (looks - 1)] * (looks - 1)])


class _Counts:
    """Events and attempts by look, with their sums: experiment ``x`` out of ``n``, control ``y`` out of ``m``."""

    def __init__(self, plan: Plan, x: Array, n: Array, y: Array, m: Array) -> None:
        self.x, self.n, self.y, self.m = x, n, y, m
        expected = ((x + y) * _theta(ratio, n, m) for ratio in (plan.harmless, plan.margin))
        self._sums = np.cumsum([x, n, y, m, *expected, _share(x * m, n + m), _share(y * n, n + m)], axis=2)

    def until(self, look: int, since: int = 0) -> _Sums:
        found = self._sums[:, :, look - 1]
        return _Sums(*(found - self._sums[:, :, since - 1] if since else found))

    def spread(self, look: int) -> Array:
        return _spread(self.x[:, :look], self.n[:, :look], self.y[:, :look], self.m[:, :look])

    def log_ratio(self, null: float, other: float) -> Array:
        """Log likelihood of ``other`` to ``null``, as ratios of rates, look by look."""
        a, b = (_theta(ratio, self.n, self.m) for ratio in (null, other))
        with np.errstate(divide="ignore", invalid="ignore"):
            up, down = np.log(b / a), np.log((1 - b) / (1 - a))
        both = (self.n > 0) & (self.m > 0)
        ratio: Array = np.where(both, self.x * np.nan_to_num(up) + self.y * np.nan_to_num(down), 0.0)
        return ratio


class _Sums(NamedTuple):
    """Over some looks, per run."""

    x: Array
    n: Array
    y: Array
    m: Array
    harmless: Array
    """Events that the experiment would have of all, were it worse by what is harmless; each look by its attempts."""
    margin: Array
    above: Array
    below: Array
    """Ratio of rates over looks as strata (Mantel and Haenszel, 1959)."""

    @property
    def ratio(self) -> Array:
        """With half an event added to each, so that none at all is not infinitely better or worse."""
        half = 0.5 / np.maximum(self.n + self.m, 1)
        n, m = (np.maximum(one, 1) for one in (self.n, self.m))
        ratio: Array = (self.above + half * m) / (self.below + half * n)
        return ratio

    def tail(self, spread: Array) -> Array:
        """Chance of as many events in the experiment, given those of both, were it worse by what is harmless."""
        return _tail(self.x, self.y, self.harmless, spread)

    def better_tail(self, spread: Array) -> Array:
        """Chance of as few, were it worse by the margin."""
        return _tail(self.y, self.x, self.x + self.y - self.margin, spread)


def _together(x: Array, n: Array, y: Array, m: Array) -> list[Array]:
    """Looks that one arm lacks, moved to the next at which both have been seen since."""
    found = [np.zeros_like(one) for one in (x, n, y, m)]
    held = [np.zeros(len(x)) for _ in found]
    for look in range(x.shape[1]):
        held = [one + arm[:, look] for one, arm in zip(held, (x, n, y, m), strict=True)]
        both = (held[1] > 0) & (held[3] > 0)
        for one, kept in zip(found, held, strict=True):
            one[:, look] = np.where(both, kept, 0.0)
        held = [np.where(both, 0.0, one) for one in held]
    return found


def _theta(ratio: float, n: Array, m: Array) -> Array:
    theta: Array = ratio * n / np.maximum(ratio * n + m, 1e-300)
    return theta


def _tail(x: Array, y: Array, expected: Array, spread: Array) -> Array:
    """Chance of ``x`` events or more of ``x + y`` where ``expected`` are.

    Over looks with different shares of attempts that is a sum of binomials, of which one with the mean chance has the
    larger variance (Hoeffding, 1956).
    """
    a, b = np.maximum(x / spread, 0), y / spread + 1
    inner = betainc(np.maximum(a, 1e-12), b, np.clip(_share(expected, x + y), 0, 1))
    return np.where(a <= 0, 1.0, inner)


def _rare(x: Array, n: Array, floor: float, spread: Array) -> Array:
    """Log likelihood ratio, over Poisson counts, of a rate at a third of the floor to one at the floor."""
    if not floor:
        return np.full(x.shape, -np.inf)
    return (x * math.log(1 / 3) + n * floor * (2 / 3)) / spread


def _share(x: Array, n: Array) -> Array:
    share: Array = x / np.maximum(n, 1e-300)
    return share


def _spread(x: Array, n: Array, y: Array, m: Array) -> Array:
    """By how much the ratio varies more than binomial counts make it, never below one.

    The control tells: what it does is what the canary would do if it were as good, while a canary that turns bad half
    way would hide in its own spread. Of the canary's own, differences of neighbouring looks are taken, which a step
    does not touch. Until enough looks were seen, a rate is expected to vary by ``_VARIES`` from look to look.
    """
    looks = np.maximum(((n > 0) & (m > 0)).sum(1), 1)
    total, tried, canary = y.sum(1), m.sum(1), n.sum(1)
    rate = (total + x.sum(1)) / np.maximum(tried + canary, 1)
    of_control = _residuals(y, m, _share(total, tried))
    over = (of_control**2).sum(1) / np.maximum(looks - 1, 1)
    per_look = rate * tried / looks
    expected = 1 + _VARIES**2 * per_look
    weight = np.maximum(looks - 1, 0)
    over = np.maximum((weight * over + _WORTH * expected) / (weight + _WORTH), 1.0)
    along = _correlation(of_control)
    along = np.where(along > 1.28 / np.sqrt(looks), along, 0.0)
    along = (1 + along) / (1 - along)
    own = _residuals(x, n, _share(x.sum(1), canary))
    pairs = (n[:, 1:] > 0) & (n[:, :-1] > 0)
    steps = np.where(pairs, np.diff(own, axis=1) ** 2, 0.0).sum(1) / 2
    seen = pairs.sum(1)
    wanted = 1 + (over - 1) * canary / np.maximum(tried, 1)
    # Its own spread is believed where chance alone would rarely make it.
    steps = np.where(steps > seen + 1.64 * np.sqrt(3 * np.maximum(seen, 1)), steps / np.maximum(seen, 1), 1.0)
    of_canary = np.maximum(wanted, steps) * along
    # The variance of the ratio's logarithm is the sum of both arms', each by its attempts.
    of = 1 / np.maximum(canary, 1), 1 / np.maximum(tried, 1)
    spread: Array = (of_canary * of[0] + over * along * of[1]) / (of[0] + of[1])
    return np.maximum(spread, 1.0)


def _residuals(events: Array, attempts: Array, rate: Array) -> Array:
    expected = attempts * rate[:, None]
    off = (events - expected) / np.sqrt(np.maximum(expected * (1 - rate[:, None]), 1e-300))
    return np.where((attempts > 0) & ((rate > 0) & (rate < 1))[:, None], off, 0.0)


def _correlation(off: Array) -> Array:
    """Of neighbouring looks; rows of residuals, nought where there is none. Kendall's correction, within [0, 0.95]."""
    looks = off.shape[1]
    square = np.maximum((off**2).sum(1), 1e-300)
    raw = (off[:, 1:] * off[:, :-1]).sum(1) / square
    along: Array = np.clip(raw + (1 + 4 * raw) / looks, 0.0, 0.95)
    return along


def _level_ratio(e: Array, c: Array, valid: npt.NDArray[np.int64]) -> Array:
    seen = np.maximum(valid, 1)
    means = np.nansum(e, 1) / seen, np.nansum(c, 1) / seen
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = means[0] / means[1]
    return np.where(means[1] == 0, np.where(means[0] > 0, np.inf, 1.0), ratio)


def _mean_above(e: Array, c: Array, ratio: float) -> Array:
    """Chance of such a mean of ``e - ratio * c`` where the true one is nought."""
    off = e - ratio * c
    valid = (~np.isnan(off)).sum(1)
    seen = np.maximum(valid, 2)
    mean = np.nansum(off, 1) / seen
    centred = np.where(np.isnan(off), 0.0, off - mean[:, None])
    along = _correlation(centred)
    # Where looks are plainly not independent, the estimate is taken 1.7 standard errors further.
    further = 1.7 * np.sqrt((1 - along**2) / seen)
    along = np.minimum(np.where(along > 1.28 / np.sqrt(seen), along + further, along), 0.95)
    # Ten looks cannot show that they are independent: they count as half correlated, thirty as what they show.
    along = np.maximum(along, 8 / seen - 8 / BLOCKS)
    along = np.minimum(along, 0.95)
    inflate = (1 + along) / (1 - along)
    error = np.sqrt((centred**2).sum(1) / (seen - 1) / seen * inflate)
    # What rounding leaves of a constant is no spread.
    error = np.where(error < 1e-12 * np.abs(mean), 0.0, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(error > 0, mean / error, np.sign(mean) * np.inf)
    statistic = np.where((error == 0) & (mean == 0), 0.0, statistic)
    return np.asarray(student.sf(statistic, np.maximum(seen / inflate - 1, 1.0)), float)


def _uniform(alpha: float, seen: int) -> float:
    """The level of one look in a confidence sequence that is narrowest about 300 observations."""
    grown = max(seen, 1) * 10 / 300
    z = math.sqrt((1 + 1 / grown) * math.log((grown + 1) / (2 * alpha) ** 2))
    return float(norm.sf(z))
