"""Bring an active-passive service back to its first site once the reason for its failover is over.

Reconciled, judged by the gate and warm before any user is sent there; then a small share of the traffic, watched, then
a larger one, then all. Whatever goes wrong on the way, all traffic goes back to where it was.

The service's lease is held only while shares change, and what the gateway does is compared with what this failback left
there: a failover that is needed meanwhile wins at once, and the failback finds that it has lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.estate import Approval, Estate, Mode, Service
from ninelives.evidence.anchor import anchor
from ninelives.gates.evidence import usable_verdict
from ninelives.injections import open_injections
from ninelives.ports import Answer, GatewayState, Lease, Record, Systems
from ninelives.recovery.failover import (
    FAILBACK,
    SHARE_TTL,
    FailbackPlan,
    await_correct_answers,
    find_readiness,
    is_ready,
)
from ninelives.recovery.licences import release_seats
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import Release, read_release
from ninelives.replication.reconcile import reconcile

ASK_EVERY = 0.05
"""Seconds between two golden requests while a step is watched: as often as the prober asks by default."""


def approval_of(estate: Estate) -> Approval:
    """Who must agree to a failback."""
    return estate.recovery.failback.approval or estate.drills.approval


def plan_failback(systems: Systems, service_name: str, *, holder: str, now: datetime | None = None) -> FailbackPlan:
    """Where the service is and where it goes back to.

    :raises Refused: it is there already, or the reason for its failover stands: every reason at once, and in the ledger
    """
    at = now or datetime.now(UTC)
    service = systems.estate.service_by_name.get(service_name)
    if service is None:
        known = ", ".join(systems.estate.service_by_name)
        raise Refused("failback", [f"there is no service {service_name!r}; there are {known}"])
    target, state = service.sites[0], systems.gateway().state()
    source = state.active[service.name][0]
    if service.mode is not Mode.ACTIVE_PASSIVE:
        reasons = [f"{service.name} is active-active: every open site of it serves already"]
    elif source == target:
        reasons = [f"{service.name} is served from {target}, its first site, already"]
    else:
        reasons = reasons_against(systems, service, source, at)
    if reasons:
        ledger, key = systems.ledger(), f"failback/{service.name}/{holder}/refused"
        if not ledger.written(key):
            facts = {"from": source, "to": target, "outcome": "refused", "reasons": reasons, "run": holder}
            ledger.append("failback", service.name, facts, once=key)
        raise Refused("failback", reasons)
    dataset = systems.estate.dataset_of(service).name
    return FailbackPlan(service.name, dataset, source, target, holder, at.isoformat())


def reasons_against(systems: Systems, service: Service, source: str, now: datetime) -> list[str]:
    """Why the reason for the failover stands, or something else forbids to go back now.

    What cannot be found out speaks against it.
    """
    target = service.sites[0]
    reasons: list[str] = []
    for look in (_site_is_back, _target_is_ready, _nobody_breaks_anything):
        try:
            reasons += look(systems, service, source, target, now)
        except NinelivesError as error:
            reasons.append(f"{type(error).__name__}: {error}")
    return reasons


def _site_is_back(systems: Systems, service: Service, source: str, target: str, now: datetime) -> list[str]:
    """It was taken back through the gate since its loss, and long enough ago."""
    ledger, after = systems.ledger(), systems.estate.recovery.failback.after
    if target in systems.gateway().state().closed_sites:
        lost = next(iter(ledger.records(kind="loss", subject=target, limit=1)), None)
        when = f" since {lost.at:%Y-%m-%d %H:%M:%S} UTC (evidence {lost.seq})" if lost else ""
        return [f"{target} is lost{when} and was not taken back through the gate: return_site does that"]
    returns = ledger.records(kind="return", subject=target, limit=1)
    if returns and now - returns[0].at < after:
        age = (now - returns[0].at).total_seconds()
        return [f"{target} is back for only {age:.0f} s, and the estate waits {after.total_seconds():.0f} s"]
    return []


def _target_is_ready(systems: Systems, service: Service, source: str, target: str, now: datetime) -> list[str]:
    reasons = list(find_readiness(systems, service, target).reasons)
    # One that is cold cannot be healthy to the gateway yet: a step of the failback itself has the model loaded.
    loaded = any(is_ready(replica, service.model) for replica in systems.replicas(target))
    if loaded and not systems.gateway().healthy_sites(service.name).get(target):
        reasons.append(f"the gateway sees no healthy replica of {service.name} at {target}")
    return reasons


def _nobody_breaks_anything(systems: Systems, service: Service, source: str, target: str, now: datetime) -> list[str]:
    return _in_a_drill(systems, source, target)


def _in_a_drill(systems: Systems, source: str, target: str) -> list[str]:
    return [
        f"{one.scenario} of {one.site} is not undone yet ({one.id})"
        for one in open_injections(systems.home)
        if one.site in (source, target)
    ]


def reconcile_data(systems: Systems, plan: FailbackPlan) -> dict[str, Any]:
    """Bring both sites to the union of their data and releases; in conflict the site that served keeps the name.

    :raises Corrupted: an object is damaged at one site and the other has no good copy
    """
    result = reconcile(systems, plan.dataset, plan.target, plan.source)
    return {
        "copied_to_target": result.copied_to_site,
        "copied_to_source": result.copied_to_other,
        "conflicts": len(result.conflicts),
        "fingerprints_equal": result.fingerprints_equal,
    }


def verify_target(systems: Systems, plan: FailbackPlan) -> dict[str, Any]:
    """The gate's verdict on the data at the target; raises ``Refused`` where it says no, or cannot say."""
    record = usable_verdict(systems, plan.dataset, plan.target)
    return {"verdict": record.facts["verdict"], "evidence": record.seq}


