"""When a drill is over, and when it must stop at once: judged on the prober's files."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.abort import INTERVAL as PERIOD
from support.abort import abort_latency, mid_pause_latency

from ninelives.drills.scenario import Drill
from ninelives.drills.watch import State, judge_progress
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.probing.records import Outcome, Probe, file_name, heartbeat_file, to_table

LOST_AT = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
INTERVAL = 0.05
DRILL = Drill("drill-1", "site-loss", "arrival-delay", "paris")
ESTATE = load_estate(Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml")


class Measured:
    """A home whose prober saw, per service, ``outcome(seconds since the loss)`` until ``until`` seconds after it."""

    def __init__(self, folder: Path, until: float, **outcome: Any) -> None:
        self.systems: Any = SimpleNamespace(home=Home(folder), estate=ESTATE)
        start = LOST_AT - timedelta(seconds=6)
        rows = []
        for service in ("arrival-delay", "late-arrival"):
            judge = outcome.get(service.replace("-", "_"), lambda seconds: Outcome.GOOD)
            for seq in range(int((until + 6) / INTERVAL)):
                at = start + timedelta(seconds=seq * INTERVAL)
                seconds = (at - LOST_AT).total_seconds()
                rows.append(
                    Probe("run", seq, service, at, at, int(at.timestamp() * 1e9), judge(seconds), latency_s=0.01)
                )
        day = self.systems.home.probes / f"{start:%Y-%m-%d}"
        day.mkdir(parents=True)
        pq.write_table(to_table(rows), day / f"{file_name(start, 'test')}.parquet")
        self.now = LOST_AT + timedelta(seconds=until)
        beat = {
            "run": "run", "pid": 1, "at": self.now.isoformat(), "interval_s": INTERVAL,
            "services": ["arrival-delay", "late-arrival"], "complete_until": self.now.isoformat(),
        }  # fmt: skip
        heartbeat_file(self.systems.home.probes).write_text(json.dumps(beat))

    def judge(self, scenario: str = "site-loss") -> State:
        drill = replace(DRILL, scenario=scenario)
        return judge_progress(self.systems, drill, ["late-arrival"], LOST_AT, self.now).state


def degraded_for(seconds: float) -> Any:
    return lambda since: Outcome.DEGRADED if 0 <= since < seconds else Outcome.GOOD


def test_a_drill_goes_on_while_users_get_fallbacks(tmp_path: Path) -> None:
    assert Measured(tmp_path, 10, arrival_delay=degraded_for(99)).judge() is State.ONGOING


def test_a_recovery_counts_only_once_it_lasts(tmp_path: Path) -> None:
    assert Measured(tmp_path / "early", 12, arrival_delay=degraded_for(10)).judge() is State.ONGOING
    assert Measured(tmp_path / "late", 16, arrival_delay=degraded_for(10)).judge() is State.RECOVERED


@pytest.mark.parametrize("bad", [Outcome.FAILED, Outcome.WRONG, Outcome.DEGRADED])
def test_survivors_below_the_declared_share_stop_the_drill_before_anything_else(tmp_path: Path, bad: Outcome) -> None:
    ill = Measured(tmp_path, 20, late_arrival=lambda since: bad if since > 17 else Outcome.GOOD)
    assert ill.judge() is State.ABORT


def test_one_bad_answer_of_a_survivor_does_not_stop_a_drill(tmp_path: Path) -> None:
    once = Measured(tmp_path, 20, late_arrival=lambda since: Outcome.FAILED if 0 <= since < 0.01 else Outcome.GOOD)
    assert once.judge() is State.RECOVERED


def test_waiting_ends_when_the_objective_is_missed_beyond_doubt(tmp_path: Path) -> None:
    assert Measured(tmp_path, 185, arrival_delay=degraded_for(999)).judge() is State.GIVEN_UP


def test_without_a_prober_nothing_is_taken_for_recovered(tmp_path: Path) -> None:
    systems: Any = SimpleNamespace(home=Home(tmp_path), estate=ESTATE)
    soon, late = LOST_AT + timedelta(seconds=10), LOST_AT + timedelta(seconds=200)
    assert judge_progress(systems, DRILL, [], LOST_AT, soon).state is State.ONGOING
    assert judge_progress(systems, DRILL, [], LOST_AT, late).state is State.GIVEN_UP


@pytest.mark.parametrize("scenario", ["registry-lost", "slow-store", "partition", "provider-silent"])
def test_what_users_should_not_feel_is_kept_away_for_long_enough_and_no_longer(tmp_path: Path, scenario: str) -> None:
    assert Measured(tmp_path / "early", 19).judge(scenario) is State.ONGOING
    assert Measured(tmp_path / "late", 21).judge(scenario) is State.RECOVERED
    ill = Measured(tmp_path / "ill", 21, late_arrival=lambda since: Outcome.FAILED if since > 17 else Outcome.GOOD)
    assert ill.judge(scenario) is State.ABORT


@pytest.mark.parametrize(
    ("verdict", "state"), [(None, State.ONGOING), ("met", State.RECOVERED), ("missed", State.RECOVERED)]
)
def test_damage_is_kept_until_the_estates_own_check_has_spoken(
    tmp_path: Path, verdict: str | None, state: State
) -> None:
    measured = Measured(tmp_path, 10)
    record = SimpleNamespace(facts={"verdict": verdict}) if verdict else None
    measured.systems.ledger = lambda: SimpleNamespace(written={"check/drill-1": record}.get)
    assert measured.judge("corrupt-object") is state


def test_a_drill_that_must_stop_is_told_so_within_one_probe_period_and_250_ms(tmp_path: Path) -> None:
    """``tests/benchmarks/bench_abort.py`` measures the 99th percentile of many more."""
    found = [abort_latency(tmp_path / str(number), 0.1 + number * 0.03) for number in range(3)]
    assert statistics.median(found) <= PERIOD + 0.25, found


def test_an_experiment_in_mid_pause_is_ended_within_one_probe_period_and_250_ms_of_the_answer(tmp_path: Path) -> None:
    """Whoever waits, users are watched; ``bench_abort.py --mid-pause`` has the 99th percentile of many more."""
    found = [mid_pause_latency(tmp_path / str(number), 0.2 + number * 0.03) for number in range(2)]
    assert 0 < min(found) <= PERIOD + 0.25, found
