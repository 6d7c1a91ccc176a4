"""When a replica is warm: its latency no longer falls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class WarmUp:
    """How a replica warmed up; ``p50_ms`` is the median of the last window."""

    settled: bool
    requests: int
    seconds: float
    p50_ms: float


def settle(
    infer: Callable[[], object],
    clock: Callable[[], float] = time.monotonic,
    *,
    window: int = 10,
    within: float = 0.3,
    noise_ms: float = 2.0,
    max_requests: int = 200,
    max_seconds: float = 20.0,
) -> WarmUp:
    """Call ``infer`` until the median latency of the last ``window`` calls is that of the ``window`` calls before.

    :param infer: one inference; what it raises is not caught: a replica that fails is not warm
    :param clock: seconds, monotonic
    :param within: allowed change between the two medians, as a share of the earlier one
    :param noise_ms: a change smaller than this is no change, however fast the model
    :param max_requests: give up after so many calls; ``settled`` is then false
    :param max_seconds: likewise in time
    """
    if window < 1 or max_requests < 2 * window:
        raise ValueError(f"{max_requests} requests do not hold two windows of {window}")
    started = clock()
    latencies: list[float] = []
    settled = False
    while not settled and len(latencies) < max_requests and clock() - started < max_seconds:
        before = clock()
        infer()
        latencies.append((clock() - before) * 1000)
        if len(latencies) >= 2 * window:
            earlier, later = median(latencies[-2 * window : -window]), median(latencies[-window:])
            settled = abs(later - earlier) <= max(within * earlier, noise_ms)
    p50 = median(latencies[-window:]) if latencies else float("nan")
    return WarmUp(settled, len(latencies), clock() - started, p50)
