"""While a fault is in: has the service recovered for good, must the drill stop, or is it still going on?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ninelives.drills.experiments import read_experiment
from ninelives.drills.promises import check_key
from ninelives.drills.scenario import Drill, Promise, Scenario
from ninelives.drills.scenarios import find_scenario
from ninelives.ports import Systems
from ninelives.probing.measure import LASTING, measure_loss, steady_state
from ninelives.probing.records import (
    LONGEST_FILE,
    SCHEMA,
    SLACK,
    distinct,
    file_start,
    heartbeat_file,
    probe_files,
    read_file,
    read_heartbeat,
)

_STAMP = SCHEMA.field("scheduled_at").type

SURVIVOR_WINDOW = timedelta(seconds=5)
"""Survivors are judged on this much of the newest answers: 100 probes at the default rate."""

LONGEST_WAIT = 3
"""A service that has not recovered after this many times its RTO has missed it: no reason to let users wait longer."""

SHORTEST_WAIT = timedelta(seconds=45)
"""At least this long, so that a missed short RTO is measured and not cut off."""


SILENCE = 1.0
"""Seconds without a word of the prober after which a look is due all the same: waiting may have become pointless."""


class State(StrEnum):
    ONGOING = "ongoing"
    RECOVERED = "recovered"
    ABORT = "abort"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class Progress:
    state: State
    reason: str


class Watch:
    """Looks at one drill again and again. What it has read it does not read again, so a look takes milliseconds."""

    def __init__(self, systems: Systems, drill: Drill, survivors: Sequence[str], lost_at: datetime) -> None:
        self.systems, self.drill, self.survivors, self.lost_at = systems, drill, tuple(survivors), lost_at
        self._rows = SCHEMA.empty_table()
        self._read: set[Path] = set()
        self._beat: tuple[int | None, float] = (None, -math.inf)

    def due(self) -> bool:
        """Whether it is worth looking: the prober has written since the last time that this was asked, or is silent."""
        try:
            written: int | None = heartbeat_file(self.systems.home.probes).stat().st_mtime_ns
        except FileNotFoundError:
            written = None
        known, at = self._beat
        if written == known and time.monotonic() - at < SILENCE:
            return False
        self._beat = (written, time.monotonic())
        return True

    def look(self, now: datetime | None = None) -> Progress:
        """As ``judge_progress``."""
        return _judge(
            self.systems, self.drill, self.survivors, self.lost_at, now or datetime.now(UTC), self._rows_since
        )

    def _rows_since(self, start: datetime) -> pa.Table:
        """Every row that is on disk for slots from ``start`` on: files never change, and merged ones bring nothing."""
        found = []
        for path in probe_files(self.systems.home.probes):
            if path in self._read or file_start(path) < start - LONGEST_FILE - SLACK:
                continue
            try:
                found.append(read_file(path))
            except FileNotFoundError:
                continue  # merged meanwhile: its rows come with the merged file
            self._read.add(path)
        if found:
            self._rows = distinct(pa.concat_tables([self._rows, *found]).combine_chunks())
            self._rows = self._rows.filter(pc.greater_equal(self._rows["scheduled_at"], pa.scalar(start, _STAMP)))
        return self._rows.sort_by([("scheduled_at", "ascending"), ("service", "ascending")])


def judge_progress(
    systems: Systems, drill: Drill, survivors: Sequence[str], lost_at: datetime, now: datetime | None = None
) -> Progress:
    """Look once at what users got since ``lost_at``; the abort condition comes before everything else."""
    return Watch(systems, drill, survivors, lost_at).look(now)


def _judge(
    systems: Systems,
    drill: Drill,
    survivors: Sequence[str],
    lost_at: datetime,
    now: datetime,
    rows_since: Callable[[datetime], pa.Table],
) -> Progress:
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
    rows = rows_since(lost_at - SURVIVOR_WINDOW)
    # A slot whose answer is not there yet may be a good one, but those that are there need not wait for it.
    newest = pc.max(rows["scheduled_at"]).as_py() or until
    seen = min(now, max(until, newest + timedelta(seconds=beat.interval_s)))
    for name in survivors:
        since = max(lost_at, seen - SURVIVOR_WINDOW)
        share = steady_state(rows, since=since, until=seen, service=name, interval=beat.interval_s).high
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
    if {Promise.REPAIRED, Promise.QUARANTINED, Promise.LANDED, Promise.RESTORED, Promise.DRAINED} & set(
        scenario.promises
    ):
        record = systems.ledger().written(check_key(drill))
        if record is None:
            return None
        return Progress(State.RECOVERED, f"the estate's own check is done, its verdict is {record.facts['verdict']}")
    if Promise.HYPOTHESIS in scenario.promises:
        journal = read_experiment(systems.home, drill.id)
        return Progress(State.RECOVERED, f"the experiment {journal['status']}") if journal else None
    return Progress(State.RECOVERED, f"kept for {measured.total_seconds():.0f} s")
