"""The steps of a drill. It injects and measures and never helps: the recovery is the one that a real loss starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninelives.drills.scenario import Drill, find_scenario
from ninelives.errors import Refused, Unavailable
from ninelives.evidence.anchor import anchor
from ninelives.injections import Injection, close_injection, find_injection, open_injection
from ninelives.ports import Lease, Record, Systems
from ninelives.probing.measure import measure_loss
from ninelives.probing.records import Heartbeat, read_heartbeat, read_probes, wait_until_complete
from ninelives.replication.acks import JOURNAL, read_acks
from ninelives.replication.lag import surviving
from ninelives.replication.manifest import read_manifest

LEASE_MARGIN = timedelta(minutes=10)
"""Kept beyond the drill's longest duration for restoring, reconciling and judging."""

AFTERMATH = timedelta(seconds=5)
"""Measured beyond the return of the site: a relapse right after it belongs to the drill."""


def inject_fault(systems: Systems, drill: Drill) -> Injection:
    """Take the drill lease, write the injection down, and inject. All or nothing: a failure undoes its own part.

    Repeated by the same drill after a kill it goes on with the injection that it finds.

    :raises Refused: another drill holds the lease, or this drill is over
    """
    policy, ledger = systems.estate.drills, systems.ledger()
    before = find_injection(systems.home, drill.id)
    if before is not None and before.undone_at is not None:
        raise Refused("drill", [f"{drill.id} was undone at {before.undone_at:%H:%M:%S} UTC by {before.undone_by}"])
    lease = ledger.take_lease("drill", drill.id, policy.max_duration + LEASE_MARGIN)
    now = datetime.now(UTC)
    injection = before or Injection(
        id=drill.id,
        scenario=drill.scenario,
        site=drill.site,
        service=drill.service,
        started_at=now,
        expires_at=now + policy.max_duration,
    )
    if injection.lost_at is not None:
        return injection
    try:
        open_injection(systems.home, injection)
        lost_at = find_scenario(drill.scenario).inject(systems, drill)
        injection = injection.model_copy(update={"lost_at": lost_at})
        open_injection(systems.home, injection)
    except BaseException:
        undo_fault(systems, drill, by="failed injection")
        ledger.release_lease(lease)
        raise
    return injection


def undo_fault(systems: Systems, drill: Drill, *, by: str) -> None:
    """Bring back what the drill took away; may be called at any time, any number of times.

    A drill that has written down no injection took nothing away: what is gone is another one's, or really lost.
    """
    if find_injection(systems.home, drill.id) is None:
        return
    find_scenario(drill.scenario).clean_up(systems, drill)
    close_injection(systems.home, drill.id, by=by)


def measure_data_loss(systems: Systems, drill: Drill) -> dict[str, Any]:
    """Which acknowledged writes the survivors have, while the site is away: afterwards the lost site fills the gap.

    :return: of the drilled service's dataset: ``rpo_seconds`` (``None``: no acknowledged write survived),
        ``lost_writes`` (how many) and ``last_survivor`` (key)
    """
    injection = find_injection(systems.home, drill.id)
    if injection is None or injection.lost_at is None:
        raise Refused("drill", [f"{drill.id} has not injected anything"])
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
    subject = f"{drill.scenario}/{drill.service}/{drill.site}"
    return ledger.written(key) or ledger.append("drill", subject, facts, once=key)


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
        f"{drill.scenario}/{drill.service}/{drill.site}",
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
    felt = impacts[drill.service]
    verdicts = {
        "rto": str(felt.verdict(objective.rto)),
        "rpo": _rpo_verdict(data_loss, objective.rpo),
    }
    overall = "missed" if "missed" in verdicts.values() else "unknown" if "unknown" in verdicts.values() else "met"
    return {
        "outcome": "measured",
        "lost_at": lost_at.isoformat(),
        "restored_at": injection.undone_at.isoformat() if injection.undone_at else None,
        "restored_by": injection.undone_by,
        "objective": {"rto_seconds": objective.rto.total_seconds(), "rpo_seconds": objective.rpo.total_seconds()},
        "rpo_seconds": data_loss["rpo_seconds"] if data_loss else None,
        "data_loss": dict(data_loss) if data_loss else None,
        "felt": {name: impact.facts() for name, impact in impacts.items()},
        "recovery": _recovery(systems, drill, lost_at),
        "verdicts": verdicts,
        "verdict": overall,
    }


def _rpo_verdict(data_loss: Mapping[str, Any] | None, rpo: timedelta) -> str:
    if data_loss is None:
        return "unknown"
    seconds = data_loss["rpo_seconds"]  # None: not one acknowledged write survived
    return "met" if seconds is not None and seconds <= rpo.total_seconds() else "missed"


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
