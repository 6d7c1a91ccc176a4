"""Missed intervals on a real Airflow: planned without a trace, filled in order and once, and no live run starves.

One Airflow for the whole file, because its start costs most of a minute; the tests build on each other, in order.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from support.estate import ROOT, Estate, free_base
from support.processes import wait_until

from ninelives.adapters.airflow_api import AirflowApi
from ninelives.flights.data import Flights, day_key, to_parquet
from ninelives.gates.interval import Interval
from ninelives.replication.manifest import scan, write_manifest
from ninelives.stack.local import LocalEstate

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600)]

QUARTER = timedelta(minutes=15)
TICK = 3.0
"""Seconds between two runs of the live schedule."""
WAITING = 25
"""Live runs that wait all the time: more than the 20 that Airflow's scheduler looks at by default."""
OWN = ("missed", "gapped", "scored", "live", "waiting", "backfill_downtime")

DAGS = '''
import json, pathlib, time
from datetime import datetime, timedelta, timezone
from airflow.sdk import DAG, CronDataIntervalTimetable, DeltaDataIntervalTimetable, get_current_context, task
from ninelives_airflow.gap import interval_of

OUT = pathlib.Path({out!r})
QUARTERS = CronDataIntervalTimetable("*/15 * * * *", timezone="UTC")

@task
def work():
    """One file per try says for which interval it ran, and when."""
    context, begun = get_current_context(), time.time()
    start, end = interval_of(context)
    facts = [start.isoformat(), end.isoformat(), begun, time.time()]
    folder = OUT / context["dag"].dag_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(time.time_ns())).write_text(json.dumps(facts))

with DAG("missed", schedule=QUARTERS, start_date={quarters}, catchup=False):
    work()
with DAG("gapped", schedule=QUARTERS, start_date={quarters}, catchup=False):
    work()
with DAG("scored", schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"), start_date={days}, catchup=False):
    work()
with DAG("live", schedule=DeltaDataIntervalTimetable(timedelta(seconds={tick})), start_date={days}, catchup=False):
    work()
with DAG("waiting", schedule=None, max_active_runs={waiting}):
    work.override(pool="nobody")()
'''


class Stack(Estate):
    """The local estate with Airflow and DAGs of the user's own."""

    def __init__(self, home: Path, base: int) -> None:
        super().__init__(home, base)
        self.base = base
        now = datetime.now(UTC)
        quarter = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)
        # The newest whole interval is the live schedule's; 96 before it were missed.
        self.first, self.last = quarter - 97 * QUARTER, quarter - QUARTER
        self.days = [(now - timedelta(days=back)).date() for back in (3, 2)]

    def prepare(self) -> None:
        estate = yaml.safe_load((ROOT / "include/estates/demo/estate.yaml").read_text())
        estate["backfills"] = [
            {"dag": "missed", "max_active": 4},
            {"dag": "gapped", "whole_gap": True},
            {"dag": "scored", "source": "flights"},
        ]
        (self.home.root / "source.yaml").write_text(yaml.safe_dump(estate))
        self.home.dags.mkdir(parents=True)
        midnight = datetime.combine(self.days[0], datetime.min.time(), UTC)
        (self.home.dags / "own.py").write_text(
            DAGS.format(
                out=str(self.home.root / "out"), quarters=_literal(self.first), days=_literal(midnight), tick=TICK,
                waiting=WAITING + 5,
            )
        )  # fmt: skip

    def done(self, *arguments: str) -> Any:
        """Of a command that must succeed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
        return json.loads(done.stdout)

    @property
    def api(self) -> AirflowApi:
        return AirflowApi.from_connection(self.systems.connections.get("ninelives_airflow_api"))

    def sql(self, query: str) -> list[Any]:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("NINELIVES_PORT_BASE", str(self.base))
            url = LocalEstate.recorded(self.home).database_url("airflow", "airflow")
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return list(connection.exec_driver_sql(query))

    def traces(self) -> dict[str, Any]:
        """Everything that a filling would leave behind."""
        ours = "'missed', 'gapped', 'scored'"
        return {
            "backfills": self.sql("SELECT count(*) FROM backfill")[0][0],
            "links": self.sql("SELECT count(*) FROM backfill_dag_run")[0][0],
            "runs": self.sql(f"SELECT run_id, state FROM dag_run WHERE dag_id IN ({ours}) ORDER BY dag_id, run_id"),
            "ledger": self.systems.ledger().head().seq,
            "objects": {
                (site, bucket): sorted(info.key for info in store.list(bucket))
                for site, store in self.systems.stores().items()
                for bucket in ("data", "models")
            },
        }

    def worked(self, dag: str) -> list[tuple[Interval, float]]:
        """For which interval each try of the DAG's task ran, and when it began."""
        folder = self.home.root / "out" / dag
        found = [json.loads(path.read_text()) for path in sorted(folder.iterdir())] if folder.is_dir() else []
        return [(Interval(*map(datetime.fromisoformat, facts[:2])), facts[2]) for facts in found]

    def land(self, *days: date) -> None:
        flights, store = Flights.load(), self.systems.store("paris")
        for day in days:
            store.put("data", day_key(day), to_parquet(flights.day(day), day))
        write_manifest(store, scan(store, "flights", None))

    def delays(self, since: float, until: float) -> list[float]:
        """Seconds from the instant at which each live run was due to the start of its task."""
        return [begun - interval.end.timestamp() for interval, begun in self.worked("live") if since <= begun < until]


