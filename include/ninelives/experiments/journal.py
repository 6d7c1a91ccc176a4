"""What the ledger knows of an experiment: the journal from which a killed one goes on, or goes back.

Like that of a promotion: each record is there before or after what it says is done, under a key of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ninelives.estate.experiment import Experiment
from ninelives.evidence.runs import read_runs, write_step
from ninelives.ports import Ledger, Record
from ninelives.releases.journal import Plan

KIND = "experiment"


class Entry(StrEnum):
    BEGUN = "begun"
    STEP = "step"
    """A step that was done, with what it found."""
    INTENT = "intent"
    """From here on users may be divided."""
    DIVIDED = "divided"
    ENDING = "ending"
    """What was decided, and why. From here on there is only the way back."""
    ENDED = "ended"
    """All users have the version again that they had before."""


@dataclass(frozen=True)
class ExperimentPlan(Plan):
    """One run of an experiment; ``old`` is the control."""

    experiment: str


@dataclass(frozen=True)
class Journal:
    """The records of one run, oldest first."""

    plan: ExperimentPlan
    records: tuple[Record, ...]

    def find(self, entry: Entry, name: str = "") -> Record | None:
        return next(
            (one for one in self.records if one.facts["entry"] == entry and one.facts.get("name", "") == name), None
        )

    @property
    def declared(self) -> Experiment:
        """As the estate had it when the run began: what is decided by was chosen before there were data."""
        return Experiment.model_validate(self.records[0].facts["declared"])

    @property
    def open(self) -> bool:
        return self.find(Entry.ENDED) is None

    @property
    def state(self) -> str:
        """For people."""
        if ended := self.find(Entry.ENDED):
            return str(ended.facts["verdict"])
        if self.find(Entry.ENDING):
            return "ending"
        return "running" if self.find(Entry.DIVIDED) else "beginning"


def write(ledger: Ledger, plan: ExperimentPlan, entry: Entry, name: str = "", **facts: Any) -> Record:
    """Append once; what was written first stands."""
    body = {"old": plan.old, "new": plan.new, **facts}
    return write_step(ledger, KIND, plan.service, run=plan.run, entry=str(entry), name=name, **body)


def read(ledger: Ledger, service: str) -> list[Journal]:
    """Every run on a service, oldest first; raises ``Corrupted`` where a record is not what was written."""
    runs = read_runs(ledger, KIND, service)
    return [Journal(ExperimentPlan.from_dict(one[0].facts["experiment"]), one) for one in runs]


def of_run(ledger: Ledger, plan: ExperimentPlan) -> Journal:
    return next(one for one in read(ledger, plan.service) if one.plan.run == plan.run)


def newest(journals: Sequence[Journal], experiment: str) -> Journal | None:
    """The newest run of one experiment."""
    return next((one for one in reversed(journals) if one.plan.experiment == experiment), None)
