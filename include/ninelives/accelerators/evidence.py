"""What was found at each machine with accelerators, in the ledger, and what a promotion or a failover makes of it.

Each machine is looked at by itself, and every one that the estate declares must have said yes lately: a replica may run
on any of them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ninelives.accelerators.check import judge_look
from ninelives.accelerators.findings import Report, State
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.estate.accelerators import STAND_IN, Host
from ninelives.estate.model import Hardware
from ninelives.ports import Ledger, Look, Record, Systems, Unread

KIND = "accelerators"
MAX_AGE = timedelta(hours=1)
"""How long a look may be relied on; the check takes a tenth of a second, and a device may fail at any time. Ours."""


def subject(site: str, host: str) -> str:
    return f"{site}/{host}"


def declared_host(estate: Estate, site: str, host: str) -> Host:
    """Raises ``Refused`` where the estate has no such machine at the site."""
    declared = estate.site_by_name[site].accelerators if site in estate.site_by_name else ()
    for one in declared:
        if one.name == host:
            return one
    known = ", ".join(one.name for one in declared) or "none"
    raise Refused("accelerators", [f"the estate declares no machine {host} with accelerators at {site}, but {known}"])


def models_at(estate: Estate, site: str) -> tuple[str, ...]:
    """The models that are served at the site by an accelerator."""
    services = estate.services_at(site)
    return tuple(dict.fromkeys(one.model for one in services if one.release.hardware is Hardware.ACCELERATOR))


def validate(systems: Systems, site: str, host: str, *, run: str = "") -> Record:
    """Look at this machine once, judge it for itself and for every model of the site, and leave that in the ledger.

    :param host: what the estate calls this machine
    :return: the record; ``reasons_of`` says what speaks against it
    :raises Refused: the estate has no such machine, or nothing here can look at its kind
    :raises Unavailable: the ledger does not answer
    """
    return record(systems, site, host, seen(systems, site, host), run=run)


def seen(systems: Systems, site: str, host: str) -> tuple[str, Look]:
    """Kind and look at this machine; raises ``Refused`` as ``validate``."""
    probe = systems.accelerators(site, declared_host(systems.estate, site, host))
    return probe.kind, probe.look()


def record(
    systems: Systems, site: str, host: str, found: tuple[str, Look], *, run: str = "", machine: str = ""
) -> Record:
    """Leave in the ledger what a look at the machine comes to.

    :param machine: where it was taken; by default here
    """
    facts = {"machine": machine or platform.node(), **judged(systems.estate, site, host, found)}
    facts |= {"run": run} if run else {}
    return systems.ledger().append(KIND, subject(site, host), facts)


def judged(estate: Estate, site: str, host: str, found: tuple[str, Look]) -> dict[str, Any]:
    """The facts of such a record: the machine for itself, and for every model of the site. Pure."""
    policy, (kind, look) = declared_host(estate, site, host).policy, found
    health = judge_look(kind, look, None, policy)
    models = {name: _fit(estate, name, health, judge_look(kind, look, need, policy))
              for name in models_at(estate, site) for need in [estate.model_by_name[name].need]}  # fmt: skip
    return {
        "kind": kind,
        "policy": policy.model_dump(mode="json"),
        "allowed": health.allowed,
        "reasons": list(health.reasons),
        "blocked": any(one.state is State.BLOCK for one in health.findings),
        "findings": [str(one) for one in health.findings if one.state is not State.PASS],
        "passed": sorted({one.check for one in health.findings if one.state is State.PASS}),
        "devices": [
            {"uuid": one.uuid, "name": one.name, "free": _known(one.readings.get("free"))} for one in look.devices
        ],
        "models": models,
    }


def _fit(estate: Estate, model: str, health: Report, report: Report) -> dict[str, Any]:
    """What the model's need adds to what was found of the machine."""
    need = estate.model_by_name[model].need
    if need is None:
        return {"need": None, "reasons": [undeclared(model)]}
    reasons = [one for one in report.reasons if one not in health.reasons]
    return {"need": need.model_dump(mode="json"), "arithmetic": need.arithmetic(), "reasons": reasons}