def _literal(at: datetime) -> str:
    return f"datetime({at.year}, {at.month}, {at.day}, {at.hour}, {at.minute}, tzinfo=timezone.utc)"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("backfill"), free_base())
    stack.prepare()
    try:
        stack.done("stack", "up", "--estate", str(stack.home.root / "source.yaml"), "--only", "airflow,gateway")
        api = stack.api
        wait_until(lambda: set(OWN) <= set(api.dag_ids()), "the user's own DAGs are read", timeout=120, every=0.5)
        assert api.import_errors() == []
        for dag in set(api.dag_ids()) - set(OWN):  # they have work of their own to do
            api._send("PATCH", f"/api/v2/dags/{dag}", json={"is_paused": True})
        wait_until(lambda: stack.worked("missed") and stack.worked("gapped"), "the newest intervals", timeout=180)
        yield stack
    finally:
        stack.run("stack", "down")


def test_a_dry_run_shows_96_missed_intervals_and_leaves_no_trace(stack: Stack) -> None:
    stack.land(stack.days[0])
    before = stack.traces()
    missed, gapped, scored = stack.done("backfill", "plan")
    assert (missed["missed"], missed["runs"], missed["parked"]) == (96, 96, [])
    assert missed["stretches"] == [
        {"interval": str(Interval(stack.first, stack.last)), "intervals": 96, "again": False}
    ]
    assert (gapped["missed"], gapped["runs"]) == (96, 1)
    assert (scored["missed"], len(scored["parked"])) == (2, 1)
    run = stack.api.trigger("backfill_downtime", {"dry_run": True})
    wait_until(lambda: stack.api.run_state("backfill_downtime", run) == "success", "the dry run", timeout=60, every=0.5)
    assert stack.api.task_states("backfill_downtime", run)["fill_gap"] == "skipped"
    assert stack.traces() == before


