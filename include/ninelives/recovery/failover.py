"""Move a service away from a lost site, in steps that each can be killed and run again.

The order is the safety argument: nobody sends to the lost site any more, one lease per service with a fencing token,
a gate on the data at the target, a model that has settled and answers correctly, and only then traffic.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ninelives.accelerators.evidence import standing
from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.estate import Mode, Service
from ninelives.estate.model import Hardware
from ninelives.estate.residency import residency_breach
from ninelives.evidence.anchor import anchor
from ninelives.gates.evidence import usable_verdict
from ninelives.injections import open_injections
from ninelives.ports import Answer, Lease, Ledger, Record, Replica, Systems
from ninelives.recovery.licences import Seats, release_seats, seats_answer, take_seats
from ninelives.recovery.readiness import Readiness, StandbyFacts, choose_target, judge_readiness
from ninelives.recovery.safety import current_freeze, too_many_failovers
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import Release, newest_golden_version, read_release
from ninelives.replication.acks import JOURNAL, read_acks
from ninelives.replication.lag import replication_lag
from ninelives.replication.manifest import read_manifest
from ninelives.serving.warm_up import settle

LEASE_TTL = timedelta(minutes=10)
"""Longer than any step may take: a step that outlives it is fenced off and fails."""

FAILBACK = "failback/"
"""With it begins the holder of a service's lease that is going back to its first site."""

SHARE_TTL = timedelta(seconds=20)
"""Longer than the gateway may take for one change of shares."""

LASTING_ANSWERS = 3
"""Correct answers in a row through the gateway before a move counts as done."""

ANSWER_DEADLINE = 15.0
"""Seconds that the gateway may take to serve the first correct answers after a move."""


@dataclass(frozen=True)
class FailbackPlan:
    """What one failback will do: as small as a failover's plan, and handed on like it."""

    service: str
    dataset: str
    source: str
    """Where the service is now."""
    target: str
    """Its first site, where it goes back to."""
    holder: str
    planned_at: str
    """ISO, UTC."""

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> FailbackPlan:
        return cls(**plan)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FailoverPlan:
    """What one failover will do: small and JSON-able, handed from task to task."""

    service: str
    dataset: str
    lost_site: str
    target: str
    token: int
    holder: str
    warnings: tuple[str, ...]
    declared_at: str
    """When the loss was declared, by the site watch or by the start of the run (ISO, UTC)."""
    decided_at: str
    """When this plan was made (ISO, UTC)."""
    decided_in: float
    """Seconds that deciding took by itself."""

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> FailoverPlan:
        return cls(**{**plan, "warnings": tuple(plan["warnings"])})

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(self.warnings)}

    @property
    def lease(self) -> Lease:
        return Lease(f"service:{self.service}", self.holder, self.token, datetime.max.replace(tzinfo=UTC))


def decide_failover(
    systems: Systems,
    *,
    lost_site: str,
    reasons: Sequence[str],
    holder: str,
    declared_at: datetime,
    only: str | None = None,
    by: str | None = None,
) -> list[FailoverPlan]:
    """Close ``lost_site``, and plan the failover of each active-passive service that it served.

    What nobody has started stops at the safety rules: nothing is moved, and no site closed, while automation is frozen,
    and no service is moved more often within an hour than the estate allows. Whoever starts it, no failover goes to a
    site that is closed or in a drill, and a site that still answers is not closed while nothing could take over.

    :param reasons: why the site counts as lost, for the evidence
    :param holder: the run that does this; the same holder may repeat the step
    :param declared_at: when the site was declared lost
    :param only: restrict the failover to this service
    :param by: the person who started it; ``None``: a declared loss did
    :raises Refused: a service cannot be moved, or this comes late: it was moved already. Each refusal is in the ledger
    """
    began = time.monotonic()
    estate, ledger, gateway = systems.estate, systems.ledger(), systems.gateway()
    if lost_site not in estate.site_names:
        raise Refused("failover", [f"the estate has no site {lost_site}; it has {', '.join(estate.site_names)}"])
    key = f"loss/{lost_site}/{holder}"
    first_try = ledger.written(key) is None
    repeated = first_try and lost_site in gateway.state().closed_sites
    frozen = None if by else current_freeze(ledger, estate)
    served = [
        service
        for service in estate.services_at(lost_site)
        if service.mode is Mode.ACTIVE_PASSIVE and only in (None, service.name)
    ]
    if frozen is None:
        _close(systems, lost_site, reasons, holder, key if first_try else None, served, by)
    else:
        if first_try:
            ledger.append("loss", lost_site, {"reasons": list(reasons), "run": holder, "frozen": True}, once=key)
        why = f"{lost_site} is declared lost, and {frozen.sentence}: start fail_over with site {lost_site} by hand"
        active = gateway.state().active
        raise _refused(ledger, [one for one in served if lost_site in active[one.name]], lost_site, holder, [why])

    plans: list[FailoverPlan] = []
    refusals: list[str] = []
    for service in served:
        if not repeated and only is None and lost_site not in gateway.state().active[service.name]:
            continue  # only its standby is lost: users feel nothing, and there is nothing to move
        try:
            plans.append(_plan(systems, service, lost_site, holder, declared_at, by))
        except Refused as refusal:
            refusals += refusal.reasons
            _refused(ledger, [service], lost_site, holder, refusal.reasons)
    if refusals and not plans:
        raise Refused("failover", refusals)
    return [replace(plan, decided_in=time.monotonic() - began) for plan in plans]


