"""The prober's own code against a simulated service that keeps its own record: how far is the measured RTO off?"""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from unit.probing.simulated import EPOCH, Phase, golden_file, simulate

from ninelives.probing.golden import GoldenFile
from ninelives.probing.measure import Verdict, measure_loss
from ninelives.probing.records import to_table

INTERVAL = 0.05
LASTING = timedelta(seconds=2)
LAST = LASTING.total_seconds()
BAD_KINDS = ("refused", "error", "hang", "degraded", "wrong")


def outage(seed: int, shortest_bad: float = 0.11) -> tuple[float, list[Phase], float, float]:
    """``(loss, phases, true RTO, end)``: bad kinds, flapping, slow recoveries, wrong answers after a recovery."""
    dice = random.Random(seed)
    loss = 0.5 + dice.uniform(0, INTERVAL)
    phases = [Phase(0.0, "good")]
    at = loss
    for _ in range(dice.choice([1, 1, 2, 3, 5])):
        for _ in range(dice.choice([1, 1, 2])):  # e.g. refused, then degraded
            phases.append(Phase(at, dice.choice(BAD_KINDS), dice.uniform(0.001, 0.05)))
            at += dice.uniform(shortest_bad, 1.5)
        phases.append(Phase(at, "good", dice.choice([0.005, 0.02, 0.2, 0.4, 0.8])))
        flap = dice.uniform(0.06, LAST - 0.9)
        at += flap
    recovered = phases[-1]
    if dice.random() < 0.3:  # slow at first, while caches fill
        phases.append(Phase(recovered.start + dice.uniform(0.1, 1.0), "good", 0.01))
    first_right = min(phase.start + phase.latency for phase in phases if phase.start >= recovered.start)
    return loss, phases, first_right - loss, recovered.start + LAST + 1


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> GoldenFile:
    folder: Path = tmp_path_factory.mktemp("golden")
    return golden_file(folder)


@pytest.mark.parametrize("block", range(5))
def test_rto_is_off_by_at_most_one_probe_interval(golden: GoldenFile, block: int) -> None:
    for seed in range(block * 42, block * 42 + 42):
        loss, phases, truth, end = outage(seed)
        rows, service = simulate(golden, phases, seconds=end + 0.3)
        impact = measure_loss(
            to_table(rows),
            loss_at=EPOCH + timedelta(seconds=loss),
            until=EPOCH + timedelta(seconds=end),
            lasting=LASTING,
        )
        assert impact.rto_seconds is not None, seed
        assert abs(impact.rto_seconds - truth) <= INTERVAL + 1e-5, (seed, truth, impact)
        assert impact.rto_low < truth <= impact.rto_high + 1e-5
        assert impact.rto_error_seconds <= INTERVAL + 1e-5
        assert impact.verdict(timedelta(seconds=truth + INTERVAL + 0.001)) is Verdict.MET
        # The service's own log and the prober's rows tell of the same requests.
        sent = [at for at, _ in service.log]
        assert len(sent) == len(rows)
        truly_bad = sum(kind != "good" for at, kind in service.log if loss <= at < end)
        assert impact.degraded + impact.wrong + impact.failed == truly_bad, seed
        assert impact.unknown == 0


@pytest.mark.parametrize("block", range(4))
def test_with_a_prober_that_stalls_or_dies_the_truth_lies_in_the_range_and_no_verdict_contradicts_it(
    golden: GoldenFile, block: int
) -> None:
    decided = 0
    for seed in range(1000 + block * 30, 1000 + block * 30 + 30):
        loss, phases, truth, end = outage(seed, shortest_bad=0.35)
        end += 3
        dice = random.Random(seed)
        stalls = [
            (dice.uniform(0.2, end), dice.choice([0.03, 0.1, 0.2, 0.3, 0.6, 2])) for _ in range(dice.choice([0, 1, 3]))
        ]
        killed = None
        if not stalls or dice.random() < 0.3:
            died = dice.uniform(1.0, end)
            killed = (died, died + dice.choice([0.1, 0.5, 3]))
        rows, _ = simulate(golden, phases, seconds=end + 0.3, stalls=stalls, killed=killed)
        impact = measure_loss(
            to_table(rows),
            loss_at=EPOCH + timedelta(seconds=loss),
            until=EPOCH + timedelta(seconds=end),
            interval=INTERVAL,
            lasting=LASTING,
        )
        assert impact.rto_low <= truth + 1e-5, (seed, truth, impact)
        assert truth <= impact.rto_high + 1e-5, (seed, truth, impact)
        if impact.rto_seconds is not None and not stalls:
            assert abs(impact.rto_seconds - truth) <= INTERVAL + 1e-5, (seed, truth, impact)
        for objective in (truth * 0.5, truth - 0.01, truth + 0.01, truth * 3):
            verdict = impact.verdict(timedelta(seconds=objective))
            decided += verdict is not Verdict.UNKNOWN
            match verdict:
                case Verdict.MET:
                    assert truth <= objective, (seed, truth, objective, impact)
                case Verdict.MISSED:
                    assert truth > objective, (seed, truth, objective, impact)
    assert decided >= 42  # two of four objectives are too near to tell; of the rest, half can be
