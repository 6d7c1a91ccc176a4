"""Which backups stay: by the vault's clock, and never none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.backups.retention import kept, removable
from ninelives.errors import Refused
from ninelives.estate.model import Retention

NOW = datetime(2026, 11, 26, 2, 30, tzinfo=UTC)
RULE = Retention.model_validate({"every": "7d", "daily": "30d", "weekly": "90d", "monthly": "366d"})
ARRIVALS = st.dictionaries(
    st.integers(0, 10**6).map(str), st.timedeltas(timedelta(0), timedelta(days=800)).map(lambda age: NOW - age)
)


def nightly(days: int) -> dict[str, datetime]:
    return {f"{day:03}": NOW - timedelta(days=day) for day in range(days)}


def test_a_year_of_nights_leaves_a_week_of_nights_a_month_of_days_and_then_weeks_and_months() -> None:
    stays = kept(nightly(400), RULE, NOW)
    ages = sorted(int(name) for name in stays)
    assert ages[:31] == list(range(31))
    assert all(age <= 366 for age in ages)
    weeks = [age for age in ages if 30 < age <= 90]
    assert 8 <= len(weeks) <= 12
    months = [age for age in ages if age > 90]
    assert 8 <= len(months) <= 10


def test_several_backups_of_a_day_leave_the_last_once_the_day_is_old() -> None:
    day = NOW - timedelta(days=20)
    arrived = {"morning": day.replace(hour=8), "noon": day.replace(hour=12), "evening": day.replace(hour=20)}
    assert kept(arrived | {"now": NOW}, RULE, NOW) == {"evening", "now"}


@given(ARRIVALS)
def test_everything_recent_stays_and_something_always_stays(arrived: dict[str, datetime]) -> None:
    stays = kept(arrived, RULE, NOW)
    assert {name for name, at in arrived.items() if NOW - at <= RULE.every} <= stays
    assert bool(stays) == bool(arrived)
    assert set(removable(arrived, RULE, NOW)) == arrived.keys() - stays


@given(ARRIVALS, st.data())
def test_the_newest_sound_backup_stays_however_old_it_is(arrived: dict[str, datetime], data: st.DataObject) -> None:
    sound = data.draw(st.sets(st.sampled_from(sorted(arrived)))) if arrived else set()
    stays = kept(arrived, RULE, NOW, sound)
    if sound:
        assert max(sound, key=lambda name: (arrived[name], name)) in stays


@given(ARRIVALS, ARRIVALS)
def test_more_backups_never_push_out_what_is_younger_than_every(
    arrived: dict[str, datetime], more: dict[str, datetime]
) -> None:
    flood = {f"flood {name}": at for name, at in more.items()}
    recent = {name for name, at in arrived.items() if NOW - at <= RULE.every}
    assert recent <= kept(arrived | flood, RULE, NOW)


@given(ARRIVALS)
def test_removing_and_asking_again_removes_nothing_more(arrived: dict[str, datetime]) -> None:
    stays = kept(arrived, RULE, NOW)
    assert kept({name: arrived[name] for name in stays}, RULE, NOW) == stays


def test_a_backup_from_the_future_stops_all_removal() -> None:
    with pytest.raises(Refused, match="in the future"):
        removable({**nightly(400), "ahead": NOW + timedelta(days=3)}, RULE, NOW)
