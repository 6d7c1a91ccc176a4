"""The page of readiness says what was found and how old that is, and shows nothing as markup that is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

from ninelives.recovery.page import STALE_AFTER, readiness_page

NOW = datetime(2026, 11, 27, 4, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


def kept(age: timedelta = timedelta(minutes=2), reason: str = "", name: str = "alpha") -> dict[str, Any]:
    state = "fail" if reason else "pass"
    item = {"name": "store", "state": state, "value": reason or "answers", "limit": "answers", "reason": reason}
    standby = {"site": "dublin", "state": state, "reason": reason, "remarks": [], "items": [item]}
    service = {"service": name, "mode": "active-passive", "state": state, "reason": reason, "serving": ["paris"],
               "standbys": [standby]}  # fmt: skip
    return {"checked_at": (NOW - age).isoformat(), "services": {name: service}}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


def test_it_says_how_many_could_be_moved_and_every_item_that_was_looked_at() -> None:
    page = readiness_page(kept(), None, NOW)
    assert "<h1>Readiness: 1 of 1 services could be moved</h1>" in page
    assert "Checked 2min ago" in page
    assert "alpha at dublin: pass" in page
    assert "Stale" not in page


def test_what_is_old_is_shown_as_old_and_what_was_never_looked_at_as_that() -> None:
    assert "Stale: Checked" in readiness_page(kept(STALE_AFTER + timedelta(seconds=1)), None, NOW)
    never = readiness_page({}, None, NOW)
    assert "<h1>Readiness: never checked</h1>" in never
    assert "<table>" not in never


def test_nothing_that_was_found_becomes_a_part_of_the_page() -> None:
    page = readiness_page(kept(reason=HOSTILE, name=HOSTILE), HOSTILE, NOW)
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 5
    assert "script" not in Tags(page).tags
    assert "0 of 1 services could be moved" in page
