"""What the ledger knows of a promotion: the journal from which a killed one goes on, and the history of a service.

Each record says one thing that was decided or done, under a key of its own, so that a repeated step finds its record.
Before the gateway is changed the record of the intent is there, after it that of the deed: at every instant the gateway
does what the newest record of either kind says, or what the one before it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from ninelives.evidence.runs import read_runs, write_step
from ninelives.ports import Ledger, Record

KIND = "promotion"


class Entry(StrEnum):
    BEGUN = "begun"
    STEP = "step"
    """A step that was done, with what it found."""
    INTENT = "intent"
    TRAFFIC = "traffic"
    """The gateway does what the intent said."""
    COUNTED = "counted"
    """What the judge was shown by the end of a step, look by look."""
    ROLL_BACK = "roll back"
    """From here on there is only the way back."""
    ENDED = "ended"
    RETIRED = "retired"


class Outcome(StrEnum):
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Plan:
    """One promotion: as small as a failover's plan, and handed on like it."""

    run: str
    service: str
    model: str
    old: str
    new: str
    by: str
    begun_at: str
    """ISO, UTC."""

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> Self:
        return cls(**plan)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Journal:
    """The records of one run, oldest first."""

    plan: Plan
    records: tuple[Record, ...]

    def find(self, entry: Entry, name: str = "") -> Record | None:
        return next(
            (one for one in self.records if one.facts["entry"] == entry and one.facts.get("name", "") == name), None
        )

    @property
    def ended(self) -> Record | None:
        """The record of its end; a promotion that was taken back later has two, and this is the newer."""
        return self._last(Entry.ENDED)

    @property
    def outcome(self) -> Outcome | None:
        return Outcome(self.ended.facts["outcome"]) if self.ended else None

    @property
    def rolling_back(self) -> bool:
        """Whether it is on its way back and has not arrived."""
        back, ended = self._last(Entry.ROLL_BACK), self.ended
        return back is not None and (ended is None or ended.seq < back.seq)

    @property
    def retired(self) -> bool:
        return self.find(Entry.RETIRED) is not None

    @property
    def open(self) -> bool:
        """Whether something is still to be done."""
        return self.outcome is None or self.rolling_back

    @property
    def serves(self) -> str:
        """The version that answers once nothing is under way."""
        return self.plan.new if self.outcome is Outcome.PROMOTED and not self.rolling_back else self.plan.old

    @property
    def done(self) -> tuple[str, ...]:
        return tuple(one.facts["name"] for one in self.records if one.facts["entry"] == Entry.STEP)

    @property
    def traffic(self) -> tuple[Record, ...]:
        return tuple(one for one in self.records if one.facts["entry"] == Entry.TRAFFIC)

    @property
    def shares(self) -> list[Mapping[str, int]]:
        """What the gateway may do now: as the newest intent says, and until that is done also as before it.

        Before it may have been an intent of which nobody knows whether it was carried out.
        """
        moves = [one for one in self.records if one.facts["entry"] in (Entry.INTENT, Entry.TRAFFIC)]
        if not moves:
            return [{self.plan.old: 100}]
        newest = moves[-1]
        if newest.facts["entry"] == Entry.TRAFFIC:
            return [newest.facts["shares"]]
        return [newest.facts["shares"], *newest.facts["before"]]

    def _last(self, entry: Entry) -> Record | None:
        return next((one for one in reversed(self.records) if one.facts["entry"] == entry), None)


def write(ledger: Ledger, plan: Plan, entry: Entry, name: str = "", **facts: Any) -> Record:
    """Append once; what was written first stands."""
    body = {"old": plan.old, "new": plan.new, **facts}
    return write_step(ledger, KIND, plan.service, run=plan.run, entry=str(entry), name=name, **body)


def read(ledger: Ledger, service: str) -> list[Journal]:
    """Every run of a service, oldest first; raises ``Corrupted`` where a record is not what was written."""
    return [Journal(Plan.from_dict(one[0].facts["promotion"]), one) for one in read_runs(ledger, KIND, service)]


def newest(journals: Sequence[Journal]) -> Journal:
    """The one that changed something last: an earlier promotion may be taken back after a later one has failed."""
    return max(journals, key=lambda one: max(r.seq for r in one.records if r.facts["entry"] != Entry.RETIRED))


def of_run(ledger: Ledger, plan: Plan) -> Journal:
    return next(one for one in read(ledger, plan.service) if one.plan.run == plan.run)


@dataclass(frozen=True)
class Stretch:
    """From ``since`` on, until the next stretch begins, requests were answered so."""

    since: datetime | None
    """``None``: from before the ledger knows."""
    shares: Mapping[str, float]
    """Percent per version."""
    decided_by: str
    evidence: int | None
    why: str
    changing: bool = False
    """The gateway was being changed: what was before may still have answered."""
    approved_by: str | None = None


def history(journals: Sequence[Journal], first: Stretch) -> list[Stretch]:
    """How each stretch of time was answered, oldest first.

    :param first: what was before the first promotion
    """
    stretches = [first]
    records = sorted(((one, journal) for journal in journals for one in journal.records), key=lambda one: one[0].seq)
    for record, journal in records:
        facts = record.facts
        if facts["entry"] in (Entry.INTENT, Entry.TRAFFIC):
            changing, approved_by = facts["entry"] == Entry.INTENT, approver(journal.find(Entry.STEP, "approve"))
            decided = record.at, facts["shares"], facts["by"], record.seq, facts["why"]
            stretches.append(Stretch(*decided, changing=changing, approved_by=approved_by))
    return stretches


def approver(step: Record | None) -> str | None:
    """Who approved, as the record of the step ``approve`` says; ``None`` where nobody had to, or has."""
    return step.facts["found"]["approved_by"] if step else None


def at(stretches: Sequence[Stretch], instant: datetime) -> Stretch:
    """The stretch that ``instant`` lies in."""
    return next(one for one in reversed(stretches) if one.since is None or one.since <= instant)
