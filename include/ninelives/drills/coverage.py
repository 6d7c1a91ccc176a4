"""Which scenario was tried on which service, with what result, and what is due: pure, from the ledger's records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ninelives.estate import Estate
from ninelives.estate.model import PlannedDrill, ScenarioName
from ninelives.ports import Record

NEVER = "never"


@dataclass(frozen=True)
class Covered:
    """One scenario on one service, at one site where the calendar names it."""

    scenario: str
    service: str
    site: str | None
    result: str
    """Verdict of the last measured drill; ``never`` where there was none."""
    last_run: datetime | None
    evidence: int | None
    every: timedelta | None
    """How old the last one may become; ``None``: the calendar does not ask for it."""
    due: datetime | None
    """``None`` where the calendar does not ask for it. What never ran is due at once."""
    overdue: timedelta | None
    """By how much; ``None`` where it is not."""

    def facts(self) -> dict[str, Any]:
        """For JSON: instants in ISO, durations in seconds."""
        return {
            "scenario": self.scenario,
            "service": self.service,
            "site": self.site,
            "result": self.result,
            "last_run": self.last_run.isoformat() if self.last_run else None,
            "evidence": self.evidence,
            "every_seconds": self.every.total_seconds() if self.every else None,
            "due": self.due.isoformat() if self.due else None,
            "overdue_seconds": self.overdue.total_seconds() if self.overdue is not None else None,
        }


def coverage(estate: Estate, records: Sequence[Record], now: datetime) -> list[Covered]:
    """Every planned drill in the order of the calendar, then every other scenario on every service.

    :param records: evidence of kind ``drill``, newest first
    """
    planned = [_covered(one, records, now) for one in estate.drills.calendar]
    asked = {(one.scenario, one.service) for one in planned}
    rest = [
        _covered(None, records, now, scenario, service.name)
        for scenario in ScenarioName
        for service in estate.services
        if (scenario.value, service.name) not in asked
    ]
    return [*planned, *rest]


def next_due(estate: Estate, records: Sequence[Record], now: datetime) -> PlannedDrill | None:
    """The planned drill that is longest overdue: what never ran first, in the calendar's order. ``None``: none is due.

    Of those that never ran the order of the calendar decides, and a refused drill does not count as run; so that one
    that is refused each time does not keep the others away, what was tried last waits behind what was not.
    """
    found = [(one, _covered(one, records, now)) for one in estate.drills.calendar]
    overdue = [(plan, covered) for plan, covered in found if covered.overdue is not None]
    if not overdue:
        return None
    return min(overdue, key=lambda pair: _tried_at(pair[0], records) or datetime.min.replace(tzinfo=now.tzinfo))[0]


def _covered(
    plan: PlannedDrill | None, records: Sequence[Record], now: datetime, scenario: str = "", service: str = ""
) -> Covered:
    scenario, service = (plan.scenario.value, plan.service) if plan else (scenario, service)
    site, every = (plan.site, plan.every) if plan else (None, None)
    last = next((one for one in _of(records, scenario, service, site) if one.facts["outcome"] == "measured"), None)
    due = None if every is None else now if last is None else last.at + every
    return Covered(
        scenario=scenario,
        service=service,
        site=site,
        result=last.facts["verdict"] if last else NEVER,
        last_run=last.at if last else None,
        evidence=last.seq if last else None,
        every=every,
        due=due,
        overdue=now - due if due is not None and due <= now else None,
    )


def _tried_at(plan: PlannedDrill, records: Sequence[Record]) -> datetime | None:
    tried = _of(records, plan.scenario.value, plan.service, plan.site)
    return tried[0].at if tried else None


def _of(records: Sequence[Record], scenario: str, service: str, site: str | None) -> list[Record]:
    """Whose subject says so: ``scenario/service``, or ``scenario/service/site``."""
    wanted = [scenario, service, *([site] if site else [])]
    return [one for one in records if one.subject.split("/")[: len(wanted)] == wanted]
