"""A source counts as back when it stays back, however it flaps, and then for certain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.training.connectivity import MOST_DOUBLINGS, Steadiness, observe, patience_after, store_of

STEADY = 30.0
EVERY = 5.0
PARIS, DUBLIN = store_of("paris"), store_of("dublin")


def watch(needs: list[list[str]] | None = None) -> Steadiness:
    return Steadiness(needs or [[PARIS]], STEADY, longest_gap=4 * EVERY)


@given(st.lists(st.booleans(), max_size=200))
def test_work_goes_on_only_after_an_unbroken_time_and_each_break_doubles_it(answers: list[bool]) -> None:
    steadiness, unbroken, breaks, before = watch(), 0, 0, False
    for number, answered in enumerate(answers):
        breaks += before and not answered
        unbroken = unbroken + 1 if answered else 0
        wanted = STEADY * 2.0 ** min(breaks, MOST_DOUBLINGS)
        back = steadiness.look(number * EVERY, [] if answered else [PARIS])
        assert back == (answered and (unbroken - 1) * EVERY >= wanted)
        before = answered


@given(st.lists(st.booleans(), max_size=100))
def test_once_it_stays_the_work_goes_on_in_bounded_time(answers: list[bool]) -> None:
    steadiness, at = watch(), 0.0
    for answered in answers:
        at += EVERY
        steadiness.look(at, [] if answered else [PARIS])
    stays, back = at, False
    while not back:
        at += EVERY
        back = steadiness.look(at, [])
        assert at - stays <= STEADY * 2.0**MOST_DOUBLINGS + 2 * EVERY


@given(st.integers(2, 40))
def test_a_source_that_is_up_for_less_than_the_steady_time_never_starts_the_work(period: int) -> None:
    steadiness = watch()
    up = max(1, min(int(STEADY / EVERY) - 1, period - 1))
    for number in range(2000):
        assert not steadiness.look(number * EVERY, [] if number % period < up else [PARIS])


def test_one_source_of_each_group_is_enough() -> None:
    steadiness = watch([[PARIS, DUBLIN], ["ledger"]])
    for at in (0.0, 15.0):
        assert not steadiness.look(at, [PARIS])
    assert steadiness.look(30.0, [PARIS])
    assert not steadiness.look(35.0, ["ledger"])


def test_nobody_vouches_for_a_time_without_a_look() -> None:
    steadiness = watch()
    assert not steadiness.look(0, [])
    assert not steadiness.look(1000, []), "the triggerer slept: it may have been away all the time"
    assert steadiness.look(1015, []) is False
    assert steadiness.look(1030, [])


def test_attempts_that_fail_though_all_seemed_well_are_made_ever_less_often() -> None:
    waits = [patience_after(STEADY, number) for number in range(8)]
    assert waits == [30, 60, 120, 240, 480, 960, 960, 960]


@pytest.mark.parametrize("gone", ["paris", "registry", "ledger"])
def test_each_source_is_asked_and_says_why_it_is_silent(gone: str) -> None:
    from unit.versions.estates import TwoSites

    systems = TwoSites()
    {"paris": systems.paris, "registry": systems.the_registry, "ledger": systems.the_ledger}[gone].down = True
    for site in systems.sites.values():
        site.ensure_bucket("data") if not site.down else None
    source = PARIS if gone == "paris" else gone
    silent = observe(systems, [PARIS, DUBLIN, "registry", "ledger"])
    assert list(silent) == [source]
    assert "does not answer" in silent[source]
