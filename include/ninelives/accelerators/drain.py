"""A replica whose accelerator is faulty answers nothing more, before anybody moves the service; sound again, it does.

Its models are unloaded, so that it is not ready and the gateway sends it nothing. A site whose replicas are all drained
is to the gateway a site without a healthy replica, from which detection and failover follow as ever.
"""

from __future__ import annotations

from ninelives.accelerators.evidence import models_at, reasons_of
from ninelives.errors import NinelivesError, Unavailable
from ninelives.estate.model import Hardware
from ninelives.ports import Record, Replica, Systems

KIND = "accelerators-drain"


def follow(systems: Systems, site: str, host: str, look: Record) -> list[str]:
    """Drain this machine's replicas where the look has read a fault, give them back where it found nothing wrong.

    What could not be read drains nothing, and neither does a fault where no other replica could answer: a doubtful
    answer is better than none. May be repeated; what is done is in the ledger before it is done.

    :param host: a replica is this machine's whose ``machine`` is called so
    :return: what was done or not, one sentence each
    :raises Unavailable: a sound machine could not be given back; the next look goes on
    """
    taken = drained(systems, look.subject)
    if look.facts["blocked"]:
        try:
            return _drain(systems, site, host, look)
        except NinelivesError as error:  # the fault itself must be told, whatever else does not answer
            return [f"{look.subject} could not be drained: {error}"]
    if taken and not reasons_of(look):
        return _give_back(systems, site, host, look, taken)
    return []


def drained(systems: Systems, subject: str) -> tuple[str, ...]:
    """The models that were taken out there and not given back."""
    last = systems.ledger().records(kind=KIND, subject=subject, limit=1)
    return tuple(last[0].facts["models"]) if last and last[0].facts["drained"] else ()


def replicas_on(systems: Systems, site: str, host: str) -> list[Replica]:
    return [one for one in systems.replicas(site) if one.machine == host]


def _drain(systems: Systems, site: str, host: str, look: Record) -> list[str]:
    mine, said, models = replicas_on(systems, site, host), list[str](), list[str]()
    if not mine:
        return [f"no replica of {site} is known to run on {host}, so none is drained"]
    gateway = systems.gateway()
    for service in systems.estate.services_at(site):
        if service.release.hardware is not Hardware.ACCELERATOR:
            continue
        healthy = dict(gateway.healthy_sites(service.name))
        others = sum(healthy.values()) - sum(_ready(one, service.model) for one in mine)
        if others < 1:
            said.append(f"{service.name} stays on {host}: no other replica could answer")
        elif service.model not in models:
            models.append(service.model)
    if not models:
        return said
    facts = {"drained": True, "models": models, "look": look.seq}
    systems.ledger().append(KIND, look.subject, facts, once=f"{KIND}/{look.seq}")
    for replica in mine:
        for model in models:
            try:
                replica.unload(model)
                said.append(f"{model} is taken out of {replica.url}")
            except NinelivesError as error:
                said.append(f"{model} could not be taken out of {replica.url}: {error}")
    return said


def _ready(replica: Replica, model: str) -> bool:
    try:
        return replica.ready(model)
    except Unavailable:
        return False


def _give_back(systems: Systems, site: str, host: str, look: Record, taken: tuple[str, ...]) -> list[str]:
    said = []
    still = models_at(systems.estate, site)
    for replica in replicas_on(systems, site, host):
        for model in (one for one in taken if one in still):
            replica.load(model)
            said.append(f"{model} is back at {replica.url}")
    facts = {"drained": False, "models": list(taken), "look": look.seq}
    systems.ledger().append(KIND, look.subject, facts, once=f"{KIND}/{look.seq}")
    return said
