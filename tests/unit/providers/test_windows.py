"""When a provider may be drilled: on its own clocks, also on the days on which they change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ninelives.errors import Refused
from ninelives.estate.outside import Day, Provider, Window
from ninelives.providers.windows import AHEAD, check_window, next_span, spans

PARIS = {"days": ["sun"], "zone": "Europe/Paris"}
clocks = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
windows = st.builds(
    Window,
    days=st.lists(st.sampled_from(Day), min_size=1, unique=True).map(tuple),
    begin=clocks,
    end=clocks,
    zone=st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
)
CHANGES = [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)]
instants = st.builds(
    lambda day, s: day + timedelta(seconds=s), st.sampled_from(CHANGES), st.integers(-500_000, 500_000)
)


def provider(*test: dict[str, Any], maintenance: tuple[dict[str, Any], ...] = ()) -> Provider:
    return Provider.model_validate(
        {"name": "feed", "contacts": ["ops@example.org"], "test": test, "maintenance": maintenance}
    )


def span_on(day: str, begin: str, end: str) -> list[str]:
    at = datetime.fromisoformat(day).replace(tzinfo=UTC)
    window = Window.model_validate(PARIS | {"begin": begin, "end": end})
    return [f"{one.begin:%H:%M}-{one.end:%H:%M}" for one in spans([window], at, at + timedelta(days=1))]


def test_a_window_keeps_to_the_clocks_of_its_place() -> None:
    assert span_on("2026-01-04", "10:00", "12:00") == ["09:00-11:00"]
    assert span_on("2026-07-05", "10:00", "12:00") == ["08:00-10:00"]
    assert span_on("2026-03-29", "01:00", "04:00") == ["00:00-02:00"], "two hours on the night that has one less"
    assert span_on("2026-10-25", "02:15", "02:45") == ["00:15-00:45"], "the first of two"
    assert span_on("2026-03-29", "02:15", "02:45") == ["01:15-01:45"], "an hour later on the clock"
    assert span_on("2026-07-05", "23:00", "01:00") == ["21:00-23:00"], "over midnight"


@given(windows, instants)
def test_whatever_the_clocks_do_a_span_begins_on_a_declared_day_and_ends_within_a_day(
    window: Window, now: datetime
) -> None:
    found = spans([window], now, now + AHEAD)
    assert found == sorted(found)
    for span in found:
        assert span.end > now
        assert timedelta(0) < span.end - span.begin <= timedelta(hours=25)
        local = span.begin.astimezone(ZoneInfo(window.zone))
        assert tuple(Day)[local.weekday()] in window.days
        shifted = (local.hour * 60 + local.minute - int(window.begin[:2]) * 60 - int(window.begin[3:])) % 1440
        assert shifted in (0, 30, 60), "but in the hour that spring leaves out, when the clock says"


@given(windows, windows, instants)
def test_a_drill_begins_only_in_a_test_window_and_outside_of_maintenance(
    test: Window, away: Window, now: datetime
) -> None:
    one = Provider(name="feed", contacts=("c",), test=(test,), maintenance=(away,))
    lasting = timedelta(minutes=10)
    try:
        check_window(one, now, lasting)
    except Refused:
        return
    end = now + lasting
    assert any(span.begin <= now and end <= span.end for span in spans([test], now, end))
    assert spans([away], now, end) == []


def test_a_refusal_says_when_the_next_window_opens() -> None:
    one = provider(PARIS | {"begin": "10:00", "end": "12:00"})
    with pytest.raises(Refused, match="the next one opens 2026-11-29 09:00 UTC"):
        check_window(one, datetime(2026, 11, 26, 13, tzinfo=UTC), timedelta(minutes=1))
    with pytest.raises(Refused, match="closes 2026-11-29 11:00 UTC; the next one opens 2026-12-06 09:00 UTC"):
        check_window(one, datetime(2026, 11, 29, 10, 59, tzinfo=UTC), timedelta(minutes=5))
    with pytest.raises(Refused, match="ask ops@"):
        check_window(provider(), datetime(2026, 11, 26, 13, tzinfo=UTC), timedelta(minutes=1))


def test_a_window_opens_when_maintenance_is_over() -> None:
    at = datetime(2026, 11, 29, 9, tzinfo=UTC)
    one = provider(
        PARIS | {"begin": "10:00", "end": "12:00"}, maintenance=(PARIS | {"begin": "09:00", "end": "10:30"},)
    )
    assert next_span(one, at).begin == at + timedelta(minutes=30)  # type: ignore[union-attr]


def test_a_place_that_has_no_clocks_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not a time zone"):
        Window.model_validate(PARIS | {"begin": "10:00", "end": "12:00", "zone": "Europe/Pariss"})


@given(instants)
def test_windows_that_touch_are_one(now: datetime) -> None:
    always = provider({"days": [str(day) for day in Day], "begin": "00:00", "end": "00:00", "zone": "Europe/Paris"})
    assert check_window(always, now, timedelta(days=3)).begin == now
