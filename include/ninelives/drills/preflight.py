"""May this drill start now? Every reason against it at once, from measurement; looking changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from ninelives.drills.scenario import Drill
from ninelives.drills.scenarios import find_scenario
from ninelives.errors import NinelivesError, Refused
from ninelives.estate import Estate, Service
from ninelives.estate.model import ScenarioName
from ninelives.injections import open_injections
from ninelives.ports import GatewayState, Systems
from ninelives.probing.measure import steady_state
from ninelives.probing.records import read_heartbeat, read_probes
from ninelives.probing.traffic import bad_seconds, read_user_failures
from ninelives.recovery.safety import current_freeze

STEADY_FOR = timedelta(seconds=30)
"""How long before a drill the answers must have been good: long enough to average 600 probes at the default rate."""

MEASURING = timedelta(seconds=10)
"""A prober that was silent for longer is not measuring."""


@dataclass(frozen=True)
class Preflight:
    """``reasons`` against the drill (empty: it may start), and the drill with the fingerprint of what it would do."""

    drill: Drill
    reasons: tuple[str, ...]
    survivors: tuple[str, ...]


def resolve_site(estate: Estate, state: GatewayState, service_name: str, site: str, scenario: str = "site-loss") -> str:
    """``active`` means the site that serves now: for an active-active service its first open one. Nothing means the one
    that the scenario usually strikes. Empty for a scenario that is not about one site.

    :raises Refused: the estate knows no such scenario, service or site, or the scenario is not about one
    """
    chosen, service = find_scenario(scenario), estate.service_by_name.get(service_name)
    if service is None:
        raise Refused("drill", [f"there is no service {service_name!r}; there are {', '.join(estate.service_by_name)}"])
    if chosen.name is ScenarioName.EXPERIMENT:
        return site  # which one
    if not chosen.name.at_a_site:
        if site:
            raise Refused("drill", [f"{scenario} is not about one site: leave the site out, not {site!r}"])
        return ""
    if site == "active":
        return state.active[service.name][0]
    if not site:
        return chosen.usual_site(estate, state, service)
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
    for look in (_others, _sites, _scenario, _answers, _budget):
        try:
            reasons += look(systems, drill, service, state, now)
        except NinelivesError as error:
            reasons.append(str(error))
    if not reasons:
        drill = replace(drill, fingerprint=scenario.fingerprint(systems, drill))
    return Preflight(drill, tuple(reasons), survivors)


def moves_under_way(systems: Systems, drill: Drill) -> list[str]:
    """Another drill, or a failover or failback that holds its service."""
    names = ["drill", *(f"service:{name}" for name in systems.estate.service_by_name)]
    held = [lease for name in names if (lease := systems.ledger().current_lease(name)) and lease.holder != drill.id]
    return [f"{lease.name} is held by {lease.holder} until {lease.expires_at:%H:%M:%S} UTC" for lease in held]


def _others(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """Another drill, a failover or a failback is running, or nothing would recover by itself."""
    frozen = current_freeze(systems.ledger(), systems.estate, now)
    return [
        *moves_under_way(systems, drill),
        *(f"{name} is on its way back to another site" for name in state.shares),
        *([frozen.sentence] if frozen else []),
        *(
            f"{one.scenario} of {one.site or one.service or 'a provider'} is not undone yet ({one.id})"
            for one in open_injections(systems.home)
            if one.id != drill.id
        ),
    ]


def _sites(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """A site is away already."""
    return [f"{site} is closed at the gateway" for site in sorted(state.closed_sites)]


def _scenario(systems: Systems, drill: Drill, service: Service, state: GatewayState, now: datetime) -> list[str]:
    """What the scenario itself needs, and whether it can be done from here at all."""
    scenario = find_scenario(drill.scenario)
    reasons = scenario.reasons(systems, drill, state)
    if not reasons:
        for fault in scenario.plan(systems, drill):
            systems.faults().check(fault)
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

    Probes stand for users, but not while something was broken on purpose: then only what users themselves got counts,
    as the gateway's log has it, and where nobody can read that, the probes after all. The whole window's allowance
    counts from the first day on, so that a young estate is not spent by one bad minute.
    """
    beat, objective = read_heartbeat(systems.home.probes), service.objective
    rows = read_probes(systems.home.probes, now - objective.window, now, service.name)
    spent = bad_seconds(rows, read_user_failures(systems.home.logs, service.name), beat.interval_s if beat else 0.0)
    allowed = objective.window.total_seconds() * (1 - objective.availability)
    if spent >= allowed:
        return [f"{service.name} has spent its error budget: {spent:.0f} s of {allowed:.0f} s of bad answers"]
    return []
