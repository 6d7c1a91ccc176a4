"""An interval has a start that belongs to it and an end that does not, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.gates.interval import Interval

zones = st.none() | st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))
times = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=zones)  # noqa: DTZ001


@given(times, st.timedeltas(timedelta(microseconds=1), timedelta(days=900)))
def test_an_interval_is_read_back_as_it_was_written(start: datetime, length: timedelta) -> None:
    interval = Interval(start, start + length)
    assert Interval.parse(str(interval)) == interval
    assert interval.start.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2013-11-01",
        "2013-11-01/",
        "a/b",
        "2013-11-02/2013-11-01",
        "2013-11-01/2013-11-01",
        "2013/2014/2015",
        "0001-01-01T00:00+14:00/2013-11-01",
    ],
)
def test_what_has_no_time_in_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Interval.parse(text)


def test_without_a_zone_it_is_utc_and_another_zone_is_moved_there() -> None:
    assert str(Interval.parse("2013-11-01/2013-11-02T01:00+01:00")) == "2013-11-01T00:00:00Z/2013-11-02T00:00:00Z"
