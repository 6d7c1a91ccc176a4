"""Every byte is read again within the declared time, also when nights are missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ninelives.backups.rotation import MAX_GROUPS, due, groups, overdue

START = datetime(2026, 1, 1, 4, 30, tzinfo=UTC)
NIGHT = timedelta(days=1)


def test_a_week_of_nights_reads_a_fifth_each_and_has_two_to_spare() -> None:
    assert groups(timedelta(days=7), NIGHT) == 5
    assert groups(timedelta(days=1, hours=1), NIGHT) == 1
    assert groups(timedelta(days=3650), NIGHT) == MAX_GROUPS


@settings(max_examples=40)
@given(st.integers(2, 40), st.lists(st.tuples(st.booleans(), st.integers(-3600, 3600)), min_size=60, max_size=90))
def test_no_group_is_overdue_after_a_night_although_every_second_night_may_be_missed(
    days: int, nights: list[tuple[bool, int]]
) -> None:
    within = timedelta(days=days)
    of = groups(within, NIGHT)
    read_at: dict[int, datetime] = {}
    missed = False
    for number, (runs, jitter) in enumerate(nights):
        if not runs and not missed and number > 0:
            missed = True
            continue
        missed = False
        now = START + number * NIGHT + timedelta(seconds=jitter)
        # Two nights and some minutes do not fit into two days.
        assert days == 2 or not overdue(read_at, of, within, START - timedelta(hours=1), now)
        read_at |= dict.fromkeys(due(read_at, of, within, NIGHT, START - timedelta(hours=1), now), now)
        assert not overdue(read_at, of, within, START - timedelta(hours=1), now)


@settings(max_examples=30)
@given(st.integers(3, 60))
def test_in_quiet_times_each_night_reads_about_the_same(days: int) -> None:
    within = timedelta(days=days)
    of = groups(within, NIGHT)
    read_at: dict[int, datetime] = {}
    amounts = []
    for number in range(3 * days):
        now = START + number * NIGHT
        tonight = due(read_at, of, within, NIGHT, START, now)
        read_at |= dict.fromkeys(tonight, now)
        amounts.append(len(tonight))
    assert max(amounts[days:]) <= 2


def test_what_was_never_read_counts_from_the_first_backup() -> None:
    now = START + timedelta(days=8)
    assert set(overdue({1: now}, 3, timedelta(days=7), START, now)) == {2, 3}
    assert overdue({1: now}, 3, timedelta(days=7), now - NIGHT, now) == {}


def test_what_was_missed_for_long_is_read_all_at_once() -> None:
    now = START + timedelta(days=30)
    assert due({1: START, 2: START, 3: START}, 3, timedelta(days=7), NIGHT, START, now) == [1, 2, 3]