def undeclared(model: str) -> str:
    return f"nobody knows whether {model} fits: declare models[].need"


def _known(value: Any) -> Any:
    return None if isinstance(value, Unread) else value


def reasons_of(found: Record) -> list[str]:
    """What speaks against the machine, or against a model on it; a record that is not one of ours is a reason, too."""
    return reasons_in(found.facts)


def reasons_in(facts: Mapping[str, Any]) -> list[str]:
    """The same of the facts alone."""
    reasons = [*facts.get("reasons", ["the record says nothing"])]
    if not reasons and facts.get("allowed") is not True:
        reasons.append("the record does not say that it is allowed")
    return [*reasons, *(one for fit in facts.get("models", {}).values() for one in fit["reasons"])]


@dataclass(frozen=True)
class Standing:
    """What the evidence says of one model at one site."""

    site: str
    reasons: tuple[str, ...]
    """Why it may not be served there; empty where it may."""
    faults: tuple[str, ...] = ()
    """Those of them that were read from a device and are bad, and not only unknown or too old."""
    evidence: Mapping[str, int] = field(default_factory=dict)
    """Host to its newest record."""
    played: tuple[str, ...] = ()
    """Machines whose device was played: enough for a drill, and no proof for a promotion."""
    free: int | None = None
    """Bytes: of the device with the least free memory; ``None`` where it is not known of one."""


def standing(estate: Estate, ledger: Ledger, site: str, model: str, now: datetime | None = None) -> Standing:
    """Whether every machine of the site was found able to serve the model, not longer ago than ``MAX_AGE``.

    :raises Unavailable: the ledger does not answer
    """
    at = now or datetime.now(UTC)
    hosts = estate.site_by_name[site].accelerators
    reasons, faults, evidence, devices = list[str](), list[str](), dict[str, int](), list[tuple[str, Any]]()
    played = tuple(subject(site, one.name) for one in hosts if one.policy.kind == STAND_IN)
    if not hosts:
        reasons.append(f"the estate declares no machine with accelerators at {site}: sites[].accelerators")
    if estate.model_by_name[model].need is None:
        reasons.append(undeclared(model))
    for host in hosts:
        where = subject(site, host.name)
        found = ledger.records(kind=KIND, subject=where, since=at - MAX_AGE, limit=1)
        if not found or found[0].at < at - MAX_AGE:
            hours = MAX_AGE.total_seconds() / 3600
            reasons.append(f"{where}: nobody has looked for {hours:g} h; run validate_accelerators")
            continue
        evidence[host.name] = found[0].seq
        said = [f"{where}: {one}" for one in _against(estate, host, model, found[0].facts)]
        reasons += said
        if found[0].facts.get("blocked"):
            faults += said
        devices += [(one["uuid"], one["free"]) for one in found[0].facts.get("devices", [])]
    uuids = [uuid for uuid, _ in devices]
    if twice := sorted({uuid for uuid in uuids if uuids.count(uuid) > 1}):
        reasons.append(f"{', '.join(twice)} answered as more than one machine of {site}: two queues have one worker")
    free = [free for _, free in devices]
    least = min(free) if free and None not in free else None
    return Standing(site, tuple(reasons), tuple(faults), evidence, played, least)


def _against(estate: Estate, host: Host, model: str, facts: Mapping[str, Any]) -> Sequence[str]:
    if facts.get("kind") == "cpu":
        return ["was looked at as a machine without accelerators"]
    if facts.get("policy") != host.policy.model_dump(mode="json"):
        return ["was judged by another policy than the estate declares now; run validate_accelerators"]
    if facts.get("allowed") is not True:
        return list(facts.get("reasons", [])) or ["is not allowed"]
    need, fit = estate.model_by_name[model].need, facts.get("models", {}).get(model)
    if need is None:
        return []  # said once, not for each machine
    if fit is None or fit["need"] != need.model_dump(mode="json"):
        return [f"was judged without what {model} needs now; run validate_accelerators"]
    return list(fit["reasons"])
