"""The canary judge beside Kayenta's and a fixed threshold, by simulation on frozen scenarios.

Run: ``python tests/benchmarks/bench_judge.py [--runs 1000] [--seed 711204] [--write]``. Prints the table in Markdown;
``--write`` puts it and the curves into ``docs/``. Seeds below 1,000 were used while the judge was made; those of the
table were not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from ninelives.releases.judge import needed_attempts
from ninelives.releases.judge.kayenta import CONFIDENCE, TOLERANCE, shift_interval
from ninelives.releases.judge.sequential import ALPHA, Found, Plan, judge_counts, judge_levels

Array = npt.NDArray[np.float64]
LOOKS, FIRST_LOOK = 30, 5
"""Minutes of a canary, and the first at which Kayenta is asked: fewer values than five say nothing to its test."""
DOCS = Path(__file__).resolve().parents[2] / "docs"
ENOUGH = -(-needed_attempts(0.005) // LOOKS)


@dataclass(frozen=True)
class Scenario:
    name: str
    null: bool
    """Rolling it back would be wrong."""
    rate: float = 0.005
    worse: float = 1.0
    onset: int = 0
    canary: int = 300
    control: int = 2700
    """Attempts a minute."""
    varies: float = 0.0
    """Coefficient of variation of each arm's rate between minutes (gamma)."""
    correlated: float = 0.0
    """Of neighbouring minutes, in the logarithm of each arm's rate (standard deviation 0.3), or in the latency."""
    bursts: bool = False
    leaks: bool = False
    missing: float = 0.0
    delayed: bool = False
    latency_noise: float = 0.0
    """Above nought: one latency a minute, with this relative standard deviation."""
    floor: float = 0.002


SAME = {"canary": 300, "control": 300}
SCENARIOS = (
    Scenario("good", True),
    Scenario("good, control of the same size", True, **SAME),
    Scenario("good, its traffic suffices by the formula", True, canary=ENOUGH, control=ENOUGH),
    Scenario("good, overdispersed (CV 0.5)", True, varies=0.5),
    Scenario("good, overdispersed (CV 0.5), same size", True, varies=0.5, **SAME),
    Scenario("good, AR(1) 0.8 in each arm's rate, same size", True, correlated=0.8, **SAME),
    Scenario("good, +10 % errors, 200 rps, half each", True, worse=1.1, canary=6000, control=6000),
    Scenario("good, +10 %, overdispersed (CV 0.3), 200 rps", True, worse=1.1, varies=0.3, canary=6000, control=6000),
    Scenario("good, bursts of ten times in both arms", True, bursts=True),
    Scenario("good, three minutes in ten missing", True, missing=0.3),
    Scenario("good, labels delayed by ten minutes (10 % wrong)", True, rate=0.1, delayed=True),
    Scenario("good at 2 rps: zeros and ties", True, canary=12, control=108),
    Scenario("no errors at all", True, rate=0.0),
    Scenario("bad x1.5", False, worse=1.5),
    Scenario("bad x2", False, worse=2),
    Scenario("bad x2, control of the same size", False, worse=2, **SAME),
    Scenario("bad x2, overdispersed (CV 0.5)", False, worse=2, varies=0.5),
    Scenario("bad x2, labels delayed by ten minutes", False, rate=0.1, worse=2, delayed=True),
    Scenario("bad x2, three minutes in ten missing", False, worse=2, missing=0.3),
    Scenario("bad x4", False, worse=4),
    Scenario("bad x4, control of the same size", False, worse=4, **SAME),
    Scenario("bad 0.02 -> 0.6 %", False, rate=0.0002, worse=30),
    Scenario("bad x10 at 2 rps (canary 0.2 rps)", False, worse=10, canary=12, control=108),
    Scenario("bad x10, 2 rps in each arm", False, worse=10, canary=120, control=120),
    Scenario("bad x4 from minute 20", False, worse=4, onset=20),
    Scenario("bad x4 from minute 20, same size", False, worse=4, onset=20, **SAME),
    Scenario("slow leak, 1 to 4 times", False, worse=4, leaks=True),
    Scenario("latency, good, noise 5 %", True, latency_noise=0.05),
    Scenario("latency, good, noise 20 %", True, latency_noise=0.2),
    Scenario("latency, harmless +2 %, noise 5 %", True, worse=1.02, latency_noise=0.05),
    Scenario("latency, good, AR(1) 0.8, noise 10 %", True, correlated=0.8, latency_noise=0.1),
    Scenario("latency, +15 %, noise 5 %", False, worse=1.15, latency_noise=0.05),
    Scenario("latency, +15 %, noise 20 %", False, worse=1.15, latency_noise=0.2),
)
CURVES = ("bad x2", "bad x2, control of the same size", "bad x4", "bad x4 from minute 20", "slow leak, 1 to 4 times")


