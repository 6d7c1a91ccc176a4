"""Bring two sites together again after they have lived apart: what each did since they last agreed, nothing lost.

Immutable objects merge by union. A deletion is told from a creation by the last agreement of the two (``agreed.py``)
and is repeated at the other site into its trash, but never many at once without a person. Where both sides changed the
same thing, both versions are kept at both sites below ``_conflicts/<site>/<key>/<sha256>`` and a person decides
(``questions.py``). Until then each site keeps its own, or, where one site is being taken back and must serve at once,
the site that kept serving (the *keeper*) holds the name, because users have seen its bytes since. Modification times
decide nothing: a clock one hour ahead would win.

No object is overwritten or removed before its bytes are kept elsewhere, manifests are written after the objects, a
deletion after the manifest, the agreement last: a kill at any instant loses nothing, and a further run goes on.

One thing cannot be told: a key that one site deleted and wrote anew with the same bytes looks as if nothing had
happened there, so a deletion of it at the other site is repeated. Its bytes are then in the trash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives.estate.model import Deletions, Estate
from ninelives.estate.residency import refuse_breach
from ninelives.ports import Ledger, Record, Systems
from ninelives.replication.acks import JOURNAL, Ack, read_acks
from ninelives.replication.manifest import BUCKET, listed
from ninelives.replication.questions import Decision, Question
from ninelives.replication.reconcile_objects import CONFLICTS, Conflict, Meeting, Objects, survey
from ninelives.replication.reconcile_releases import Release
from ninelives.replication.replicate import MODELS, utc_now
from ninelives.replication.transfer import Link, OnProgress, link_between, some

LEASE_TTL = timedelta(hours=1)

MOST_LISTED = 1000
"""Keys of one kind in a record; the rest is counted."""


@dataclass(frozen=True)
class ReconcileResult:
    """What was, or by a plan would be, merged, kept and decided. ``site`` is the one that has returned, if any has."""

    dataset: str
    site: str
    other: str
    copied_to_site: int = 0
    """objects of the dataset and its models"""
    copied_to_other: int = 0
    deleted_at_site: tuple[str, ...] = ()
    """Keys that were deleted at the other site; their bytes are in the trash."""
    deleted_at_other: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    """Keys that were gone at one site, and that the estate wants back."""
    outlived: tuple[str, ...] = ()
    """Keys deleted at one site and written anew at the other: the write stays."""
    conflicts: tuple[Conflict, ...] = ()
    """Settled in this run in the keeper's favour."""
    questions: tuple[Question, ...] = ()
    """Open: a person has to decide."""
    decided: tuple[Question, ...] = ()
    """What persons have decided and this run has carried out."""
    healed: tuple[str, ...] = ()
    """Keys whose bytes were damaged at one site and came back from the other."""
    releases: dict[str, str | None] = field(default_factory=dict)
    """Version of each model's release, ``None`` where the sites have none in common."""
    kept_aside: tuple[str, ...] = ()
    """Everything below ``_conflicts/`` at ``site``, ``<bucket>/<key>``."""
    fingerprint: str = ""
    fingerprints_equal: bool = False
    """False while a question about objects is open, or where somebody wrote to one site meanwhile."""
    epoch: int = 0
    """Of the agreement now."""

    @property
    def verdict(self) -> str:
        """``missed`` while a person has to decide; ``met`` once both sites have agreed."""
        return "missed" if self.questions else "met" if self.fingerprints_equal else "unknown"

    def lines(self) -> list[str]:
        """The report for people: what was merged, kept and decided."""
        a, b = self.site, self.other
        merged = {
            f"moved to the trash at {a}": self.deleted_at_site,
            f"moved to the trash at {b}": self.deleted_at_other,
            "brought back": self.restored,
            "kept, because it was written anew after its deletion": self.outlived,
            "healed from the other site": self.healed,
        }
        return [
            f"{self.dataset}: {self.copied_to_site} objects copied to {a}, {self.copied_to_other} to {b}",
            *(f"{what}: {some(keys)}" for what, keys in merged.items() if keys),
            *(f"kept at both sites: {one.moved_to}, because {one.keeper}'s holds the name" for one in self.conflicts),
            *(f"release of {model}: {version or 'none in common'}" for model, version in self.releases.items()),
            *(f"decided by {q.decision.by}: {q.decision.choice}. {q.headline()}" for q in self.decided if q.decision),
            *(f"open {question.id}: {question.headline()}" for question in self.questions),
            f"kept aside at {a}: {len(self.kept_aside)} objects; agreement {self.epoch}, verdict {self.verdict}",
        ]

    def report(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        text = json.dumps({**asdict(self), "verdict": self.verdict}, default=datetime.isoformat)
        document: dict[str, Any] = json.loads(text)
        return document


# --- by name, on a connected estate ------------------------------------------------------------------------------


def reconcile(
    systems: Systems, dataset: str, site: str, other: str, on_progress: OnProgress | None = None
) -> ReconcileResult:
    """Reconcile a returned ``site`` with ``other``, which kept serving: the dataset and the models trained on it.

    :raises Corrupted: an object is damaged at one site and the other has no good copy; the rest is reconciled
    :raises Unavailable: a store does not answer; run again
    """
    return meet(systems, dataset, site, other, keeper=other, thorough=True, on_progress=on_progress).apply()


def meet(
    systems: Systems,
    dataset: str,
    site: str,
    other: str,
    *,
    keeper: str | None = None,
    decisions: Mapping[str, Decision] | None = None,
    thorough: bool = False,
    on_progress: OnProgress | None = None,
) -> Reconciliation:
    """Two sites of a connected estate, about to be reconciled; nothing is contacted yet.

    :param keeper: of two sites that cannot wait for a person, the one whose bytes hold a name in conflict
    :param decisions: what persons have decided, by question id
    :param thorough: read every object instead of those that look changed
    :raises Refused: the estate keeps no such dataset at both sites, it may not be at one of them, or both are one store
    """
    declared = systems.estate.dataset_by_name.get(dataset)
    if declared is None or not {site, other} <= {declared.primary, *declared.copies}:
        raise Refused("reconciliation", [f"the estate does not keep {dataset} at {site} and {other}"])
    refuse_breach(systems.estate, dataset, site, other)
    meeting = Meeting(
        dataset,
        link_between(systems, site, other),
        keeper=keeper,
        decisions=decisions or {},
        restore=declared.deletions is Deletions.RESTORE,
        thorough=thorough,
        on_progress=on_progress,
        acks=[ack for ack in read_acks(systems.home.feed / JOURNAL) if ack.dataset == dataset],
    )
    models = [model.name for model in systems.estate.models if model.trained_on == dataset]
    return Reconciliation(meeting, models)


def pairs(estate: Estate, closed: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """Dataset, primary and copy of everything to reconcile between sites that are not ``closed``."""
    return [
        (dataset.name, dataset.primary, copy)
        for dataset in estate.datasets
        for copy in dataset.copies
        if not {dataset.primary, copy} & set(closed)
    ]


def reconcile_stores(
    dataset: str,
    models: Sequence[str],
    link: Link,
    clock: Callable[[], datetime] = utc_now,
    on_progress: OnProgress | None = None,
    acks: Sequence[Ack] = (),
    *,
    restore: bool = False,
) -> ReconcileResult:
    """``reconcile`` on two stores: ``link.source`` has returned, ``link.target`` kept serving and is the keeper.

    Every object is read: a disk that was lost once is not trusted.
    """
    meeting = Meeting(dataset, link, keeper=link.target.site, restore=restore, on_progress=on_progress, acks=acks)
    return Reconciliation(meeting, models, clock).apply()


def record_reconciliation(ledger: Ledger, result: ReconcileResult, *, run: str = "") -> Record:
    """Leave the report as evidence: kind ``reconciliation``, subject ``<dataset>@<site>+<site>``."""
    facts = result.report()
    for name, value in facts.items():
        if isinstance(value, list) and len(value) > MOST_LISTED:
            facts[name] = [*value[:MOST_LISTED], f"and {len(value) - MOST_LISTED} more"]
    for question in [*facts["questions"], *facts["decided"]]:
        question["keys"] = question["keys"][:MOST_LISTED]
    subject = f"{result.dataset}@{'+'.join(sorted((result.site, result.other)))}"
    return ledger.append("reconciliation", subject, {**facts, "run": run})


def apply_and_record(
    systems: Systems, reconciliation: Reconciliation, *, holder: str
) -> tuple[ReconcileResult, Record]:
    """``apply`` alone for these sites, and leave the report as evidence.

    :param holder: of the lease; the same one goes on after a kill
    :raises Refused: somebody else reconciles them now
    """
    ledger, meeting = systems.ledger(), reconciliation.meeting
    sites = "+".join(sorted(store.site for store in meeting.stores))
    lease = ledger.take_lease(f"reconcile:{meeting.dataset}@{sites}", holder, LEASE_TTL)
    try:
        result = reconciliation.apply()
        record = record_reconciliation(ledger, result, run=holder)
    except NinelivesError:
        # It is over, as it is for one that was killed only when the lease is: nobody else has to wait for that.
        with suppress(Unavailable):
            ledger.release_lease(lease)
        raise
    ledger.release_lease(lease)
    return result, record


# --- the work ----------------------------------------------------------------------------------------------------


@dataclass
class Reconciliation:
    """One meeting of two sites: ``plan`` it, or ``apply`` it."""

    meeting: Meeting
    models: Sequence[str]
    clock: Callable[[], datetime] = utc_now

    def plan(self) -> ReconcileResult:
        """What ``apply`` would do. Writes nothing, not even a bucket."""
        objects = survey(self.meeting, self.clock())
        releases = [Release(self.meeting, model, objects) for model in self.models]
        to_a = len(objects.to_copy(objects.a)) + sum(len(release.missing_at_a) for release in releases)
        to_b = len(objects.to_copy(objects.b)) + sum(len(release.missing_at_b) for release in releases)
        return self._result(objects, releases, copied=(to_a, to_b), equal=objects.equal)

    def apply(self) -> ReconcileResult:
        """Do it; idempotent, and may be killed at any instant.

        :raises Refused: a decision is no answer to its question
        :raises Corrupted: no site has a good copy of something; the rest is reconciled
        :raises Unavailable: a store does not answer; run again
        """
        for store in self.meeting.stores:
            store.ensure_bucket(BUCKET)
            store.ensure_bucket(MODELS)
        objects = survey(self.meeting, self.clock())
        releases = [Release(self.meeting, model, objects) for model in self.models]
        to_a, to_b, equal = objects.apply()
        healed = []
        for release in releases:
            more_to_a, more_to_b, mended = release.apply()
            to_a, to_b = to_a + more_to_a, to_b + more_to_b
            healed += mended
        objects.agree({release.model: release.agreed for release in releases if release.agreed})
        problems = [*objects.problems, *(problem for release in releases for problem in release.problems)]
        if problems:
            sites = " with ".join(store.site for store in self.meeting.stores)
            raise Corrupted(f"reconciliation of {sites}: {'; '.join(problems)}")
        for question in [*objects.decided, *(q for release in releases for q in release.decided)]:
            settled = question.decision.choice if question.decision else question.settled
            self.meeting.write_question(replace(question, settled=settled))
        return self._result(objects, releases, copied=(to_a.copied, to_b.copied), equal=equal, more_healed=healed)

    def _result(
        self,
        objects: Objects,
        releases: Sequence[Release],
        *,
        copied: tuple[int, int],
        equal: bool = False,
        more_healed: Iterable[str] = (),
    ) -> ReconcileResult:
        a, b = objects.a, objects.b
        aside = [f"{bucket}/{i.key}" for bucket in (BUCKET, MODELS) for i in listed(a.store, bucket, CONFLICTS)]
        return ReconcileResult(
            dataset=self.meeting.dataset,
            site=a.name,
            other=b.name,
            copied_to_site=copied[0],
            copied_to_other=copied[1],
            deleted_at_site=tuple(objects.removed(a)),
            deleted_at_other=tuple(objects.removed(b)),
            restored=tuple(objects.restored),
            outlived=objects.merged.outlived,
            conflicts=(*objects.conflicts, *(c for release in releases for c in release.conflicts)),
            questions=(*objects.questions, *(q for release in releases for q in release.questions)),
            decided=(*objects.decided, *(q for release in releases for q in release.decided)),
            healed=(*objects.healed(), *more_healed),
            releases={release.model: release.version for release in releases},
            kept_aside=tuple(sorted(aside)),
            fingerprint=objects.manifest(a).fingerprint,
            fingerprints_equal=equal,
            epoch=objects.epoch,
        )
