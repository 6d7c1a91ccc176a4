"""A drill brings back what it took away, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ninelives.drills.run import is_back, undo_fault
from ninelives.drills.scenario import Drill
from ninelives.home import Home
from ninelives.injections import Fault, Injection, SiteLost, close_injection, find_injection, open_injection

DRILL = Drill("ours", "site-loss", "arrival-delay", "paris")


class Systems:
    def __init__(self, home: Home) -> None:
        self.home = home
        self.mended: list[Fault] = []

    def faults(self) -> Any:
        return self

    def undo(self, fault: Fault) -> None:
        self.mended.append(fault)
        raise ConnectionError("asked")


def test_a_drill_that_injected_nothing_leaves_what_another_one_took_away(tmp_path: Path) -> None:
    systems = Systems(Home(tmp_path))
    undo_fault(systems, DRILL, by="record_drill")  # type: ignore[arg-type]
    assert systems.mended == []
    assert find_injection(systems.home, DRILL.id) is None


def test_a_drill_that_injected_asks_for_the_sites_return(tmp_path: Path) -> None:
    systems, now = Systems(Home(tmp_path)), datetime.now(UTC)
    open_injection(
        systems.home,
        Injection(
            id=DRILL.id, scenario=DRILL.scenario, site=DRILL.site, service=DRILL.service,
            started_at=now, expires_at=now + timedelta(minutes=5),
        ),
    )  # fmt: skip
    with pytest.raises(ConnectionError, match="asked"):
        undo_fault(systems, DRILL, by="restore_site")  # type: ignore[arg-type]
    assert systems.mended == [SiteLost(site="paris")]


def test_nothing_is_back_before_the_gateway_could_have_noticed_that_it_was_away(tmp_path: Path) -> None:
    """A replica that was killed and started at once is healthy to the gateway, and then is not."""
    systems, now = Systems(Home(tmp_path)), datetime.now(UTC)
    open_injection(
        systems.home,
        Injection(
            id=DRILL.id, scenario=DRILL.scenario, site=DRILL.site, service=DRILL.service,
            started_at=now, expires_at=now + timedelta(minutes=5),
        ),
    )  # fmt: skip
    close_injection(systems.home, DRILL.id, by="restore_site")
    assert not is_back(systems, DRILL)  # type: ignore[arg-type]