@dataclass(frozen=True)
class Data:
    """Runs by looks, canary first: events and attempts, or levels with no attempts."""

    canary: Array
    control: Array
    canary_attempts: Array | None = None
    control_attempts: Array | None = None

    def series(self) -> tuple[Array, Array]:
        """What Kayenta is given: one number a minute, of events their percentage."""
        if self.canary_attempts is None or self.control_attempts is None:
            return self.canary, self.control
        with np.errstate(invalid="ignore"):
            return 100 * self.canary / self.canary_attempts, 100 * self.control / self.control_attempts


def simulate(scenario: Scenario, runs: int, draw: np.random.Generator) -> Data:
    shape = runs, LOOKS
    worse = np.full(LOOKS, float(scenario.worse))
    if scenario.leaks:
        worse = np.linspace(1, scenario.worse, LOOKS)
    worse[: scenario.onset] = 1
    if scenario.latency_noise:
        arms = [100 * (1 + scenario.latency_noise * _walk(shape, scenario.correlated, draw)) for _ in range(2)]
        return Data(arms[0] * worse, arms[1])
    burst = np.where(draw.random(shape) < 0.1, 10.0, 1.0) if scenario.bursts else np.ones(shape)
    found = []
    for attempts, factor in ((scenario.canary, worse), (scenario.control, np.ones(LOOKS))):
        rate = scenario.rate * factor * burst
        if scenario.varies:
            rate = rate * draw.gamma(scenario.varies**-2, scenario.varies**2, shape)
        if scenario.correlated:
            rate = rate * np.exp(0.3 * _walk(shape, scenario.correlated, draw))
        tried = np.full(shape, attempts)
        if scenario.delayed:
            known = 1 - np.exp(-np.arange(1, LOOKS + 1) / 10)
            tried = draw.binomial(attempts, np.broadcast_to(known, shape))
        tried = np.where(draw.random(shape) < scenario.missing, 0, tried)
        found.append((draw.binomial(tried, np.minimum(rate, 1)).astype(float), tried.astype(float)))
    (x, n), (y, m) = found
    return Data(x, y, n, m)


def _walk(shape: tuple[int, int], correlated: float, draw: np.random.Generator) -> Array:
    walk = draw.standard_normal(shape)
    for look in range(1, shape[1]):
        walk[:, look] = correlated * walk[:, look - 1] + np.sqrt(1 - correlated**2) * walk[:, look]
    return walk


def ours(data: Data, scenario: Scenario) -> Found:
    if data.canary_attempts is None or data.control_attempts is None:
        return judge_levels(data.canary, data.control, Plan(1.1, horizon=LOOKS), ALPHA)
    plan = Plan(1.5, horizon=LOOKS, floor=scenario.floor)
    return judge_counts(data.canary, data.canary_attempts, data.control, data.control_attempts, plan, ALPHA)


def fixed(data: Data) -> npt.NDArray[np.int64]:
    """The minute at which more than 1 % of at least 100 requests failed (or a latency was a tenth above its 100)."""
    if data.canary_attempts is None:
        over = data.canary > 110
    else:
        over = (data.canary_attempts >= 100) & (data.canary > 0.01 * data.canary_attempts)
    return np.where(over.any(1), over.argmax(1) + 1, 0)


