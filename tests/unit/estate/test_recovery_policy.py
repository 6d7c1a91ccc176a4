"""Licences and the rules of recovery: contradictions in either direction are found where they are."""

from __future__ import annotations

from typing import Any

import pytest
from unit.estate.test_check import changed

from ninelives.estate.check import check_references

ENGINE = {"name": "engine", "product": "Engine", "seats": 2, "models": ["arrival-delay"], "expires": "2030-06-30"}
FOUR_EYES = ("recovery", {"failback": {"approval": "four-eyes"}})


def test_a_licence_with_a_seat_to_spare_and_one_with_a_grace_are_sound() -> None:
    assert check_references(changed(("licences", [ENGINE]))) == []
    assert check_references(changed(("licences", [ENGINE | {"seats": 1, "grace": "14d"}]))) == []
    assert check_references(changed(FOUR_EYES)) == []


CASES: list[tuple[list[tuple[str, Any]], str, str]] = [
    ([("licences", [ENGINE | {"models": ["arival-delay"]}])], "licences[0].models[0]", "did you mean arrival-delay?"),
    ([("licences", [ENGINE | {"services": ["chat"]}])], "licences[0].services[0]", "not declared below services"),
    ([("licences", [ENGINE | {"sites": ["rome"]}])], "licences[0].sites[0]", "not declared below sites"),
    ([("licences", [ENGINE | {"models": []}])], "licences[0]", "nothing needs it"),
    ([("licences", [ENGINE, ENGINE])], "licences[1].name", "name of licences[0] already"),
    ([("licences", [ENGINE | {"models": ["arrival-delay"] * 2}])], "licences[0].models[1]", "named twice"),
    # What needs it is at a site where it is not valid, and it is valid at a site where nothing needs it.
    ([("licences", [ENGINE | {"sites": ["paris"]}])], "licences[0].sites", "may be served from dublin"),
    (
        [
            ("sites.2", {"name": "rome"}),
            ("tables", [{"name": "bookings", "site": "rome", "table": "sales.bookings", "suite": "bookings"}]),
            ("licences", [ENGINE | {"sites": ["paris", "dublin", "rome"]}]),
        ],
        "licences[0].sites[2]",
        "nothing that needs it is served from rome",
    ),
    ([("licences", [ENGINE | {"each": 3}])], "licences[0].seats", "2 are fewer than the 3"),
    ([("licences", [ENGINE | {"seats": 1}])], "licences[0].seats", "every failover would be refused; buy 1 more"),
    (
        [("licences", [ENGINE | {"models": ["late-arrival"], "seats": 1}])],
        "licences[0].seats",
        "1 are fewer than the 2",
    ),
    ([("recovery", {"failback": {"shares": [50, 25]}})], "recovery.failback.shares", "must grow"),
    ([FOUR_EYES, ("people.1", None)], "recovery.failback.approval", "needs an approver"),
]


@pytest.mark.parametrize(("changes", "path", "message"), CASES)
def test_a_contradiction_is_found_where_it_is(changes: list[tuple[str, Any]], path: str, message: str) -> None:
    found = check_references(changed(*changes))
    assert path in [where for where, _ in found], found
    assert message in dict(found)[path]
