"""When an answer is the known one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ninelives.ports import Scalar


def answers_match(
    expected: Mapping[str, Sequence[Scalar]], got: Mapping[str, Sequence[Scalar]], tolerance: float
) -> bool:
    """Whether every expected output is there and every number within ``tolerance * (1 + |expected|)``.

    An absolute and a relative bound in one, so that values near zero and large ones are judged alike. Outputs beyond
    the expected ones do not matter. NaN and infinity never match, and neither does an empty expectation: it would
    match everything.

    :raises ValueError: ``tolerance`` is negative or not a number
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance {tolerance!r} must be a number of at least zero")
    if not expected or not all(expected.values()):
        return False
    return all(
        name in got
        and len(got[name]) == len(values)
        and all(_match(want, have, tolerance) for want, have in zip(values, got[name], strict=True))
        for name, values in expected.items()
    )


def _match(want: Scalar, have: Scalar, tolerance: float) -> bool:
    if isinstance(want, str | bool) or isinstance(have, str | bool):
        return type(want) is type(have) and want == have
    try:
        expected, got = float(want), float(have)
    except OverflowError:
        return False
    # An infinite expectation would allow an infinite difference.
    return math.isfinite(expected) and math.isfinite(got) and abs(expected - got) <= tolerance * (1 + abs(expected))
