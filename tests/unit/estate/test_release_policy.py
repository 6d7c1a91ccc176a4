"""How a new version comes in: what could never work is found where it is written."""

from __future__ import annotations

from typing import Any

import pytest
from unit.estate.test_check import changed

from ninelives.estate.check import check_references

STEPS = [{"share": 5, "hold": "5min"}, {"share": 50, "hold": "10min"}]


def declared(**policy: Any) -> tuple[str, Any]:
    return "services.0.release", policy


def test_nothing_declared_and_growing_steps_are_sound() -> None:
    assert check_references(changed()) == []
    assert check_references(changed(declared(canary=STEPS, approval="four-eyes"))) == []


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ([declared(canary=STEPS[::-1])], "services[0].release.canary", "must grow"),
        ([declared(canary=[STEPS[0], STEPS[0]])], "services[0].release.canary", "each once"),
        ([declared(canary=STEPS, patience="9min")], "services[0].release.patience", "nothing could ever be promoted"),
        ([declared(approval="four-eyes"), ("people.1", None)], "services[0].release.approval", "needs an approver"),
    ],
)
def test_a_policy_that_could_never_promote_is_found(changes: list[tuple[str, Any]], path: str, message: str) -> None:
    assert message in dict(check_references(changed(*changes)))[path]
