"""An estate that was just set up has nothing to replicate; one that lost everything has."""

from __future__ import annotations

import pytest
from unit.versions.estates import TwoSites

from ninelives.errors import Unavailable
from ninelives.replication.manifest import BUCKET
from ninelives.replication.run import never_written

SITES = ("paris", "dublin")


def test_a_new_estate_has_nothing_to_replicate() -> None:
    assert never_written(TwoSites(), "flights", SITES)


@pytest.mark.parametrize("site", SITES)
def test_one_object_at_any_site_was_written_by_somebody(site: str) -> None:
    systems = TwoSites()
    systems.store(site).put(BUCKET, "flights/day=2013-01-01/part-0.parquet", b"flights")
    assert not never_written(systems, "flights", SITES)


@pytest.mark.parametrize("site", SITES)
def test_what_was_replicated_once_and_is_gone_from_every_site_is_no_new_estate(site: str) -> None:
    systems = TwoSites()
    systems.ledger().append("replication", f"flights@{site}", {})
    assert not never_written(systems, "flights", SITES)


def test_a_store_that_does_not_answer_is_not_taken_for_an_empty_one() -> None:
    systems = TwoSites()
    systems.sites["dublin"].down = True
    with pytest.raises(Unavailable):
        never_written(systems, "flights", SITES)
