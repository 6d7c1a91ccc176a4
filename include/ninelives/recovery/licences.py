"""Seats of what a vendor licenses: taken when a standby is activated, given back when its service has left it.

The ledger alone says who has which. Change number *n* of a licence has the key ``licence/<name>/<n>``, and a key can be
written once: of two who take the last seat at the same instant one finds its number gone, looks again, and is refused.
No lock is held, and whoever is killed leaves a whole change or none.

Where a service is by declaration (the first site of an active-passive one, all of an active-active one) its seats are
taken always, also while that site is lost: most vendors count what may run, and it may be back at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from ninelives.errors import Refused
from ninelives.estate import Estate, Mode, Service
from ninelives.estate.cron import next_due
from ninelives.estate.model import Licence
from ninelives.ports import Ledger, Record, Systems

KIND = "licence"
_FOREVER = date(9900, 1, 1)
"""As vendors mean 9999-12-31: early enough that a day and a grace can be added."""
MOST_TRIES = 100
"""Changes of one licence that others may make while this one is being made."""


@dataclass(frozen=True)
class Holding:
    """Seats that one service has at one site; ``since`` is ``None`` for those that it has by declaration."""

    service: str
    site: str
    seats: int
    since: datetime | None = None


@dataclass(frozen=True)
class Holdings:
    """Who has which seats of one licence, after ``changes`` changes."""

    licence: Licence
    held: tuple[Holding, ...]
    changes: int
    beyond_since: datetime | None = None
    """The change since which more seats are in use than are declared, without a break: the clock of the grace runs from
    there. Where fewer were declared later, nobody knows since when, and it is the change all the same."""

    @property
    def in_use(self) -> int:
        return sum(one.seats for one in self.held)

    def has(self, service: str, site: str) -> bool:
        return any((one.service, one.site) == (service, site) for one in self.held)


@dataclass(frozen=True)
class Seats:
    """Whether a service may have its seats at a site: ``reason`` against it, or ``warning`` where only by grace."""

    reason: str | None = None
    warning: str | None = None
    beyond: bool = False


def find_holdings(estate: Estate, licence: Licence, changes: Sequence[Record]) -> Holdings:
    """Who has which seats. Where a service is not declared any more, or does not need the licence, it has none.

    :param changes: all records of the licence, in any order
    """
    needing = [service for service in estate.services if licence in estate.licences_of(service)]
    places = {(service.name, site) for service in needing for site in service.sites}
    held = {}
    for service in needing:
        for site in service.sites if service.mode is Mode.ACTIVE_ACTIVE else service.sites[:1]:
            held[service.name, site] = Holding(service.name, site, licence.each)
    beyond_since: datetime | None = None
    for change in sorted(changes, key=lambda record: record.seq):
        facts = change.facts
        place = facts["service"], facts["site"]
        if place not in places:
            continue
        if facts["change"] == "taken":
            held.setdefault(place, Holding(*place, facts["seats"], change.at))
        elif place in held and held[place].since is not None:
            del held[place]
        beyond = sum(one.seats for one in held.values()) > licence.seats
        beyond_since = (beyond_since or change.at) if beyond else None
    return Holdings(licence, tuple(held.values()), len(changes), beyond_since)


def judge_seats(holdings: Holdings, service: str, site: str, now: datetime) -> Seats:
    """Whether ``service`` may serve at ``site`` under this licence, or go on doing so."""
    licence, grace = holdings.licence, holdings.licence.grace
    what = f"licence {licence.name} ({licence.product})"
    if licence.sites and site not in licence.sites:
        return Seats(f"{what} is not valid at {site}, only at {', '.join(licence.sites)}")
    warnings, end = [], end_of_term(licence)
    if now >= end:
        if grace is None or now >= end + grace:
            over = "" if grace is None else f", and its grace at {end + grace:%Y-%m-%d %H:%M} UTC"
            return Seats(f"the term of {what} ended after {licence.expires}{over}; renew it")
        warnings.append(f"the term of {what} ended after {licence.expires}; its grace ends {_instant(end + grace)}")
    needed = 0 if holdings.has(service, site) else licence.each
    beyond = holdings.in_use + needed > licence.seats
    if beyond:
        use = f"{what} has {holdings.in_use} of {licence.seats} seats in use, and {service} at {site} needs {needed}"
        if grace is None:
            return Seats(f"{use} more; buy seats, or declare the grace that the vendor gives")
        until = (holdings.beyond_since or now) + grace
        if now >= until:
            return Seats(f"{use} more; its grace for that ended {_instant(until)}; buy seats")
        warnings.append(f"{use} more, which its grace allows until {_instant(until)}")
    return Seats(None, "; ".join(warnings) or None, beyond and needed > 0)


def end_of_term(licence: Licence) -> datetime:
    """The first instant at which it is over."""
    return datetime.combine(min(licence.expires, _FOREVER) + timedelta(days=1), time.min, UTC)


def seats_answer(estate: Estate, ledger: Ledger, service: Service, site: str, now: datetime | None = None) -> Seats:
    """What all licences of a service say about ``site``; asks nobody where the service needs none."""
    answers = [
        judge_seats(current_holdings(estate, ledger, licence), service.name, site, now or datetime.now(UTC))
        for licence in estate.licences_of(service)
    ]
    reasons, warnings = [a.reason for a in answers if a.reason], [a.warning for a in answers if a.warning]
    return Seats("; ".join(reasons) or None, "; ".join(warnings) or None, any(a.beyond for a in answers))


def current_holdings(estate: Estate, ledger: Ledger, licence: Licence) -> Holdings:
    return find_holdings(estate, licence, ledger.records(kind=KIND, subject=licence.name))


def take_seats(systems: Systems, service: str, site: str, *, run: str, now: datetime | None = None) -> list[Record]:
    """Take the seats that ``service`` needs at ``site``: of every licence, or of none. What it has it does not take.

    :return: what was changed
    :raises Refused: a licence is not valid there, over, or has no seat left and no grace
    :raises Unavailable: the ledger does not answer
    """
    declared = systems.estate.service_by_name[service]
    taken: list[Record] = []
    try:
        for licence in systems.estate.licences_of(declared):
            taken += _take(systems, licence, service, site, run, now or datetime.now(UTC))
    except BaseException:
        for record in taken:
            _release(systems, systems.estate.licence_by_name[record.subject], service, site, run)
        raise
    return taken


def release_seats(systems: Systems, service: str, *, serving: str, run: str) -> list[Record]:
    """Give back all seats that ``service`` took anywhere but at ``serving``; repeating it changes nothing."""
    changed = []
    for licence in systems.estate.licences_of(systems.estate.service_by_name[service]):
        for one in current_holdings(systems.estate, systems.ledger(), licence).held:
            if one.service == service and one.site != serving and one.since is not None:
                changed += _release(systems, licence, service, one.site, run)
    return changed


def _take(systems: Systems, licence: Licence, service: str, site: str, run: str, now: datetime) -> list[Record]:
    def change(holdings: Holdings) -> dict[str, Any] | None:
        answer = judge_seats(holdings, service, site, now)
        if answer.reason:
            raise Refused("licence", [answer.reason])
        if holdings.has(service, site):
            return None
        return {
            "change": "taken", "service": service, "site": site, "seats": licence.each, "beyond": answer.beyond,
            "in_use": holdings.in_use + licence.each, "run": run,
        }  # fmt: skip

    return _change(systems, licence, change)


def _release(systems: Systems, licence: Licence, service: str, site: str, run: str) -> list[Record]:
    def change(holdings: Holdings) -> dict[str, Any] | None:
        mine = [one for one in holdings.held if (one.service, one.site) == (service, site) and one.since]
        if not mine:
            return None
        left = holdings.in_use - mine[0].seats
        return {"change": "released", "service": service, "site": site, "in_use": left, "run": run}

    return _change(systems, licence, change)


def _change(systems: Systems, licence: Licence, change: Any) -> list[Record]:
    """Append the change that ``change`` makes of who has which seats, however many others do the same."""
    ledger = systems.ledger()
    for _ in range(MOST_TRIES):
        holdings = current_holdings(systems.estate, ledger, licence)
        facts = change(holdings)
        if facts is None:
            return []
        key = f"{KIND}/{licence.name}/{holdings.changes + 1}"
        try:
            return [ledger.append(KIND, licence.name, facts, once=key)]
        except Refused:
            if ledger.written(key) is None:
                raise  # it was not the number
    raise Refused("licence", [f"{licence.name} changes hands faster than it can be read; try again"])


@dataclass(frozen=True)
class LicenceStatus:
    """One licence, for people; ``verdict`` is ``missed`` where more is used than it allows."""

    holdings: Holdings
    verdict: str
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    grace_until: datetime | None

    def report(self) -> dict[str, Any]:
        licence = self.holdings.licence
        return {
            "licence": licence.name,
            "product": licence.product,
            "seats": licence.seats,
            "in_use": self.holdings.in_use,
            "held": [
                {"service": one.service, "site": one.site, "seats": one.seats, "since": one.since and str(one.since)}
                for one in self.holdings.held
            ],
            "expires": licence.expires.isoformat(),
            "grace_until": self.grace_until and self.grace_until.isoformat(),
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
        }


def next_drill(estate: Estate, now: datetime) -> datetime | None:
    """When the estate's calendar starts the next one."""
    return next_due(estate.drills.schedule, now) if estate.drills.schedule else None


