"""Streams on a real store, a real broker and a real ledger, with processes that are really killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from support.broker import BUCKET, Broker
from support.gate import GatedSite, gated_site
from support.processes import ROOT, stopping
from typer.testing import CliRunner
from unit.streams.contract import FIELDS, line

from ninelives.adapters.broker_kafka import KafkaTopic
from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.envoy import STATE, EnvoyGateway
from ninelives.cli import app
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import load_estate
from ninelives.flights.data import Flights, day_key, hour_key, to_parquet
from ninelives.flights.features import with_labels
from ninelives.streams.ingest import CHANGE, QUARANTINE, REPLAY, ingest, proposal, replay, waiting
from ninelives.streams.landing import position, read_quarantined, read_table
from ninelives.streams.sift import to_parquet as as_parquet
from ninelives.streams.sift import unpack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

DEMO = ROOT / "include" / "estates" / "demo" / "estate.yaml"


def topic_stream(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "site": "paris",
        "source": {"topic": name},
        "format": "json-lines",
        "every": "1min",
        "version": 1,
        "keys": ["id"],
        "fields": FIELDS,
        **changes,
    }


class Stand:
    """A site with a store, a broker and a ledger, and an estate that tests add streams to."""

    def __init__(self, site: GatedSite, broker: Broker) -> None:
        self.site, self.broker = site, broker
        self.estate = yaml.safe_load(DEMO.read_text())
        self.home = site.home
        self.declare()

    def declare(self, *streams: dict[str, Any]) -> ConnectedEstate:
        kept = [one for one in self.estate["streams"] if one["name"] not in {added["name"] for added in streams}]
        self.estate["streams"] = [*kept, *streams]
        (self.home.root / "estate.yaml").write_text(json.dumps(self.estate, indent=1))
        return self.systems

    @property
    def systems(self) -> ConnectedEstate:
        site = self.site.systems()
        return ConnectedEstate(load_estate(self.home.root / "estate.yaml"), site.connections, self.home)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT / "include"),
            "NINELIVES_HOME": str(self.home.root),
            "NINELIVES_ESTATE": str(self.home.root / "estate.yaml"),
        }


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("streams")
    with gated_site(folder, "paris") as site:
        site.store.ensure_bucket(BUCKET)
        broker = Broker(site.processes, folder)
        with stopping(broker):
            broker.run()
            gateway = {"extra": {"url": "http://127.0.0.1:9", "admin": "http://127.0.0.1:9", "folder": str(folder)}}
            site.connections |= {
                "ninelives_paris_broker": broker.connection,
                "ninelives_gateway": {"conn_type": "generic", **gateway},
            }
            site.home.connections_file.write_text(json.dumps(site.connections))
            site.connections["ninelives_dublin_replicas"] = {"conn_type": "generic", "extra": {"urls": []}}
            yield Stand(site, broker)


def landed(systems: ConnectedEstate, name: str) -> list[int]:
    found: list[int] = sorted(read_table(systems.store("paris"), systems.estate.stream_by_name[name])["id"].to_pylist())
    return found


def in_quarantine(systems: ConnectedEstate, name: str) -> Counter[bytes]:
    store = systems.store("paris")
    at = position(store, name)
    parts = [unpack(read_quarantined(store, at, one.name))[0] for one in at.open]
    return Counter(entry.payload for entries in parts for entry in entries)


@pytest.mark.parametrize("kills", [8, pytest.param(30, marks=pytest.mark.soak)])
def test_processes_killed_while_they_land_lose_nothing_and_land_nothing_twice(stand: Stand, kills: int) -> None:
    name = f"killed{kills}"
    systems = stand.declare(topic_stream(name))
    stand.broker.create(name)
    chance = random.Random(9)
    number, wanted, broken = 0, [], Counter[bytes]()

    def produce(count: int) -> None:
        nonlocal number
        messages: list[bytes] = []
        for _ in range(count):
            number += 1
            if number % 37 == 0:
                messages.append(b"{%d" % number)
                broken[messages[-1]] += 1
            else:
                messages.append(line(number))
                wanted.append(number)
        stand.broker.produce(name, messages)

    nursery = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("stream_nursery.py"))],
        env=stand.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    answers = nursery.stdout
    assert answers.readline() == "ready\n"
    killed = 0
    took = 0.5
    try:
        while killed < kills:
            # Enough that a run has many units to land, so that kills fall between all of its steps.
            produce(400)
            started = time.monotonic()
            nursery.stdin.write(f"{name} {chance.choice((7, 25, 60))}\n")
            nursery.stdin.flush()
            pid = int(answers.readline())
            time.sleep(chance.uniform(0, took))
            with suppress(ProcessLookupError):  # it had ended, and the nursery had noticed
                os.kill(pid, 9)
            status = int(answers.readline())
            assert status in {0, 9}
            if status == 9:
                killed += 1
            else:  # it had ended before: what it took says when the next ones are to be killed
                took = time.monotonic() - started
            found = landed(systems, name) if position(systems.store("paris"), name).data else []
            assert len(set(found)) == len(found)
            committed = stand.systems.topic(systems.estate.stream_by_name[name])
            ends = position(systems.store("paris"), name).ends
            assert all(offset <= ends[partition] for partition, offset in committed.committed().items())
            committed.close()
    finally:
        nursery.stdin.close()
        nursery.wait(30)
    ingest(systems, name, holder="nursery")
    assert landed(systems, name) == wanted
    assert in_quarantine(systems, name) == broken
    topic = systems.topic(systems.estate.stream_by_name[name])
    assert sum(topic.committed().values()) == number
    topic.close()
    recorded = systems.ledger().records(kind=QUARANTINE, subject=name)
    assert sum(record.facts["records"] for record in recorded) == sum(broken.values())


def test_a_broker_or_a_store_that_is_killed_is_waited_for_and_nothing_is_lost(stand: Stand) -> None:
    systems = stand.declare(topic_stream("outage"))
    stand.broker.create("outage")
    stand.broker.produce("outage", [line(number) for number in range(100)])
    assert ingest(systems, "outage", holder="test").landed == 100

    stand.broker.kill()
    topic = KafkaTopic(stand.broker.connection["extra"], "outage", "ninelives", timeout=1.0)
    with pytest.raises(Unavailable, match="topic outage at"):
        topic.partitions()
    topic.close()
    stand.broker.run()
    stand.broker.produce("outage", [line(number) for number in range(100, 150)])
    assert ingest(stand.systems, "outage", holder="test").landed == 50

    stand.broker.produce("outage", [line(number) for number in range(150, 160)])
    stand.site.processes.store_process.kill()
    with pytest.raises(Unavailable):
        ingest(stand.systems, "outage", holder="test")
    stand.site.processes.start_store()
    assert ingest(stand.systems, "outage", holder="test").landed == 10
    assert landed(stand.systems, "outage") == list(range(160))
    again = stand.systems.topic(systems.estate.stream_by_name["outage"])
    with pytest.raises(Corrupted, match="ends before offset"):
        again.read(0, 5000, 10)
    again.close()


def test_drift_on_a_topic_is_recorded_proposed_quarantined_and_replayed_once(stand: Stand) -> None:
    systems = stand.declare(topic_stream("drift"))
    stand.broker.create("drift")
    stand.broker.produce("drift", [line(number) for number in range(20)])
    stand.broker.produce("drift", [line(number, gate="A1", distance=2**40) for number in range(20, 30)])
    stand.broker.produce("drift", [line(number, carrier="ZZ") for number in range(30, 40)])
    stand.broker.produce("drift", [line(number) for number in range(40, 50)], headers={"unit.distance": "km"})
    stand.broker.produce("drift", [b"\x00poison", None])
    stand.broker.produce("drift", [line(number) for number in range(50, 60)])

    done = ingest(systems, "drift", holder="test")
    assert (done.landed, done.quarantined) == (40, 22)
    assert {str(change) for change in done.changes} == {
        "distance: widened (declared int32, found int64)",
        "gate: added (string)",
    }
    assert done.reasons["carrier: value not allowed (ZZ)"] == 10
    assert done.reasons["distance: unit changed (declared mi, found km)"] == 10
    assert landed(systems, "drift") == [*range(30), *range(50, 60)]
    assert {record.facts["field"] for record in systems.ledger().records(kind=CHANGE, subject="drift")} == {
        "distance",
        "gate",
    }
    following = proposal(systems.ledger(), systems.estate.stream_by_name["drift"])
    assert following is not None

    mended = following.model_dump(mode="json", exclude_defaults=True)
    mended["fields"][1]["allowed"].append("ZZ")
    mended["fields"][2]["convert"] = {"km": 0.621371192}
    fixed = stand.declare(mended)
    assert replay(fixed, "drift", holder="test", changed_only=True).landed == 20
    assert replay(fixed, "drift", holder="test").landed == 0
    assert landed(fixed, "drift") == list(range(60))
    assert in_quarantine(fixed, "drift") == Counter([b"\x00poison", b""])
    replays = fixed.ledger().records(kind=REPLAY, subject="drift")
    assert sum(record.facts["landed"] for record in replays) == 20


# --- the feature the model reads -------------------------------------------------------------------------------------

DAY = date(2013, 11, 1)


@pytest.fixture(scope="module")
def flights() -> Flights:
    return Flights.load()


def as_feature(table: pa.Table) -> pa.Table:
    """What the model reads, in an order that does not depend on when records were landed."""
    features, _ = with_labels(table)
    return features.sort_by([(name, "ascending") for name in features.column_names])


def broken_by(name: str, table: pa.Table) -> bytes:
    """An hour of flights as a producer's mistake would write it."""
    match name:
        case "dropped":
            table = table.drop_columns("tailnum")
        case "renamed":
            table = table.rename_columns(["arrival_delay" if one == "arr_delay" else one for one in table.column_names])
        case "narrowed":
            table = table.set_column(0, "year", table["year"].cast(pa.int16()))
        case "unit":
            kilometres = pc.multiply(table["distance"].cast(pa.float64()), 1.609344)
            field = pa.field("distance", pa.float64(), metadata={"unit": "km"})
            table = table.set_column(table.column_names.index("distance"), field, kilometres)
        case "values":
            origin = pc.if_else(pc.equal(table["origin"], "LGA"), "LaGuardia", table["origin"])
            table = table.set_column(table.column_names.index("origin"), "origin", origin)
        case "poison":
            return as_parquet(table)[:-30]
    return as_parquet(table)


