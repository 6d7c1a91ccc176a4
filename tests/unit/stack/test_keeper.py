"""Faults are undone when their time is over, whatever else is broken."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ninelives.errors import Unavailable
from ninelives.home import Home
from ninelives.injections import (
    Fault,
    Frozen,
    Injection,
    SiteLost,
    find_injection,
    open_injection,
    open_injections,
)
from ninelives.stack.keeper import read_injections, undo_expired

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Faults:
    """``ports.FaultControl`` that counts what it mends; at ``broken`` sites nothing can be mended."""

    how: Exception = Unavailable("supervisord does not answer")

    def __init__(self, broken: set[str] | None = None) -> None:
        self.mended: list[Fault] = []
        self.broken = broken or set()

    def programs(self, kind: str, site: str | None = None) -> tuple[str, ...]:
        raise AssertionError("the keeper looks for nothing: the file says what is broken")

    def running(self, sites: Sequence[str]) -> dict[str, bool]:
        raise AssertionError("the keeper looks for nothing: the file says what is broken")

    def check(self, fault: Fault) -> None:
        raise AssertionError("the keeper judges nothing")

    def inject(self, fault: Fault) -> datetime:
        raise AssertionError("the keeper never takes anything away")

    def undo(self, fault: Fault) -> None:
        if fault.site in self.broken:
            raise self.how
        self.mended.append(fault)


def _inject(home: Home, name: str, site: str, expires_at: datetime, *faults: Fault) -> None:
    open_injection(
        home,
        Injection(
            id=name,
            scenario="site-loss",
            site=site,
            service="s",
            started_at=NOW - timedelta(hours=1),
            expires_at=expires_at,
            faults=faults,
        ),
    )


def test_only_what_has_expired_is_undone_and_it_is_archived_with_how(tmp_path: Path) -> None:
    home, faults = Home(tmp_path), Faults()
    _inject(home, "over", "paris", NOW)
    _inject(home, "running", "dublin", NOW + timedelta(seconds=1))
    undo_expired(home, NOW, faults)
    assert faults.mended == [SiteLost(site="paris")]
    assert [one.id for one in open_injections(home)] == ["running"]
    undone = find_injection(home, "over")
    assert undone is not None
    assert (undone.undone_by, undone.undone_at is not None) == ("keeper", True)


def test_whatever_the_file_says_is_broken_is_mended_and_nothing_else_is_asked(tmp_path: Path) -> None:
    home, faults = Home(tmp_path), Faults()
    wedged = Frozen(program="paris-replica-1", site="paris")
    _inject(home, "a", "paris", NOW, wedged)
    undo_expired(home, NOW, faults)
    assert faults.mended == [wedged]


@pytest.mark.parametrize("how", [Faults.how, PermissionError("read-only file system"), KeyError("server")])
def test_a_site_that_cannot_be_restored_is_tried_again_and_holds_up_nobody(tmp_path: Path, how: Exception) -> None:
    home, faults = Home(tmp_path), Faults({"paris"})
    faults.how = how
    _inject(home, "a", "paris", NOW)
    _inject(home, "b", "dublin", NOW)
    undo_expired(home, NOW, faults)
    assert faults.mended == [SiteLost(site="dublin")]
    (waiting,) = open_injections(home)
    assert waiting.over, "nobody may go on breaking what somebody has begun to mend"
    faults.broken.clear()
    undo_expired(home, NOW, faults)
    assert faults.mended == [SiteLost(site="dublin"), SiteLost(site="paris")]
    assert open_injections(home) == []


def test_a_spoilt_file_holds_up_nobody_and_stays_to_be_seen(tmp_path: Path) -> None:
    home, faults = Home(tmp_path), Faults()
    _inject(home, "a", "paris", NOW)
    (home.injections / "0.json").write_text("{")
    undo_expired(home, NOW, faults)
    assert faults.mended == [SiteLost(site="paris")]
    assert list(read_injections(home)[1]) == [home.injections / "0.json"]
