"""Why a service is where it is, and what would happen if its site were lost now: in sentences, with their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ninelives.breaker.control import last_change
from ninelives.estate import Mode, Service
from ninelives.ports import GatewayState, Record, Systems
from ninelives.recovery.licences import licence_status
from ninelives.recovery.standby import ServiceReadiness, State


@dataclass(frozen=True)
class Sentence:
    text: str
    evidence: int | None = None
    """Number of the ledger record that says so."""


def explain(systems: Systems, service: Service, readiness: ServiceReadiness) -> list[Sentence]:
    """Where the traffic is, why, since when, and what the loss of its site would do."""
    state = systems.gateway().state()
    return [
        *_where(systems, service, state),
        *_broken(systems, service, state),
        *_closed(systems, service, state),
        *_licensed(systems, service),
        *_loss(systems, service, state, readiness),
    ]


def _where(systems: Systems, service: Service, state: GatewayState) -> list[Sentence]:
    active = [site for site in state.active[service.name] if site not in state.closed_sites]
    name, mode = service.name, service.mode
    if not active:
        answer = "the fallback answers" if service.fallback else "users get errors"
        told = [Sentence(f"{name} is served from nowhere: {', '.join(state.active[name])} is closed, and {answer}.")]
    elif service.name in state.shares:
        shares = ", ".join(f"{share}% to {site}" for site, share in state.shares[name].items())
        told = [Sentence(f"{name} is on its way back to {service.sites[0]}: {shares}.")]
    else:
        told = [Sentence(f"{name} ({mode}) is served from {' and '.join(active)}.")]
    if mode is Mode.ACTIVE_ACTIVE:
        return [*told, Sentence("It is active-active: every open site of it serves, and nothing has to be moved.")]
    move = _last_move(systems, service)
    if move is None:
        return [*told, Sentence(f"It has never been moved: {service.sites[0]} is the first of its sites.")]
    return [*told, *_why_moved(systems, service, move)]


def _last_move(systems: Systems, service: Service) -> Record | None:
    """The newest failover or failback that moved it."""
    ledger = systems.ledger()
    moves = [
        next((r for r in ledger.records(kind=kind, subject=service.name) if r.facts.get("outcome") == "moved"), None)
        for kind in ("failover", "failback")
    ]
    return max((move for move in moves if move), key=lambda record: record.seq, default=None)


def _why_moved(systems: Systems, service: Service, move: Record) -> list[Sentence]:
    facts = move.facts
    at = (facts["steps"].get("move_traffic") or facts["steps"].get("shift_traffic") or {}).get("moved_at")
    since = datetime.fromisoformat(at) if at else move.at
    told = [
        Sentence(
            f"A {move.kind} moved it from {facts['from']} to {facts['to']} at {since:%Y-%m-%d %H:%M:%S} UTC.", move.seq
        )
    ]
    if move.kind == "failback":
        agreed = facts.get("approved_by")
        return [*told, Sentence(f"{agreed} approved that." if agreed else "The estate asks nobody for that.", move.seq)]
    losses = systems.ledger().records(kind="loss", subject=facts["from"])
    loss = next((one for one in losses if one.facts.get("run") == facts.get("run")), None)
    if loss:
        told.append(Sentence(f"{facts['from']} was declared lost: {'; '.join(loss.facts['reasons'])}.", loss.seq))
    if (verdict := facts["steps"].get("verify_data")) and verdict.get("evidence"):
        text = f"The gate's verdict on the data at {facts['to']} was {verdict['verdict']}."
        told.append(Sentence(text, verdict["evidence"]))
    told += [Sentence(f"It was moved although {warning}.", move.seq) for warning in facts.get("warnings", ())]
    return told


def _broken(systems: Systems, service: Service, state: GatewayState) -> list[Sentence]:
    if service.name not in state.open_breakers:
        return []
    answer = "the fallback answers" if service.fallback else "users get errors"
    change = last_change(systems, service.name)
    if change is None or change.facts["state"] != "open":
        return [Sentence(f"Its breaker is open: no replica is asked, and {answer}.")]
    facts = change.facts
    return [
        Sentence(
            f"Its breaker is open: no replica is asked, and {answer}. {facts['by']} opened it: {facts['reason']}.",
            change.seq,
        )
    ]


def _closed(systems: Systems, service: Service, state: GatewayState) -> list[Sentence]:
    told = []
    for site in service.sites:
        if site in state.closed_sites:
            loss = next(iter(systems.ledger().records(kind="loss", subject=site, limit=1)), None)
            since = f" since {loss.at:%Y-%m-%d %H:%M:%S} UTC" if loss else ""
            told.append(
                Sentence(f"{site} is closed{since}, until return_site takes it back.", loss.seq if loss else None)
            )
    return told


def _licensed(systems: Systems, service: Service) -> list[Sentence]:
    needed = set(systems.estate.licences_of(service))
    if not needed:
        return []
    return [
        Sentence(f"Licence {one.holdings.licence.name}: {said}.")
        for one in licence_status(systems.estate, systems.ledger())
        if one.holdings.licence in needed
        for said in (*one.reasons, *one.warnings)
    ]


def _loss(systems: Systems, service: Service, state: GatewayState, readiness: ServiceReadiness) -> list[Sentence]:
    """What the loss of the site, or of any, that serves it would do."""
    otherwise = (
        f"users would get the declared fallback {dict(service.fallback.answer)}, marked as degraded"
        if service.fallback
        else "users would get errors, because no fallback is declared"
    )
    if service.mode is Mode.ACTIVE_ACTIVE:
        return _loss_of_one(service, state, readiness, otherwise)
    active = " and ".join(state.active[service.name])
    best = readiness.best
    if best is None:
        reason = readiness.reason or "it has no standby"
        return [Sentence(f"If {active} were lost now, nothing would take over, and {otherwise}: {reason}.")]
    took = _usual_seconds(systems, service)
    usual = f"; the last failover took {took[0]:.1f} s from its declaration" if took else ""
    rto = service.objective.rto.total_seconds()
    told = [
        Sentence(
            f"If {active} were lost now, {service.name} would move to {best.site} by itself{usual}, and {rto:.0f} s "
            "are promised.",
            took[1] if took else None,
        )
    ]
    return told + [Sentence(f"It would be worse than promised: {remark}.") for remark in best.remarks]


def _loss_of_one(service: Service, state: GatewayState, readiness: ServiceReadiness, otherwise: str) -> list[Sentence]:
    able = {one.site for one in readiness.standbys if one.state is State.PASS}
    told = []
    for site in state.active[service.name]:
        left = sorted(able - {site})
        if left:
            told.append(Sentence(f"If {site} were lost now, {' and '.join(left)} would go on without a move."))
        else:
            reasons = [one.first_reason for one in readiness.standbys if one.site != site and one.first_reason]
            why = f": {reasons[0]}" if reasons else ""
            told.append(Sentence(f"If {site} were lost now, no site could go on, and {otherwise}{why}."))
    return told


def _usual_seconds(systems: Systems, service: Service) -> tuple[float, int] | None:
    """How long the last failover took from its declaration to the right answers, and its evidence."""
    for record in systems.ledger().records(kind="failover", subject=service.name):
        phases = record.facts.get("phases") or {}
        if {"decision", "activation", "shift"} <= phases.keys():
            return sum(phases[name] for name in ("decision", "activation", "shift")), record.seq
    return None
