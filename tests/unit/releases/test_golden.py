import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.releases.golden import answers_match

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(finite, min_size=1), st.floats(0, 10))
def test_an_answer_matches_itself(values: list[float], tolerance: float) -> None:
    assert answers_match({"y": values}, {"y": values, "more": [1.0]}, tolerance)


@given(finite, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_never_matches(value: float, strange: float) -> None:
    assert not answers_match({"y": [value]}, {"y": [strange]}, 1e9)
    assert not answers_match({"y": [strange]}, {"y": [value]}, 1e9)
    assert not answers_match({"y": [strange]}, {"y": [strange]}, 1e9)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ({"y": [1.0]}, {}),
        ({"y": [1.0]}, {"z": [1.0]}),
        ({"y": [1.0]}, {"y": []}),
        ({"y": [1.0]}, {"y": [1.0, 1.0]}),
        ({"y": [1.0], "z": [1.0]}, {"y": [1.0]}),
        ({"y": ["a"]}, {"y": ["b"]}),
        ({"y": ["1"]}, {"y": [1]}),
        ({"y": [True]}, {"y": [1]}),
        ({"y": [1.0]}, {"y": [10**400]}),
        ({}, {"y": [1.0]}),
        ({"y": []}, {"y": []}),
    ],
)
def test_a_missing_or_different_output_never_matches(expected: dict, got: dict) -> None:
    assert not answers_match(expected, got, 0.5)


def test_the_tolerance_is_absolute_near_zero_and_relative_far_from_it() -> None:
    assert answers_match({"y": [0.0]}, {"y": [0.0009]}, 0.001)
    assert not answers_match({"y": [0.0]}, {"y": [0.0011]}, 0.001)
    assert answers_match({"y": [1000.0]}, {"y": [1000.9]}, 0.001)
    assert not answers_match({"y": [1000.0]}, {"y": [1001.1]}, 0.001)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_is_none_is_an_error(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        answers_match({"y": [1.0]}, {"y": [1.0]}, tolerance)
