"""Faults are undone when their time is over, whatever else is broken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ninelives.errors import Unavailable
from ninelives.home import Home
from ninelives.injections import Injection, find_injection, open_injection, open_injections
from ninelives.ports import ProcessState
from ninelives.stack.keeper import read_injections, undo_expired

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Control:
    """Site control that counts restorations; ``broken`` sites cannot be restored."""

    def __init__(self, site: str, restored: list[str], broken: set[str]) -> None:
        self.site, self._restored, self._broken = site, restored, broken

    def lose(self) -> datetime:
        raise AssertionError("the keeper never takes anything away")

    def restore(self) -> None:
        if self.site in self._broken:
            raise Unavailable("supervisord does not answer")
        self._restored.append(self.site)

    def processes(self) -> list[ProcessState]:
        return []


def _inject(home: Home, name: str, site: str, expires_at: datetime) -> None:
    open_injection(
        home,
        Injection(
            id=name,
            scenario="site-loss",
            site=site,
            service="s",
            started_at=NOW - timedelta(hours=1),
            expires_at=expires_at,
        ),
    )


def test_only_what_has_expired_is_undone_and_it_is_archived_with_how(tmp_path: Path) -> None:
    home, restored = Home(tmp_path), []
    _inject(home, "over", "paris", NOW)
    _inject(home, "running", "dublin", NOW + timedelta(seconds=1))
    undo_expired(home, NOW, lambda site: Control(site, restored, set()))
    assert restored == ["paris"]
    assert [one.id for one in open_injections(home)] == ["running"]
    undone = find_injection(home, "over")
    assert undone is not None
    assert (undone.undone_by, undone.undone_at is not None) == ("keeper", True)


def test_a_site_that_cannot_be_restored_is_tried_again_and_holds_up_nobody(tmp_path: Path) -> None:
    home, restored, broken = Home(tmp_path), [], {"paris"}
    _inject(home, "a", "paris", NOW)
    _inject(home, "b", "dublin", NOW)
    undo_expired(home, NOW, lambda site: Control(site, restored, broken))
    assert restored == ["dublin"]
    broken.clear()
    undo_expired(home, NOW, lambda site: Control(site, restored, broken))
    assert restored == ["dublin", "paris"]
    assert open_injections(home) == []


def test_a_spoilt_file_holds_up_nobody_and_stays_to_be_seen(tmp_path: Path) -> None:
    home, restored = Home(tmp_path), []
    _inject(home, "a", "paris", NOW)
    (home.injections / "0.json").write_text("{")
    undo_expired(home, NOW, lambda site: Control(site, restored, set()))
    assert restored == ["paris"]
    assert list(read_injections(home)[1]) == [home.injections / "0.json"]
