"""A filter names exactly the keys that it was made of, however they are spelled, and none is too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.adapters.datasync import LONGEST, filters, nameable, pattern, patterns

KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(nameable)
NASTY = st.text("ab/|\\", min_size=1, max_size=12).filter(nameable)


def unescaped(text: str) -> str:
    letters = iter(text)
    return "".join(next(letters) if letter == "\\" else letter for letter in letters)


@given(st.lists(KEYS | NASTY, unique=True), st.integers(100, 400))
def test_split_filters_name_every_key_once_and_nothing_else(keys: list[str], longest: int) -> None:
    fitting = [key for key in keys if len(pattern(key).encode()) <= longest]
    parts = filters(fitting, longest)
    assert all(len(part.encode()) <= longest for part in parts)
    named = [unescaped(one) for part in parts for one in sorted(patterns(part))]
    assert sorted(named) == sorted(f"/{key}" for key in fitting)


@given(st.lists(KEYS | NASTY, unique=True, min_size=2), st.integers(100, 400))
def test_two_neighbouring_filters_would_not_have_fitted_into_one(keys: list[str], longest: int) -> None:
    fitting = [key for key in keys if len(pattern(key).encode()) <= longest]
    done = 0
    for part in filters(fitting, longest)[:-1]:
        done += len(patterns(part))
        assert len(f"{part}|{pattern(fitting[done])}".encode()) > longest


@given(NASTY)
def test_a_pattern_has_no_meaning_but_its_key(key: str) -> None:
    assert patterns(pattern(key)) == {pattern(key)}
    assert unescaped(pattern(key)) == f"/{key}"


@pytest.mark.parametrize("key", ["a*b", "/a", "a//b", "a/./b", "a/../b", "folder/", "", "a\0b"])
def test_what_datasync_cannot_name_or_transfer_is_left_to_the_other_engine(key: str) -> None:
    assert not nameable(key)


def test_a_whole_year_of_days_is_one_filter_and_ten_thousand_objects_are_a_few() -> None:
    assert len(filters(f"flights/year=2013/month={n // 31:02}/day={n % 31:02}/part-0.parquet" for n in range(366))) == 1
    many = filters(f"flights/year=2013/day={n:05}/part-0.parquet" for n in range(10_000))
    assert len(many) == 5
    assert all(len(part) <= LONGEST for part in many)


def test_a_key_that_no_filter_holds_is_said() -> None:
    with pytest.raises(ValueError, match="a filter of 10 bytes cannot name"):
        filters(["flights/day=0"], 10)