def licence_status(estate: Estate, ledger: Ledger, now: datetime | None = None) -> list[LicenceStatus]:
    """Every licence as it is used now, and what ends before the next planned drill."""
    at = now or datetime.now(UTC)
    drill = next_drill(estate, at)
    return [_status(current_holdings(estate, ledger, licence), at, drill) for licence in estate.licences]


def _status(holdings: Holdings, now: datetime, drill: datetime | None) -> LicenceStatus:
    licence, end, grace = holdings.licence, end_of_term(holdings.licence), holdings.licence.grace or timedelta(0)
    reasons: list[str] = []
    warnings: list[str] = []
    clocks: list[datetime] = []
    if now >= end:
        clocks.append(end + grace)
        said = f"its term ended after {licence.expires}"
        (reasons if now >= clocks[-1] else warnings).append(said)
    elif drill is not None and end <= drill:
        warnings.append(f"its term ends after {licence.expires}, before the drill planned for {_instant(drill)}")
    if holdings.in_use > licence.seats:
        clocks.append((holdings.beyond_since or now) + grace)
        said = f"{holdings.in_use} seats are in use, and {licence.seats} were bought"
        (reasons if now >= clocks[-1] else warnings).append(said)
    until = min(clocks, default=None)
    if until is not None and now < until:
        before = f", before the drill planned for {_instant(drill)}" if drill is not None and until <= drill else ""
        warnings.append(f"its grace ends {_instant(until)}{before}")
    return LicenceStatus(holdings, "missed" if reasons else "met", tuple(reasons), tuple(warnings), until)


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
