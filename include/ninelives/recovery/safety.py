"""What keeps automation from doing harm: people may freeze it, and it moves no service more often than is declared.

Both are kept in the ledger and bind only what nobody started: a person who starts a failover knows why.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ninelives.errors import Refused
from ninelives.estate import Estate, Role
from ninelives.ports import Ledger, Record

KIND = "automation"
LONGEST_FREEZE = timedelta(days=7)
"""A freeze that everybody has forgotten would be the next outage."""
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Freeze:
    """Nothing is moved or opened by itself until then."""

    by: str
    reason: str
    at: datetime
    until: datetime
    evidence: int

    @property
    def sentence(self) -> str:
        return (
            f"automation is frozen by {self.by} until {self.until:%Y-%m-%d %H:%M:%S} UTC ({self.reason}; "
            f"evidence {self.evidence})"
        )


def freeze(
    ledger: Ledger, estate: Estate, *, reason: str, by: str, lasting: timedelta, now: datetime | None = None
) -> Record:
    """From now on, for ``lasting``, no declared loss moves traffic and no returned site is opened by itself.

    :raises Refused: ``by`` is no operator of the estate, or ``lasting`` is longer than a week
    """
    _check_operator(estate, by)
    if not reason.strip():
        raise Refused("freeze", ["say why: whoever is called at night reads it"])
    if not timedelta(0) < lasting <= LONGEST_FREEZE:
        raise Refused("freeze", [f"{lasting} is not between nothing and {LONGEST_FREEZE.days} days; freeze it again"])
    until = (now or datetime.now(UTC)) + lasting
    facts = {"state": "frozen", "by": by, "reason": reason.strip(), "until": until.isoformat()}
    return ledger.append(KIND, estate.name, facts)


def thaw(ledger: Ledger, estate: Estate, *, by: str) -> Record:
    """Automation acts again; repeating it is no error. Losses that were declared meanwhile are not made up for.

    :raises Refused: ``by`` is no operator of the estate
    """
    _check_operator(estate, by)
    return ledger.append(KIND, estate.name, {"state": "thawed", "by": by})


def current_freeze(ledger: Ledger, estate: Estate, now: datetime | None = None) -> Freeze | None:
    """The freeze that holds now; of several the newest. One query, because a failover asks it."""
    newest = ledger.records(kind=KIND, subject=estate.name, limit=1)
    if not newest or newest[0].facts["state"] != "frozen":
        return None
    record = newest[0]
    until = datetime.fromisoformat(record.facts["until"])
    if until <= (now or datetime.now(UTC)):
        return None
    return Freeze(record.facts["by"], record.facts["reason"], record.at, until, record.seq)


def unanswered_losses(ledger: Ledger, since: datetime) -> list[Record]:
    """Losses declared since then that a freeze kept from being acted on, newest first."""
    return [record for record in ledger.records(kind="loss", since=since) if record.facts.get("frozen")]


def too_many_failovers(ledger: Ledger, estate: Estate, service: str, now: datetime | None = None) -> str | None:
    """Why ``service`` may not be moved by itself now; ``None`` where it may."""
    limit, at = estate.recovery.failovers_per_hour, now or datetime.now(UTC)
    moves = [
        record
        for record in ledger.records(kind="failover", subject=service, since=at - HOUR)
        if record.facts.get("outcome") == "moved" and record.at > at - HOUR
    ]
    if len(moves) < limit:
        return None
    return (
        f"{service} was moved {len(moves)} times within the last hour, and the estate allows {limit} "
        f"(recovery.failovers_per_hour): something keeps moving it; see evidence {moves[0].seq}, then start fail_over "
        "by hand"
    )


def _check_operator(estate: Estate, who: str) -> None:
    operators = estate.people_with(Role.OPERATOR)
    if who not in operators:
        raise Refused("automation", [f"{who} is no operator of the estate; operators are {', '.join(operators)}"])