def left_at(systems: Systems, lost_site: str, only: str | None = None) -> list[str]:
    """The active-passive services that the gateway still has at ``lost_site``: those that nobody has moved yet."""
    active = systems.gateway().state().active
    served = [one for one in systems.estate.services_at(lost_site) if one.mode is Mode.ACTIVE_PASSIVE]
    return [one.name for one in served if only in (None, one.name) and lost_site in active[one.name]]


def _close(
    systems: Systems,
    lost_site: str,
    reasons: Sequence[str],
    holder: str,
    key: str | None,
    served: Sequence[Service],
    by: str | None,
) -> None:
    """Have nobody send to the lost site any more; with ``key`` write down first that it is lost."""
    ledger = systems.ledger()
    closing = ledger.take_lease(f"site:{lost_site}", holder, LEASE_TTL)
    try:
        if key:
            ledger.append("loss", lost_site, {"reasons": list(reasons), "run": holder}, once=key)
        _refuse_to_strand(systems, lost_site, served, by)
        systems.gateway().close_site(lost_site, token=closing.token)
    except Refused as refusal:
        active = systems.gateway().state().active
        moving = [service for service in served if lost_site in active[service.name]]
        raise _refused(ledger, moving, lost_site, holder, refusal.reasons) from refusal
    finally:
        ledger.release_lease(closing)  # it only orders the closing; the return of the site takes its own


def _refuse_to_strand(systems: Systems, lost_site: str, served: Sequence[Service], by: str | None) -> None:
    """Raise ``Refused`` where the site still answers, and nothing that it serves could be moved.

    A site that is really lost has no healthy replica: then nothing more is asked.
    """
    gateway = systems.gateway()
    state = gateway.state()
    moving = [service for service in served if lost_site in state.active[service.name]]
    if not moving or lost_site in state.closed_sites or lost_site in gateway.unhealthy_sites():
        return
    reasons: list[str] = []
    for service in moving:
        try:
            _choose(systems, service, lost_site, by)
        except Refused as refusal:
            reasons += refusal.reasons
        else:
            return
    raise Refused("failover", [*reasons, f"{lost_site} still answers, and stays open because nothing could take over"])


def _refused(
    ledger: Ledger, services: Sequence[Service], lost_site: str, holder: str, reasons: Sequence[str]
) -> Refused:
    """Leave evidence for each service that was not moved, and the error to raise."""
    for service in services:
        # Not the key of its outcome: a person may mend what was refused and have the same run go on.
        if not ledger.written(key := f"failover/{service.name}/{holder}/refused"):
            facts = {"from": lost_site, "outcome": "refused", "reasons": list(reasons), "run": holder}
            ledger.append("failover", service.name, facts, once=key)
    return Refused("failover", reasons)


