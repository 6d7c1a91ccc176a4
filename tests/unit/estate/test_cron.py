"""Cron expressions: what we accept, the scheduler accepts; what we refuse is refused with what to write."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from ninelives.estate.cron import check_cron


def accepted(expression: str) -> bool:
    try:
        check_cron(expression)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "expression",
    [
        "0 3 * * *",
        "*/15 * * * *",
        "0 9 * * 6#1",
        "0 0 1,15 1-6/2 *",
        "30 4 * jan,JUL mon-fri",
        "0 0 29 2 *",
        "0 0 31 2 1",
        "0 0 * * 7",
    ],
)
def test_common_schedules_are_accepted(expression: str) -> None:
    check_cron(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "0 3 * *",
        "0 3 * * * *",
        "@daily",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "a * * * *",
        "*/0 * * * *",
        "5-1 * * * *",
        "1-2-3 * * * *",
        "* * * * 6#6",
        "* * * * 1-2#1",
        "1/5 * * * *",
        "* * * * 6#",
        "0 0 31 4,6 *",
        "0 0 30 2 *",
        ", * * * *",
        "-1 * * * *",
        "1, * * * *",
        "² * * * *",
        "*/ * * * *",
    ],
)
def test_what_never_comes_due_is_refused(expression: str) -> None:
    assert not accepted(expression)


START = datetime(2026, 1, 1, tzinfo=UTC)
FIELD = st.text("0123456789*/,-#", min_size=1, max_size=6) | st.sampled_from(
    ["*", "*/5", "1-5", "mon", "feb", "6#1", "0", "31"]
)


@given(st.lists(FIELD, min_size=5, max_size=5).map(" ".join))
def test_the_scheduler_accepts_whatever_we_accept(expression: str) -> None:
    if accepted(expression):
        assert croniter(expression, START).get_next(datetime) > START


@given(st.text(max_size=50))
def test_any_text_is_accepted_or_refused(expression: str) -> None:
    accepted(expression)
