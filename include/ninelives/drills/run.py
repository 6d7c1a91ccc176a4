"""The steps of a drill. It injects and measures and never helps: the recovery is the one that a real loss starts."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninelives.drills.experiments import experiment_facts
from ninelives.drills.preflight import moves_under_way
from ninelives.drills.promises import CHECK, came_back, check_key, judge_check, judge_promises
from ninelives.drills.scenario import Drill, Promise, Scenario
from ninelives.drills.scenarios import find_scenario
from ninelives.drills.state import has_returned, keep_before, state_facts
from ninelives.drills.watch import State, Watch
from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.evidence.anchor import anchor
from ninelives.injections import (
    Flipped,
    Injection,
    find_injection,
    mark_lost,
    open_injection,
    undo_injection,
)
from ninelives.ports import Lease, Record, Systems
from ninelives.probing.measure import measure_loss
from ninelives.probing.records import Heartbeat, read_heartbeat, read_probes, wait_until_complete
from ninelives.replication.acks import JOURNAL, read_acks
from ninelives.replication.lag import surviving
from ninelives.replication.manifest import read_manifest

LEASE_MARGIN = timedelta(minutes=10)
"""Kept beyond the drill's longest duration for restoring, reconciling and judging."""

AFTERMATH = timedelta(seconds=5)
"""Measured beyond the return of the site: a relapse right after it belongs to the drill. Longer than the four seconds
that the gateway takes to notice a replica which hangs: what was broken for a moment looks sound to it until then."""


WATCH_EVERY = 0.02
"""Seconds between two looks at whether the prober has written: while something is broken it does ten times a second."""


def inject_fault(systems: Systems, drill: Drill) -> Injection:
    """Take the drill lease, write down what will be broken and what the estate is like, and break it.

    All or nothing: a failure undoes its own part. Repeated by the same drill after a kill it goes on with the injection
    that it finds; the loss then counts from that injection's beginning, so that no outage is understated.

    A failover takes its lease and then looks for drills; a drill is written down and then looks for leases: whichever
    comes second sees the other, and leaves.

    :raises Refused: another drill holds the lease, a service is being moved, or this drill is over
    """
    policy, ledger, home = systems.estate.drills, systems.ledger(), systems.home
    before = find_injection(home, drill.id)
    if before is not None and before.over:
        when = before.undone_at or before.undoing_at
        raise Refused("drill", [f"{drill.id} was undone at {when:%H:%M:%S} UTC by {before.undone_by or 'somebody'}"])
    lease = ledger.take_lease("drill", drill.id, policy.max_duration + LEASE_MARGIN)
    if before is not None and before.lost_at is not None:
        return before
    try:
        injection = before or _planned(systems, drill)
        keep_before(systems, injection)
        open_injection(home, injection)
        if before is None and (reasons := moves_under_way(systems, drill)):
            raise Refused("drill", reasons)
        instants = [systems.faults().inject(fault) for fault in injection.to_undo]
        return mark_lost(home, drill.id, before.started_at if before else min(instants, default=injection.started_at))
    except BaseException:
        undo_fault(systems, drill, by="failed injection")
        ledger.release_lease(lease)
        raise


def _planned(systems: Systems, drill: Drill) -> Injection:
    faults = find_scenario(drill.scenario).plan(systems, drill)
    for fault in faults:
        systems.faults().check(fault)
    now = datetime.now(UTC)
    return Injection(
        id=drill.id,
        scenario=drill.scenario,
        site=drill.site,
        service=drill.service,
        started_at=now,
        expires_at=now + systems.estate.drills.max_duration,
        faults=faults,
    )


def undo_fault(systems: Systems, drill: Drill, *, by: str) -> None:
    """Bring back what the drill took away; may be called at any time, any number of times.

    A drill that has written down no injection took nothing away: what is gone is another one's, or really lost.
    """
    if find_injection(systems.home, drill.id) is not None:
        undo_injection(systems.home, systems.faults(), drill.id, by=by)
        find_scenario(drill.scenario).after(systems, drill)


@contextmanager
def watched(systems: Systems, drill: Drill, survivors: Sequence[str]) -> Iterator[list[str]]:
    """Undo the fault at once where survivors are unwell while the body is at work, which is then to end by itself.

    Yields a list that has the reason afterwards, and stays empty where there was none. A look that fails is no reason:
    what is not known stops a drill where it is waited for.
    """
    injection = find_injection(systems.home, drill.id)
    reasons, over = list[str](), threading.Event()
    if injection is None or injection.lost_at is None:
        yield reasons
        return
    watch = Watch(systems, drill, survivors, injection.lost_at)

    def look() -> None:
        while not over.wait(WATCH_EVERY):
            try:
                if watch.due() and (seen := watch.look()).state is State.ABORT:
                    reasons.append(seen.reason)
                    undo_fault(systems, drill, by="abort")
                    return
            except NinelivesError:
                continue

    thread = threading.Thread(target=look, name=f"watch of {drill.id}")
    thread.start()
    try:
        yield reasons
    finally:
        over.set()
        thread.join()


