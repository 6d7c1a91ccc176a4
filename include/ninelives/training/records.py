"""What the ledger knows of a training: that it began, and that it finished."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

from ninelives.ports import Ledger, Record

KIND = "training"


@dataclass(frozen=True)
class Training:
    """One model trained in one way on one data version. Whoever repeats it continues the same stream of checkpoints.

    :param recipe: everything else that the outcome depends on: parameters, the code, the libraries
    """

    model: str
    dataset: str
    data_version: str
    recipe: str

    @property
    def stream(self) -> str:
        """Name of its checkpoints, below the model's: another version or recipe never meets them."""
        digest = hashlib.sha256(rfc8785.dumps([self.model, self.dataset, self.data_version, self.recipe])).hexdigest()
        return f"{self.model}/{digest[:24]}"

    def facts(self, state: str) -> dict[str, Any]:
        return {
            "state": state,
            "stream": self.stream,
            "dataset": self.dataset,
            "data_version": self.data_version,
            "recipe": self.recipe,
        }


def begin(ledger: Ledger, training: Training) -> Record:
    """Say that it begins; once, however often it is resumed."""
    return ledger.append(KIND, training.model, training.facts("begun"), once=f"{KIND}/{training.stream}/begun")


def finish(ledger: Ledger, training: Training, facts: Mapping[str, Any]) -> Record:
    """Say that it finished, and how it went; the first time stands."""
    key = f"{KIND}/{training.stream}/finished"
    return ledger.written(key) or ledger.append(KIND, training.model, {**training.facts("finished"), **facts}, once=key)


def unfinished(ledger: Ledger) -> list[Training]:
    """Trainings that began and did not finish, the latest first; a recipe of other code can only be begun anew."""
    done: set[str] = set()
    found: dict[str, Training] = {}
    for record in ledger.records(kind=KIND):  # newest first, so an end is seen before its beginning
        facts = record.facts
        if facts["state"] == "finished":
            done.add(facts["stream"])
        elif facts["stream"] not in done:
            found[facts["stream"]] = Training(record.subject, facts["dataset"], facts["data_version"], facts["recipe"])
    return list(found.values())
