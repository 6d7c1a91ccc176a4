import io
from datetime import date, timedelta
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.replication.memory import Fuse, Killed, MemoryStore

from ninelives.errors import Corrupted, Unavailable
from ninelives.flights.data import (
    DATASET,
    FIRST_DAY,
    LAST_DAY,
    ROWS,
    SCHEMA,
    Flights,
    day_key,
    history,
    put_once,
    same_rows,
    source_day,
    stream,
    to_parquet,
    write_partitions,
)
from ninelives.replication.manifest import ManifestObject, extend, hash_object, read_manifest, write_manifest

DAYS = history(3)
days = st.dates(min_value=FIRST_DAY, max_value=date(2099, 12, 31))


def test_the_source_is_the_whole_year_with_its_missing_values(flights: Flights) -> None:
    assert flights.source.num_rows == ROWS
    assert flights.source.schema == SCHEMA
    assert flights.source["arr_delay"].null_count == 9430
    assert flights.source["tailnum"].null_count == 2512


def test_every_flight_is_on_exactly_one_day(flights: Flights) -> None:
    assert sum(flights.day(FIRST_DAY + timedelta(days=n)).num_rows for n in range(365)) == ROWS
    day = flights.day(date(2013, 2, 28))
    assert pc.unique(day["month"]).to_pylist() == [2]
    assert pc.unique(day["day"]).to_pylist() == [28]


def test_the_hours_of_a_day_are_the_day(flights: Flights) -> None:
    day = date(2013, 11, 3)
    parts = [flights.hour(day, hour) for hour in flights.hours(day)]
    assert all(part.num_rows for part in parts)
    assert sum(part.num_rows for part in parts) == flights.day(day).num_rows


@given(days)
def test_a_day_repeats_one_of_2013_on_the_same_weekday(day: date) -> None:
    original = source_day(day)
    assert FIRST_DAY <= original <= LAST_DAY
    assert original.weekday() == day.weekday()
    assert original == day or original > LAST_DAY - timedelta(weeks=52)


def test_there_are_no_flights_before_2013() -> None:
    with pytest.raises(ValueError, match="before 2013-01-01"):
        source_day(date(2012, 12, 31))


def test_a_repeated_day_has_its_own_dates_and_says_what_it_repeats(flights: Flights) -> None:
    day, original = date(2014, 1, 1), date(2013, 1, 2)
    moved, was = flights.day(day), flights.day(original)
    assert moved.schema == SCHEMA
    assert set(zip(*(moved[c].to_pylist() for c in ("year", "month", "day")), strict=True)) == {(2014, 1, 1)}
    assert {a - b for a, b in zip(moved["time_hour"].to_pylist(), was["time_hour"].to_pylist(), strict=True)} == {
        timedelta(weeks=52)
    }
    same = [name for name in SCHEMA.names if name not in ("year", "month", "day", "time_hour")]
    assert moved.select(same).equals(was.select(same))
    assert pq.read_schema(io.BytesIO(to_parquet(moved, day))).metadata[b"ninelives.source_day"] == b"2013-01-02"


def test_the_same_rows_give_the_same_bytes_and_read_back_as_they_were(flights: Flights) -> None:
    day = DAYS[0]
    data = to_parquet(flights.day(day), day)
    assert data == to_parquet(Flights(flights.source).day(day), day)
    assert pq.read_table(io.BytesIO(data)).equals(flights.day(day))


def test_rows_are_recognised_whatever_wrote_them(flights: Flights) -> None:
    table, other = flights.day(DAYS[0]), io.BytesIO()
    pq.write_table(table, other, compression="zstd", version="1.0", coerce_timestamps="us")
    assert same_rows(other.getvalue(), table)
    assert not same_rows(to_parquet(table.slice(1), DAYS[0]), table)
    assert not same_rows(b"no Parquet", table)
    assert not same_rows(other.getvalue()[:-20], table)


def test_the_stream_follows_the_history_hour_by_hour_without_end(flights: Flights) -> None:
    hours = list(islice(stream(flights), 62 * 19 + 400))
    assert hours[0] == (date(2013, 11, 1), 5)
    assert hours == sorted(set(hours))
    assert hours[-1][0] > LAST_DAY


