"""Read every byte of a dataset at two sites, name what is not as recorded, and repair it from the site that is right.

A copy of what is wrong goes into the dated trash before it is replaced: what looks damaged may be somebody's write
under a key that was taken. An object that only the source has is no damage, it is on its way; one that only the target
has, and that nobody recorded, is foreign: named at once, and set aside once it cannot be a write that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from ninelives.errors import Corrupted, Refused
from ninelives.estate.model import Deletions
from ninelives.estate.residency import refuse_breach
from ninelives.ports import Connection, Ledger, ObjectCopier, ObjectInfo, ObjectStore, Record, Systems
from ninelives.replication.manifest import (
    BUCKET,
    Manifest,
    ManifestObject,
    build_manifest,
    is_data,
    read_manifest,
    write_over,
)
from ninelives.replication.proof import Finding, begun, named, rotation_key
from ninelives.replication.replicate import Policy, Shard, utc_now
from ninelives.replication.transfer import Link, OnProgress, deliver, link_between, set_aside, some

SETTLED = timedelta(hours=1)
"""A younger object that nobody has recorded may be a write that is not finished: it is named, and left where it is."""


@dataclass(frozen=True)
class VerifyResult:
    """What was read, and what was wrong."""

    dataset: str
    source: str
    target: str
    objects: int
    """read, at both sites together"""
    bytes: int
    seconds: float
    findings: tuple[Finding, ...]
    fingerprint: str
    """of the target's manifest now"""

    @property
    def sound(self) -> bool:
        """Whether everything is right now."""
        return all(one.outcome in ("repaired", "set aside") for one in self.findings)

    def facts(self) -> dict[str, object]:
        """For the ledger: bounded, and JSON."""
        return {
            **asdict(self),
            "findings": named(self.findings),
            "findings_total": len(self.findings),
            "sound": self.sound,
        }


def verify_dataset(
    systems: Systems,
    dataset: str,
    source: str,
    target: str,
    on_progress: OnProgress | None = None,
    *,
    repair: bool = True,
    settled: timedelta = SETTLED,
) -> VerifyResult:
    """``verify`` between two sites of a connected estate.

    :raises Refused: also where a repair would bring data to a place that it may not be at
    """
    if repair:
        refuse_breach(systems.estate, dataset, source, target)
    declared = systems.estate.dataset_by_name[dataset]
    link = link_between(systems, source, target, dataset)
    policy = Policy.of(declared)
    return _Verification(link, dataset, utc_now, on_progress, policy, declared.shards, repair, settled).run()


def record_verification(ledger: Ledger, result: VerifyResult) -> Record:
    """Leave evidence: kind ``verification``, subject ``<dataset>@<target>``."""
    return ledger.append("verification", f"{result.dataset}@{result.target}", result.facts())


def verify(
    dataset: str,
    source: ObjectStore,
    target: ObjectStore,
    copier: ObjectCopier,
    source_conn: Connection,
    target_conn: Connection,
    clock: Callable[[], datetime] = utc_now,
    on_progress: OnProgress | None = None,
    *,
    policy: Policy | None = None,
    shards: int = 1,
    repair: bool = True,
    settled: timedelta = SETTLED,
) -> VerifyResult:
    """Compare every recorded object at both sites with its SHA-256; with ``repair`` make good what can be made good.

    What no site has a good copy of is ``lost`` in the findings.

    :param settled: age from which an object that nobody recorded is set aside

    :raises Refused: there is nothing to compare: the dataset was never replicated between these sites
    :raises Corrupted: neither manifest can be read, or they contradict each other
    :raises Unavailable: a store does not answer; run again
    """
    link = Link(source, target, copier, source_conn, target_conn)
    return _Verification(link, dataset, clock, on_progress, policy or Policy(), shards, repair, settled).run()


