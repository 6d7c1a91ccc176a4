"""The way back of every promotion is kept for as long as declared, and then let go: whatever came after it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.promotion import MODEL, Memory, killed_after, release_of
from typer.testing import CliRunner

from ninelives.artefacts.retire import retire_overdue
from ninelives.artefacts.uses import gather
from ninelives.cli import release as release_command
from ninelives.errors import Unavailable
from ninelives.ports import VersionSplit
from ninelives.releases import promotion
from ninelives.releases.canary import Decision
from ninelives.releases.journal import Entry, read
from ninelives.releases.promotion import begin, promote
from ninelives.releases.publish import stage

LATER = datetime.now(UTC) + timedelta(days=2)


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Promoted from version 1 to 2 and then to 3; each old version is kept for a day."""
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})
    systems = Memory(tmp_path, {"keep_for": "1d"})
    stage(systems.store("paris"), *release_of("3", 2.0))  # type: ignore[arg-type]
    go(systems, "2")
    go(systems, "3")
    return systems


def go(systems: Any, version: str) -> None:
    plan = begin(systems, MODEL, version, by="ada")
    promote(systems, plan, approve=lambda: None, judge=lambda metrics, horizon: (Decision.PROMOTE, []))


def ways_back(systems: Any) -> set[str]:
    uses = gather(systems, systems.registry().versions(), LATER)
    return {version for (_, version), who in uses.items() if any("way back" in one for one in who)}


def test_an_earlier_promotion_holds_its_way_back_too_until_its_own_time_is_over(systems: Any) -> None:
    assert ways_back(systems) == {"1", "2"}
    assert retire_overdue(systems, datetime.now(UTC)).retired == ()
    first, _ = read(systems.ledger(), MODEL)
    end = datetime.fromisoformat(first.find(Entry.STEP, "take_over").facts["found"]["keep_until"])  # type: ignore[union-attr]
    assert retire_overdue(systems, end).retired == ("alpha@1",)
    assert ways_back(systems) == {"2"}
    # The gateway and the replicas are the second one's, and so is its way back.
    assert systems.gateway().used == VersionSplit("3", {"3": 100}, beside=("2",))
    assert [set(one.beside) for site in ("paris", "dublin") for one in systems.replicas(site)] == [{"2"}, {"2"}]
    assert read(systems.ledger(), MODEL)[0].find(Entry.INTENT, "retire") is None, "history tells of no change"
    assert retire_overdue(systems, LATER).retired == ("alpha@2",)
    assert (ways_back(systems), systems.gateway().used, systems.answering()) == (set(), None, {"3"})
    assert retire_overdue(systems, LATER).facts() == {"retired": [], "forgotten": [], "waiting": [], "problems": []}
    assert all(one.retired for one in read(systems.ledger(), MODEL))


def test_it_goes_on_wherever_it_was_killed(systems: Any) -> None:
    for calls in range(14):
        with killed_after(systems.fuse, calls):
            retire_overdue(systems, LATER)
    retire_overdue(systems, LATER)
    assert all(one.retired for one in read(systems.ledger(), MODEL))
    assert (systems.gateway().used, systems.answering()) == (None, {"3"})
    assert not any(one.beside for site in ("paris", "dublin") for one in systems.replicas(site))


def test_nothing_is_touched_while_a_promotion_goes_on_and_what_fails_is_told(systems: Any) -> None:
    stage(systems.store("paris"), *release_of("4", 3.0))
    begin(systems, MODEL, "4", by="ada")
    before = systems.gateway().used
    found = retire_overdue(systems, LATER)
    assert (found.retired, found.forgotten) == ((), ())
    assert found.waiting == ("alpha: promote-alpha-4 is not over",)
    assert systems.gateway().used == before
    promotion.roll_back(systems, read(systems.ledger(), MODEL)[-1].plan, by="ada", reasons=["no"])
    systems.replicas("dublin")[0].unload_version = lambda *_: (_ for _ in ()).throw(Unavailable("dublin is away"))
    told = retire_overdue(systems, LATER)
    assert told.problems == ("alpha: dublin is away",)
    with pytest.raises(Unavailable, match="dublin is away"):
        told.raise_problems()


def test_the_command_says_what_went_and_what_is_still_kept(systems: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_command, "connected", lambda: systems)
    kept = CliRunner().invoke(release_command.app, ["retire", MODEL])
    lines = [f"let go alpha@1 at http://{site}" for site in ("paris", "dublin")]
    assert kept.output.splitlines() == [*lines, "still kept: alpha@1", "still kept: alpha@2"], "bytes stay, memory not"
    assert kept.exit_code == 3
    retire_overdue(systems, LATER)
    assert CliRunner().invoke(release_command.app, ["retire", MODEL]).output == "nothing to retire\n"
