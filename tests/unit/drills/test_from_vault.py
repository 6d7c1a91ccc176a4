"""What becomes of the runs that had not ended when the control plane was lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ninelives.drills.from_vault import judge_runs
from ninelives.ports import UnfinishedRun

tasks = st.lists(st.sampled_from(["one", "two"]), unique=True).map(tuple)
runs = st.lists(
    st.builds(
        lambda run, at_work, last: UnfinishedRun("dag", run, at_work, at_work if last else ()),
        st.text("abc", min_size=1, max_size=2),
        tasks,
        st.booleans(),
    ),
    unique_by=lambda one: one.run,
    max_size=6,
)


@given(then=runs, now=st.none() | runs)
def test_no_run_is_forgotten_and_none_is_told_twice(then: list[UnfinishedRun], now: list[UnfinishedRun] | None) -> None:
    told = [(one["dag"], one["run"]) for one in judge_runs(then, now)]
    assert sorted(told) == sorted({(one.dag, one.run) for one in (*then, *(now or ()))})


@given(then=runs, now=runs)
def test_what_was_at_work_in_its_last_try_or_began_later_is_lost_and_says_why(
    then: list[UnfinishedRun], now: list[UnfinishedRun]
) -> None:
    kept = {one.run for one in then}
    spent = {one.run for one in then if one.last_try}
    lost = {one["run"] for one in judge_runs(then, now) if one["fate"] == "lost"}
    assert lost == spent | ({one.run for one in now} - kept)
    assert all(one["why"] for one in judge_runs(then, now))


def test_what_has_ended_since_the_backup_is_done_again() -> None:
    (one,) = judge_runs([UnfinishedRun("dag", "run")], [])
    assert one["fate"] == "repeated"
    (one,) = judge_runs([UnfinishedRun("dag", "run")])
    assert one["fate"] == "continues", "nobody knows that it has ended"
