"""Patterns against every short text there is."""

from __future__ import annotations

import re
from functools import cache
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from ninelives.access.patterns import covers, overlaps

patterns = st.text("ab*?", max_size=4)


@cache
def texts() -> list[str]:
    """Long enough that two patterns of four characters which share a text share one of these."""
    return ["".join(letters) for length in range(9) for letters in product("ab", repeat=length)]


@cache
def matching(pattern: str) -> frozenset[str]:
    regex = re.compile("".join({"*": ".*", "?": "."}.get(letter, letter) for letter in pattern))
    return frozenset(text for text in texts() if regex.fullmatch(text))


@given(one=patterns, other=patterns)
def test_two_patterns_overlap_exactly_where_they_share_a_text(one: str, other: str) -> None:
    assert overlaps(one, other) == overlaps(other, one) == bool(matching(one) & matching(other))


@given(wide=patterns, narrow=patterns)
def test_what_covers_another_matches_all_that_it_matches(wide: str, narrow: str) -> None:
    if covers(wide, narrow):
        assert matching(narrow) <= matching(wide)


@given(head=st.text("ab", max_size=3), wide=patterns)
def test_everything_below_a_prefix_is_covered_by_all_that_matches_all_of_it(head: str, wide: str) -> None:
    long_enough = {text for text in matching(f"{head}*") if len(text) <= 6}
    if "?" not in wide and "*" in wide and long_enough <= matching(wide) and wide.endswith("*"):
        assert covers(wide, f"{head}*")
