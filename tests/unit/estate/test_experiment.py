"""Experiments in an estate file: what could never begin, or be watched, is said on its own line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unit.estate.test_check import DATA, changed

from ninelives.errors import EstateError
from ninelives.estate import load_estate
from ninelives.estate.check import check_references

TARGET = {"name": "kept", "outcomes": "outcomes/", "wanted": "increase", "matters": 0.02}
EXPERIMENT = {
    "name": "newer", "service": "arrival-delay", "version": "2", "exposure": "5%", "peak": 10, "until": "2026-12-24",
    "target": TARGET,
}  # fmt: skip
CAPACITY = ("services.0.capacity", 100)


def test_a_sound_one_has_defaults_that_fit_each_other() -> None:
    estate = changed(("experiments", [EXPERIMENT]), CAPACITY)
    assert check_references(estate) == []
    declared = estate.experiment_by_name["newer"]
    assert (declared.header, declared.cost, declared.look_every * 10 == declared.stop_within) == (
        "ninelives-unit", 1.0, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"service": "arrival-delayy"}, "experiments[0].service", "did you mean arrival-delay?"),
        ({"exposure": "51%"}, "experiments[0].exposure", "at most 50%"),
        ({"exposure": 0.00001}, "experiments[0].exposure", "at least 0.01%"),
        ({"version": "latest"}, "experiments[0].version", "write its number in quotes"),
        ({"header": "User"}, "experiments[0].header", "is not of the form"),
        ({"header": "user-agent"}, "experiments[0].header", "all would be in one arm"),
        ({"control": "2"}, "experiments[0]", "name two versions"),
        ({"header": "x-ninelives-arm"}, "experiments[0].header", "takes x-ninelives-arm out of requests"),
        ({"look_every": "2min"}, "experiments[0]", "look more often"),
        ({"target": TARGET | {"matters": 0}}, "experiments[0].target.matters", ""),
        ({"target": TARGET | {"wanted": "more"}}, "experiments[0].target.wanted", ""),
    ],
)
def test_what_is_wrong_is_said_where_it_is(tmp_path: Path, changes: dict[str, Any], path: str, words: str) -> None:
    services = [DATA["services"][0] | {"capacity": 100}, *DATA["services"][1:]]
    file = tmp_path / "estate.yaml"
    file.write_text(json.dumps({**DATA, "services": services, "experiments": [EXPERIMENT | changes]}, indent=1))
    with pytest.raises(EstateError) as caught:
        load_estate(file)
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert words in found[path], found


def test_without_a_capacity_none_could_begin() -> None:
    found = dict(check_references(changed(("experiments", [EXPERIMENT]))))
    assert "declares no capacity" in found["experiments[0].service"]