def run_check(systems: Systems, drill: Drill) -> dict[str, Any] | None:
    """Let the estate's own check look at what was broken, where nothing else would start it before the drill is over.

    Bits rot and records arrive without telling anybody: the drill starts what the calendar or a person would start, and
    leaves what it said in the ledger. ``None`` for a scenario whose recovery starts by itself.
    """
    scenario = find_scenario(drill.scenario)
    if type(scenario).check is Scenario.check:
        return None
    ledger, key = systems.ledger(), check_key(drill)
    if (known := ledger.written(key)) is not None:
        return dict(known.facts)
    injection = find_injection(systems.home, drill.id)
    if injection is None or injection.lost_at is None:
        raise Refused("drill", [f"{drill.id} has not injected anything"])
    found = scenario.check(systems, drill)
    if found is None:
        return None
    seconds = (datetime.now(UTC) - injection.lost_at).total_seconds()
    held = {one.key: _held(systems, one) for one in injection.faults if isinstance(one, Flipped)}
    facts = {**found, "seconds": seconds, "verdict": str(judge_check(injection, found, held))}
    return dict(ledger.append(CHECK, drill.subject, facts, once=key).facts)


def _held(systems: Systems, fault: Flipped) -> str | None:
    data = systems.store(fault.site).get(fault.bucket, fault.key)
    return None if data is None else hashlib.sha256(data).hexdigest()


def is_back(systems: Systems, drill: Drill) -> bool:
    """Whether the estate is as it was before the drill, and what can only hold after the return holds.

    :raises Unavailable: it cannot be found out
    """
    injection = find_injection(systems.home, drill.id)
    if injection is not None:
        if injection.undone_at and datetime.now(UTC) < injection.undone_at + AFTERMATH:
            return False
        for promise in find_scenario(drill.scenario).promises:
            late = promise in (Promise.REGISTRY, Promise.COPIES, Promise.WRITES)
            if late and came_back(promise, systems, drill, injection) != "met":
                return False
    return has_returned(systems, drill, injection)


def measure_data_loss(systems: Systems, drill: Drill) -> dict[str, Any] | None:
    """Which acknowledged writes the survivors have, while the site is away: afterwards the lost site fills the gap.

    ``None`` for a scenario that loses no store.

    :return: of the drilled service's dataset: ``rpo_seconds`` (``None``: no acknowledged write survived),
        ``lost_writes`` (how many) and ``last_survivor`` (key)
    """
    injection = find_injection(systems.home, drill.id)
    if injection is None or injection.lost_at is None:
        raise Refused("drill", [f"{drill.id} has not injected anything"])
    if Promise.RPO not in find_scenario(drill.scenario).promises:
        return None
    dataset = systems.estate.dataset_of(systems.estate.service_by_name[drill.service])
    acks = [ack for ack in read_acks(systems.home.feed / JOURNAL) if ack.dataset == dataset.name]
    hashes: dict[str, str] = {}
    for site in (dataset.primary, *dataset.copies):
        if site != drill.site and (manifest := read_manifest(systems.store(site), dataset.name)):
            hashes.update({o.key: o.sha256 for o in manifest.objects})
    point = surviving(acks, hashes, injection.lost_at)
    return {
        "rpo_seconds": point.rpo_seconds,
        "lost_writes": len(point.lost),
        "last_survivor": point.last_survivor.key if point.last_survivor else None,
    }


def record_refusal(systems: Systems, drill: Drill, reasons: Sequence[str], *, run: str) -> Record:
    """Leave evidence of a drill that was not started, and why."""
    ledger, key = systems.ledger(), f"drill/{drill.id}"
    facts = {"outcome": "refused", "verdict": "unknown", "reasons": list(reasons), "run": run}
    return ledger.written(key) or ledger.append("drill", drill.subject, facts, once=key)


