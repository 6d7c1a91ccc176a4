"""A freeze binds until it ends, is lifted or is replaced; and nothing is moved more often than is declared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.models import estate_of_two_sites
from unit.versions.estates import MemoryLedger

from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.recovery.safety import current_freeze, freeze, thaw, too_many_failovers, unanswered_losses

ESTATE = estate_of_two_sites()
HOURS = timedelta(hours=1)


def test_a_freeze_says_who_why_and_until_when_and_ends_by_itself() -> None:
    ledger = MemoryLedger()
    assert current_freeze(ledger, ESTATE) is None
    record = freeze(ledger, ESTATE, reason="network works", by="ada", lasting=2 * HOURS)
    frozen = current_freeze(ledger, ESTATE)
    assert frozen
    assert (frozen.by, frozen.reason, frozen.evidence) == ("ada", "network works", record.seq)
    assert "frozen by ada until" in frozen.sentence
    assert current_freeze(ledger, ESTATE, record.at + 2 * HOURS + timedelta(seconds=1)) is None


def test_a_thaw_ends_a_freeze_and_a_newer_freeze_replaces_it() -> None:
    ledger = MemoryLedger()
    for lasting in (5 * HOURS, HOURS):
        freeze(ledger, ESTATE, reason="works", by="ada", lasting=lasting)
    frozen = current_freeze(ledger, ESTATE)
    assert frozen
    assert frozen.until - frozen.at < 2 * HOURS
    thaw(ledger, ESTATE, by="ada")
    thaw(ledger, ESTATE, by="ada")
    assert current_freeze(ledger, ESTATE) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"by": "mallory"}, "mallory is no operator of the estate"),
        ({"reason": " "}, "say why"),
        ({"lasting": timedelta(days=8)}, "7 days"),
        ({"lasting": timedelta(0)}, "7 days"),
    ],
)
def test_a_freeze_is_refused_without_a_reason_for_ever_or_by_anybody(changes: dict, reason: str) -> None:
    ledger = MemoryLedger()
    with pytest.raises(Refused, match=reason):
        freeze(ledger, ESTATE, **{"reason": "works", "by": "ada", "lasting": HOURS, **changes})
    assert ledger.all == []
    with pytest.raises(Refused, match="no operator"):
        thaw(ledger, ESTATE, by="mallory")


def test_losses_that_nobody_acted_on_are_remembered() -> None:
    ledger = MemoryLedger()
    record = freeze(ledger, ESTATE, reason="works", by="ada", lasting=HOURS)
    ledger.append("loss", "paris", {"frozen": True})
    ledger.append("loss", "dublin", {})
    assert [loss.subject for loss in unanswered_losses(ledger, record.at)] == ["paris"]


def test_only_moves_within_the_hour_count_against_the_estates_limit() -> None:
    document = ESTATE.model_dump(mode="json") | {"recovery": {"failovers_per_hour": 2}}
    estate, ledger = Estate.model_validate(document), MemoryLedger()
    for outcome in ("moved", "refused", "failed", "moved"):
        assert too_many_failovers(ledger, estate, "alpha") is None
        ledger.append("failover", "alpha", {"outcome": outcome})
    ledger.append("failover", "beta", {"outcome": "moved"})
    why = too_many_failovers(ledger, estate, "alpha")
    assert why
    assert "moved 2 times within the last hour, and the estate allows 2" in why
    assert too_many_failovers(ledger, estate, "beta") is None
    assert too_many_failovers(ledger, estate, "alpha", datetime.now(UTC) + HOURS) is None