def kayenta(data: Data) -> dict[str, npt.NDArray[np.int64]]:
    """The minute at which it says High: as it comes and with ``allowedIncrease`` 1.25, every minute and at the end."""
    x, y = data.series()
    found = {name: np.zeros(len(x), np.int64) for name in ("end", "peek", "end 1.25", "peek 1.25")}
    for look in range(FIRST_LOOK, LOOKS + 1):
        significant, ratio = high(x[:, :look], y[:, :look])
        for name, allowed in (("", 1.0), (" 1.25", 1.25)):
            says = significant & ~(ratio < allowed)
            for when in ("end", "peek"):
                at = found[when + name]
                if when == "peek" or look == LOOKS:
                    found[when + name] = np.where((at == 0) & says, look, at)
    return found


def high(x: Array, y: Array) -> tuple[npt.NDArray[np.bool_], Array]:
    """Kayenta's test of many runs at once; rows that it would not test are not high."""
    low, estimate, tested = np.zeros(len(x)), np.zeros(len(x)), _testable(x, y)
    if tested.any():
        low[tested], _, estimate[tested] = intervals(x[tested], y[tested])
    n, m = (~np.isnan(x)).sum(1), (~np.isnan(y)).sum(1)
    means = np.nansum(x, 1) / np.maximum(n, 1), np.nansum(y, 1) / np.maximum(m, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((means[0] == 0) | (means[1] == 0), np.nan, means[0] / means[1])
    return tested & (low > TOLERANCE * np.abs(estimate)), ratio


def _testable(x: Array, y: Array) -> npt.NDArray[np.bool_]:
    there = ~np.isnan(x).all(1) & ~np.isnan(y).all(1)
    varied = np.zeros(len(x), bool)
    varied[there] = (np.nanmax(x[there], 1) > np.nanmin(x[there], 1)) | (
        np.nanmax(y[there], 1) > np.nanmin(y[there], 1)
    )
    return varied


def intervals(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """``shift_interval`` of the judge, row by row at once."""
    n, m = (~np.isnan(x)).sum(1).astype(float), (~np.isnan(y)).sum(1).astype(float)
    ties = [(one[:, :, None] == one[:, None, :]).sum(2) for one in (x, y)]
    bottom, top = np.nanmin(x, 1) - np.nanmax(y, 1), np.nanmax(x, 1) - np.nanmin(y, 1)

    def z(shift: Array, rows: npt.NDArray[np.int64]) -> Array:
        a, b, c, d = x[rows] - shift[:, None], y[rows], n[rows], m[rows]
        same = a[:, :, None] == b[:, None, :]
        off = (a[:, :, None] > b[:, None, :]).sum((1, 2)) + same.sum((1, 2)) / 2 - c * d / 2
        tied = np.zeros(len(rows))
        for values, own, cross in ((a, ties[0][rows], same.sum(2)), (b, ties[1][rows], same.sum(1))):
            tied += np.where(np.isnan(values), 0.0, (own + cross).astype(float) ** 2 - 1).sum(1)
        variance = c * d / 12 * ((c + d + 1) - tied / ((c + d) * (c + d - 1)))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (off - np.sign(off) * 0.5) / np.sqrt(variance)

    rows = np.arange(len(x))
    first, last = z(bottom, rows), z(top, rows)

    def end(wanted: float, *, cut: bool = True) -> Array:
        found = np.where(first - wanted <= 0, bottom, np.where(last - wanted >= 0, top, np.nan))
        if not cut:
            found = np.full(len(x), np.nan)
        open_ = np.flatnonzero(np.isnan(found))
        if len(open_):
            ends = bottom[open_], top[open_], first[open_] - wanted, last[open_] - wanted
            found[open_] = _roots(lambda at, some: z(at, open_[some]) - wanted, *ends)
        return found

    quantile = float(norm.isf((1 - CONFIDENCE) / 2))
    return end(quantile), end(-quantile), end(0.0, cut=False)


def _roots(
    function: Callable[[Array, npt.NDArray[np.int64]], Array], a: Array, b: Array, fa: Array, fb: Array
) -> Array:
    """The judge's zero finder, for many functions at once."""
    c, fc, found = a.copy(), fa.copy(), np.where(fa == 0, a, np.where(fb == 0, b, np.nan))
    a, b, fa, fb = a.copy(), b.copy(), fa.copy(), fb.copy()
    for _ in range(1001):
        left = np.flatnonzero(np.isnan(found))
        if not len(left):
            break
        A, B, C, FA, FB, FC = a[left], b[left], c[left], fa[left], fb[left], fc[left]
        before, turn = B - A, np.abs(FC) < np.abs(FB)
        A, B, C = np.where(turn, B, A), np.where(turn, C, B), np.where(turn, B, C)
        FA, FB, FC = np.where(turn, FB, FA), np.where(turn, FC, FB), np.where(turn, FB, FC)
        least = 2 * np.finfo(float).eps * np.abs(B) + 0.5e-4
        step, width = (C - B) / 2, C - B
        done = (np.abs(step) <= least) | (FB == 0)
        found[left[done]] = B[done]
        with np.errstate(divide="ignore", invalid="ignore"):
            t, r, u = FB / FA, FA / FC, FB / FC
            p = np.where(A == C, width * t, t * (width * r * (r - u) - (B - A) * (u - 1)))
            q = np.where(A == C, 1 - t, (r - 1) * (u - 1) * (t - 1))
            q, p = np.where(p > 0, -q, q), np.abs(p)
            good = (np.abs(before) >= least) & (np.abs(FA) > np.abs(FB))
            good &= (p < 0.75 * width * q - np.abs(least * q) / 2) & (p < np.abs(before * q / 2))
            step = np.where(good, p / q, step)
        step = np.where(np.abs(step) < least, np.where(step > 0, least, -least), step)
        go = ~done
        rows = left[go]
        a[rows], fa[rows] = B[go], FB[go]
        b[rows] = (B + step)[go]
        fb[rows] = function(b[rows], rows) if len(rows) else fb[rows]
        kept = fb[rows] * FC[go] > 0
        c[rows], fc[rows] = np.where(kept, B[go], C[go]), np.where(kept, FB[go], FC[go])
    return found


def check_batch() -> None:
    """The batch gives what the judge gives, ties and missing values included; else its table would say nothing."""
    draw = np.random.default_rng(1)
    for case in range(150):
        x, y = (draw.poisson(2, (1, 12)) * 0.5 if case % 2 else draw.random((1, 12)) for _ in range(2))
        x = np.where(draw.random(x.shape) < 0.1, np.nan, x)
        batch = [float(one[0]) for one in intervals(x, y)]
        single = shift_interval(y[0], x[0][~np.isnan(x[0])], CONFIDENCE)
        if not np.allclose(batch, single, atol=1e-9):
            raise SystemExit(f"the batch differs from the judge: {batch} and {single} on {x} and {y}")


@dataclass(frozen=True)
class Row:
    scenario: Scenario
    found: Found
    kayenta: dict[str, npt.NDArray[np.int64]]
    fixed: npt.NDArray[np.int64]

    def cells(self) -> Iterator[str]:
        yield self.scenario.name
        yield _share(self.found.rolled_back_at)
        yield f"{100 * float(self.found.promoted.mean()):.1f}"
        yield f"{100 * float(((self.found.rolled_back_at == 0) & ~self.found.promoted).mean()):.1f}"
        for name in ("end", "end 1.25", "peek 1.25"):
            yield _share(self.kayenta[name])
        yield _share(self.fixed)


def _share(at: npt.NDArray[np.int64]) -> str:
    share = f"{100 * float((at > 0).mean()):.1f}"
    return share if not (at > 0).any() else f"{share} @{int(np.median(at[at > 0]))}"


def table(rows: list[Row]) -> str:
    head = (
        "| scenario | rolled back | promoted | inconclusive | Kayenta at the end | same, 1.25 | every minute, 1.25 "
        "| fixed |\n|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(f"| {' | '.join(row.cells())} |" for row in rows)])


def aims(rows: list[Row]) -> str:
    """What was aimed at, and whether it was met, one line each."""
    by_name = {row.scenario.name: row for row in rows}

    def rolled(name: str) -> float:
        return float((by_name[name].found.rolled_back_at > 0).mean())

    worst = max((row for row in rows if row.scenario.null), key=lambda row: (row.found.rolled_back_at > 0).mean())
    x2 = [row for row in rows if row.scenario.name.startswith("bad x2")]
    said = [
        ("every null scenario rolled back in at most 1 %", float((worst.found.rolled_back_at > 0).mean()), 0.01, -1)
    ]
    said += [("bad x2 promoted in at most 1 %", max(float(row.found.promoted.mean()) for row in x2), 0.01, -1)]
    for row in x2:
        theirs = max(float((row.kayenta[name] > 0).mean()) for name in ("end 1.25", "peek 1.25"))
        said.append(
            (f"{row.scenario.name}: found as often as by Kayenta with 1.25", rolled(row.scenario.name), theirs, 1)
        )
    for name in ("bad x4", "bad x4, control of the same size"):
        at = by_name[name].found.rolled_back_at
        said.append((f"{name}: median minute at most 3", float(np.median(np.where(at > 0, at, 99))), 3, -1))
    for name in ("bad x10 at 2 rps (canary 0.2 rps)", "bad x10, 2 rps in each arm"):
        said.append((f"{name}: found in 99 %", rolled(name), 0.99, 1))
    for name in ("bad x4 from minute 20", "bad x4 from minute 20, same size"):
        said.append((f"{name}: found in 90 %", rolled(name), 0.9, 1))
    good = by_name["good, its traffic suffices by the formula"].found.promoted
    said.append(("a good canary with enough traffic promoted in 80 %", float(good.mean()), 0.8, 1))
    lines = [
        f"| {what} | {limit:.4g} | {value:.4g} | {'met' if (value - limit) * sign >= 0 else '**missed**'} |"
        for what, value, limit, sign in said
    ]
    return "\n".join(["| aim | limit | found | |", "|---|---|---|---|", *lines])


def draw_curves(rows: list[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "judge"
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row.scenario.name in CURVES]
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 2.6), sharey=True)
    minutes = np.arange(LOOKS + 1)
    for axis, row in zip(axes, shown, strict=True):
        lines = (("this judge", row.found.rolled_back_at), ("Kayenta every minute, 1.25", row.kayenta["peek 1.25"]))
        for name, at in lines:
            axis.step(minutes, [float(((at > 0) & (at <= minute)).mean()) for minute in minutes], label=name)
        axis.set(title=row.scenario.name, xlabel="minute", ylim=(0, 1.02))
        axis.title.set_fontsize(8)
    axes[0].set_ylabel("rolled back")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def write(rows: list[Row], runs: int, seed: int) -> None:
    path = DOCS / "judge.md"
    begin, end = "<!-- made by bench_judge.py -->", "<!-- end -->"
    said = (
        f"{runs:,} runs of each scenario, seed {seed}, {LOOKS} minutes, one look a minute. Shares in per cent; @ is "
        "the median minute."
    )
    text = path.read_text("utf-8")
    before, rest = text.split(begin)
    path.write_text(f"{before}{begin}\n{said}\n\n{aims(rows)}\n\n{table(rows)}\n{end}{rest.split(end)[1]}", "utf-8")
    draw_curves(rows, DOCS / "judge.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=711_204)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    check_batch()
    rows, begun = [], time.monotonic()
    for number, scenario in enumerate(SCENARIOS):
        data = simulate(scenario, asked.runs, np.random.default_rng([asked.seed, number]))
        rows.append(Row(scenario, ours(data, scenario), kayenta(data), fixed(data)))
        print(f"{time.monotonic() - begun:5.0f} s  {' | '.join(rows[-1].cells())}", file=sys.stderr, flush=True)
    print(f"{aims(rows)}\n\n{table(rows)}")
    if asked.write:
        write(rows, asked.runs, asked.seed)


if __name__ == "__main__":
    main()
