"""Look at every site's permissions and the registry's accounts, say what differs from the estate, and remove grants
that have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ninelives.access.compare import BUCKETS, Finding, Kind, compare
from ninelives.access.grants import PREFIX, open_grants, withdraw
from ninelives.access.policy import expires
from ninelives.access.registry import REGISTRY, registry_accounts
from ninelives.access.registry import check as check_registry
from ninelives.errors import Refused, Unavailable
from ninelives.ports import AccessControl, AccessPolicy, Record, Systems

MOST_LISTED = 1000
"""Findings in a record; the rest is counted."""


@dataclass(frozen=True)
class AccessReport:
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    """Sites whose permissions could be read."""
    silent: tuple[str, ...] = ()
    """Sites, and the registry, that keep permissions, and did not answer."""
    registry: str = "not looked at"
    """What became of the registry's accounts, in words."""

    @property
    def drift(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_drift)

    @property
    def verdict(self) -> str:
        """``missed`` with drift, ``unknown`` where anything could not be checked, ``met`` only where all was."""
        return "missed" if self.drift else "unknown" if self.findings or not self.checked else "met"

    def report(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "checked": list(self.checked),
            "registry": self.registry,
            "findings": [{**asdict(finding), "drift": finding.is_drift} for finding in self.findings],
        }


def check_access(systems: Systems, *, only: str | None = None, now: datetime | None = None) -> AccessReport:
    """Compare what is declared with what is there, at each site and in the registry, or at ``only`` one site.

    Changes nothing.
    """
    findings: list[Finding] = []
    checked, silent = [], []
    for site in [name for name in systems.estate.site_names if only in (None, name)]:
        try:
            control = systems.access(site)
            if control is None:
                detail = "cannot be checked here: the site's store keeps no permissions"
                findings.append(Finding(site, Kind.UNCHECKED, site, "", detail))
                continue
            findings += _check_site(systems, control, now or datetime.now(UTC))
            checked.append(site)
        except (Refused, Unavailable) as error:
            findings.append(Finding(site, Kind.UNCHECKED, site, "", f"cannot be checked now: {error}"))
            silent.append(site)
    registry = AccessReport.registry
    if only is None and not (accounts := registry_accounts(systems.estate)):
        registry = "the estate declares no account of it"
    elif only is None:
        try:
            different = check_registry(systems)
            findings += different
            checked.append(REGISTRY)
            registry = f"{len(different)} differences" if different else f"{len(accounts)} accounts are as declared"
        except (Refused, Unavailable) as error:
            registry = f"cannot be checked now: {error}"
            findings.append(Finding(REGISTRY, Kind.UNCHECKED, "accounts", "", registry))
            silent.append(REGISTRY)
    return AccessReport(tuple(findings), tuple(checked), tuple(silent), registry)


def _check_site(systems: Systems, control: AccessControl, now: datetime) -> list[Finding]:
    buckets = [control.bucket(name) for name in BUCKETS]
    policies = control.policies(buckets)
    temporary = [policy for policy in policies if policy.name.startswith(PREFIX)]
    granted = _granted(temporary, open_grants(systems.ledger()), control.site) if temporary else []
    ordinary = [policy for policy in policies if policy not in granted]
    return compare(systems.estate, control.site, ordinary, control.public(buckets), now, control.bucket)


def _granted(temporary: Sequence[AccessPolicy], grants: Sequence[Mapping[str, Any]], site: str) -> list[AccessPolicy]:
    """Those that a failover has written and nobody has changed; one forged under such a name is like any other."""
    known = {(facts["who"], facts["policy"]): facts["document"] for facts in grants if facts["site"] == site}
    return [policy for policy in temporary if policy.who and known.get((policy.who, policy.name)) == policy.document]


def withdraw_expired(systems: Systems, *, now: datetime | None = None) -> list[Record]:
    """Remove grants whose time is over: those that the ledger knows, and those of our name that it does not.

    A site that does not answer keeps its own until the next time: they give nobody anything any more.
    """
    at, ledger = now or datetime.now(UTC), systems.ledger()
    records = []
    known = open_grants(ledger)
    for site in systems.estate.site_names:
        try:
            if (control := systems.access(site)) is None:
                continue
            over = {
                (facts["who"], facts["policy"]): facts
                for facts in known
                if facts["site"] == site and datetime.fromisoformat(facts["until"]) <= at
            }
            for policy in control.policies(()):
                end = expires(policy) if policy.who and policy.name.startswith(PREFIX) else None
                if end and end <= at and policy.who:
                    stray = {"site": site, "who": policy.who, "policy": policy.name, "until": end.isoformat()}
                    over.setdefault((policy.who, policy.name), stray)
            records += [withdraw(control, ledger, facts, "expired") for facts in over.values()]
        except (Refused, Unavailable):
            continue  # check_access says so
    return records


def audit_access(systems: Systems, *, run: str = "", now: datetime | None = None) -> tuple[AccessReport, Record]:
    """Withdraw what has expired, check all sites, and leave what was found as evidence: kind ``access``."""
    withdrawn = withdraw_expired(systems, now=now)
    report = check_access(systems, now=now)
    expired = [f"{one.facts['policy']} of {one.facts['who']} at {one.facts['site']}" for one in withdrawn]
    return report, record_access(systems, report, expired=expired, run=run)


def record_access(systems: Systems, report: AccessReport, *, expired: Sequence[str] = (), run: str = "") -> Record:
    """Leave what was found as evidence: kind ``access``, subject the estate."""
    facts = report.report()
    listed = facts["findings"]
    facts |= {"findings": listed[:MOST_LISTED], "more": max(0, len(listed) - MOST_LISTED)}
    return systems.ledger().append("access", systems.estate.name, {**facts, "expired": list(expired), "run": run})


def refuse_drift(report: AccessReport, record: Record) -> None:
    """:raises Refused: permissions differ from what is declared
    :raises Unavailable: a site that keeps permissions, or the registry, did not answer
    """
    more = f"and {len(report.drift) - 10} more" if len(report.drift) > 10 else ""
    if report.drift:
        reasons = [*(str(finding) for finding in report.drift[:10]), *([more] if more else [])]
        todo = ["mend the policies"] if any(one.site != REGISTRY for one in report.drift) else []
        if any(one.site == REGISTRY for one in report.drift):
            todo.append("mend the registry's accounts (`ninelives access registry --apply` says what it cannot)")
        todo.append("or declare what is right")
        raise Refused("access", [*reasons, f"see evidence {record.seq}; {', '.join(todo)}"])
    if report.silent:
        said = [str(finding) for finding in report.findings if finding.site in report.silent]
        raise Unavailable("; ".join(said))