def test_the_feature_the_model_reads_is_the_same_with_and_without_drift(stand: Stand, flights: Flights) -> None:
    hours = flights.hours(DAY)
    mistakes = dict(zip(hours[3:], ("dropped", "renamed", "narrowed", "unit", "values", "poison"), strict=False))
    site = stand.systems.store("paris")
    site.put("data", day_key(DAY), b"a whole day is no hour")  # not below what the stream takes
    declared = next(one for one in stand.estate["streams"] if one["name"] == "departures")
    streams = {
        name: {**declared, "name": name, "source": {"prefix": f"{name}-arrivals/", "contains": "/hour="}}
        for name in ("steady", "drifting")
    }
    systems = stand.declare(*streams.values())
    for hour in hours:
        table, key = flights.hour(DAY, hour), hour_key(DAY, hour).removeprefix("flights/")
        site.put("data", f"steady-arrivals/{key}", to_parquet(table, DAY))
        table = table if hour < hours[1] else table.append_column("gate", pa.nulls(table.num_rows, pa.string()))
        arrived = broken_by(mistakes[hour], table) if hour in mistakes else as_parquet(table)
        site.put("data", f"drifting-arrivals/{key}", arrived)

    assert ingest(systems, "steady", holder="test").quarantined == 0
    done = ingest(systems, "drifting", holder="test")
    assert [str(change) for change in done.changes] == ["gate: added (string)"]
    of = systems.estate.stream_by_name
    steady, drifting = (read_table(site, of[name]) for name in ("steady", "drifting"))
    whole = pc.invert(pc.is_in(steady["hour"], value_set=pa.array(list(mistakes))))
    picked = pc.and_(pc.equal(steady["hour"], hours[7]), pc.not_equal(steady["origin"], "LGA"))
    # While the mistakes wait, every feature that is there is what it would have been: none is missing but theirs.
    assert as_feature(drifting).equals(as_feature(steady.filter(pc.or_(whole, picked))))
    assert len(waiting(systems, "drifting")) == 6

    fields = {one["name"]: dict(one) for one in declared["fields"]}
    fields["tailnum"]["aliases"] = ["tail"]
    fields["arr_delay"]["aliases"] = ["arrival_delay"]
    fields["distance"]["convert"] = {"km": 0.621371192}
    fields["origin"]["allowed"] = ["EWR", "JFK", "LGA", "LaGuardia"]
    mended = stand.declare({**streams["drifting"], "version": 2, "fields": list(fields.values())})
    replay(mended, "drifting", holder="test")
    again = read_table(site, mended.estate.stream_by_name["drifting"])
    # Names and units are mended by the contract; what was dropped, narrowed or destroyed has to be sent again.
    left = {hour for hour, name in mistakes.items() if name in ("dropped", "narrowed", "poison")}
    origin = pc.if_else(pc.equal(again["origin"], "LaGuardia"), "LGA", again["origin"])
    restored = again.set_column(again.column_names.index("origin"), "origin", origin)
    kept = steady.filter(pc.invert(pc.is_in(steady["hour"], value_set=pa.array(list(left)))))
    assert as_feature(restored).equals(as_feature(kept))
    for hour in left:
        site.put("data", f"drifting-arrivals/again/hour={hour}.parquet", to_parquet(flights.hour(DAY, hour), DAY))
    ingest(mended, "drifting", holder="test")
    complete = read_table(site, mended.estate.stream_by_name["drifting"])
    origin = pc.if_else(pc.equal(complete["origin"], "LaGuardia"), "LGA", complete["origin"])
    complete = complete.set_column(complete.column_names.index("origin"), "origin", origin)
    assert as_feature(complete).equals(as_feature(steady))


