"""The journal of faults survives a kill between any two steps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

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
