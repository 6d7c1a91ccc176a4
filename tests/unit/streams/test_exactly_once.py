"""Nothing lost, nothing twice: whatever is killed when, however the units are cut."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.replication.memory import Killed
from unit.streams.contract import ids, line, parquet, stream, table
from unit.streams.worlds import World, topic_stream

from ninelives.adapters.ledger import migrate
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.streams.decode import Raw
from ninelives.streams.ingest import CHANGE, QUARANTINE, REPLAY, ingest, look, proposal, replay, waiting
from ninelives.streams.landing import land, object_unit, quarantine_key, range_unit, read_table
from ninelives.streams.sift import sift

HOLDER = "test"
MENDED = {"carrier": {"allowed": ["UA", "AA", "DL", "ZZ"]}}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ledger") / "ledger.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def world(tmp_path: Path, migrated: Path) -> World:
    return World(tmp_path, migrated, topic_stream())


def message(number: int, kind: str) -> bytes | None:
    match kind:
        case "foreign":
            return line(number, carrier="ZZ")
        case "poison":
            return b"{%d" % number
        case "wider":
            return line(number, distance=2**40, gate="A1")
    return line(number)


KINDS = st.lists(st.sampled_from(["good", "foreign", "poison", "wider"]), max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(0, 1), KINDS),
        st.tuples(st.just("ingest"), st.integers(1, 5), st.one_of(st.none(), st.integers(0, 12))),
        st.tuples(st.just("replay"), st.booleans(), st.one_of(st.none(), st.integers(0, 6))),
        st.tuples(st.just("stale"), st.integers(0, 20), st.just(0)),
    ),
    max_size=14,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_order_of_arrivals_kills_replays_and_stale_writers_has_each_record_once(
    steps: list[tuple[str, object, object]], migrated: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "world", migrated, topic_stream())
        number = 0
        wanted: set[int] = set()
        poison: Counter[bytes] = Counter()
        manifests: list[tuple[bytes, object]] = []
        for action, one, other in steps:
            if action == "produce":
                for kind in other:  # type: ignore[attr-defined]
                    number += 1
                    value = message(number, kind)
                    world.broker.logs[one].append(value)  # type: ignore[index]
                    if kind == "poison":
                        poison[value or b""] += 1
                    else:
                        wanted.add(number)
            elif action == "stale":
                # A writer that was paused for long, and wrote the manifest that it had begun with.
                if manifests:
                    world.memory.buckets["data"]["_manifests/trips.json"] = manifests[one % len(manifests)]  # type: ignore
            else:
                if action == "replay" and one:
                    world.declare(topic_stream(change=MENDED))
                world.fuse.steps = other  # type: ignore[assignment]
                with contextlib.suppress(Killed):
                    if action == "ingest":
                        ingest(world.systems, "trips", holder=HOLDER, chunk=one)  # type: ignore[arg-type]
                    else:
                        replay(world.systems, "trips", holder=HOLDER)
                world.fuse.steps = None
                if (found := world.memory.buckets["data"].get("_manifests/trips.json")) is not None:
                    manifests.append(found)
                assert len(set(world.landed())) == len(world.landed())  # at every instant
        world.declare(topic_stream(change=MENDED))
        ingest(world.systems, "trips", holder=HOLDER)
        replay(world.systems, "trips", holder=HOLDER)
        assert world.landed() == sorted(wanted)
        assert world.waiting() == poison
        assert world.broker.committed() == {p: len(log) for p, log in enumerate(world.broker.logs) if log}
        recorded = {record.facts["object"] for record in world.ledger().records(kind=QUARANTINE)}
        first = [one for one in world.at.landed.values() if one.quarantined and not one.unit.startswith("replay/")]
        assert {quarantine_key("trips", one.name) for one in first} <= recorded
        world.ledger().close()


def test_killed_before_each_of_its_changes_it_goes_on_without_a_gap(tmp_path: Path, migrated: Path) -> None:
    for steps in range(40):
        world = World(tmp_path / str(steps), migrated, topic_stream())
        for number in range(30):
            world.broker.logs[number % 2].append(message(number, "foreign" if number % 7 == 3 else "good"))
        world.fuse.steps = steps
        try:
            ingest(world.systems, "trips", holder=HOLDER, chunk=4)
        except Killed:
            world.fuse.steps = None
            ingest(world.systems, "trips", holder=HOLDER, chunk=7)
        else:
            assert steps > 10
            return
        assert world.landed() == [number for number in range(30) if number % 7 != 3]
        assert sum(world.waiting().values()) == 4
        assert world.broker.committed() == {0: 15, 1: 15}
    raise AssertionError("it never ran to its end")


def test_offsets_are_committed_only_after_the_manifest(world: World) -> None:
    world.broker.logs[0] += [line(number) for number in range(3)]
    puts = 2  # the object, the manifest
    for steps in range(puts + 1):
        world.fuse.steps = steps
        with contextlib.suppress(Killed):
            ingest(world.systems, "trips", holder=HOLDER)
        assert world.broker.committed() == {}
    world.fuse.steps = None
    ingest(world.systems, "trips", holder=HOLDER)
    assert world.broker.committed() == {0: 3}


def test_after_a_fix_what_waited_is_replayed_once_and_the_rest_waits_on(world: World) -> None:
    world.broker.logs[0] += [line(1), line(2, carrier="ZZ"), b"{", line(3, carrier="XX")]
    done = ingest(world.systems, "trips", holder=HOLDER)
    assert (done.units, done.landed, done.quarantined, done.evidence) == (1, 1, 3, 1)
    poison, foreign, other = sorted(done.reasons, key=lambda reason: ("carrier" in reason, "ZZ" not in reason))
    assert poison.startswith("no JSON record: JSONDecodeError")
    assert (foreign, other) == ("carrier: value not allowed (ZZ)", "carrier: value not allowed (XX)")
    assert [one.reasons for one in waiting(world.systems, "trips")] == [done.reasons]
    assert replay(world.systems, "trips", holder=HOLDER).landed == 0  # nothing was mended
    assert world.ledger().records(kind=REPLAY) == []
    world.declare(topic_stream(change=MENDED))
    assert replay(world.systems, "trips", holder=HOLDER, changed_only=True).landed == 1
    assert replay(world.systems, "trips", holder=HOLDER).landed == 0
    assert world.landed() == [1, 2]
    assert [one.records for one in waiting(world.systems, "trips")] == [2]
    (evidence,) = world.ledger().records(kind=REPLAY)
    assert (evidence.facts["landed"], evidence.facts["still_waiting"]) == (1, 2)

    world.declare(topic_stream(change={"carrier": {"allowed": ["UA", "AA", "DL", "XX"]}}))
    assert replay(world.systems, "trips", holder=HOLDER).landed == 1
    assert world.landed() == [1, 2, 3]
    assert list(world.waiting()) == [b"{"]


def test_compatible_changes_are_evidence_once_and_propose_the_next_version(world: World) -> None:
    for number in range(6):
        world.broker.logs[0].append(line(number, distance=2**40, gate="A1"))
    done = ingest(world.systems, "trips", holder=HOLDER, chunk=2)
    assert [str(change) for change in done.changes] == [
        "distance: widened (declared int32, found int64)",
        "gate: added (string)",
    ]
    world.broker.logs[0].append(line(6, gate="A1"))
    ingest(world.systems, "trips", holder=HOLDER)
    assert len(world.ledger().records(kind=CHANGE, subject="trips")) == 2
    following = proposal(world.ledger(), world.stream)
    assert following is not None
    assert following.version == 2
    assert following.field_by_name["gate"].nullable
    world.declare(following)
    world.broker.logs[0].append(line(7, gate=None, distance=2**40))
    assert ingest(world.systems, "trips", holder=HOLDER).changes == ()
    assert proposal(world.ledger(), world.stream) is None
    read = read_table(world.memory, following)
    assert ids([read]) == list(range(8))
    assert read.schema.field("distance").type == "int64"
    assert read["gate"].null_count == 1


def test_looking_writes_nothing(world: World) -> None:
    world.broker.logs[0] += [line(1), b"{"]
    before = dict(world.memory.buckets["data"])
    found = look(world.systems, "trips")
    assert (found.landed, found.quarantined) == (1, 1)
    assert world.memory.buckets["data"] == before
    assert world.ledger().records() == []
    assert world.broker.committed() == {}


def test_objects_that_arrive_are_landed_once_in_any_order(tmp_path: Path, migrated: Path) -> None:
    world = World(tmp_path, migrated, stream("parquet"))
    batches = {f"arrivals/hour={hour:02}.parquet": table(range(hour * 10, hour * 10 + 10)) for hour in range(8)}
    batches["arrivals/hour=03.parquet"] = batches["arrivals/hour=03.parquet"].drop_columns("delay")
    order = [5, 0, 3, 1, 7, 2, 4, 6]
    for count, hour in enumerate(order):
        key = f"arrivals/hour={hour:02}.parquet"
        world.memory.put("data", key, parquet(batches[key]))
        for steps in range(6):
            world.fuse.steps = steps
            with contextlib.suppress(Killed):
                ingest(world.systems, "trips", holder=HOLDER)
        world.fuse.steps = None
        ingest(world.systems, "trips", holder=HOLDER)
        assert len(world.at.landed) == count + 1
    good = [number for number in range(80) if not 30 <= number < 40]
    assert world.landed() == good
    (one,) = waiting(world.systems, "trips")
    assert (one.records, one.reasons) == (10, {"delay: dropped (declared float64)": 10})


def test_messages_that_the_broker_deleted_unread_are_refused_until_somebody_says_so(world: World) -> None:
    world.broker.logs[0] += [line(number) for number in range(10)]
    world.broker.logs[1] += [line(number) for number in range(100, 110)]
    ingest(world.systems, "trips", holder=HOLDER)
    for partition, log in enumerate(world.broker.logs):
        log += [line(number) for number in range(200 + 20 * partition, 210 + 20 * partition)]
    world.broker.deleted = 15
    with pytest.raises(Refused, match="landed up to offset 10, and the broker keeps from 15"):
        ingest(world.systems, "trips", holder=HOLDER)
    ingest(world.systems, "trips", holder=HOLDER, accept_gap=True)
    assert world.at.ends == {0: 20, 1: 20}
    assert range_unit(0, 10, 20) in world.at.landed
    ingest(world.systems, "trips", holder=HOLDER)


def test_a_topic_made_anew_is_not_taken_for_the_old_one(world: World) -> None:
    world.broker.logs[0] += [line(number) for number in range(10)]
    ingest(world.systems, "trips", holder=HOLDER)
    world.broker.logs[0] = [line(77)]
    with pytest.raises(Corrupted):
        ingest(world.systems, "trips", holder=HOLDER)


def test_one_at_a_time_and_a_writer_that_comes_late_sees_it(world: World) -> None:
    world.broker.logs[0] += [line(1)]
    lease = world.ledger().take_lease("stream:trips", "somebody else", timedelta(minutes=1))
    with pytest.raises(Refused):
        ingest(world.systems, "trips", holder=HOLDER)
    world.ledger().release_lease(lease)
    late = world.at
    ingest(world.systems, "trips", holder=HOLDER)
    with pytest.raises(Unavailable, match="another process lands trips"):
        land(world.memory, world.stream, late, [(range_unit(0, 0, 1), sift(world.stream, [Raw(0, line(1))]))])
    assert world.landed() == [1]


def test_a_rotten_quarantined_part_is_found(world: World) -> None:
    world.broker.logs[0] += [line(1), b"{"]
    ingest(world.systems, "trips", holder=HOLDER)
    (one,) = waiting(world.systems, "trips")
    world.memory.flip(one.key)
    with pytest.raises(Corrupted, match="not what was put into quarantine"):
        replay(world.systems, "trips", holder=HOLDER)
    world.memory.delete("data", one.key)
    with pytest.raises(Corrupted, match="restore it from a copy"):
        waiting(world.systems, "trips")


def test_a_file_with_nothing_in_it_counts_as_landed(tmp_path: Path, migrated: Path) -> None:
    world = World(tmp_path, migrated, stream("json-lines"))
    world.memory.put("data", "arrivals/empty.jsonl", b"\n")
    assert ingest(world.systems, "trips", holder=HOLDER).units == 1
    assert ingest(world.systems, "trips", holder=HOLDER).units == 0
    assert object_unit("arrivals/empty.jsonl") in world.at.landed
    assert world.landed() == []


def test_a_stream_that_nobody_declared_is_refused(world: World) -> None:
    with pytest.raises(Refused, match="no such stream"):
        ingest(world.systems, "nothing", holder=HOLDER)
