"""What Chaos Toolkit's journal of a user's experiment means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ninelives.home import Home
from ninelives.injections import experiment_journal


def read_experiment(home: Home, injection_id: str) -> Mapping[str, Any] | None:
    """The journal of the method; ``None`` where that is not through, or was ended."""
    try:
        found: Mapping[str, Any] = json.loads(experiment_journal(home, injection_id).read_bytes())
    except FileNotFoundError:
        return None
    return found


def judge_experiment(journal: Mapping[str, Any] | None) -> str:
    """``met`` where the method went through, the hypothesis held and every activity succeeded.

    The journal's own status says nothing of a failed activity, so each is looked at. Pure.
    """
    if journal is None:
        return "unknown"
    through = journal["status"] == "completed" and journal["deviated"] is False
    return "met" if through and all(succeeded(run) for run in journal["run"]) else "missed"


def succeeded(run: Mapping[str, Any]) -> bool:
    """Whether one activity did what it was to do.

    To the library an action that returns ``False``, and a program that ends with another code than 0, has succeeded.
    """
    activity, output = run["activity"], run.get("output")
    if run["status"] != "succeeded" or output is False:
        return False
    program = activity.get("type") == "action" and activity.get("provider", {}).get("type") == "process"
    return not (program and isinstance(output, Mapping) and output.get("status") != 0)