def _plan(
    systems: Systems, service: Service, lost_site: str, holder: str, declared_at: datetime, by: str | None
) -> FailoverPlan:
    # First the lease: what is looked at under it no other failover changes, and a drill that begins now sees it.
    lease = _take_over(systems.ledger(), service.name, holder)
    try:
        active = systems.gateway().state().active[service.name]
        if lost_site not in active:
            raise Refused("failover", [f"{service.name} is served from {', '.join(active)}, not from {lost_site}"])
        target = _choose(systems, service, lost_site, by)
        take_seats(systems, service.name, target.site, run=holder)
    except NinelivesError:
        systems.ledger().release_lease(lease)
        raise
    dataset = systems.estate.dataset_of(service).name
    return FailoverPlan(
        service=service.name,
        dataset=dataset,
        lost_site=lost_site,
        target=target.site,
        token=lease.token,
        holder=holder,
        warnings=target.warnings,
        declared_at=declared_at.isoformat(),
        decided_at=datetime.now(UTC).isoformat(),
        decided_in=0.0,
    )


def _choose(systems: Systems, service: Service, lost_site: str, by: str | None) -> Readiness:
    """The standby that takes over; raises ``Refused`` where none can, or automation has done so too often."""
    active = systems.gateway().state().active[service.name]
    if by is None and (why := too_many_failovers(systems.ledger(), systems.estate, service.name)):
        raise Refused("failover", [why])
    standbys = [find_readiness(systems, service, site) for site in service.sites if site != lost_site]
    # In the middle of a failback a part of the traffic is at another site already: all of it goes there.
    serving = [standby for standby in standbys if standby.site in active]
    target = choose_target(service, serving) or choose_target(service, standbys)
    if target is None:
        raise Refused("failover", [reason for standby in standbys for reason in standby.reasons])
    return target


def _take_over(ledger: Ledger, service: str, holder: str) -> Lease:
    """The service's lease. A failback holds it for one change of shares at a time, and that is waited for.

    :raises Refused: another failover of the service holds it
    """
    name, deadline = f"service:{service}", time.monotonic() + SHARE_TTL.total_seconds()
    while True:
        try:
            return ledger.take_lease(name, holder, LEASE_TTL)
        except Refused:
            held = ledger.current_lease(name)
            failback = held is not None and held.holder.startswith(FAILBACK)
            if time.monotonic() > deadline or not (failback or held is None):
                raise
        time.sleep(0.05)


def find_readiness(systems: Systems, service: Service, site: str) -> Readiness:
    """Look at ``site`` and judge whether it could take ``service`` over now."""
    store, dataset = systems.store(site), systems.estate.dataset_of(service)
    licensed = systems.estate.licences_of(service)
    seats = seats_answer(systems.estate, systems.ledger(), service, site) if licensed else Seats()
    release, lag, answers = None, None, True
    try:
        found = read_release(store, service.model)
        release = found.version if found else None
        manifest = read_manifest(store, dataset.name)
        acks = [ack for ack in read_acks(systems.home.feed / JOURNAL) if ack.dataset == dataset.name]
        lag = replication_lag(acks, manifest, datetime.now(UTC))
    except Unavailable:
        answers = False
    facts = StandbyFacts(
        site=site,
        closed=site in systems.gateway().state().closed_sites,
        in_drill=any(injection.site == site for injection in open_injections(systems.home)),
        store_answers=answers,
        live_replicas=sum(is_live(replica) for replica in systems.replicas(site)),
        release=release,
        newest_release=newest_golden_version(systems.home, service.model),
        lag_seconds=lag,
        residency=residency_breach(systems.estate, dataset.name, site),
        licence=seats.reason,
        grace=seats.warning,
        **accelerators_of(systems, service, site),
    )
    return judge_readiness(service, dataset, facts)


def accelerators_of(systems: Systems, service: Service, site: str) -> dict[str, Any]:
    """What ``StandbyFacts`` has of accelerators; nothing where the service needs none, or the site declares none."""
    if service.release.hardware is Hardware.CPU or not systems.estate.site_by_name[site].accelerators:
        return {}
    found = standing(systems.estate, systems.ledger(), site, service.model)
    doubts = tuple(one for one in found.reasons if one not in found.faults)
    return {
        "accelerator_faults": found.faults,
        "accelerator_doubts": doubts,
        "warm": any(is_ready(replica, service.model) for replica in systems.replicas(site)),
        "free_memory": found.free,
    }