def record_drill(
    systems: Systems, drill: Drill, *, data_loss: Mapping[str, Any] | None, run: str, problem: str | None = None
) -> Record:
    """Measure what users felt, compare it with the objective, and leave evidence whatever happened.

    :param data_loss: result of ``measure_data_loss``; ``None`` where it could not be measured: then RPO is unknown
    :param problem: what went wrong in the drill itself, e.g. that it was aborted
    """
    ledger, key = systems.ledger(), f"drill/{drill.id}"
    record = ledger.written(key) or ledger.append(
        "drill",
        drill.subject,
        {"run": run, "problem": problem, **_facts(systems, drill, data_loss, problem)},
        once=key,
    )
    lease = ledger.current_lease("drill")
    if lease is not None and lease.holder == drill.id:
        ledger.release_lease(Lease("drill", drill.id, lease.token, lease.expires_at))
    anchor(ledger, systems.stores())
    return record


def _facts(systems: Systems, drill: Drill, data_loss: Mapping[str, Any] | None, problem: str | None) -> dict[str, Any]:
    injection = find_injection(systems.home, drill.id)
    if injection is None or injection.lost_at is None:
        return {"outcome": "not injected", "verdict": "unknown"}
    facts = _measure(systems, drill, injection, data_loss)
    if problem and facts["verdict"] == "met":
        facts["verdict"] = "unknown"
    return facts


def _measure(
    systems: Systems, drill: Drill, injection: Injection, data_loss: Mapping[str, Any] | None
) -> dict[str, Any]:
    lost_at = injection.lost_at
    assert lost_at is not None  # noqa: S101  (the caller looked)
    folder = systems.home.probes
    until = (injection.undone_at or datetime.now(UTC)) + AFTERMATH
    beat = wait_for_probes(folder, until)
    rows = read_probes(folder, lost_at - timedelta(seconds=5), until)
    impacts = {
        service.name: measure_loss(rows, loss_at=lost_at, until=until, service=service.name, interval=beat.interval_s)
        for service in systems.estate.services
    }
    objective = systems.estate.service_by_name[drill.service].objective
    scenario = find_scenario(drill.scenario)
    verdicts = judge_promises(systems, scenario, drill, injection, impacts, data_loss)
    state = state_facts(systems, injection)
    check = systems.ledger().written(check_key(drill))
    return {
        "outcome": "measured",
        "lost_at": lost_at.isoformat(),
        "restored_at": injection.undone_at.isoformat() if injection.undone_at else None,
        "restored_by": injection.undone_by,
        "broken": [fault.model_dump(mode="json", exclude={"hex", "document"}) for fault in injection.to_undo],
        "objective": {"rto_seconds": objective.rto.total_seconds(), "rpo_seconds": objective.rpo.total_seconds()},
        "rpo_seconds": data_loss["rpo_seconds"] if data_loss else None,
        "data_loss": dict(data_loss) if data_loss else None,
        "felt": {name: impact.facts() for name, impact in impacts.items()},
        "recovery": _recovery(systems, drill, lost_at),
        "check": dict(check.facts) if check else None,
        "experiment": experiment_facts(systems.home, injection),
        "state": dict(state),
        "verdicts": verdicts,
        "verdict": overall([*verdicts.values(), state["verdict"]]),
    }


def overall(verdicts: Sequence[str]) -> str:
    """Missed where anything was missed, met only where everything was met."""
    return "missed" if "missed" in verdicts else "unknown" if "unknown" in verdicts or not verdicts else "met"


def wait_for_probes(folder: Path, until: datetime) -> Heartbeat:
    """Wait until all rows before ``until`` are written; with a prober that is gone, go on with what there is.

    :raises Unavailable: no prober has ever run here
    """
    try:
        return wait_until_complete(folder, until)
    except Unavailable:
        beat = read_heartbeat(folder)
        if beat is None:
            raise
        return beat  # what is missing counts as unknown


def _recovery(systems: Systems, drill: Drill, lost_at: datetime) -> dict[str, Any]:
    """When the site was declared lost, traffic moved and the site came back, in seconds from the loss.

    A failover also says how long its ``phases`` took, of which ``detection`` can only be told here.
    """
    ledger, found = systems.ledger(), dict[str, Any]()
    for name, kind, subject in (
        ("declared", "loss", drill.site),
        ("failed_over", "failover", drill.service),
        ("returned", "return", drill.site),
    ):
        records = ledger.records(kind=kind, subject=subject, since=lost_at)
        if records:
            first = records[-1]
            found[name] = {"seconds": (first.at - lost_at).total_seconds(), "evidence": first.seq}
            if phases := first.facts.get("phases"):
                detection = datetime.fromisoformat(first.facts["declared_at"]) - lost_at
                found[name]["phases"] = {"detection": detection.total_seconds(), **phases}
    return found
