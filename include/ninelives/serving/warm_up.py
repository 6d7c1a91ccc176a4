"""When a replica is warm: its latency has settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import median

NOISE = 2.0
"""Milliseconds. A change smaller than this is no change, however fast the model; ours."""
SLACK = 1.15
"""A warm replica is at most so many times slower than it was known to be when it was warm; ours."""


@dataclass(frozen=True)
class Rule:
    """What is asked of the medians of the last ``windows`` windows of ``window`` requests each."""

    windows: int
    window: int
    spread: float
    """How far apart they may be, as a share of their median."""
    drift: float
    """How much they may rise or fall from the first to the last, by Theil-Sen's slope; likewise."""
    soak: int
    """Nothing is settled before so many requests ..."""
    soak_seconds: float
    """... or so many seconds, whichever is over first: a slow model has fewer requests in it."""
    max_requests: int
    """Give up after so many."""
    max_seconds: float
    """Likewise in time."""


KNOWN = Rule(5, 20, 0.10, 0.05, soak=0, soak_seconds=0, max_requests=5_000, max_seconds=120)
"""Before a version gets users, where it is known how fast it is when it is warm. In simulation flat windows alone took
every early plateau and every endless drift for the end; five, with their drift and what is known, took none. Ours."""
UNKNOWN = Rule(2, 20, 0.30, 0.30, soak=300, soak_seconds=10, max_requests=5_000, max_seconds=120)
"""The same where nobody knows: a plateau cannot be told from the end, so a fixed time is waited. Ours."""
QUICK = Rule(2, 10, 0.30, 0.30, soak=0, soak_seconds=0, max_requests=200, max_seconds=20)
"""While users wait, in a failover: some answer is better than none, and each second is theirs."""


@dataclass(frozen=True)
class WarmUp:
    """How a replica warmed up; ``p50_ms`` is the median of the last window."""

    settled: bool
    requests: int
    seconds: float
    p50_ms: float
    provisional: bool
    """Nobody knew how fast it is when it is warm."""


def settle(
    infer: Callable[[], object],
    clock: Callable[[], float] = time.monotonic,
    *,
    rule: Rule = QUICK,
    reference_ms: float | None = None,
) -> WarmUp:
    """Call ``infer`` until its latency has settled as ``rule`` says.

    :param infer: one inference; what it raises is not caught: a replica that fails is not warm
    :param clock: seconds, monotonic
    :param reference_ms: the median latency of the same model there when it was warm, if that is known
    """
    started = clock()
    latencies: list[float] = []
    settled = False
    while not settled and len(latencies) < rule.max_requests and clock() - started < rule.max_seconds:
        before = clock()
        infer()
        latencies.append((clock() - before) * 1000)
        soaked = len(latencies) >= rule.soak or clock() - started >= rule.soak_seconds
        if soaked and len(latencies) % rule.window == 0:
            settled = _flat(latencies, rule) and not slower(median(latencies[-rule.window :]), reference_ms)
    p50 = median(latencies[-rule.window :]) if latencies else float("nan")
    return WarmUp(settled, len(latencies), clock() - started, p50, reference_ms is None)


def slower(p50_ms: float, reference_ms: float | None) -> bool:
    """Whether that is no latency of a warm replica."""
    return reference_ms is not None and p50_ms > max(SLACK * reference_ms, reference_ms + NOISE)


def _flat(latencies: Sequence[float], rule: Rule) -> bool:
    if len(latencies) < rule.windows * rule.window:
        return False
    last = latencies[-rule.windows * rule.window :]
    windows = [last[start : start + rule.window] for start in range(0, len(last), rule.window)]
    medians = [median(window) for window in windows]
    # A replica that serves meanwhile scatters: what that alone does to a median (1.25 sigma / sqrt(n)) is no change.
    scatter = 1.4826 * median(
        abs(one - middle) for window, middle in zip(windows, medians, strict=True) for one in window
    )
    noise = max(NOISE, 4 * 1.25 * scatter / sqrt(rule.window))
    slope = median((later - earlier) / (j - i) for (i, earlier), (j, later) in combinations(enumerate(medians), 2))
    drift, middle = abs(slope) * (rule.windows - 1), median(medians)
    spread = max(medians) - min(medians)
    return spread <= max(rule.spread * middle, noise) and drift <= max(rule.drift * middle, noise)
