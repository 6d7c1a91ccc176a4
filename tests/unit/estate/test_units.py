"""Durations, shares and values: what is read is what was written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ninelives.estate.units import Value, check_value, format_duration, parse_duration, parse_ratio, shown


@given(st.integers(1, 10 * 366 * 86_400_000))
def test_a_duration_is_written_as_it_is_read(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("60s", 60), ("1.5min", 90), ("0.1h", 360), ("28d", 28 * 86400)]
)
def test_a_duration_is_exact(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value", ["15", "15m", "1 s", "-1s", "0s", "0.1ms", "4000d", "", "٣s", 15, 1.5, None, [], {}, True]
)
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "share"), [("99.9%", 0.999), ("100%", 1.0), (0.999, 0.999), (1, 1.0), ("0.1 %", 0.001)]
)
def test_a_share_is_a_percentage_or_a_number(text: Any, share: float) -> None:
    assert parse_ratio(text) == share


@pytest.mark.parametrize(
    "value", ["0%", "101%", 0, -0.1, 1.1, True, None, "99,9%", float("nan"), float("inf"), 10**400, [], {}]
)
def test_what_is_no_share_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="write a percentage"):
        parse_ratio(value)


@pytest.mark.parametrize("value", [True, False, 0, -(2**63), 2**63 - 1, 1.5, "", "EWR"])
def test_a_value_keeps_its_type(value: Any) -> None:
    read = TypeAdapter(Value).validate_python(value)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("value", [None, [], {}, 2**63, 10**400, float("nan"), float("-inf"), "x" * 1001])
def test_what_a_tensor_cannot_carry_is_refused_once(value: Any) -> None:
    with pytest.raises(ValueError):
        check_value(value)
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Value).validate_python(value)
    assert refused.value.error_count() == 1


@settings(max_examples=50)
@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()))
def test_a_value_is_shown_on_one_short_line(value: Any) -> None:
    assert len(shown(value)) < 700
    assert "\n" not in shown(value)
