"""The journal of faults survives a kill between any two steps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ninelives.errors import Corrupted
from ninelives.home import Home
from ninelives.injections import Injection, close_injection, find_injection, open_injection, open_injections

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def injection(name: str = "drill-1") -> Injection:
    return Injection(
        id=name,
        scenario="site-loss",
        site="paris",
        service="arrival-delay",
        started_at=NOW,
        expires_at=NOW + timedelta(minutes=5),
    )


def test_a_fault_is_open_until_it_is_undone_and_then_keeps_who_undid_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    open_injection(home, injection())
    assert open_injections(home) == [injection()]
    close_injection(home, "drill-1", by="keeper")
    assert open_injections(home) == []
    archived = find_injection(home, "drill-1")
    assert archived is not None
    assert archived.undone_by == "keeper"


def test_undoing_twice_keeps_the_first_record(tmp_path: Path) -> None:
    home = Home(tmp_path)
    open_injection(home, injection())
    close_injection(home, "drill-1", by="restore_site")
    close_injection(home, "drill-1", by="keeper")
    archived = find_injection(home, "drill-1")
    assert archived is not None
    assert archived.undone_by == "restore_site"


def test_faults_are_listed_oldest_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    later = injection("a").model_copy(update={"started_at": NOW + timedelta(seconds=1)})
    open_injection(home, later)
    open_injection(home, injection("b"))
    assert [one.id for one in open_injections(home)] == ["b", "a"]


@pytest.mark.parametrize("text", ["", "{", '{"id": "drill-1"}', "[]", '"\udc80'])
def test_a_file_that_says_nothing_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    home = Home(tmp_path)
    open_injection(home, injection())
    file = home.injections / "drill-1.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    for look in (lambda: open_injections(home), lambda: find_injection(home, "drill-1")):
        with pytest.raises(Corrupted, match=rf"{file} cannot be read.*ninelives stack restore.*remove the file"):
            look()
