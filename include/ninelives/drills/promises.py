"""Whether what must hold in a drill did hold: each verdict from measurement or evidence, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ninelives.drills.experiments import judge_experiment, read_experiment
from ninelives.drills.scenario import Drill, Promise, Scenario
from ninelives.errors import NinelivesError
from ninelives.injections import Flipped, Injection
from ninelives.ports import Systems
from ninelives.probing.measure import UserImpact, Verdict

CHECK = "check"
"""Kind of the evidence that the estate's own check left in a drill."""


def check_key(drill: Drill) -> str:
    return f"check/{drill.id}"


def judge_promises(
    systems: Systems,
    scenario: Scenario,
    drill: Drill,
    injection: Injection,
    impacts: Mapping[str, UserImpact],
    data_loss: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Verdict per promise of the scenario."""
    return {
        str(promise): str(_judge(promise, systems, drill, injection, impacts, data_loss))
        for promise in scenario.promises
    }


def _judge(
    promise: Promise,
    systems: Systems,
    drill: Drill,
    injection: Injection,
    impacts: Mapping[str, UserImpact],
    data_loss: Mapping[str, Any] | None,
) -> Verdict:
    objective = systems.estate.service_by_name[drill.service].objective
    match promise:
        case Promise.RTO:
            return impacts[drill.service].verdict(objective.rto)
        case Promise.RPO:
            if not data_loss:
                return Verdict.UNKNOWN
            seconds = data_loss["rpo_seconds"]  # None: not one acknowledged write survived
            return _yes(seconds is not None and seconds <= objective.rpo.total_seconds())
        case Promise.USERS:
            return unfelt(impacts)
        case Promise.REPAIRED | Promise.QUARANTINED | Promise.LANDED | Promise.RESTORED | Promise.DRAINED:
            record = systems.ledger().written(check_key(drill))
            return Verdict.UNKNOWN if record is None else Verdict(record.facts["verdict"])
        case Promise.HYPOTHESIS:
            return Verdict(judge_experiment(read_experiment(systems.home, injection.id)))
    return came_back(promise, systems, drill, injection)


def unfelt(impacts: Mapping[str, UserImpact]) -> Verdict:
    """Met only where every slot of every service was looked at and was answered correctly."""
    felt = [impact.interrupted for impact in impacts.values()]
    return Verdict.MISSED if True in felt else Verdict.UNKNOWN if None in felt or not felt else Verdict.MET


def came_back(promise: Promise, systems: Systems, drill: Drill, injection: Injection) -> Verdict:
    """Of a promise that can only be judged once the fault is undone; unknown until then, and where nobody can look."""
    if injection.undone_at is None:
        return Verdict.UNKNOWN
    try:
        match promise:
            case Promise.REGISTRY:
                systems.registry().ping()
                return Verdict.MET
            case Promise.COPIES:
                return _copies(systems, drill, injection.undone_at)
            case Promise.WRITES:
                return _writes(systems, injection)
    except NinelivesError:
        return Verdict.MISSED if promise is Promise.REGISTRY else Verdict.UNKNOWN
    return Verdict.MET


def judge_check(injection: Injection, found: Mapping[str, Any], held: Mapping[str, str | None]) -> Verdict:
    """What the estate's own check says about what was damaged or planted. Pure.

    :param found: what the scenario's ``check`` returned
    :param held: SHA-256 (hex) of each damaged object as its store gives it back after the check
    """
    if "drained" in found:
        return _yes(bool(found["drained"]) and not found["problems"])
    if "restored" in found:
        return _yes(not found["problems"] and not found["late"])
    if "replayed" in found:
        return Verdict(found["replayed"]["verdict"])
    if "planted" in found:
        right = (found["quarantined"], found["landed"]) == (found["planted"], found["sound"])
        return _yes(right and bool(found["reasons"]))
    named = {(site, key): outcome for site, key, _, outcome in found["found"]}
    damaged = [fault for fault in injection.faults if isinstance(fault, Flipped)]
    repaired = [named.get((one.site, one.key)) == "repaired" and held.get(one.key) == one.sha256 for one in damaged]
    return _yes(bool(damaged) and all(repaired))


def _copies(systems: Systems, drill: Drill, undone_at: datetime) -> Verdict:
    from ninelives.replication.status import copy_status

    dataset = systems.estate.dataset_of(systems.estate.service_by_name[drill.service])
    return Verdict(copy_status(systems, dataset, drill.site, datetime.now(UTC)).verdict)


def _writes(systems: Systems, injection: Injection) -> Verdict:
    """A write after the return, and not one missing in between. Unknown until there is one."""
    from ninelives.replication.acks import JOURNAL, read_acks

    assert injection.undone_at is not None  # noqa: S101  (the caller looked)
    acks = read_acks(systems.home.feed / JOURNAL)
    if not acks or acks[-1].acked_at <= injection.undone_at:
        return Verdict.UNKNOWN
    return _yes([ack.seq for ack in acks] == list(range(acks[0].seq, acks[0].seq + len(acks))))


def _yes(kept: bool) -> Verdict:
    return Verdict.MET if kept else Verdict.MISSED