def verify_data(systems: Systems, plan: FailoverPlan) -> dict[str, Any]:
    """The gate's verdict on the data at the target: a fresh one from the ledger, otherwise the gate is run now.

    :return: ``verdict``, its ``evidence`` and the ``seconds`` that asking took
    :raises Refused: the gate says no, or cannot say
    """
    started = time.monotonic()
    record = usable_verdict(systems, plan.dataset, plan.target)
    return {"verdict": record.facts["verdict"], "evidence": record.seq, "seconds": time.monotonic() - started}


def warm_up(systems: Systems, plan: FailoverPlan | FailbackPlan) -> dict[str, Any]:
    """Load the model at every live replica of the target until latency has settled and all golden answers are right.

    :return: ``replicas`` made ready, ``seconds``, ``p50_ms`` of the slowest and the ``release`` that answers
    :raises Unavailable: no replica got ready
    """
    started = time.monotonic()
    service = systems.estate.service_by_name[plan.service]
    release = read_release(systems.store(plan.target), service.model)
    if release is None:
        raise Refused("failover", [f"{plan.target} has no release of model {service.model}"])
    replicas = [replica for replica in systems.replicas(plan.target) if is_live(replica)]
    with ThreadPoolExecutor(max(1, len(replicas))) as pool:
        results = list(pool.map(lambda replica: _make_ready(replica, service, release), replicas))
    ready = [result for result in results if isinstance(result, float)]
    problems = [result for result in results if isinstance(result, str)]
    if not ready:
        why = "; ".join(problems) or "none is live"
        raise Unavailable(f"no replica at {plan.target} could serve {service.model}: {why}")
    return {
        "replicas": len(ready),
        "problems": problems,
        "release": release.version,
        "p50_ms": max(ready),
        "seconds": time.monotonic() - started,
    }


def _make_ready(replica: Replica, service: Service, release: Release) -> float | str:
    """Median latency in ms once settled, or what went wrong: one bad replica must not stop the others."""
    try:
        replica.load(service.model)
        warm = settle(lambda: replica.infer(service.model, [release.golden[0].inputs]))
        if not warm.settled:
            return f"{replica.url}: latency did not settle in {warm.requests} requests"
        for golden in release.golden:
            answer = replica.infer(service.model, [golden.inputs])
            if not answers_match(golden.outputs, answer.outputs, release.tolerance):
                return f"{replica.url}: wrong golden answer {dict(answer.outputs)}, expected {dict(golden.outputs)}"
    except NinelivesError as error:
        return f"{replica.url}: {error}"
    return warm.p50_ms


def move_traffic(systems: Systems, plan: FailoverPlan) -> dict[str, Any]:
    """Point the gateway at the target and wait for correct answers through it.

    :return: ``moved_at`` (ISO), ``seconds`` until the answers were right
    :raises Refused: the lease was lost to somebody else meanwhile, or the gateway has seen a newer token
    :raises Unavailable: the gateway does not answer correctly in time
    """
    held = systems.ledger().current_lease(plan.lease.name)
    if held is None or held.token != plan.token:
        raise Refused("failover", [f"the lease {plan.lease.name} with token {plan.token} is no longer held"])
    started, moved_at = time.monotonic(), datetime.now(UTC)
    systems.gateway().move(plan.service, plan.target, token=plan.token)
    await_correct_answers(systems, plan.service, plan.target)
    return {"moved_at": moved_at.isoformat(), "seconds": time.monotonic() - started}


def await_correct_answers(systems: Systems, service_name: str, site: str) -> None:
    """Return once ``LASTING_ANSWERS`` golden answers in a row come right through the gateway, from ``site``.

    :raises Unavailable: they do not within ``ANSWER_DEADLINE`` seconds
    """
    service = systems.estate.service_by_name[service_name]
    release = read_release(systems.store(site), service.model)
    if release is None:
        raise Unavailable(f"{site} has no release of model {service.model}")
    ask = systems.client(service)
    deadline, right, last = time.monotonic() + ANSWER_DEADLINE, 0, "no answer"
    while time.monotonic() < deadline:
        try:
            golden = release.golden[right % len(release.golden)]
            answer: Answer = ask([golden.inputs])
        except Unavailable as error:
            right, last = 0, str(error)
            time.sleep(0.1)
            continue
        if answer.degraded is None and answers_match(golden.outputs, answer.outputs, release.tolerance):
            right += 1
            if right >= max(LASTING_ANSWERS, len(release.golden)):
                return
        else:
            right, last = 0, f"{'degraded' if answer.degraded else 'wrong'} answer {dict(answer.outputs)}"
            time.sleep(0.1)
    raise Unavailable(f"{service_name} does not answer correctly through the gateway after {ANSWER_DEADLINE} s: {last}")