def test_the_stream_goes_on_after_any_of_its_hours(flights: Flights) -> None:
    hours = list(islice(stream(flights), 60))
    for number in range(59):
        assert next(stream(flights, hours[number])) == hours[number + 1]


def test_partitions_come_with_a_manifest_that_lists_them(flights: Flights) -> None:
    store, seen = MemoryStore("paris"), []
    result = write_partitions(store, DAYS, lambda done, total: seen.append((done, total)), flights=flights)
    manifest = read_manifest(store, DATASET)
    assert manifest is not None
    assert [o.key for o in manifest.objects] == [day_key(day) for day in DAYS]
    assert all(hash_object(store, "data", o.key) == o for o in manifest.objects)
    assert result["rows"] == sum(flights.day(day).num_rows for day in DAYS)
    assert (result["written"], result["fingerprint"]) == (3, manifest.fingerprint)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_writing_again_writes_nothing(flights: Flights) -> None:
    store = MemoryStore("paris")
    first = write_partitions(store, DAYS, flights=flights)
    before = store.objects()
    again = write_partitions(store, DAYS, flights=flights)
    assert again == {**first, "written": 0}
    assert store.objects() == before


@pytest.mark.parametrize("steps", range(4))
def test_killed_at_any_step_it_is_whole_after_a_second_call(flights: Flights, steps: int) -> None:
    fuse = Fuse(steps)
    store = MemoryStore("paris", fuse)
    with pytest.raises(Killed):
        write_partitions(store, DAYS, flights=flights)
    assert read_manifest(store, DATASET) is None
    fuse.steps = None
    write_partitions(store, DAYS, flights=flights)
    whole = MemoryStore("paris")
    write_partitions(whole, DAYS, flights=flights)
    assert store.objects(prefix=f"{DATASET}/") == whole.objects(prefix=f"{DATASET}/")
    assert read_manifest(store, DATASET) is not None


def test_what_others_added_to_the_manifest_stays(flights: Flights) -> None:
    store = MemoryStore("paris")
    write_partitions(store, DAYS, flights=flights)
    manifest = read_manifest(store, DATASET)
    assert manifest is not None
    fed = ManifestObject(key=f"{DATASET}/day=2013-11-01/hour=05.parquet", size=1, sha256="0" * 64)
    write_manifest(store, extend(manifest, [fed]))
    write_partitions(store, history(4), flights=flights)
    after = read_manifest(store, DATASET)
    assert after is not None
    assert fed in after.objects
    assert len(after.objects) == 5


def test_an_object_with_other_rows_is_never_overwritten(flights: Flights) -> None:
    store, day = MemoryStore("paris"), DAYS[1]
    wrong = to_parquet(flights.day(day).slice(1), day)
    store.put("data", day_key(day), wrong)
    with pytest.raises(Corrupted, match="day=2013-01-02"):
        write_partitions(store, DAYS, flights=flights)
    assert store.objects()[day_key(day)] == wrong
    assert read_manifest(store, DATASET) is None


def test_an_object_of_another_writer_version_is_kept_and_listed_as_it_is(flights: Flights) -> None:
    store, other = MemoryStore("paris"), io.BytesIO()
    pq.write_table(flights.day(DAYS[0]), other, compression="zstd")
    store.put("data", day_key(DAYS[0]), other.getvalue())
    written, new = put_once(store, day_key(DAYS[0]), flights.day(DAYS[0]), DAYS[0])
    assert not new
    assert written == hash_object(store, "data", day_key(DAYS[0]))
    assert store.objects()[day_key(DAYS[0])] == other.getvalue()


def test_a_store_that_does_not_answer_is_unavailable(flights: Flights) -> None:
    store = MemoryStore("paris")
    store.down = True
    with pytest.raises(Unavailable):
        write_partitions(store, DAYS, flights=flights)


def test_a_source_with_fewer_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ninelives.flights.data.ROWS", ROWS + 1)
    with pytest.raises(Corrupted, match="336776 rows"):
        Flights.load()


def test_the_parquet_schema_is_the_suites(flights: Flights) -> None:
    stored = pq.read_schema(io.BytesIO(to_parquet(flights.day(DAYS[0]), DAYS[0])))
    assert stored.equals(SCHEMA)
    assert pa.types.is_timestamp(stored.field("time_hour").type)
