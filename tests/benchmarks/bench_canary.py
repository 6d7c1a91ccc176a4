"""The canary judge as a promotion uses it: attempt by attempt, growing shares, looks as ``releases.canary`` makes them.

Run: ``python tests/benchmarks/bench_canary.py [--runs 1000] [--seed 804117] [--write]``. ``--write`` puts the tables
into ``docs/judge.md``. Seeds below 1,000 were used while it was made. "Before" is how a promotion asked the judge until
its looks were fixed: all the time so far cut into 30 stretches anew, without a horizon; here every ten seconds (it was
every half second), and errors only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ninelives.ports import Attempt
from ninelives.releases.canary import (
    ERRORS,
    HARMLESS,
    HARMLESS_MS,
    LATENCY,
    LEAST_REFERENCE,
    MEDIAN_MARGIN,
    REFERENCE,
    TAIL,
    Looked,
    Series,
    judged,
)
from ninelives.releases.judge.sequential import ALPHA, COUNT_MARGIN, Found, Plan, judge_counts

Array = npt.NDArray[np.float64]
DOCS = Path(__file__).resolve().parents[2] / "docs"
QUALITY, MEDIAN = 0.999, 0.02
"""Promised share of correct answers; latency of the old version, s."""
DECLARED = ((0.05, 300), (0.25, 600), (0.5, 600))
"""Shares and seconds, the defaults of an estate."""
SHORT, LONG = ((0.05, 30), (0.25, 30), (0.5, 30)), ((0.05, 600), (0.25, 600), (0.5, 600))


@dataclass(frozen=True)
class Scenario:
    name: str
    rate: float
    """Requests a second."""
    null: bool = True
    steps: tuple[tuple[float, int], ...] = DECLARED
    errors: float = 0.005
    worse: float = 1.0
    onset: float = 0.0
    """Part of the time after which it is worse."""
    varies: float = 0.0
    """Coefficient of variation of each arm's error rate between stretches of ten seconds (gamma)."""
    drifts: float = 1.0
    """How many times as many errors there are in both arms in the last third."""
    noise: float = 0.5
    """Standard deviation of the logarithm of a latency."""
    correlated: float = 0.0
    """Of neighbouring seconds, in the logarithm of each arm's latency (standard deviation 0.1)."""
    slower: float = 1.0

    @property
    def seconds(self) -> int:
        return sum(hold for _, hold in self.steps)


def nulls() -> Iterable[Scenario]:
    for rate in (5, 60, 500):
        for steps, name in ((SHORT, "3 x 30 s"), (DECLARED, "5, 10, 10 min"), (LONG, "3 x 10 min")):
            yield Scenario(f"{rate} a second, {name}", rate, steps=steps)
            yield Scenario(f"{rate} a second, {name}, overdispersed", rate, steps=steps, varies=0.5, correlated=0.8)
    for rate in (60, 500):
        yield Scenario(f"{rate} a second, both three times as bad in the last third", rate, drifts=3)
        yield Scenario(f"{rate} a second, 2 % slower", rate, slower=1.02)


def bad() -> Iterable[Scenario]:
    for rate in (5, 60, 500):
        for worse in (2, 4, 10):
            yield Scenario(f"{rate} a second, errors x{worse}", rate, null=False, worse=worse)
    yield Scenario("60 a second, errors x4 from the second third on", 60, null=False, worse=4, onset=1 / 3)
    yield Scenario("60 a second, overdispersed, errors x4", 60, null=False, worse=4, varies=0.5, correlated=0.8)
    for rate in (5, 60, 500):
        yield Scenario(f"{rate} a second, latency x1.5", rate, null=False, slower=1.5)
        yield Scenario(f"{rate} a second, latency x4", rate, null=False, slower=4)


@dataclass(frozen=True)
class Run:
    """Attempts of one canary in their order, experiment first."""

    places: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    """How many there were before each half second: within a second they come evenly."""
    bad: tuple[Array, Array]
    latency: tuple[Array, Array]
    """Seconds."""

    def looked(self) -> Looked:
        arms = []
        for places, bad, latency in zip(self.places, self.bad, self.latency, strict=True):
            n = np.diff(places)
            at = np.repeat(np.arange(len(n)) / 2 + 0.1, n)
            arms.append(tuple(Attempt(float(a), float(s), not b) for a, b, s in zip(at, bad, latency, strict=True)))
        return Looked("1", "2", control=arms[1], experiment=arms[0])


