"""Backups as they are declared: a vault that is apart, a key in other hands, promises that their schedule can keep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from croniter import croniter
from unit.estate.test_check import changed

from ninelives.estate.check import check_references
from ninelives.estate.cron import longest_gap

CASES: list[tuple[list[tuple[str, Any]], str, str]] = [
    ([("vault.site", "paris")], "vault.site", "backups there are lost with it"),
    ([("vault.keeper", "heddy")], "vault.keeper", "did you mean hedy?"),
    ([("vault.keeper", "grace")], "vault.keeper", "does not have the role keeper"),
    ([("people.2.roles", ["keeper", "operator"])], "vault.keeper", "could remove its backups"),
    ([("vault", None)], "backups", "no vault to keep them in"),
    ([("backups", None)], "vault", "nothing is backed up into it"),
    ([("backups.schedule", "every night")], "backups.schedule", "has 2 fields"),
    ([("backups.verify", "0 0 31 2 *")], "backups.verify", "never comes due"),
    ([("backups.rpo", "24h")], "backups.rpo", "made every 1d at the least"),
    ([("backups.schedule", "0 2 * * 1-5")], "backups.rpo", "made every 3d at the least"),
    ([("backups.verify_within", "12h")], "backups.verify_within", "made every 1d at the least"),
    ([("backups.retention", {"every": "25h"})], "backups.retention.every", "shorter than the rpo (26h)"),
    ([("backups.retention", {"weekly": "10d"})], "backups.retention.weekly", "shorter than daily (30d)"),
    (
        [("datasets.0.residency", ["eu"]), ("sites.0.region", "eu"), ("sites.1.region", "eu")],
        "vault.region",
        "and the vault names no region",
    ),
]


@pytest.mark.parametrize(("changes", "path", "says"), CASES, ids=[f"{path}: {says}" for _, path, says in CASES])
def test_a_contradiction_is_found_where_it_is(changes: list[tuple[str, Any]], path: str, says: str) -> None:
    found = [message for where, message in check_references(changed(*changes)) if where == path]
    assert any(says in message for message in found), check_references(changed(*changes))


def test_an_estate_may_have_neither_vault_nor_backups() -> None:
    assert check_references(changed(("vault", None), ("backups", None))) == []


def test_a_vault_in_the_region_of_the_data_is_sound() -> None:
    regions = [("datasets.0.residency", ["eu"]), *((f"sites.{number}.region", "eu") for number in (0, 1))]
    assert check_references(changed(*regions, ("vault.region", "eu"))) == []


@pytest.mark.parametrize(
    "expression",
    ["30 2 * * *", "*/15 * * * *", "0 3 * * 6#1", "0 0 1 * *", "0 2 * * 1-5", "0 0,12 * * *", "5 4 * * sun",
     "0 0 1,15 * *", "0 6 1 */3 *"],
)  # fmt: skip
def test_the_longest_gap_is_the_one_that_croniter_finds(expression: str) -> None:
    times = croniter(expression, datetime(2024, 1, 1, tzinfo=UTC))
    due, longest = times.get_next(datetime), timedelta(0)
    while due < datetime(2026, 2, 1, tzinfo=UTC):
        following = times.get_next(datetime)
        longest, due = max(longest, following - due), following
        if longest < timedelta(hours=1) and due > datetime(2024, 1, 3, tzinfo=UTC):
            break
    assert longest_gap(expression) == longest