def test_96_intervals_are_filled_once_in_order_and_bounded_while_no_live_run_starves(stack: Stack) -> None:
    api = stack.api
    api._send("POST", "/api/v2/pools", json={"name": "nobody", "slots": 0})
    for _ in range(WAITING):
        api.trigger("waiting", {})
    wait_until(lambda: api.live_runs() >= WAITING, "live runs that wait", timeout=60, every=0.5)
    alone_since = time.time()
    time.sleep(4 * TICK)  # what is measured is how long live runs wait while nothing is filled
    begun = time.time()
    run = stack.done("backfill", "run", "missed", "--no-wait")["run"]
    wait_until(lambda: len(stack.worked("missed")) > 10, "the filling is on its way", timeout=120, every=0.2)
    stack.kill("airflow-triggerer")  # it watches the backfill
    wait_until(lambda: api.run_state("backfill_downtime", run) in {"success", "failed"}, "the filling", 300, 0.5)
    took = time.time() - begun

    assert api.run_state("backfill_downtime", run) == "success"
    wanted = [Interval(stack.first + n * QUARTER, stack.first + (n + 1) * QUARTER) for n in range(96)]
    tries = Counter(interval for interval, _ in stack.worked("missed"))
    assert [tries[interval] for interval in wanted] == [1] * 96
    (record,) = [one for one in stack.systems.ledger().records(kind="backfill") if one.facts["run"] == run]
    assert (record.subject, record.facts["outcome"]) == ("missed", "filled")
    assert record.facts["filled"] == [str(Interval(stack.first, stack.last))]

    rows = stack.sql(
        "SELECT r.logical_date, r.start_date, r.end_date, t.priority_weight, t.pool FROM dag_run r JOIN task_instance t"
        " USING (dag_id, run_id) WHERE dag_id = 'missed' AND run_type = 'backfill' ORDER BY r.start_date"
    )
    assert len(rows) == 96
    # In order: a run starts only after all but the newest three before it have ended.
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert max(sum(other[1] <= row[1] < other[2] for other in rows) for row in rows) <= 4
    (live,) = stack.sql("SELECT DISTINCT priority_weight FROM task_instance WHERE dag_id = 'live'")
    assert all(row[3] < live[0] for row in rows), "a backfill's task must never weigh as much as a live one"

    alone, beside = stack.delays(alone_since, begun), stack.delays(begun, begun + took)
    print(
        f"\n96 intervals in {took:.1f} s beside {WAITING} waiting runs and a killed triggerer; live runs waited "
        f"{median(alone):.2f} s (worst {max(alone):.2f}) alone, {median(beside):.2f} s (worst {max(beside):.2f}) beside"
    )
    assert len(beside) >= took / TICK - 3, "a live run is missing"
    assert max(beside) < 15
    assert stack.done("backfill", "run", "missed")["dags"] == []
    assert sum(Counter(i for i, _ in stack.worked("missed"))[one] for one in wanted) == 96


def test_one_run_fills_the_whole_gap_of_a_dag_that_declares_it(stack: Stack) -> None:
    done = stack.done("backfill", "run", "gapped")
    assert done["dags"][0]["filled"] == [str(Interval(stack.first, stack.last))]
    gaps = [interval for interval, _ in stack.worked("gapped") if interval.end - interval.start > QUARTER]
    assert gaps == [Interval(stack.first, stack.last)]
    assert stack.done("backfill", "plan", "gapped")[0]["missed"] == 0
    assert stack.done("backfill", "run", "gapped")["dags"] == []


def test_an_interval_without_its_source_is_parked_and_filled_by_itself_when_it_lands(stack: Stack) -> None:
    done = stack.done("backfill", "run", "scored")["dags"][0]
    first, second = (day.isoformat() for day in stack.days)
    assert done["outcome"] == "parked"
    assert [one["intervals"][0][:10] for one in done["parked"]] == [second]
    assert [interval.start.date().isoformat() for interval, _ in stack.worked("scored")].count(second) == 0
    verdicts = [one for one in stack.systems.ledger().records(kind="gate") if " " in one.subject]
    assert [one.subject.split()[1][:10] for one in verdicts] == [first]
    stack.land(stack.days[1])
    wait_until(
        lambda: second in [interval.start.date().isoformat() for interval, _ in stack.worked("scored")],
        "the parked interval is filled by itself",
        timeout=120,
        every=0.5,
    )
    verdicts = [one for one in stack.systems.ledger().records(kind="gate") if " " in one.subject]
    assert {one.subject.split()[1][:10] for one in verdicts} == {first, second}
    wait_until(lambda: stack.done("backfill", "plan", "scored")[0]["missed"] == 0, "nothing is missed", timeout=60)
