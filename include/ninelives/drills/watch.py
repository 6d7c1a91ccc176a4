"""While a fault is in: has the service recovered for good, must the drill stop, or is it still going on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from ninelives.drills.scenario import Drill
from ninelives.ports import Systems
from ninelives.probing.measure import measure_loss, steady_state
from ninelives.probing.records import read_probes

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
    minimum = systems.estate.drills.min_good
    for name in survivors:
        share = steady_state(read_probes(systems.home.probes, max(lost_at, now - SURVIVOR_WINDOW), now, name))
        if share is not None and share < minimum:
            return Progress(
                State.ABORT, f"only {share:.1%} of {name}'s answers are correct, the estate demands {minimum:.1%}"
            )
    objective = systems.estate.service_by_name[drill.service].objective
    probes = read_probes(systems.home.probes, lost_at - SURVIVOR_WINDOW, now, drill.service)
    felt = measure_loss(probes, loss_at=lost_at, until=now, objective=objective)
    if felt.recovered:
        return Progress(State.RECOVERED, f"correct answers last, {felt.rto_seconds:.1f} s after the loss")
    patience = min(systems.estate.drills.max_duration * 0.8, max(objective.rto * LONGEST_WAIT, SHORTEST_WAIT))
    if now - lost_at > patience:
        return Progress(
            State.GIVEN_UP, f"{drill.service} has not recovered {patience.total_seconds():.0f} s after the loss"
        )
    return Progress(State.ONGOING, f"{felt.bad} bad answers so far")
