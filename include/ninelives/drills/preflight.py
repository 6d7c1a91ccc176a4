"""May this drill start now? Every reason against it at once, from measurement; looking changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from ninelives.drills.scenario import Drill, find_scenario
from ninelives.errors import NinelivesError, Refused
from ninelives.estate import Estate, Mode, Service
from ninelives.injections import open_injections
from ninelives.ports import GatewayState, Systems
from ninelives.probing.measure import steady_state
from ninelives.probing.records import BAD, read_heartbeat, read_probes
from ninelives.recovery.failover import find_readiness

STEADY_FOR = timedelta(seconds=30)
"""How long before a drill the answers must have been good: long enough to average 600 probes at the default rate."""

MEASURING = timedelta(seconds=10)
"""A prober that was silent for longer is not measuring."""


@dataclass(frozen=True)
class Preflight:
    """``reasons`` against the drill (empty: it may start) and the site that ``active`` stood for."""

    drill: Drill
    reasons: tuple[str, ...]
    survivors: tuple[str, ...]


def resolve_site(estate: Estate, state: GatewayState, service_name: str, site: str) -> str:
    """``active`` means the site that serves now: for an active-active service its first open one.

    :raises Refused: the estate knows no such service or site
    """
    service = estate.service_by_name.get(service_name)
    if service is None:
        raise Refused("drill", [f"there is no service {service_name!r}; there are {', '.join(estate.service_by_name)}"])
    if site == "active":
        return state.active[service.name][0]
    if site not in service.sites:
        raise Refused("drill", [f"{service.name} is not at site {site!r}; it is at {', '.join(service.sites)}"])
    return site


def check_preflight(systems: Systems, drill: Drill, now: datetime | None = None) -> Preflight:
    """Look at everything that speaks against ``drill``.

    What cannot be found out speaks against it as well.
    """
    now = now or datetime.now(UTC)
    scenario = find_scenario(drill.scenario)
    estate, state = systems.estate, systems.gateway().state()
    service = estate.service_by_name[drill.service]
    survivors = scenario.survivors(estate, state, drill)
    reasons: list[str] = []
    for look in (_others, _sites, _standbys, _answers, _budget):
        try:
            reasons += look(systems, drill, service, state, now)
        except NinelivesError as error:
            reasons.append(str(error))
    return Preflight(drill, tuple(reasons), survivors)


def _others(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """Another drill or a failover is running."""
    ledger = systems.ledger()
    names = ["drill", *(f"service:{name}" for name in systems.estate.service_by_name)]
    held = [lease for name in names if (lease := ledger.current_lease(name)) and lease.holder != drill.id]
    return [f"{lease.name} is held by {lease.holder} until {lease.expires_at:%H:%M:%S} UTC" for lease in held] + [
        f"{one.scenario} of {one.site} is not undone yet ({one.id})"
        for one in open_injections(systems.home)
        if one.id != drill.id
    ]


def _sites(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """A site is away already, or nobody would be left."""
    gateway = systems.gateway()
    reasons = [f"{site} is closed at the gateway" for site in sorted(state.closed_sites)]
    if service.mode is Mode.ACTIVE_PASSIVE and drill.site not in state.active[service.name]:
        reasons.append(f"{service.name} is served from {', '.join(state.active[service.name])}, not from {drill.site}")
    for other in systems.estate.services_at(drill.site):
        if other.mode is Mode.ACTIVE_ACTIVE:
            healthy = {site: n for site, n in gateway.healthy_sites(other.name).items() if site != drill.site and n}
            if not healthy:
                reasons.append(f"{other.name} has no healthy replica outside {drill.site}")
    return reasons


def _standbys(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """No standby could take over, or its data is behind the RPO."""
    reasons = []
    for one in systems.estate.services_at(drill.site):
        if one.mode is not Mode.ACTIVE_PASSIVE or drill.site not in state.active[one.name]:
            continue
        standbys = [find_readiness(systems, one, site) for site in one.sites if site != drill.site]
        if not any(standby.eligible and not standby.warnings for standby in standbys):
            reasons += [why for standby in standbys for why in (*standby.reasons, *standby.warnings)]
    return reasons


def _answers(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """Users do not get good answers even now, or nobody measures."""
    beat, minimum = read_heartbeat(systems.home.probes), systems.estate.drills.min_good
    if beat is None or now - beat.complete_until > MEASURING:
        since = f"since {beat.complete_until:%H:%M:%S} UTC" if beat else "yet"
        return [f"the prober has measured nothing {since}; start it: nobody would know what users felt"]
    until, reasons = beat.complete_until, []
    rows = read_probes(systems.home.probes, until - STEADY_FOR, until)
    for name in systems.estate.service_by_name:
        share = steady_state(rows, since=until - STEADY_FOR, until=until, service=name, interval=beat.interval_s).low
        if share < minimum:
            reasons.append(
                f"{name}: only {share:.1%} of the last {STEADY_FOR.seconds} s are known to be answered correctly, "
                f"{minimum:.1%} are needed"
            )
    return reasons


def _budget(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """Users have suffered enough in the objective's window: bad seconds against those that the objective allows.

    The whole window's allowance counts from the first day on, so that a young estate is not spent by one bad minute.
    """
    beat, objective = read_heartbeat(systems.home.probes), service.objective
    rows = read_probes(systems.home.probes, now - objective.window, now, service.name)
    bad = pc.sum(pc.is_in(rows.column("outcome"), value_set=pa.array([str(outcome) for outcome in BAD]))).as_py() or 0
    spent = bad * (beat.interval_s if beat else 0.0)
    allowed = objective.window.total_seconds() * (1 - objective.availability)
    if spent >= allowed:
        return [f"{service.name} has spent its error budget: {spent:.0f} s of {allowed:.0f} s of bad answers"]
    return []
