"""A drill that leaves the estate unlike it was is found out, and writes of users meanwhile are not held against it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.drills.state import UNKNOWN, compare, digest

BEFORE: dict[str, Any] = {
    "injections": [],
    "gateway": {
        "active": {"arrival-delay": ["paris"], "late-arrival": ["paris", "dublin"]},
        "closed": [],
        "healthy": {"arrival-delay at paris": 2, "late-arrival at paris": 2, "late-arrival at dublin": 2},
    },
    "programs": {"gateway": True, "paris-replica-1": True, "mlflow": False},
    "releases at paris": {"arrival-delay": "aa"},
    "data at paris": {"flights": {"day=1": "11", "day=2": "22"}},
    "objects": {"data/day=2 at paris": "22"},
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    after = copy.deepcopy(BEFORE)
    inner = after
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = to
    return after


def test_the_same_state_has_no_difference_and_the_same_digest() -> None:
    assert compare(BEFORE, copy.deepcopy(BEFORE)) == []
    assert digest(BEFORE) == digest(dict(reversed(BEFORE.items())))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("injections",), ["another"]),
        (("gateway", "active", "arrival-delay"), ["dublin"]),
        (("gateway", "closed"), ["paris"]),
        (("gateway", "healthy", "late-arrival at dublin"), 1),
        (("programs", "paris-replica-1"), False),
        (("releases at paris", "arrival-delay"), "bb"),
        (("releases at paris", "arrival-delay"), None),
        (("data at paris", "flights", "day=1"), "xx"),
        (("data at paris", "flights"), {"day=1": "11"}),
        (("objects", "data/day=2 at paris"), "00"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_whatever_is_gone_changed_or_fewer_is_a_difference(path: tuple[str, ...], to: Any) -> None:
    (found,) = compare(BEFORE, changed(*path, to=to))
    assert found.explained is None
    assert found.certain
    assert digest(BEFORE) != digest(changed(*path, to=to))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("data at paris", "flights"), {"day=1": "11", "day=2": "22", "day=3": "33"}),
        (("gateway", "healthy", "arrival-delay at paris"), 3),
        (("programs", "mlflow"), True),
    ],
)
def test_what_was_added_meanwhile_is_none(path: tuple[str, ...], to: Any) -> None:
    assert compare(BEFORE, changed(*path, to=to)) == []


@pytest.mark.parametrize("part", ["gateway", "programs", "releases at paris", "data at paris"])
def test_what_could_not_be_looked_at_is_never_the_same_as_before(part: str) -> None:
    for before, after in ((BEFORE, changed(part, to=UNKNOWN)), (changed(part, to=UNKNOWN), BEFORE)):
        (found,) = compare(before, after)
        assert not found.certain


@given(st.dictionaries(st.sampled_from(["day=1", "day=2", "day=3"]), st.sampled_from(["11", "22", "33"])))
def test_data_is_whole_exactly_if_every_object_of_before_is_there_unchanged(after: dict[str, str]) -> None:
    before = BEFORE["data at paris"]["flights"]
    kept = all(after.get(key) == sha256 for key, sha256 in before.items())
    assert (compare(BEFORE, changed("data at paris", "flights", to=after)) == []) is kept
