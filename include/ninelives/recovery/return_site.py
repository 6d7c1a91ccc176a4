"""Take a site back after a loss: reconcile, gate, load, and only then open it to traffic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.estate import Estate, Mode
from ninelives.evidence.anchor import anchor
from ninelives.gates.evidence import usable_verdict
from ninelives.ports import GatewayState, Record, Replica, Systems
from ninelives.recovery.failover import LEASE_TTL
from ninelives.recovery.safety import current_freeze
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import read_release
from ninelives.replication.reconcile import reconcile


def reconcile_site(systems: Systems, site: str, *, by: str | None = None) -> list[dict[str, Any]]:
    """Bring ``site`` and every open site to the union of their data and releases; nothing is lost, conflicts are kept.

    :param by: the person who started it; ``None``: its return was seen
    :return: one summary per dataset and other site
    :raises Refused: ``site`` is not closed, so there is nothing to take back, or automation is frozen and nobody
        started this
    """
    if by is None and (frozen := current_freeze(systems.ledger(), systems.estate)):
        raise Refused("return", [f"{site} is back, and {frozen.sentence}: start return_site with site {site} by hand"])
    state = systems.gateway().state()
    if site not in state.closed_sites:
        raise Refused("return", [f"{site} is open already"])
    others = [name for name in systems.estate.site_names if name != site and name not in state.closed_sites]
    results = []
    for other in others:
        for dataset in systems.estate.datasets:
            if {site, other} <= {dataset.primary, *dataset.copies}:
                results.append({"with": other, **asdict(reconcile(systems, dataset.name, site, other))})
    return results


def reopen_site(systems: Systems, site: str, *, holder: str) -> Record:
    """Open ``site`` to traffic once its data has passed the gate and its replicas answer correctly.

    :raises Refused: no usable verdict on the data at the site, or somebody else holds the site
    :raises Unavailable: no replica at the site gives the right golden answers
    """
    ledger, gateway = systems.ledger(), systems.gateway()
    services = systems.estate.services_at(site)
    verdicts = {}
    for dataset in {systems.estate.dataset_of(service).name for service in services}:
        verdicts[dataset] = usable_verdict(systems, dataset, site).facts["verdict"]
    replicas = systems.replicas(site)
    with ThreadPoolExecutor(len(replicas)) as pool:
        problems = [
            problem for problem in pool.map(lambda replica: _load_all(systems, site, replica), replicas) if problem
        ]
    if len(problems) == len(replicas):
        raise Unavailable(f"no replica at {site} is fit to return: {'; '.join(problems)}")
    lease = ledger.take_lease(f"site:{site}", holder, LEASE_TTL)
    gateway.open_site(site, token=lease.token)
    facts = {"verdicts": verdicts, "problems": problems, "token": lease.token, "run": holder}
    key = f"return/{site}/{holder}"
    record = ledger.written(key) or ledger.append("return", site, facts, once=key)
    ledger.release_lease(lease)
    anchor(ledger, systems.stores())
    return record


def stranded_sites(estate: Estate, state: GatewayState, site: str) -> dict[str, list[str]]:
    """Closed sites that still hold the traffic of a service which ``site``, open again, could serve, with why.

    After the loss of every site of a service the failover found no target: now there is one, and it must be told.
    """
    found: dict[str, list[str]] = {}
    for service in estate.services_at(site):
        for active in state.active[service.name]:
            if service.mode is Mode.ACTIVE_PASSIVE and active in state.closed_sites:
                why = f"{service.name} is still sent to {active}, which is closed, and {site} is open again"
                found.setdefault(active, []).append(why)
    return found


def _load_all(systems: Systems, site: str, replica: Replica) -> str | None:
    """Load the site's current release of each model it serves; return what is wrong with this replica."""
    try:
        for model in sorted({service.model for service in systems.estate.services_at(site)}):
            release = read_release(systems.store(site), model)
            if release is None:
                return f"{replica.url}: {site} has no release of {model}"
            replica.load(model)
            for golden in release.golden:
                answer = replica.infer(model, [golden.inputs])
                if not answers_match(golden.outputs, answer.outputs, release.tolerance):
                    return f"{replica.url}: wrong golden answer for {model}"
    except NinelivesError as error:
        return f"{replica.url}: {error}"
    return None