def shift_traffic(systems: Systems, plan: FailbackPlan) -> dict[str, Any]:
    """Send a growing share of the traffic to the target, watch each, and at last all of it.

    Killed and run again it goes on from the share that the gateway has.

    :raises Refused: the run is over and its approval used up; then nothing is touched. Or the answers were not good
        enough, the target may not serve any more, or somebody else has moved the service meanwhile. Unless somebody
        has, all traffic is back where it was
    :raises Unavailable: the gateway did not follow; all traffic is back where it was
    """
    service, policy = systems.estate.service_by_name[plan.service], systems.estate.recovery.failback
    if over := systems.ledger().written(record_key(plan)):
        why = f"this run ended with evidence {over.seq}, and what was approved for it is good once; start a new run"
        raise Refused("approval", [why])
    if reasons := reasons_against(systems, service, plan.source, datetime.now(UTC)):
        turn_back(systems, plan)
        raise Refused("failback", reasons)
    usable_verdict(systems, plan.dataset, plan.target)  # an approval may have taken longer than a verdict is good for
    release = read_release(systems.store(plan.target), service.model)
    if release is None:
        raise Refused("failback", [f"{plan.target} has no release of model {service.model}"])
    began, before = time.monotonic(), _share_now(systems.gateway().state(), plan)
    steps = []
    try:
        for share in [one for one in policy.shares if one >= before]:
            _set_share(systems, plan, before, share)
            watched = watch(systems, service, release, plan, share)
            steps.append({"share": share, **watched})
            before = share
        _set_share(systems, plan, before, 100)
        await_correct_answers(systems, plan.service, plan.target)
    except BaseException:
        turn_back(systems, plan)
        raise
    return {"steps": steps, "moved_at": datetime.now(UTC).isoformat(), "seconds": time.monotonic() - began}


def _share_now(state: GatewayState, plan: FailbackPlan) -> int:
    """Percent of the traffic that goes to the target; raises ``Refused`` where the service is anywhere else."""
    active = state.active[plan.service]
    if active == (plan.target,):
        return 100
    if active == (plan.source,):
        return 0
    if active == (plan.source, plan.target) and plan.service in state.shares:
        return state.shares[plan.service][plan.target]
    raise Refused("failback", [f"{plan.service} was moved by somebody else meanwhile: it is at {', '.join(active)}"])


def _set_share(systems: Systems, plan: FailbackPlan, before: int, share: int) -> None:
    """Change the share from ``before``; raises ``Refused`` where somebody else has changed it, or the target closed."""
    with _lease(systems, plan) as lease:
        state = systems.gateway().state()
        if (found := _share_now(state, plan)) not in (before, share):
            raise Refused("failback", [f"{plan.target} has {found}% of {plan.service}, not {before}%: not by this run"])
        if plan.target in state.closed_sites:
            raise Refused("failback", [f"{plan.target} was closed meanwhile"])
        if reasons := _in_a_drill(systems, plan.source, plan.target):
            raise Refused("failback", reasons)
        if share == 100:
            systems.gateway().move(plan.service, plan.target, token=lease.token)
        else:
            shares = {plan.source: 100 - share, plan.target: share}
            systems.gateway().share(plan.service, shares, token=lease.token)


