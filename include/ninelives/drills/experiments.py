"""What Chaos Toolkit's journal of a user's experiment means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ninelives.home import Home
from ninelives.injections import Experiment, Injection, experiment_journal


def read_experiment(home: Home, injection_id: str) -> Mapping[str, Any] | None:
    """The journal of the method; ``None`` where that is not through, or was ended."""
    try:
        found: Mapping[str, Any] = json.loads(experiment_journal(home, injection_id).read_bytes())
    except FileNotFoundError:
        return None
    return found


def judge_experiment(journal: Mapping[str, Any] | None) -> str:
    """``met`` where the whole method went through, the hypothesis held before and after, every activity succeeded.

    The journal's own status says nothing of a failed activity, nor of a hypothesis that did not hold beforehand: then
    the library leaves the method out and calls that completed. So each is looked at. Pure.
    """
    if journal is None or _held(journal, "before") is False:
        return "unknown"  # nothing was broken, so nothing was learned
    through = journal["status"] == "completed" and journal["deviated"] is False
    whole = len(journal["run"]) == len(journal["experiment"]["method"]) and all(map(succeeded, journal["run"]))
    return "met" if through and whole and _held(journal, "after") is not False else "missed"


def _held(journal: Mapping[str, Any], when: str) -> bool | None:
    """Whether the hypothesis held before or after the method; ``None`` where the experiment has none."""
    if not (journal["experiment"].get("steady-state-hypothesis") or {}).get("probes"):
        return None
    state = journal["steady_states"][when]
    return bool(state and state["steady_state_met"])


def experiment_facts(home: Home, injection: Injection) -> dict[str, Any] | None:
    """For the evidence: which experiment it was and how each activity ended; ``None`` for another scenario.

    What activities have put out is left out: it may hold a secret.
    """
    fault = next((one for one in injection.faults if isinstance(one, Experiment)), None)
    if fault is None:
        return None
    named = {"name": fault.name, "sha256": hashlib.sha256(fault.document.encode()).hexdigest()}
    if (journal := read_experiment(home, injection.id)) is None:
        return {**named, "status": "unknown"}
    activities = [{"name": run["activity"].get("name"), "succeeded": succeeded(run)} for run in journal["run"]]
    held = {when: _held(journal, when) for when in ("before", "after")}
    return {**named, "status": journal["status"], "hypothesis_held": held, "activities": activities}


def succeeded(run: Mapping[str, Any]) -> bool:
    """Whether one activity did what it was to do.

    To the library an action that returns ``False``, and a program that ends with another code than 0, has succeeded.
    """
    activity, output = run["activity"], run.get("output")
    if run["status"] != "succeeded" or output is False:
        return False
    program = activity.get("type") == "action" and activity.get("provider", {}).get("type") == "process"
    return not (program and isinstance(output, Mapping) and output.get("status") != 0)
