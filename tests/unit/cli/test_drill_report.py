"""What a drill's evidence says is shown letter by letter, whatever is in it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from ninelives.cli.drill import drill_report
from ninelives.cli.status import _report
from ninelives.ports import Record

SAID = "no object [/x] of [services]"
"""A closing tag that was never opened, and an opening one, to a library that reads markup."""


def shown(what: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def record(**facts: Any) -> Record:
    return Record(7, "drill", "experiment/alpha/[b]mine", {"run": "r", **facts}, datetime.now(UTC), "", "")


def test_a_refused_drill_says_why() -> None:
    text = shown(drill_report(record(outcome="refused", verdict="unknown", reasons=[SAID])))
    assert "experiment of [b]mine" in text
    assert SAID in text


def test_a_missed_experiment_says_what_failed_and_what_it_left_behind() -> None:
    felt = dict.fromkeys(("sent", "good", "slow", "degraded", "wrong", "failed", "unknown"), 0)
    text = shown(
        drill_report(
            record(
                outcome="measured", verdict="missed", problem=SAID, check=None, recovery={}, rpo_seconds=None,
                verdicts={"hypothesis": "missed"}, objective={"rto_seconds": 60.0, "rpo_seconds": 60.0},
                felt={"alpha": {**felt, "outage_seconds": 0.0, "interrupted": False, "rto_seconds": 0.0}},
                state={"verdict": "missed", "differences": [
                    {"what": "data at paris", "before": SAID, "after": "gone", "explained": None}]},
                experiment={"hypothesis_held": {"before": True, "after": False},
                            "activities": [{"name": "fine", "succeeded": True}, {"name": SAID, "succeeded": False}]},
            )
        )
    )  # fmt: skip
    assert text.count(SAID) == 3
    assert "its hypothesis did not hold after" in text
    assert "activity fine" not in text


def test_a_standby_that_is_not_ready_says_why_in_the_status() -> None:
    standby = {"site": "dublin", "ready": False, "reasons": [SAID], "warnings": []}
    service = {"service": "alpha", "mode": "active-passive", "active": ["paris"], "correct_share": 1.0, "well": True,
               "standbys": [standby], "readiness": None}  # fmt: skip
    faults = [{"scenario": "experiment", "site": SAID, "service": "alpha"}]
    document = {"services": [service], "frozen": None, "closed_sites": [], "faults": faults, "last_drill": None}
    text = shown(_report(document))
    assert f"dublin: {SAID}" in text
    assert f"experiment of {SAID} is in progress" in text