def phases(plan: FailoverPlan, steps: Mapping[str, Any]) -> dict[str, float]:
    """How the seconds from the declaration of the loss to the first correct answers were spent; empty unless moved.

    :return: ``decision``, ``activation`` and ``shift``, which follow each other, and ``airflow``: what of them was
        none of the steps' own work
    """
    verify, warm, move = (steps.get(name) for name in ("verify_data", "warm_up_standby", "move_traffic"))
    if not (verify and warm and move):
        return {}
    declared, decided, moved = map(datetime.fromisoformat, (plan.declared_at, plan.decided_at, move["moved_at"]))
    decision, activation = (decided - declared).total_seconds(), (moved - decided).total_seconds()
    own_work = plan.decided_in + max(verify["seconds"], warm["seconds"])
    return {
        "decision": decision,
        "activation": activation,
        "shift": move["seconds"],
        "airflow": max(0.0, decision + activation - own_work),
    }


def record_failover(systems: Systems, plan: FailoverPlan, steps: Mapping[str, Any]) -> Record:
    """Leave evidence of what was done or not done, give the lease back and anchor the ledger.

    :param steps: result of each step by name, ``None`` for a step that did not succeed
    """
    ledger = systems.ledger()
    missing = [name for name, result in steps.items() if result is None]
    facts = {
        "from": plan.lost_site,
        "to": plan.target,
        "outcome": "failed" if missing else "moved",
        "failed_steps": missing,
        "steps": dict(steps),
        "declared_at": plan.declared_at,
        "phases": phases(plan, steps),
        "warnings": list(plan.warnings),
        "token": plan.token,
        "run": plan.holder,
    }
    key = f"failover/{plan.service}/{plan.holder}"
    record = ledger.written(key) or ledger.append("failover", plan.service, facts, once=key)
    if systems.estate.licences_of(systems.estate.service_by_name[plan.service]):
        # Where traffic is decides who keeps seats, also when a step failed after the move.
        for serving in systems.gateway().state().active[plan.service][:1]:
            release_seats(systems, plan.service, serving=serving, run=plan.holder)
    ledger.release_lease(plan.lease)
    anchor(ledger, systems.stores())
    return record


def fail_over_here(
    systems: Systems, *, lost_site: str, holder: str, by: str, only: str | None = None
) -> list[tuple[Record, str | None]]:
    """The whole failover in this process, for when Airflow is what was lost: the same steps, refusals and evidence.

    :return: for each service the record that was left, and what went wrong
    :raises Refused: as ``decide_failover``
    """
    results = []
    plans = decide_failover(
        systems, lost_site=lost_site, reasons=[f"declared by {by}"], holder=holder, declared_at=datetime.now(UTC),
        only=only, by=by,
    )  # fmt: skip
    for plan in plans:
        steps: dict[str, Any] = {"verify_data": None, "warm_up_standby": None, "move_traffic": None}
        problem = None
        try:
            steps["verify_data"] = verify_data(systems, plan)
            if systems.estate.grants_in_failover:
                from ninelives.access.grants import grant_access

                grant_access(systems, service=plan.service, lost_site=lost_site, standby=plan.target, incident=holder)
            steps["warm_up_standby"] = warm_up(systems, plan)
            steps["move_traffic"] = move_traffic(systems, plan)
        except NinelivesError as error:  # the other services do not wait for this one
            problem = f"{plan.service}: {type(error).__name__}: {error}"
        results.append((record_failover(systems, plan, steps), problem))
    return results


def is_ready(replica: Replica, model: str) -> bool:
    try:
        return replica.ready(model)
    except NinelivesError:
        return False


def is_live(replica: Replica) -> bool:
    try:
        return replica.live()
    except NinelivesError:
        return False
