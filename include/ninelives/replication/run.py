"""One copy of one dataset, from plan to evidence: what the DAG and the command line both do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ninelives.errors import NinelivesError, Refused
from ninelives.ports import Systems
from ninelives.replication.manifest import BUCKET, read_manifest
from ninelives.replication.replicate import (
    MAX_SHRINK,
    WHOLE,
    ReplicationResult,
    Shard,
    complete_dataset,
    proven_parts,
    replicate_dataset,
    utc_now,
)
from ninelives.replication.status import CopyStatus, copy_status
from ninelives.replication.transfer import OnProgress


@dataclass(frozen=True)
class Outcome:
    result: ReplicationResult
    status: CopyStatus | None
    """How far the copy is behind now; ``None`` while other shards are still to come."""
    evidence: int | None


def replicate_and_record(
    systems: Systems,
    dataset: str,
    source: str,
    target: str,
    on_progress: OnProgress | None = None,
    *,
    shard: Shard = WHOLE,
    since: datetime | None = None,
    record: bool = True,
    max_shrink: float = MAX_SHRINK,
) -> Outcome:
    """Replicate a shard, write the manifests if it was the last one, and leave evidence with the lag in any case.

    :param since: parts that other shards proved before this do not count: they are of an earlier run
    :raises NinelivesError: as ``replicate`` does; the evidence then says why
    """
    ends = (systems, dataset, source, target)
    try:
        result = replicate_dataset(*ends, on_progress, shard=shard, max_shrink=max_shrink)
        last = shard == WHOLE
        if not last and proven_parts(systems.store(target), dataset, shard.of, since):
            result, last = _both(result, complete_dataset(*ends, shard.of, max_shrink=max_shrink)), True
    except NinelivesError as error:
        if record:
            reason = f"{type(error).__name__}: {error}"
            _record(*ends, {"shard": str(shard), "failed": reason}, copy_of(systems, dataset, target, source), error)
        raise
    status = copy_of(systems, dataset, target, source) if last else None
    evidence = _record(*ends, result.facts(), status) if record else None
    return Outcome(result, status, evidence)


def _both(own: ReplicationResult, whole: ReplicationResult) -> ReplicationResult:
    """The dataset as the last shard left it, with what that shard itself has done."""
    return replace(
        whole,
        copied=own.copied,
        bytes=own.bytes,
        verified=own.verified,
        repaired=own.repaired,
        seconds=own.seconds + whole.seconds,
        rebuilt=tuple(dict.fromkeys((*own.rebuilt, *whole.rebuilt))),
        findings=tuple(dict.fromkeys((*own.findings, *whole.findings))),
    )


def never_written(systems: Systems, dataset: str, sites: Sequence[str]) -> bool:
    """Whether nobody has written the dataset yet: nothing is at any of ``sites``, and no evidence says otherwise.

    :raises NinelivesError: a store or the ledger does not answer
    """
    if any(systems.ledger().records(kind="replication", subject=f"{dataset}@{site}", limit=1) for site in sites):
        return False
    stores = [systems.store(site) for site in sites]
    return all(
        read_manifest(store, dataset) is None and next(iter(store.list(BUCKET, f"{dataset}/")), None) is None
        for store in stores
    )


def copy_of(systems: Systems, dataset: str, site: str, source: str | None = None) -> CopyStatus:
    """How far this copy is behind now."""
    return copy_status(systems, systems.estate.dataset_by_name[dataset], site, utc_now(), source=source)


def breach_of(systems: Systems, copy: CopyStatus, now: datetime) -> str | None:
    """Why the copy is not what was promised, also where nobody has known how far behind it is for its RPO.

    The evidence says since when: a copy of which the first evidence is younger than its RPO has not had the time to be
    known. One without any evidence is of an estate that was just set up, or never ran at all.

    :raises Unavailable: the ledger does not answer
    """
    if copy.verdict != "unknown" or copy.breach():
        return copy.breach()
    ledger, subject = systems.ledger(), f"{copy.dataset}@{copy.site}"
    young = ledger.records(kind="replication", subject=subject, since=now - timedelta(seconds=copy.rpo_seconds))
    if any(record.facts.get("lag", {}).get("verdict") in ("met", "missed") for record in young):
        return None
    if len(ledger.records(kind="replication", subject=subject, limit=len(young) + 1)) == len(young):
        return None
    return (
        f"how far the copy of {copy.dataset} at {copy.site} is behind has not been known for {copy.rpo_seconds:.0f} s, "
        f"which is its RPO: {copy.problem}"
    )


def refuse_breaches(systems: Systems, copies: Sequence[CopyStatus]) -> None:
    """:raises Refused: a copy is further behind than its RPO, has been unknown for as long, or was not read in time"""
    if breaches := [breach for one in copies if (breach := breach_of(systems, one, utc_now()))]:
        raise Refused("the copies as they are", breaches)


def _record(
    systems: Systems,
    dataset: str,
    source: str,
    target: str,
    facts: Mapping[str, object],
    status: CopyStatus | None,
    error: NinelivesError | None = None,
) -> int | None:
    """The number of the evidence. Where the ledger fails too, the error that came first is the one to raise."""
    lag = (
        {
            "lag": {
                "seconds": status.lag_seconds,
                "rpo_seconds": status.rpo_seconds,
                "verdict": status.verdict,
                "proof": status.proof,
                "problem": status.problem,
            }
        }
        if status
        else {}
    )
    ends = {"dataset": dataset, "source": source, "target": target}
    try:
        return systems.ledger().append("replication", f"{dataset}@{target}", {**ends, **facts, **lag}).seq
    except NinelivesError as second:
        if error is None:
            second.add_note("the copy itself is made and proven; run again for its evidence")
            raise
        error.add_note(f"and it left no evidence: {second}")
        return None