def simulate(scenario: Scenario, draw: np.random.Generator) -> Run:
    share = np.concatenate([np.full(hold, part) for part, hold in scenario.steps])
    second = np.arange(scenario.seconds)
    drift = np.where(second >= scenario.seconds * 2 / 3, scenario.drifts, 1.0)
    on = second >= scenario.seconds * scenario.onset
    places, bad, latency = [], [], []
    for parts, worse, slower in ((share, scenario.worse, scenario.slower), (1 - share, 1.0, 1.0)):
        rate = scenario.errors * drift * np.where(on, worse, 1.0)
        if scenario.varies:
            shape = scenario.varies**-2
            rate = rate * np.repeat(draw.gamma(shape, 1 / shape, -(-len(second) // 10)), 10)[: len(second)]
        level = np.zeros(len(second))
        if scenario.correlated:
            level = 0.1 * _walk(len(second), scenario.correlated, draw)
        n = draw.poisson(scenario.rate * parts)
        which = np.repeat(second, n)
        whole = np.concatenate([[0], np.cumsum(n)])
        places.append(np.append(np.column_stack([whole[:-1], whole[:-1] + n // 2]).ravel(), whole[-1]))
        bad.append((draw.random(len(which), np.float32) < rate[which]).astype(np.float32))
        noise = level[which] + scenario.noise * draw.standard_normal(len(which), np.float32)
        latency.append((MEDIAN * np.where(on, slower, 1.0))[which] * np.exp(noise))
    return Run((places[0], places[1]), (bad[0], bad[1]), (latency[0], latency[1]))


def _walk(length: int, correlated: float, draw: np.random.Generator) -> Array:
    walk = draw.standard_normal(length)
    for step in range(1, length):
        walk[step] = correlated * walk[step - 1] + np.sqrt(1 - correlated**2) * walk[step]
    return walk


def counted(run: Run, series: Series) -> dict[str, Array]:
    """As ``Series.add`` does it, on arrays: per metric, four rows of looks; ``check_batch`` holds them together."""
    every = round(2 * series.every)
    if every != 2 * series.every:
        raise SystemExit(f"looks of {series.every} s are not whole half seconds")
    places = [one[::every] for one in run.places]
    tried = [np.diff(one).astype(float) for one in places]
    wrong = [np.diff(np.concatenate([[0], np.cumsum(one)])[p]) for one, p in zip(run.bad, places, strict=True)]
    found = {ERRORS: np.array([wrong[1], tried[1], wrong[0], tried[0]])}
    good = [run.latency[arm][run.bad[arm] == 0] for arm in (0, 1)]
    index = [np.concatenate([[0], np.cumsum(run.bad[arm] == 0)])[places[arm]] for arm in (0, 1)]
    slow = {name: np.zeros((4, len(places[0]) - 1)) for name in (LATENCY, TAIL)}
    for look in range(len(places[0]) - 1):
        first = int(places[1][look])
        begin = max(0, first - REFERENCE)
        before = run.latency[1][begin:first][run.bad[1][begin:first] == 0]
        if len(before) < LEAST_REFERENCE:
            continue
        arms = [good[arm][index[arm][look] : index[arm][look + 1]] for arm in (0, 1)]
        for name, share in ((LATENCY, 0.5), (TAIL, 0.99)):
            place = min(len(before) - 1, int(share * len(before)))
            limit = np.partition(before, place)[place]
            late = (arms[0] > limit * HARMLESS + HARMLESS_MS / 1000).sum(), (arms[1] > limit).sum()
            slow[name][:, look] = late[1], len(arms[1]), late[0], len(arms[0])
    return {**found, **slow}


PLANS = {ERRORS: COUNT_MARGIN, LATENCY: MEDIAN_MARGIN, TAIL: COUNT_MARGIN}


def decide(looks: list[dict[str, Array]], series: Series) -> dict[str, Found]:
    found = {}
    for name, margin in PLANS.items():
        control_bad, control_tried, bad_, tried = np.stack([one[name] for one in looks], 1)
        plan = Plan(margin, ALPHA / len(PLANS), series.horizon, series.floors[name])
        found[name] = judge_counts(bad_, tried, control_bad, control_tried, plan, ALPHA)
    return found


def halves(run: Run) -> Array:
    """Sums up to each half second: errors and attempts of both arms, experiment first."""
    found = []
    for places, wrong in zip(run.places, run.bad, strict=True):
        found += [np.concatenate([[0], np.cumsum(wrong)])[places], places]
    return np.array(found, np.float32)


def before(runs: Array) -> npt.NDArray[np.int64]:
    """The second at which errors rolled back."""
    rolled, plan = np.zeros(len(runs), np.int64), Plan(COUNT_MARGIN, ALPHA / 3, None, 1 - QUALITY)
    for now in range(20, runs.shape[2], 20):
        alive = np.flatnonzero(rolled == 0)
        cuts = np.round(np.linspace(0, now, 31)).astype(int)
        parts = np.diff(runs[alive][:, :, cuts].astype(float), axis=2)
        found = judge_counts(*(parts[:, one] for one in range(4)), plan, ALPHA)
        rolled[alive[found.rolled_back_at > 0]] = now // 2
    return rolled


def check_batch() -> None:
    """The batch counts and decides as a promotion does; else its tables would say nothing."""
    good = Scenario("", 20, steps=SHORT)
    for number, scenario in enumerate((good, replace(good, slower=4, worse=9))):
        run = simulate(scenario, np.random.default_rng(number))
        series = Series(0.0, scenario.seconds, QUALITY)
        series.add(run.looked(), scenario.seconds + 1e-6)
        batch = counted(run, series)
        for name, looks in series.counted.items():
            if not np.array_equal(np.array(looks).T, batch[name]):
                raise SystemExit(f"{name} is counted otherwise by the batch")
        verdict, reasons = judged(series.metrics(), series.horizon)
        found = decide([batch], series).values()
        rolled, promoted = any(one.rolled_back_at[0] for one in found), all(one.promoted[0] for one in found)
        if str(verdict) != ("roll back" if rolled else "promote" if promoted else "inconclusive"):
            raise SystemExit(f"the judge says {verdict}, {reasons}, and the batch otherwise")


def row(scenario: Scenario, runs: int, draw: np.random.Generator) -> str:
    series = Series(0.0, scenario.seconds, QUALITY)
    looks, kept = [], []
    for _ in range(runs):
        run = simulate(scenario, draw)
        looks.append(counted(run, series))
        kept.append(halves(run))
    found = decide(looks, series)
    at = np.stack([one.rolled_back_at for one in found.values()])
    first = np.where(at > 0, at, 10**9).min(0)
    rolled = first < 10**9
    promoted = np.all([one.promoted for one in found.values()], 0)
    by = " ".join(f"{100 * float((one > 0).mean()):.1f}" for one in at)
    when = f"{np.median(first[rolled]) * series.every:.0f}" if rolled.any() else ""
    old = before(np.array(kept))
    was = f"{100 * float((old > 0).mean()):.1f}"
    was_when = f"{np.median(old[old > 0]):.0f}" if (old > 0).any() else ""
    shares = f"{100 * float(rolled.mean()):.1f} | {when} | {by} | {100 * float(promoted.mean()):.1f}"
    return f"| {scenario.name} | {shares} | {was} | {was_when} |"


HEAD = (
    "| {} | rolled back | median s | errors, p50, p99 | promoted at the end | before | median s |\n"
    "|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=804_117)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    check_batch()
    said, begun = [], time.monotonic()
    for title, scenarios in (("nothing is worse", nulls()), ("worse", bad())):
        rows = []
        for number, scenario in enumerate(scenarios):
            if asked.only not in scenario.name:
                continue
            rows.append(row(scenario, asked.runs, np.random.default_rng([asked.seed, scenario.null, number])))
            print(f"{time.monotonic() - begun:5.0f} s  {rows[-1]}", file=sys.stderr, flush=True)
        said.append("\n".join([HEAD.format(title), *rows]))
    text = f"{asked.runs:,} runs of each, seed {asked.seed}. Shares in per cent.\n\n" + "\n\n".join(said)
    print(text)
    if asked.write:
        path, (begin, end) = DOCS / "judge.md", ("<!-- made by bench_canary.py -->", "<!-- end of it -->")
        first, rest = path.read_text("utf-8").split(begin)
        path.write_text(f"{first}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")


if __name__ == "__main__":
    main()
