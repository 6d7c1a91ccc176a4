"""Plans: no interval twice, none lost, in order, and parked ones come back."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from unit.backfill.simulated import HOUR, START, hour, hours

from ninelives.backfill.landed import covers, merged
from ninelives.backfill.plan import GAP, MISSED, State, plan, progress, survey, why_it_waits
from ninelives.ports import IntervalRun

states = st.sampled_from([None, "queued", "running", "success", "failed"])
schedules = st.lists(states, max_size=40)
some_hours = st.sets(st.integers(0, 39))


def surveyed(history: list[str | None], gone: set[int] = frozenset()) -> tuple:  # type: ignore[assignment]
    """Slots of an hourly DAG; ``gone`` are hours whose data is lost."""
    runs = [IntervalRun(START + n * HOUR, state) for n, state in enumerate(history) if state]
    ticks = [START + n * HOUR for n, state in enumerate(history) if state not in {"queued", "running"}]
    end = START + len(history) * HOUR
    held = merged(hour(n) for n in range(40) if n not in gone)
    return survey(ticks, runs, end=end + HOUR, next_start=end, produced=held)


@given(schedules, some_hours)
def test_each_interval_of_the_schedule_is_in_the_survey_once_and_in_order(history: list, gone: set[int]) -> None:
    slots = surveyed(history, gone)
    assert [slot.interval for slot in slots] == [hour(n) for n in range(len(history))]
    for n, slot in enumerate(slots):
        expected = {
            None: State.MISSING, "failed": State.FAILED, "queued": State.RUNNING, "running": State.RUNNING,
            "success": State.LOST if n in gone else State.DONE,
        }  # fmt: skip
        assert slot.state is expected[history[n]]


@given(schedules, some_hours, some_hours, some_hours, st.integers(1, 45))
def test_no_missed_interval_is_lost_or_planned_twice_and_nothing_else_is_touched(
    history: list, gone: set[int], landed: set[int], refused: set[int], most: int
) -> None:
    slots = surveyed(history, gone)
    available = merged(hour(n) for n in landed)
    found = plan(slots, available=available, refused={hour(n): "no" for n in refused}, most=most)
    missed = [slot.interval for slot in slots if slot.state in MISSED]
    planned = [*found.fill, *(one.interval for one in found.parked)]
    assert len(planned) == len(set(planned))
    assert sorted(planned) == missed[:most]
    assert found.later == len(missed) - len(planned)
    assert found.whole == (not missed)
    for interval in found.fill:
        assert covers(available, interval)
    for one in found.parked:
        assert one.reason == "no" or not covers(available, one.interval)


@given(schedules, some_hours, some_hours)
def test_stretches_are_in_order_and_hold_nothing_that_must_not_run(
    history: list, gone: set[int], landed: set[int]
) -> None:
    slots = surveyed(history, gone)
    found = plan(slots, available=merged(hour(n) for n in landed))
    assert list(found.fill) == sorted(found.fill)
    by_interval = {slot.interval: slot.state for slot in slots}
    for stretch in found.stretches:
        # Airflow fills every interval from the first to the last of them, so there must be none between that is not
        # meant, and a stretch that runs successful intervals again holds only such.
        for one, after in zip(stretch.intervals, stretch.intervals[1:], strict=False):
            assert one.end == after.start
        assert {by_interval[interval] is State.LOST for interval in stretch.intervals} == {stretch.again}


@given(schedules, some_hours)
def test_parked_intervals_come_back_and_once_all_has_landed_everything_is_filled(
    history: list, landed: set[int]
) -> None:
    slots = surveyed(history)
    first = plan(slots, available=merged(hour(n) for n in landed))
    filled = set(first.fill)
    after = [
        None if state in {None, "failed"} and hour(n) not in filled else "success" for n, state in enumerate(history)
    ]
    second = plan(surveyed(after), available=(hours(0, 40),))
    assert list(second.fill) == [one.interval for one in first.parked]
    assert not second.parked


def test_what_the_schedule_will_run_by_itself_is_not_missed() -> None:
    ticks = [START + n * HOUR for n in range(4)]
    slots = survey(ticks, [], end=START + 5 * HOUR, next_start=START + 3 * HOUR)
    assert [slot.interval for slot in slots] == [hour(0), hour(1), hour(2)]


def test_the_last_interval_of_a_time_long_ago_is_as_long_as_the_one_before() -> None:
    ticks = [START, START + HOUR]
    slots = survey(ticks, [], end=START + 2 * HOUR, next_start=START + 1000 * HOUR)
    assert [slot.interval for slot in slots] == [hour(0), hour(1)]


def test_a_run_by_hand_adds_no_interval_but_fills_the_one_it_stands_for() -> None:
    runs = [IntervalRun(START, "success", by_hand=True), IntervalRun(START + HOUR / 2, "running", by_hand=True)]
    slots = survey([START, START + HOUR], runs, end=START + 2 * HOUR, next_start=START + 2 * HOUR)
    assert [(slot.interval, slot.state) for slot in slots] == [(hour(0), State.DONE), (hour(1), State.MISSING)]


def test_one_run_over_a_gap_stands_for_every_interval_in_it() -> None:
    ticks = [START + n * HOUR for n in range(5)]
    runs = [IntervalRun(START + 3 * HOUR, "success", conf={GAP: str(hours(1, 4))})]
    slots = survey(ticks, runs, end=START + 5 * HOUR, next_start=START + 5 * HOUR)
    assert [slot.state for slot in slots] == [State.MISSING, *[State.DONE] * 3, State.MISSING]


def test_progress_says_how_far_it_is_and_how_long_it_takes() -> None:
    assert str(progress(["queued"] * 4, timedelta(0))) == "0 of 4 filled, 0 running"
    seen = progress(["success"] * 20 + ["failed"] * 4 + ["running"] * 2 + ["queued"] * 70, timedelta(seconds=48))
    assert str(seen) == "20 of 96 filled, 4 failed, 2 running, about 2 min left"
    assert seen.left == timedelta(seconds=144)
    assert progress(["success", "failed"], timedelta(0)).ended


def test_a_backfill_that_cannot_move_says_why() -> None:
    free = {"paused_dag": False, "paused_backfill": False, "live": 18, "bound": 2, "examined": 20}
    assert why_it_waits(**free) is None  # type: ignore[arg-type]
    assert "max_dagruns_per_loop_to_schedule" in str(why_it_waits(**{**free, "live": 19}))  # type: ignore[arg-type]
    assert "unpause" in str(why_it_waits(**{**free, "paused_dag": True}))  # type: ignore[arg-type]
    assert "unpause or cancel" in str(why_it_waits(**{**free, "paused_backfill": True}))  # type: ignore[arg-type]