def watch(systems: Systems, service: Service, release: Release, plan: FailbackPlan, share: int) -> dict[str, Any]:
    """Ask golden questions through the gateway, as users do, for as long as the estate says.

    The target's replicas are asked directly as well, once each: a small share says little about each of them.

    :return: ``sent``, ``bad`` and how many the target answered
    :raises Refused: more answers were wrong, degraded or missing than the service promises
    """
    hold = systems.estate.recovery.failback.hold.total_seconds()
    planned = max(1, int(hold / ASK_EVERY))
    allowed = math.floor(planned * (1 - service.objective.quality))
    ask, sent, bad, there, last = systems.client(service), 0, 0, 0, ""
    bad_there = [problem for replica in systems.replicas(plan.target) if (problem := _ask(replica, service, release))]
    if bad_there:
        raise Refused("failback", bad_there)
    deadline = time.monotonic() + hold
    while time.monotonic() < deadline:
        began = time.monotonic()
        if _share_now(systems.gateway().state(), plan) != share:
            raise Refused("failback", [f"{plan.service} was moved by somebody else meanwhile"])
        golden = release.golden[sent % len(release.golden)]
        sent += 1
        try:
            answer: Answer = ask([golden.inputs])
            there += answer.site == plan.target
            right = answer.degraded is None and answers_match(golden.outputs, answer.outputs, release.tolerance)
            if not right:
                last = f"{'degraded' if answer.degraded else 'wrong'} answer from {answer.site or 'nobody'}"
        except Unavailable as error:
            right, last = False, str(error)
        bad += not right
        if bad > allowed:
            raise Refused(
                "failback",
                [
                    f"at {share}% of the traffic {bad} of {sent} answers were bad, and {service.objective.quality:.6g} "
                    f"is promised; the last: {last}"
                ],
            )
        time.sleep(max(0.0, min(ASK_EVERY, deadline - time.monotonic()) - (time.monotonic() - began)))
    return {"sent": sent, "bad": bad, "answered_by_target": there}


def _ask(replica: Any, service: Service, release: Release) -> str | None:
    """What is wrong with one replica; ``None`` where it answers right or is not there at all."""
    golden = release.golden[0]
    try:
        if not replica.live():
            return None
        answer = replica.infer(service.model, [golden.inputs])
    except NinelivesError as error:
        return f"{replica.url}: {error}"
    right = answers_match(golden.outputs, answer.outputs, release.tolerance)
    return None if right else f"{replica.url}: wrong golden answer {dict(answer.outputs)}"


def turn_back(systems: Systems, plan: FailbackPlan) -> bool:
    """Send everything to where the service was, if this failback had moved any of it; may be repeated at any time.

    :return: whether there was anything to turn back: nothing where a failover decides about the service now
    """

    def ours() -> bool:
        # A failover from the source to the target has closed the source.
        state = systems.gateway().state()
        moved = state.active[plan.service] in ((plan.source, plan.target), (plan.target,))
        return moved and plan.source not in state.closed_sites

    if not ours():
        return False
    try:
        with _lease(systems, plan) as lease:
            if not ours():
                return False
            systems.gateway().move(plan.service, plan.source, token=lease.token)
    except Refused:
        return False  # a failover holds the lease, or has held it: where it sends the traffic, it stays
    return True


@contextmanager
def _lease(systems: Systems, plan: FailbackPlan) -> Iterator[Lease]:
    """The service's lease for one change; raises ``Refused`` while a failover holds it."""
    ledger = systems.ledger()
    lease = ledger.take_lease(f"service:{plan.service}", f"{FAILBACK}{plan.holder}", SHARE_TTL)
    try:
        yield lease
    finally:
        ledger.release_lease(lease)


def record_key(plan: FailbackPlan) -> str:
    return f"failback/{plan.service}/{plan.holder}"


def record_failback(
    systems: Systems, plan: FailbackPlan, steps: Mapping[str, Any], *, approved_by: str | None
) -> Record:
    """Leave evidence of what was done or not done, and the traffic in one place, whatever happened before.

    :param steps: result of each step by name, ``None`` for a step that did not succeed
    """
    missing = [name for name, result in steps.items() if result is None]
    turned = turn_back(systems, plan) if missing else False
    active = systems.gateway().state().active[plan.service]
    outcome = "moved" if active == (plan.target,) and not missing else "failed"
    facts = {
        "from": plan.source,
        "to": plan.target,
        "outcome": outcome,
        "failed_steps": missing,
        "turned_back": turned,
        "served_from": list(active),
        "steps": dict(steps),
        "approved_by": approved_by,
        "run": plan.holder,
    }
    ledger, key = systems.ledger(), record_key(plan)
    record = ledger.written(key) or ledger.append("failback", plan.service, facts, once=key)
    release_seats(systems, plan.service, serving=active[0], run=plan.holder)
    anchor(ledger, systems.stores())
    return record
