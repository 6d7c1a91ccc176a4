"""What a failover lets somebody do at the standby: the least, for a time, under the incident's id.

Each grant is a policy of its own, ``ninelives-<service>-<incident>``, whose statements end by themselves at a declared
time (``DateLessThan`` on ``aws:CurrentTime``), whether or not anybody is left to withdraw them. The ledger knows of a
grant before it is written and until after it is removed, so at whatever instant a step is killed none is unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ninelives.access.compare import Target, as_it_is, targets
from ninelives.errors import Refused
from ninelives.estate.model import AccessKind, Estate, Right
from ninelives.ports import AccessControl, Ledger, Record, Systems

PREFIX = "ninelives-"


@dataclass(frozen=True)
class Need:
    """What one user or role lacks at the standby of a service."""

    who: str
    targets: tuple[Target, ...]


def policy_name(service: str, incident: str) -> str:
    """The same for every try, and at most the 128 characters that a policy's name may have."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{PREFIX}{service}-{incident}")
    return name if len(name) <= 128 else f"{name[:111]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def needs(
    estate: Estate, service: str, lost_site: str, standby: str, called: Callable[[str], str] = as_it_is
) -> list[Need]:
    """Who may read at ``lost_site`` and is declared to do so at ``standby`` only in a failover.

    :param called: what one of our buckets is called at ``standby``
    """
    found: dict[str, list[Target]] = {}
    declared = estate.service_by_name[service]
    subjects = {f"model {declared.model}", f"dataset {estate.dataset_of(declared).name}"}
    for target in targets(estate, standby, called):
        for one in target.access if target.subject in subjects else ():
            if one.in_failover and Right.READ in one.may and one.holds(lost_site) and not one.holds(standby):
                found.setdefault(one.who, []).append(target)
    return [Need(who, tuple(of)) for who, of in sorted(found.items())]


def grant_document(need: Need, until: datetime) -> dict[str, Any]:
    """Reading, and listing only below the same prefixes, until ``until``."""
    limit = {"DateLessThan": {"aws:CurrentTime": f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}}
    resources = [target.resource for target in need.targets]
    for target in need.targets:
        if target.manifest:
            resources.append(f"arn:aws:s3:::{target.bucket}/{target.manifest}")
    reading = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": resources, "Condition": limit}
    listing = [
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{target.bucket}"],
            "Condition": {**limit, "StringLike": {"s3:prefix": [f"{target.prefix}*"]}},
        }
        for target in need.targets
    ]
    return {"Version": "2012-10-17", "Statement": [reading, *listing]}


def grant_access(
    systems: Systems, *, service: str, lost_site: str, standby: str, incident: str, now: datetime | None = None
) -> list[Record]:
    """Write what ``needs`` says; repeating it changes nothing, its end included. Asks nobody where nothing is needed.

    :raises Refused: the standby has no such user or role, or we may not act there
    :raises Unavailable: what keeps the permissions does not answer
    """
    if not needs(systems.estate, service, lost_site, standby):
        return []
    if systems.estate.site_by_name[standby].access is AccessKind.NONE:
        return []
    control, ledger, name = _control(systems, standby), systems.ledger(), policy_name(service, incident)
    records = []
    for need in needs(systems.estate, service, lost_site, standby, control.bucket):
        until = (now or datetime.now(UTC)) + systems.estate.access_for
        facts = {
            "outcome": "granted", "site": standby, "who": need.who, "policy": name, "until": until.isoformat(),
            "service": service, "document": grant_document(need, until), "incident": incident,
        }  # fmt: skip
        key = f"grant/{incident}/{standby}/{need.who}/{service}"
        record = ledger.written(key) or ledger.append("grant", standby, facts, once=key)
        control.put(need.who, record.facts["policy"], record.facts["document"])
        records.append(record)
    return records


def revoke_access(systems: Systems, *, incident: str = "", service: str = "", site: str = "") -> list[Record]:
    """Withdraw the open grants of an incident, of a service, at a site, or what all that is given has in common.

    :raises Unavailable: what keeps the permissions does not answer; what is left ends by itself
    """
    given = {"incident": incident, "service": service, "site": site}
    if not any(given.values()):
        raise Refused("withdrawal", ["name an incident, a service or a site"])
    ledger = systems.ledger()
    return [
        withdraw(_control(systems, facts["site"]), ledger, facts, "withdrawn")
        for facts in open_grants(ledger)
        if all(value in ("", facts[key]) for key, value in given.items())
    ]


def withdraw_after_failover(
    systems: Systems, *, service: str, lost_site: str, incident: str, moved: bool
) -> list[Record]:
    """A failover that moved nothing needs nothing; one that did has ended what was granted at the site it left.

    :raises Unavailable: what keeps the permissions does not answer; what is left ends by itself
    """
    if not systems.estate.grants_in_failover:
        return []
    given = {"site": lost_site} if moved else {"incident": incident}
    return revoke_access(systems, service=service, **given)


def withdraw(control: AccessControl, ledger: Ledger, facts: Mapping[str, Any], outcome: str) -> Record:
    """Remove one grant, then say so: ``withdrawn`` or ``expired``."""
    control.remove(facts["who"], facts["policy"])
    return ledger.append("grant", facts["site"], {**facts, "outcome": outcome})


def open_grants(ledger: Ledger) -> list[Mapping[str, Any]]:
    """The facts of every grant that has not been withdrawn, oldest first."""
    newest: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for record in ledger.records(kind="grant"):
        newest.setdefault((record.facts["site"], record.facts["who"], record.facts["policy"]), record.facts)
    return [facts for facts in reversed(newest.values()) if facts["outcome"] == "granted"]


def _control(systems: Systems, site: str) -> AccessControl:
    control = systems.access(site)
    if control is None:
        raise Refused(
            "access", [f"nothing keeps permissions at {site}; declare `access` for it, or take its grant away"]
        )
    return control