@dataclass
class _Verification:
    link: Link
    dataset: str
    clock: Callable[[], datetime]
    on_progress: OnProgress | None
    policy: Policy
    shards: int
    repair: bool
    settled: timedelta

    def run(self) -> VerifyResult:
        started, now = time.monotonic(), self.clock()
        source, target = self.link.source, self.link.target
        at_source, damaged_source = self._read(source)
        at_target, damaged_target = self._read(target)
        self._refuse_nothing_to_compare(at_source, at_target, damaged_source, damaged_target)
        # The target first: what arrives there between the two listings is then at the source, and not foreign.
        there, here = self._list(target), self._list(source)

        records = {**(at_target.by_key if at_target else {}), **(at_source.by_key if at_source else {})}
        ours = at_source.by_key if at_source else at_target.by_key if at_target else {}
        # Without the target's manifest nobody knows what was on its way: all that is recorded has to be there.
        theirs = at_target.by_key if at_target else records
        if self.policy.deletions is Deletions.FOLLOW:
            ours = {key: o for key, o in ours.items() if key in here}
        held_here = self.link.read_source(BUCKET, _sizes(ours, here))
        held_there = self.link.read_target(BUCKET, _sizes(theirs, there))
        bad_here = [o for key, o in ours.items() if held_here.get(key) != o]
        bad_there = [o for key, o in theirs.items() if held_there.get(key) != o]
        foreign = {
            key: info for key, info in there.items() if key not in theirs and key not in ours and key not in here
        }
        settled = {
            key: info.size for key, info in foreign.items() if self.repair and now - info.modified > self.settled
        }

        findings = [
            *self._mend(self.link, bad_there, held_here, held_there, there, now),
            *self._mend(self.link.reversed(), bad_here, held_there, held_here, here, now),
            *(Finding(target.site, key, "foreign", "set aside" if key in settled else "found") for key in foreign),
        ]
        set_aside(self.link, BUCKET, settled, now)
        findings += self._rebuild(source, damaged_source, ours, at_source, findings, now)
        findings += self._rebuild(target, damaged_target, theirs, at_target, findings, now)
        if not any(one.outcome == "lost" for one in findings):
            self._begin_rotation(now)
        read = [o for o in (*held_here.values(), *held_there.values()) if o is not None]
        return VerifyResult(
            dataset=self.dataset,
            source=source.site,
            target=target.site,
            objects=len(read),
            bytes=sum(o.size for o in read),
            seconds=time.monotonic() - started,
            findings=tuple(findings),
            fingerprint=build_manifest(self.dataset, theirs.values(), now).fingerprint,
        )

    def _read(self, store: ObjectStore) -> tuple[Manifest | None, bool]:
        """The site's manifest, and whether it is damaged."""
        try:
            return read_manifest(store, self.dataset), False
        except Corrupted:
            return None, True

    def _refuse_nothing_to_compare(
        self, at_source: Manifest | None, at_target: Manifest | None, damaged_source: bool, damaged_target: bool
    ) -> None:
        source, target = self.link.source.site, self.link.target.site
        if at_source is None and at_target is None:
            if damaged_source or damaged_target:
                raise Corrupted(f"no manifest of {self.dataset} at {source} or {target} can be read: restore a backup")
            raise Refused(f"verifying {self.dataset} at {source} and {target}", ["it has no manifest: replicate first"])
        if at_target is None and not damaged_target:
            raise Refused(f"verifying {self.dataset} at {target}", ["it was never replicated there: replicate first"])
        differing = sorted(
            key
            for key, o in (at_target.by_key if at_target else {}).items()
            if at_source and at_source.by_key.get(key, o) != o
        )
        if differing:
            raise Corrupted(
                f"{some(differing)} is recorded with other bytes at {source} and {target}: reconcile the sites"
            )

    def _list(self, store: ObjectStore) -> dict[str, ObjectInfo]:
        return {info.key: info for info in store.list(BUCKET, f"{self.dataset}/") if is_data(info.key)}

    def _mend(
        self,
        link: Link,
        bad: list[ManifestObject],
        held_by_other: Mapping[str, ManifestObject | None],
        held: Mapping[str, ManifestObject | None],
        listed: Mapping[str, ObjectInfo],
        now: datetime,
    ) -> list[Finding]:
        """Repair what is ``bad`` at the link's target from its source, where that is right."""
        good = [o for o in bad if held_by_other.get(o.key) == o]
        lost = {o.key for o in bad} - {o.key for o in good}
        if self.repair and good:
            readable = {o.key: listed[o.key].size for o in good if held.get(o.key) is not None}
            set_aside(link, BUCKET, readable, now, keep=True)
            lost |= set(deliver(link, BUCKET, good, {}, self.on_progress).failed)
        return [
            Finding(
                link.target.site,
                o.key,
                "damaged" if o.key in listed else "missing",
                "lost" if o.key in lost else "repaired" if self.repair else "found",
            )
            for o in bad
        ]

    def _rebuild(
        self,
        store: ObjectStore,
        damaged: bool,
        objects: Mapping[str, ManifestObject],
        known: Manifest | None,
        findings: list[Finding],
        now: datetime,
    ) -> list[Finding]:
        """Write a damaged manifest anew, of the objects that are right; what is new since the next run adds."""
        if not damaged:
            return []
        lost = {one.key for one in findings if one.outcome == "lost"}
        if self.repair:
            sound = [o for key, o in objects.items() if key not in lost]
            write_over(store, build_manifest(self.dataset, sound, now), known)
        return [Finding(store.site, self.dataset, "manifest", "repaired" if self.repair else "found")]

    def _begin_rotation(self, now: datetime) -> None:
        for number in range(1, self.shards + 1):
            key = rotation_key(self.dataset, Shard(number, self.shards).part)
            self.link.target.put(BUCKET, key, begun(now).model_dump_json().encode())


def _sizes(recorded: Mapping[str, ManifestObject], listed: Mapping[str, ObjectInfo]) -> dict[str, int]:
    """Of the objects that are there; the listing's sizes, so that one of another length is not taken for right."""
    return {key: listed[key].size for key in recorded if key in listed}
