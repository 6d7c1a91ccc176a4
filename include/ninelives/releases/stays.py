"""Two versions at once for callers that a new one would break: the old one stays by its own address until a date.

The gateway has a route to every version that a consumer declares to stay on, and a replica that was started anew loads
it again when it is asked for it. A date ends nothing by itself, because whoever still calls would be broken by it: what
is over, and what nobody asks for any more, is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from ninelives.errors import NinelivesError
from ninelives.estate import Estate, Service
from ninelives.estate.outside import Consumer
from ninelives.experiments import journal as experiments
from ninelives.ports import Replica, Systems
from ninelives.releases import journal
from ninelives.releases.publish import read_release


def staying_on(estate: Estate, service: str, version: str, today: date) -> list[Consumer]:
    """Who calls this version by its own address, and may until today or longer."""
    return [
        one
        for one in estate.consumers
        if one.service == service and one.stays_on and one.stays_on.version == version and today <= one.stays_on.until
    ]


def declared_stays(estate: Estate, service: str) -> set[str]:
    """Versions that consumers of the service are declared to stay on, over or not: their addresses answer."""
    return {one.stays_on.version for one in estate.consumers if one.service == service and one.stays_on}


def problems(systems: Systems, service: Service, today: date) -> list[str]:
    """Stays that are over, versions that one needs and a replica lacks, and versions that nobody asks for any more."""
    found = [
        f"{one.name} was to stay on version {one.stays_on.version} until {one.stays_on.until}: ask {one.contact}, and "
        "take stays_on out of the estate once it has moved"
        for one in systems.estate.consumers
        if one.service == service.name and one.stays_on and today > one.stays_on.until
    ]
    stays = declared_stays(systems.estate, service.name)
    for replica, loaded in _loaded(systems, service).items():
        if missing := sorted(stays - set(loaded)):
            found.append(
                f"{replica.url} has no version {', '.join(missing)}, which somebody stays on; it loads it when it is "
                "asked for it, if its site has it"
            )
    for url, versions in forgotten(systems, service).items():
        found.append(
            f"{url} still has version {', '.join(versions)}, which nobody asks for: ninelives release retire "
            f"{service.name}"
        )
    return found


def forgotten(systems: Systems, service: Service) -> dict[str, list[str]]:
    """Per replica that answers, versions that are neither served nor tried, kept or stayed on."""
    needed = _needed(systems, service)
    found = {replica.url: sorted(set(loaded) - needed) for replica, loaded in _loaded(systems, service).items()}
    return {url: versions for url, versions in found.items() if versions}


def forget(systems: Systems, service: Service) -> dict[str, list[str]]:
    """Have replicas let go what is forgotten; per replica, which versions."""
    found = forgotten(systems, service)
    for site in service.sites:
        for replica in systems.replicas(site):
            for version in found.get(replica.url, ()):
                replica.unload_version(service.model, version)
    return found


def _needed(systems: Systems, service: Service) -> set[str]:
    """Raises ``Unavailable`` where a site cannot say what it serves: nothing may be let go then."""
    needed = declared_stays(systems.estate, service.name)
    ledger = systems.ledger()
    runs: list[journal.Journal | experiments.Journal] = [*journal.read(ledger, service.name)]
    runs += experiments.read(ledger, service.name)
    needed |= {version for one in runs if one.open for version in (one.plan.old, one.plan.new)}
    for site in service.sites:
        if release := read_release(systems.store(site), service.model):
            needed.add(release.version)
    if split := systems.gateway().state().versions.get(service.name):
        needed |= {split.stable, *split.shares, *split.beside}
        needed |= {one for one in (split.shadow, split.assignment and split.assignment.version) if one}
    return needed


def _loaded(systems: Systems, service: Service) -> Mapping[Replica, tuple[str, ...]]:
    found: dict[Replica, tuple[str, ...]] = {}
    for site in service.sites:
        for replica in systems.replicas(site):
            try:
                found[replica] = replica.attempts(service.model).loaded
            except NinelivesError:
                continue  # what is down has nothing loaded, and another kind of server does not say
    return found
