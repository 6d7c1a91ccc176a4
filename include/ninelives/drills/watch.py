"""While a fault is in: has the service recovered for good, must the drill stop, or is it still going on?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from ninelives.drills.promises import check_key
from ninelives.drills.scenario import Drill, Promise, Scenario
from ninelives.drills.scenarios import find_scenario
from ninelives.ports import Systems
from ninelives.probing.measure import LASTING, measure_loss, steady_state
from ninelives.probing.records import read_heartbeat, read_probes

SURVIVOR_WINDOW = timedelta(seconds=5)
"""Survivors are judged on this much of the newest answers: 100 probes at the default rate."""

LONGEST_WAIT = 3
"""A service that has not recovered after this many times its RTO has missed it: no reason to let users wait longer."""

SHORTEST_WAIT = timedelta(seconds=45)
"""At least this long, so that a missed short RTO is measured and not cut off."""


class State(StrEnum):
    ONGOING = "ongoing"
    RECOVERED = "recovered"
    ABORT = "abort"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class Progress:
    state: State
    reason: str


def judge_progress(
    systems: Systems, drill: Drill, survivors: Sequence[str], lost_at: datetime, now: datetime | None = None
) -> Progress:
    """Look at what users got since ``lost_at``; the abort condition comes before everything else."""
    now = now or datetime.now(UTC)
    folder, policy = systems.home.probes, systems.estate.drills
    objective, scenario = systems.estate.service_by_name[drill.service].objective, find_scenario(drill.scenario)
    patience = min(policy.max_duration * 0.8, max(objective.rto * LONGEST_WAIT, SHORTEST_WAIT))
    given_up = Progress(
        State.GIVEN_UP, f"{drill.service} has not recovered {patience.total_seconds():.0f} s after the loss"
    )
    beat = read_heartbeat(folder)
    if beat is None or beat.complete_until <= lost_at:
        return given_up if now - lost_at > patience else Progress(State.ONGOING, "nothing measured yet")
    until = min(now, beat.complete_until)
    rows = read_probes(folder, lost_at - SURVIVOR_WINDOW, until)
    for name in survivors:
        since = max(lost_at, until - SURVIVOR_WINDOW)
        share = steady_state(rows, since=since, until=until, service=name, interval=beat.interval_s).high
        if share < policy.min_good:
            return Progress(
                State.ABORT,
                f"only {share:.1%} of {name}'s answers are correct, the estate demands {policy.min_good:.1%}",
            )
    if Promise.RTO not in scenario.promises:
        return _unfelt(systems, scenario, drill, until - lost_at) or (
            given_up if now - lost_at > patience else Progress(State.ONGOING, "users feel nothing so far")
        )
    felt = measure_loss(rows, loss_at=lost_at, until=until, service=drill.service, interval=beat.interval_s)
    if math.isfinite(felt.rto_high):
        return Progress(State.RECOVERED, f"correct answers last, {felt.rto_high:.1f} s after the loss")
    if now - lost_at > patience:
        return given_up
    return Progress(State.ONGOING, f"{felt.degraded} degraded, {felt.wrong} wrong, {felt.failed} failed answers so far")


def _unfelt(systems: Systems, scenario: Scenario, drill: Drill, measured: timedelta) -> Progress | None:
    """Of a fault that users should not feel: it was kept, and measured, for long enough, and its check is done."""
    if measured < max(scenario.hold, LASTING):
        return None
    if {Promise.REPAIRED, Promise.QUARANTINED} & set(scenario.promises):
        record = systems.ledger().written(check_key(drill))
        if record is None:
            return None
        return Progress(State.RECOVERED, f"the estate's own check is done, its verdict is {record.facts['verdict']}")
    return Progress(State.RECOVERED, f"kept for {measured.total_seconds():.0f} s")
