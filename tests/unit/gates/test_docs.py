"""Data Docs are kept beside the data, found again unharmed, and never stand in a verdict's way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.evidence import chain
from unit.versions.estates import TwoSites

from ninelives.errors import Corrupted, Refused
from ninelives.gates.docs import BUCKET, KEPT, keep_docs, read_docs
from ninelives.ports import Record

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def kept(systems: TwoSites, page: str | None = "<p>Ünder</p>", at: datetime = AT) -> Record:
    docs = keep_docs(systems, "flights", "dublin", at, page)
    (record,) = chain([{"docs": docs} if docs else {}])
    return record


def test_a_page_is_found_again_by_its_evidence() -> None:
    systems = TwoSites()
    assert read_docs(systems, kept(systems)) == "<p>Ünder</p>"
    assert BUCKET not in systems.paris.buckets, "only at the site that was judged"


def test_a_page_that_was_changed_is_not_shown() -> None:
    systems = TwoSites()
    record = kept(systems)
    systems.dublin.put(BUCKET, record.facts["docs"]["key"], b"<p>all is well</p>")
    with pytest.raises(Corrupted, match="is not what was kept"):
        read_docs(systems, record)


def test_a_record_that_was_changed_shows_no_page_of_its_choice() -> None:
    systems = TwoSites()
    record = kept(systems)
    with pytest.raises(Corrupted, match="the record is not what was written"):
        read_docs(systems, replace(record, facts={"docs": {**record.facts["docs"], "site": "paris"}}))


def test_the_newest_pages_are_kept_and_an_older_one_says_what_to_do() -> None:
    systems = TwoSites()
    records = [kept(systems, at=AT + timedelta(minutes=n)) for n in range(KEPT + 1)]
    assert len(list(systems.dublin.list(BUCKET))) == KEPT
    assert read_docs(systems, records[1])
    with pytest.raises(Refused, match="asks again"):
        read_docs(systems, records[0])


def test_a_store_that_cannot_take_the_page_is_noted_and_raises_nothing() -> None:
    systems = TwoSites()
    systems.dublin.down = True
    record = kept(systems)
    assert "does not answer" in record.facts["docs"]["problem"]
    with pytest.raises(Refused, match="could not be kept"):
        read_docs(systems, record)


def test_where_no_expectation_was_asked_there_is_no_page() -> None:
    systems = TwoSites()
    with pytest.raises(Refused, match="did not get as far"):
        read_docs(systems, kept(systems, page=None))
