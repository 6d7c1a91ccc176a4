"""Filling, step by step, on a simulated Airflow and a real ledger: in order, once, resumable, and nothing by a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest
from unit.backfill.simulated import HOUR, START, Killed, ReadOnlyAirflow, SimulatedAirflow, Systems, hour, hours
from unit.replication.memory import MemoryStore

from ninelives.backfill.fill import Filling, arrived, finish, look, take_step, watch
from ninelives.backfill.plan import GAP
from ninelives.backfill.report import plan_all
from ninelives.errors import Refused
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Suite
from ninelives.gates.verdict import Evaluation, ObjectSchema, Outcome
from ninelives.ports import IntervalRun, NativeBackfill, Record
from ninelives.replication.manifest import scan, write_manifest

COLUMNS = {"at": "timestamp[us, tz=UTC]"}


class Engine:
    """Judges an interval by what the test says of it."""

    def __init__(self) -> None:
        self.bad: set[Interval] = set()
        self.asked: list[Interval | None] = []

    def evaluate(
        self,
        suite: Suite,
        files: Mapping[str, Path],
        *,
        interval: Interval | None = None,
        rows: int = 0,
        references: Mapping[str, Mapping[str, Path]] | None = None,
    ) -> Evaluation:
        self.asked.append(interval)
        outcome = Outcome(0, interval not in self.bad, judged=1)
        return Evaluation("simulated", (ObjectSchema(COLUMNS, len(files), "a"),), 1, (outcome,))


class Gated(Systems):
    """With a source whose suite judges intervals."""

    def __init__(self, folder: Path, airflow: SimulatedAirflow, **declared: object) -> None:
        super().__init__(folder, airflow, **declared)
        self.engine = Engine()
        self.stores = {site: MemoryStore(site) for site in ("paris", "dublin")}
        path = self.home.expectations / "rows" / "suite.json"
        path.parent.mkdir(parents=True)
        expectation = {
            "type": "expect_column_values_to_not_be_null",
            "kwargs": {"column": "at"},
            "reason": "a row has a time",
        }
        path.write_text(
            json.dumps(
                {
                    "dataset": "rows",
                    "schema": COLUMNS,
                    "min_rows": 1,
                    "time": {"column": "at"},
                    "expectations": [expectation],
                }
            )
        )

    def expectations(self, dataset: str | None = None) -> Engine:
        return self.engine

    def land(self, *numbers: int) -> None:
        """Hours of the source at the primary, and their manifest."""
        store = self.stores["paris"]
        for number in numbers:
            at = START + number * HOUR
            store.put("data", f"rows/day={at:%Y-%m-%d}/hour={at:%H}.parquet", str(number).encode())
        write_manifest(store, scan(store, "rows", None))


def planned(systems: Systems) -> Filling:
    (found,) = plan_all(systems, now=START + systems.airflow.length * HOUR)  # type: ignore[arg-type]
    return Filling.of_json(json.loads(json.dumps(found.gap)))


def fill(systems: Systems, filling: Filling, run: str = "run") -> Record:
    """As the operator does, with Airflow at work whenever it waits."""
    while True:
        step = take_step(systems, systems.declared, filling)  # type: ignore[arg-type]
        filling = step.filling
        if step.backfill is None:
            return record(systems, filling, run)
        systems.airflow.work()


def record(systems: Systems, filling: Filling, run: str = "run") -> Record:
    now = START + systems.airflow.length * HOUR
    return finish(systems, systems.declared, filling, run=run, begun=now - HOUR, now=now)  # type: ignore[arg-type]


def test_96_missed_intervals_are_filled_in_order_by_one_native_backfill_and_a_repeat_finds_nothing(
    tmp_path: Path,
) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(96), max_active=3)
    done = fill(systems, planned(systems))
    assert systems.airflow.submitted == [START + n * HOUR for n in range(96)]
    assert len(systems.airflow.started) == 1
    assert done.facts["filled"] == [str(hours(0, 96))]
    assert (done.facts["outcome"], done.facts["intervals"]) == ("filled", 96)
    (again,) = plan_all(systems, now=START + 96 * HOUR)  # type: ignore[arg-type]
    assert again.plan.whole
    assert "nothing is missed" in str(again)


def test_a_plan_writes_nothing_anywhere(tmp_path: Path) -> None:
    systems = Gated(tmp_path, ReadOnlyAirflow(96), source="rows", dataset="rows")
    systems.land(*range(50))
    before = {site: store.objects() for site, store in systems.stores.items()}
    systems.engine.evaluate = None  # type: ignore[assignment,method-assign] # a verdict would be evidence
    (found,) = plan_all(systems, now=START + 96 * HOUR)  # type: ignore[arg-type]
    assert (len(found.plan.fill), len(found.plan.parked)) == (50, 46)
    assert systems.ledger().head().seq == 0
    assert {site: store.objects() for site, store in systems.stores.items()} == before


def test_whatever_call_it_is_killed_at_the_next_try_fills_the_rest_and_nothing_twice(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(12))
    for fuse in range(60):
        airflow = systems.airflow = SimulatedAirflow(12)
        for number in (3, 7):  # three stretches
            airflow.runs[START + number * HOUR] = IntervalRun(START + number * HOUR, "success")
        filling = planned(systems)
        airflow.fuse = fuse
        try:
            fill(systems, filling, f"run-{fuse}")
        except Killed:
            airflow.work(most=1)  # Airflow goes on without us
            fill(systems, filling, f"run-{fuse}")
        else:
            assert fuse > 10
        airflow.fuse = None
        assert airflow.states() == ["success"] * 12
        assert airflow.submitted == [START + n * HOUR for n in range(12) if n not in {3, 7}]


def test_what_failed_is_tried_once_in_a_run_and_again_in_the_next(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(5))
    systems.airflow.fails = {START + 2 * HOUR}
    done = fill(systems, planned(systems))
    assert done.facts["outcome"] == "failed"
    assert done.facts["failed"] == [str(hour(2))]
    assert done.facts["filled"] == [str(hours(0, 2)), str(hours(3, 5))]
    systems.airflow.fails = set()
    done = fill(systems, planned(systems), "next")
    assert (done.facts["outcome"], done.facts["intervals"]) == ("filled", 1)
    assert systems.airflow.submitted.count(START + 2 * HOUR) == 2


def test_a_backfill_that_somebody_else_started_is_waited_for_and_not_repeated(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(6))
    filling = planned(systems)
    theirs = systems.airflow.start_backfill("hourly", START, START + HOUR, again=False, max_active=1)
    step = take_step(systems, systems.declared, filling)  # type: ignore[arg-type]
    assert step.backfill == theirs
    assert not step.last
    systems.airflow.work()
    assert fill(systems, step.filling).facts["filled"] == [str(hours(0, 6))]
    assert systems.airflow.submitted == [START + n * HOUR for n in range(6)]


def test_what_runs_now_is_left_alone(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(4))
    systems.airflow.runs[START + HOUR] = IntervalRun(START + HOUR, "running")
    fill(systems, planned(systems))
    assert systems.airflow.started == [(START, START), (START + 2 * HOUR, START + 3 * HOUR)]
    assert systems.airflow.states() == ["success", "running", "success", "success"]


def test_a_dag_that_declares_it_gets_one_run_over_the_whole_gap_and_only_once(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(96), whole_gap=True)
    done = fill(systems, planned(systems))
    (run,) = systems.airflow.runs.values()
    assert run.conf == {GAP: str(hours(0, 96))}
    assert run.start == START + 95 * HOUR
    assert done.facts["filled"] == [str(hours(0, 96))]
    assert not planned(systems).gap


def test_intervals_whose_source_is_missing_are_parked_recorded_and_filled_when_it_is_back(tmp_path: Path) -> None:
    systems = Gated(tmp_path, SimulatedAirflow(6), source="rows")
    systems.land(0, 1, 4, 5)
    done = fill(systems, planned(systems))
    assert done.facts["outcome"] == "parked"
    assert done.facts["filled"] == [str(hours(0, 2)), str(hours(4, 6))]
    assert done.facts["parked"] == [{"reason": "its source has not landed", "intervals": [str(hours(2, 4))]}]
    assert arrived(systems) == {}  # type: ignore[arg-type]
    systems.land(2)
    assert arrived(systems) == {"hourly": done.seq}  # type: ignore[arg-type]
    systems.land(3)
    assert fill(systems, planned(systems), "next").facts["filled"] == [str(hours(2, 4))]
    assert systems.airflow.states() == ["success"] * 6
    assert len(systems.airflow.submitted) == 6


def test_the_gate_judges_each_interval_of_the_source_before_it_is_filled_and_a_refused_one_is_parked(
    tmp_path: Path,
) -> None:
    systems = Gated(tmp_path, SimulatedAirflow(5), source="rows")
    systems.land(*range(5))
    systems.engine.bad = {hour(1), hour(3)}
    done = fill(systems, planned(systems))
    assert systems.airflow.submitted == [START, START + 2 * HOUR, START + 4 * HOUR]
    assert set(systems.engine.asked) == {hour(n) for n in range(5)}
    assert len(systems.ledger().records(kind="gate")) == 5
    (parked,) = {one["reason"].split(":")[0] for one in done.facts["parked"]}
    assert parked == "the gate refused rows at paris"
    assert [one for entry in done.facts["parked"] for one in entry["intervals"]] == [str(hour(1)), str(hour(3))]


def test_the_gate_judges_each_filled_interval_of_the_dataset_and_its_no_fails_the_filling(tmp_path: Path) -> None:
    systems = Gated(tmp_path, SimulatedAirflow(3), dataset="rows")
    filling = planned(systems)
    step = take_step(systems, systems.declared, filling)  # type: ignore[arg-type]
    systems.airflow.work()
    systems.land(*range(3))
    systems.engine.bad = {hour(1)}
    done = record(systems, step.filling)
    assert (done.facts["outcome"], done.facts["judged"]) == ("failed", 3)
    assert done.facts["gate"][0]["intervals"] == [str(hour(1))]


def test_what_a_dag_wrote_and_a_lost_site_took_away_is_filled_again(tmp_path: Path) -> None:
    systems = Gated(tmp_path, SimulatedAirflow(5), dataset="rows")
    for n in range(4):
        systems.airflow.runs[START + n * HOUR] = IntervalRun(START + n * HOUR, "success")
    systems.land(0, 1, 4)
    found = look(systems, systems.declared, hours(0, 5))  # type: ignore[arg-type]
    assert [(stretch.whole, stretch.again) for stretch in found.plan.stretches] == [
        (hours(2, 4), True), (hour(4), False),
    ]  # fmt: skip


def test_a_closed_site_is_not_read_and_without_any_site_everything_is_parked(tmp_path: Path) -> None:
    systems = Gated(tmp_path, SimulatedAirflow(2), source="rows")
    systems.land(0, 1)
    systems.closed = {"paris"}
    assert not look(systems, systems.declared, hours(0, 2)).plan.fill  # type: ignore[arg-type]
    systems.stores["dublin"].down = True
    reasons = {one.reason for one in look(systems, systems.declared, hours(0, 2)).plan.parked}  # type: ignore[arg-type]
    assert reasons == {"no open site that holds rows answers"}


def test_a_dag_that_cannot_be_filled_says_why_and_keeps_no_other_from_it(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(2))
    systems.airflow.paused = True
    (found,) = plan_all(systems, now=START + 2 * HOUR)  # type: ignore[arg-type]
    assert "paused" in found.problem[0]
    with pytest.raises(Refused, match="names no such DAG"):
        plan_all(systems, now=START, dag="weekly")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="is not a time"):
        plan_all(systems, now=START, start="yesterday")  # type: ignore[arg-type]


def test_evidence_is_written_once_however_often_the_last_step_is_taken(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(2))
    filling = planned(systems)
    first = fill(systems, filling)
    assert record(systems, filling) == first
    assert len(systems.ledger().records(kind="backfill")) == 1


def test_an_interval_that_the_schedule_no_longer_has_is_told_as_not_filled(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(2))
    half = Interval(START, START + HOUR / 2)  # the DAG's schedule was half-hourly when this was planned
    done = record(systems, Filling("hourly", (half, hour(0))))
    assert (done.facts["outcome"], done.facts["failed"]) == ("failed", [str(hour(0))])
    assert done.facts["intervals"] == 2


def test_a_watched_backfill_tells_progress_until_it_is_completed(tmp_path: Path) -> None:
    systems = Systems(tmp_path, SimulatedAirflow(4))
    step = take_step(systems, systems.declared, planned(systems))  # type: ignore[arg-type]
    assert step.backfill is not None

    def seen(now: datetime) -> tuple[str, str | None]:
        progress, waits = watch(systems, systems.declared, step.backfill or 0, now=now, examined=20)  # type: ignore[arg-type]
        return str(progress), waits

    systems.airflow.work(most=1)
    assert seen(START + HOUR / 60) == ("1 of 4 filled, 0 running, about 3 min left", None)
    systems.airflow.live = 25
    assert "max_dagruns_per_loop_to_schedule" in str(seen(START)[1])
    systems.airflow.open = NativeBackfill(step.backfill, START, START + 3 * HOUR, START, paused=True)
    assert "paused the backfill" in str(seen(START)[1])
    systems.airflow.work()
    assert watch(systems, systems.declared, step.backfill, now=START, examined=20) == (None, None)  # type: ignore[arg-type]


def test_a_filling_survives_the_way_through_json() -> None:
    filling = Filling("hourly", (hour(0), hour(2)), START + HOUR, {hour(2): "no"})
    assert Filling.of_json(json.loads(json.dumps(filling.as_json()))) == filling
