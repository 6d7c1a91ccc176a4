"""Which stretches of time a dataset's keys stand for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.backfill.landed import covers, landed, merged, period_of
from ninelives.flights.data import day_key, hour_key
from ninelives.gates.interval import Interval

DAY = datetime(2013, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "start", "length"),
    [
        (day_key(date(2013, 11, 1)), 0, 24),
        (hour_key(date(2013, 11, 1), 5), 5, 1),
        ("rows/date=2013-11-01/x.parquet", 0, 24),
        ("rows/year=2013/month=11/day=1/hour=05/x.parquet", 5, 1),
        ("dt=2013-11-01/hour=23", 23, 1),
    ],
)
def test_a_key_says_which_day_or_hour_it_holds(key: str, start: int, length: int) -> None:
    begin = DAY + timedelta(hours=start)
    assert period_of(key) == Interval(begin, begin + timedelta(hours=length))


@pytest.mark.parametrize(
    "key", ["rows/part-0.parquet", "day=2013-11-31/x", "day=2013-11-01/hour=24", "year=2013/x", "hour=05"]
)
def test_a_key_without_a_real_day_says_nothing(key: str) -> None:
    assert period_of(key) is None


def test_one_key_without_a_time_makes_the_whole_unknowable() -> None:
    assert landed([day_key(date(2013, 11, 1)), "flights/extra.parquet"]) is None
    assert landed([]) == ()


spans = st.builds(
    lambda start, length: Interval(DAY + timedelta(hours=start), DAY + timedelta(hours=start + length)),
    st.integers(0, 30),
    st.integers(1, 10),
)


@given(st.lists(spans, max_size=12), spans)
def test_an_interval_is_covered_exactly_when_each_of_its_hours_is_there(
    there: list[Interval], wanted: Interval
) -> None:
    def hours(one: Interval) -> set[datetime]:
        return {one.start + timedelta(hours=n) for n in range(int((one.end - one.start) / timedelta(hours=1)))}

    held = set().union(*map(hours, there))
    assert covers(merged(there), wanted) == (hours(wanted) <= held)
    assert set().union(*map(hours, merged(there))) == held
