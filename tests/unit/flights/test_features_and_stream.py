"""What the models see, and where the stream goes on."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.flights.data import SCHEMA, Flights, hour_key, stream
from ninelives.flights.features import FEATURES, with_labels
from ninelives.flights.feeder import resume_after


@pytest.fixture(scope="module")
def flights() -> Flights:
    return Flights.load()


def test_no_feature_is_known_only_after_departure(flights: Flights) -> None:
    rows, _ = with_labels(flights.day(date(2013, 3, 4)))
    assert set(rows.column_names) == {*FEATURES, "arr_delay", "late"}
    assert not {"dep_time", "dep_delay", "arr_time", "air_time", "tailnum"} & set(FEATURES)


def test_the_weekday_is_that_of_the_calendar(flights: Flights) -> None:
    for day in (date(2013, 1, 1), date(2013, 3, 4), date(2013, 12, 31)):
        rows, _ = with_labels(flights.day(day))
        assert set(rows["day_of_week"].to_pylist()) == {day.weekday()}


def test_a_flight_without_arrival_is_counted_and_not_learnt_from(flights: Flights) -> None:
    day = flights.day(date(2013, 2, 9))  # a blizzard
    rows, without = with_labels(day)
    assert without > 100
    assert rows.num_rows + without == day.num_rows
    assert rows["arr_delay"].null_count == 0


def test_late_begins_at_fifteen_minutes() -> None:
    columns = {
        field.name: pa.array([1, 1] if field.type == pa.int64() else [None, None], field.type) for field in SCHEMA
    }
    columns |= {"year": pa.array([2013, 2013]), "arr_delay": pa.array([14, 15])}
    rows, _ = with_labels(pa.table(columns))
    assert rows["late"].to_pylist() == [False, True]


@given(st.dates(date(2013, 1, 1), date(2040, 12, 31)), st.integers(0, 23))
def test_the_stream_goes_on_after_the_key_of_the_last_acknowledged_write(day: date, hour: int) -> None:
    assert resume_after(hour_key(day, hour)) == (day, hour)


def test_the_stream_skips_nothing_and_repeats_nothing_across_a_restart(flights: Flights) -> None:
    whole = stream(flights)
    first = [next(whole) for _ in range(60)]
    again = stream(flights, after=first[24])
    assert [next(again) for _ in range(35)] == first[25:]
    assert first[0][0] == date(2013, 1, 1) + timedelta(days=304)