# --- as people and Airflow use it ------------------------------------------------------------------------------------


def command(stand: Stand, *words: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["stream", *words, "--json"], env=stand.environment())
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_the_commands_say_by_their_exit_codes_what_is_wrong(stand: Stand) -> None:
    stand.declare(topic_stream("spoken", source={"prefix": "spoken-arrivals/"}))
    store = stand.systems.store("paris")
    store.put("data", "spoken-arrivals/1.jsonl", b"\n".join([line(1, gate="A"), line(2, carrier="ZZ")]))
    code, found = command(stand, "check", "spoken")
    assert (code, found["landed"], found["quarantined"]) == (3, 1, 1)
    assert position(store, "spoken").data is None
    assert command(stand, "ingest", "spoken")[0] == 3
    code, found = command(stand, "quarantine", "spoken")
    assert (code, found[0]["reasons"]) == (3, {"carrier: value not allowed (ZZ)": 1})
    code, found = command(stand, "propose", "spoken")
    assert (code, found["version"]) == (3, 2)
    fields = found["fields"]
    fields[1]["allowed"].append("ZZ")
    stand.declare(topic_stream("spoken", source={"prefix": "spoken-arrivals/"}, version=2, fields=fields))
    code, found = command(stand, "replay", "spoken")
    assert (code, found["landed"], found["still_waiting"]) == (0, 1, 0)
    assert command(stand, "propose", "spoken") == (0, None)
    with pytest.raises(Refused, match="no such stream"):
        command(stand, "ingest", "nothing")


