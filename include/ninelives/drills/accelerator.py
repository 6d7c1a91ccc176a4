"""The drill of a faulty accelerator: played to the estate's own look, and everything above that is real."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from ninelives.accelerators import drain
from ninelives.accelerators.evidence import judged, reasons_in, reasons_of, seen, subject, validate
from ninelives.drills.scenario import Drill, Promise, Scenario
from ninelives.errors import Refused, Unavailable
from ninelives.estate import Estate, Mode, Service
from ninelives.estate.accelerators import STAND_IN
from ninelives.estate.model import Hardware, ScenarioName
from ninelives.injections import Fault, Played, find_injection
from ninelives.ports import GatewayState, Systems

SCRIPTS = ("ecc_volatile=1\n", "xids=79\n", "recovery=1\n")
"""An uncorrectable memory error, a device that has fallen off the bus, one that asks for a reset: each blocks by the
policy's defaults."""

SEEN_WITHIN = 30.0
"""Seconds until the gateway sends a drained replica nothing; its health checks need four."""


class AcceleratorFault(Scenario):
    name = ScenarioName.ACCELERATOR_FAULT
    breaks = (
        "the look at a machine's accelerator finds a fault that is played below NVIDIA's bindings; no device breaks"
    )
    promises = (Promise.USERS, Promise.DRAINED)

    def usual_site(self, estate: Estate, state: GatewayState, service: Service) -> str:
        serving = state.active[service.name]
        return next((site for site in (*serving, *service.sites) if _played(estate, site)), serving[0])

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        service, gateway = systems.estate.service_by_name[drill.service], systems.gateway()
        if service.release.hardware is Hardware.CPU:
            return [f"{service.name} is served by the processor (release.hardware): no accelerator's fault concerns it"]
        machine = _machine(systems, drill)
        mine = drain.replicas_on(systems, drill.site, machine)
        serving = state.active[service.name]
        healthy = sum(gateway.healthy_sites(service.name).get(site, 0) for site in serving)
        if healthy - (sum(one.ready(service.model) for one in mine) if drill.site in serving else 0) < 1:
            return [
                f"no replica of {service.name} but those on {machine} of {drill.site} answers: none would take over"
            ]
        if taken := drain.drained(systems, subject(drill.site, machine)):
            return [f"{', '.join(taken)} is taken out of {machine} already; run validate_accelerators"]
        found = judged(systems.estate, drill.site, machine, seen(systems, drill.site, machine))
        return [f"{subject(drill.site, machine)} is not sound before the drill: {one}" for one in reasons_in(found)]

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        script = SCRIPTS[hashlib.sha256(drill.id.encode()).digest()[0] % len(SCRIPTS)]
        return (Played(site=drill.site, machine=_machine(systems, drill), script=script),)

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any]:
        """The look that ``validate_accelerators`` takes every twenty minutes, and the drain that follows from it."""
        (fault,) = _faults(systems, drill)
        look = validate(systems, fault.site, fault.machine, run=drill.id)
        done = drain.follow(systems, fault.site, fault.machine, look)
        taken = drain.drained(systems, look.subject)
        return {
            "by": "validate_accelerators",
            "evidence": look.seq,
            "machine": look.subject,
            "found": reasons_of(look),
            "drained": list(taken),
            "done": done,
            "problems": [
                *([] if look.facts["blocked"] else [f"the look found no fault at {look.subject}"]),
                *([] if taken else done),
                *_still_asked(systems, fault, taken),
                *_moved_before(systems, drill, look.subject),
                *_chosen_all_the_same(systems, fault),
            ],
        }

    def after(self, systems: Systems, drill: Drill) -> None:
        """Look again: who drained the machine gives it back where it is sound."""
        for fault in _faults(systems, drill):
            where = subject(fault.site, fault.machine)
            if not drain.drained(systems, where):
                continue
            look = validate(systems, fault.site, fault.machine, run=drill.id)
            drain.follow(systems, fault.site, fault.machine, look)
            if drain.drained(systems, where):
                raise Unavailable(f"{where} is not given back: {'; '.join(reasons_of(look)) or 'ask again'}")


def _faults(systems: Systems, drill: Drill) -> tuple[Played, ...]:
    injection = find_injection(systems.home, drill.id)
    return tuple(one for one in injection.faults if isinstance(one, Played)) if injection else ()


def _played(estate: Estate, site: str) -> tuple[str, ...]:
    return tuple(one.name for one in estate.site_by_name[site].accelerators if one.policy.kind == STAND_IN)


def _machine(systems: Systems, drill: Drill) -> str:
    """The first of the site that is looked at through the stand-in and has a replica."""
    if not (names := _played(systems.estate, drill.site)):
        reason = (
            f"no machine of {drill.site} is looked at through the stand-in for NVIDIA's library, and a real device "
            "cannot be broken from here: declare one with policy: {kind: stand-in}, see docs/drills.md"
        )
        raise Refused("drill", [reason])
    for name in names:
        if drain.replicas_on(systems, drill.site, name):
            return name
    raise Refused(
        "drill", [f"no replica of {drill.site} is known to run on {', '.join(names)}: a drain would be empty"]
    )


def _still_asked(systems: Systems, fault: Played, models: tuple[str, ...]) -> list[str]:
    """Replicas that were taken out and are asked all the same, after the gateway had the time to notice."""
    mine = drain.replicas_on(systems, fault.site, fault.machine)
    found = [f"{one.url} is ready for {model}" for one in mine for model in models if one.ready(model)]
    replicas, gateway = systems.replicas(fault.site), systems.gateway()
    deadline = time.monotonic() + SEEN_WITHIN
    for service in systems.estate.services_at(fault.site):
        if service.model in models:
            left = sum(one.ready(service.model) for one in replicas)
            while (count := gateway.healthy_sites(service.name).get(fault.site, 0)) > left:
                if time.monotonic() > deadline:
                    found.append(
                        f"the gateway asks {count} replicas of {service.name} at {fault.site}, {left} are ready"
                    )
                    break
                time.sleep(0.1)
    return found


def _moved_before(systems: Systems, drill: Drill, where: str) -> list[str]:
    """What the estate did between the fault and the drain, which is to come first."""
    injection, ledger = find_injection(systems.home, drill.id), systems.ledger()
    if injection is None or injection.lost_at is None:
        return []
    drains = ledger.records(kind=drain.KIND, subject=where, since=injection.lost_at)
    return [
        f"{kind} of {one.subject} came before the drain, evidence {one.seq}"
        for kind in ("loss", "failover")
        for one in ledger.records(kind=kind, since=injection.lost_at)
        if drains and one.seq < drains[-1].seq
    ]


def _chosen_all_the_same(systems: Systems, fault: Played) -> list[str]:
    """Services that a failover would move to the faulty machine's site, now that its fault is known."""
    from ninelives.recovery.failover import accelerators_of

    active = systems.gateway().state().active
    return [
        f"{service.name} could still be moved to {fault.site}, whose accelerator is faulty"
        for service in systems.estate.services_at(fault.site)
        if service.mode is Mode.ACTIVE_PASSIVE
        and service.release.hardware is Hardware.ACCELERATOR
        and fault.site not in active[service.name]
        and not accelerators_of(systems, service, fault.site)["accelerator_faults"]
    ]
