"""What a person sees of `ninelives artefacts`, and what a script reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner
from unit.artefacts.test_retention import Estate

from ninelives.cli import artefacts
from ninelives.errors import Refused


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> Any:
    systems = Estate()
    monkeypatch.setattr(artefacts, "connected", lambda: systems)
    return systems


@pytest.fixture
def ninelives(systems: Any) -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(artefacts.app, arguments)


def test_a_version_is_held_listed_kept_released_and_deleted_and_scripts_read_the_same(ninelives: Any) -> None:
    held = ninelives("hold", "arrival-delay@3", "--why", "claim 7", "--until", "2999-01-31", "--by", "ada")
    assert held.output == "arrival-delay@3 is held until 2999-01-31 00:00 UTC: hold 1\n"
    listed = json.loads(ninelives("list", "arrival-delay", "--json").output)
    third = next(one for one in listed["versions"] if one["version"] == "3")
    assert third["kept"] == ["held by ada until 2999-01-31 00:00 UTC: claim 7 (evidence 1)"]
    assert (listed["holds"][0]["number"], listed["holds"][0]["until"]) == (1, "2999-01-31T00:00:00+00:00")
    assert "goes: keep 2, keep_for 30d" in ninelives("list").output
    would = ninelives("prune", "--dry-run").output
    assert "would delete arrival-delay@1: 8 objects" in would
    assert "arrival-delay@3" not in would
    done = json.loads(ninelives("prune", "--json").output)
    assert [one["version"] for one in done["deleted"]] == list("124567")
    assert done["kept"]["arrival-delay@3"] == third["kept"]
    assert "hold 1 of arrival-delay@3 is released" in ninelives("release-hold", "1", "--why", "settled").output
    assert [one["version"] for one in json.loads(ninelives("prune", "--json").output)["deleted"]] == ["3"]
    assert ninelives("orphans").output == "every object is named, every version whole\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list", "nosuch"), "neither the estate nor the registry has nosuch"),
        (("hold", "arrival-delay", "--why", "x"), "is not MODEL@VERSION"),
        (("hold", "arrival-delay@3"), "Missing option '--why'"),
        (("release-hold", "one", "--why", "x"), "as an integer"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(ninelives: Any, arguments: tuple[str, ...], says: str) -> None:
    found = ninelives(*arguments)
    assert found.exit_code == 2
    assert says in " ".join(found.output.replace("│", "").split())


def test_what_is_not_there_is_refused_and_an_empty_registry_says_so(ninelives: Any, systems: Any) -> None:
    assert isinstance(ninelives("hold", "arrival-delay@77", "--why", "x").exception, Refused)
    assert isinstance(ninelives("release-hold", "77", "--why", "x").exception, Refused)
    systems.sites["paris"].put("models", "strange/file", b"x")
    found = ninelives("orphans")
    assert found.exit_code == 3
    assert "paris: models/strange/file, 1 bytes: no version names it" in found.output
    systems.the_registry.registered, systems.the_registry.alias = [], None
    assert ninelives("list").output == ninelives("prune").output == "no version is registered\n"