@pytest.mark.airflow
def test_the_tasks_land_and_replay_and_leave_a_closed_site_alone(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ninelives_airflow.operators.stream import (
        IngestStreamOperator,
        PlanIngestionOperator,
        ReplayQuarantineOperator,
    )

    systems = stand.declare(topic_stream("tasks", source={"prefix": "tasks-arrivals/"}))
    systems.store("paris").put("data", "tasks-arrivals/1.jsonl", b"\n".join([line(1), line(2, carrier="ZZ")]))
    for name, value in stand.environment().items():
        monkeypatch.setenv(name, value)
    for conn_id, connection in stand.site.connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    folder = Path(stand.site.connections["ninelives_gateway"]["extra"]["folder"])
    gateway = EnvoyGateway(folder, systems.estate, {}, "127.0.0.1:9", "http://127.0.0.1:9")
    gateway.initialise()

    def run(operator: Any) -> Any:
        return operator.execute({})

    assert "tasks" in run(PlanIngestionOperator(task_id="plan_ingestion"))
    done = run(IngestStreamOperator(task_id="ingest_stream", stream="tasks"))
    assert (done["landed"], done["quarantined"], len(json.dumps(done)) < 500) == (1, 1, True)
    assert run(ReplayQuarantineOperator(task_id="replay_quarantine", stream="tasks"))["landed"] == 0
    fields = [dict(one) for one in FIELDS]
    fields[1]["allowed"] = ["UA", "AA", "DL", "ZZ"]
    stand.declare(topic_stream("tasks", source={"prefix": "tasks-arrivals/"}, version=2, fields=fields))
    assert run(ReplayQuarantineOperator(task_id="replay_quarantine", stream="tasks"))["landed"] == 1
    known = json.loads((folder / STATE).read_text())
    (folder / STATE).write_text(json.dumps({**known, "closed_sites": ["paris"]}))  # as the gateway itself says it
    assert run(PlanIngestionOperator(task_id="plan_ingestion")) == []
