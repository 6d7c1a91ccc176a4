"""What is measured of outages against records of them that owe nothing to it; ``bench_outages`` does more of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.outages import INTERVAL, answers, judge_outages, lose_store, served
from support.sites import Site

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600)]
SEEDS = range(5000, 5040)


def test_the_true_rto_is_in_the_range_given_and_off_by_a_probe_interval_and_the_slowest_answer_at_most(
    tmp_path: Path,
) -> None:
    with served(tmp_path) as world:
        found = judge_outages(world, [world.outage(seed) for seed in SEEDS])
        gave, got = answers(world)
    assert gave == got
    assert [one for one in found if not one.held] == []
    # The machine's own slowness comes on top, and is in what the prober saw.
    assert [one for one in found if abs(one.error) > INTERVAL + one.slowest] == []


def test_the_rpo_of_seeded_losses_is_exact_to_the_last_acknowledged_write(paris: Site, dublin: Site) -> None:
    paris.start()
    for seed in SEEDS:
        loss = lose_store(paris, dublin, paris.folder.parent, seed)
        assert loss.measured == loss.true, seed
