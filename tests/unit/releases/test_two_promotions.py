"""A promotion after another, whose old version is still kept for a way back: what fails must not take that away."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.promotion import MODEL, Memory, killed_after, release_of
from typer.testing import CliRunner

from ninelives.cli import app, release
from ninelives.errors import Refused
from ninelives.releases import promotion
from ninelives.releases.canary import Decision
from ninelives.releases.journal import Outcome, read
from ninelives.releases.promotion import begin, promote, roll_back
from ninelives.releases.publish import read_release, stage
from ninelives.releases.status import release_status

YES, NO = ((lambda metrics, horizon, one=one: (one, [str(one)])) for one in (Decision.PROMOTE, Decision.ROLL_BACK))


@pytest.fixture(autouse=True)
def _gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate has tests of its own; here it has said yes."""
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})


def bring_in(systems: Any, version: str, judge: Any) -> Outcome:
    plan = begin(systems, MODEL, version, by="ada")
    return Outcome(promote(systems, plan, approve=lambda: None, judge=judge).facts["outcome"])


def second_is_in(folder: Path) -> Any:
    systems: Any = Memory(folder, {"shadow": 0, "keep_for": "1d"})
    stage(systems.store("paris"), *release_of("3", 2.0))
    assert bring_in(systems, "2", YES) is Outcome.PROMOTED
    return systems


def kept(systems: Any) -> tuple[str, ...]:
    """What the gateway has addresses for, beside what answers; every replica must have it."""
    split = systems.gateway().used
    loaded = [one.attempts(MODEL).loaded for site in systems.stores() for one in systems.replicas(site)]
    assert all(set(split.beside) <= set(versions) for versions in loaded)
    return tuple(split.beside)


def test_while_a_later_one_is_tried_and_after_it_failed_the_way_back_of_the_one_before_is_there(tmp_path: Path) -> None:
    systems, seen = second_is_in(tmp_path), list[tuple[str, ...]]()

    def worse(metrics: Any, horizon: int) -> tuple[Decision, list[str]]:
        seen.append(kept(systems))
        return Decision.ROLL_BACK, ["worse"]

    assert bring_in(systems, "3", worse) is Outcome.ROLLED_BACK
    assert (set(seen), kept(systems)) == ({("1",)}, ("1",))
    assert release_status(systems, MODEL)["problems"] == [], "nobody is told to let it go"


def test_a_repeated_rollback_takes_one_version_back_and_the_one_before_only_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = second_is_in(tmp_path)
    assert bring_in(systems, "3", NO) is Outcome.ROLLED_BACK
    monkeypatch.setattr(release, "connected", lambda: systems)

    def call(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["release", "rollback", MODEL, *arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    for _ in range(2):
        assert "answered by version 2" in (told := call())
        assert "--version 2" in told
    assert call("--version", "2", "--reason", "bad too", "--json")["version"] == "1"
    pointers = {read_release(store, MODEL).version for store in systems.stores().values()}  # type: ignore[union-attr]
    assert (pointers, systems.registry().alias, systems.answering()) == ({"1"}, "1", {"1"})
    status = release_status(systems, MODEL)
    assert (status["problems"], status["run"]["run"]) == ([], "promote-alpha-2")
    for again in ((), ("--version", "3"), ("--version", "2")):
        assert call(*again, "--json")["version"] == "1"
    assert CliRunner().invoke(app, ["release", "rollback", MODEL, "--version", "7"]).exit_code == 2


def test_what_a_later_version_has_replaced_cannot_be_taken_back_under_it(tmp_path: Path) -> None:
    systems = second_is_in(tmp_path)
    assert bring_in(systems, "3", YES) is Outcome.PROMOTED
    second, third = (one.plan for one in read(systems.ledger(), MODEL))
    with pytest.raises(Refused, match="version 3 came after version 2; take it back first"):
        roll_back(systems, second, by="ada", reasons=["in the wrong order"])
    assert systems.answering() == {"3"}
    roll_back(systems, third, by="ada", reasons=["first"])
    assert kept(systems) == ("1",)
    roll_back(systems, second, by="ada", reasons=["then"])
    assert (systems.answering(), systems.registry().alias) == ({"1"}, "1")


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=2))
def test_wherever_a_later_one_was_killed_the_way_back_is_there_once_it_has_failed(kills: list[int]) -> None:
    with TemporaryDirectory() as folder:
        systems = second_is_in(Path(folder))
        for calls in kills:
            with killed_after(systems.fuse, calls):
                bring_in(systems, "3", NO)
        assert bring_in(systems, "3", NO) is Outcome.ROLLED_BACK
        assert systems.gateway().used.shares == {"2": 100}
        assert kept(systems) == ("1",)
        assert release_status(systems, MODEL)["problems"] == []
