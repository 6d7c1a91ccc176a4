"""A dataset's objects at two sites that meet again: what each shall have, and bringing it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import ObjectStore
from ninelives.replication.acks import Ack
from ninelives.replication.agreed import Agreed, Deleting, newest, read_agreed, write_agreed
from ninelives.replication.manifest import (
    BUCKET,
    Manifest,
    ManifestObject,
    build_manifest,
    read_manifest,
    scan,
    write_over,
)
from ninelives.replication.merge import Merge, Side, merge
from ninelives.replication.pointers import sha256
from ninelives.replication.questions import (
    DELETE,
    KEEP,
    Decision,
    Kind,
    Question,
    Version,
    check_decision,
    question_id,
    read_questions,
    write_question,
)
from ninelives.replication.transfer import TRASH, Delivery, Link, OnProgress, deliver, some

CONFLICTS = "_conflicts/"

MAX_DELETIONS = 10
MAX_DELETED_SHARE = 0.1
"""More deletions than both at once, or of everything there was, look like a lost disk: a person is asked first."""


@dataclass(frozen=True)
class Conflict:
    """Both sites had other bytes under one key, and the keeper's hold it until a person decides. SHA-256 in hex."""

    key: str
    keeper: str
    kept: str
    moved_from: str
    moved: str
    moved_to: str
    """Key, at both sites, of the bytes that lost the name."""


def conflict_key(site: str, key: str, digest: str) -> str:
    return f"{CONFLICTS}{site}/{key}/{digest}"


@dataclass(frozen=True)
class Meeting:
    """Two sites that are brought together, and under which rules.

    :param keeper: the site that holds a name in conflict until a person decides; ``None``: each site keeps its own
    :param decisions: what persons have decided, by question id
    :param restore: what one site has deleted is brought back there, as replication does, instead of following it
    :param thorough: read every object, not only those that look changed
    :param acks: acknowledged writes, to say who wrote what
    """

    dataset: str
    link: Link
    keeper: str | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    restore: bool = False
    thorough: bool = True
    on_progress: OnProgress | None = None
    acks: Sequence[Ack] = ()

    @property
    def stores(self) -> tuple[ObjectStore, ObjectStore]:
        return self.link.source, self.link.target

    def answered(self, question: Question) -> Question:
        """The question with the decision that was given now or, by a killed run, before, if there is one."""
        if (given := self.decisions.get(question.id)) is not None:
            check_decision(question, given.choice)
            return replace(question, decision=given)
        return question

    def write_question(self, question: Question) -> None:
        for store in self.stores:
            write_question(store, question)


@dataclass
class Site:
    """What one site has of the dataset."""

    store: ObjectStore
    recorded: Manifest | None
    found: Manifest
    agreed: Agreed | None
    values: dict[str, str] = field(default_factory=dict)
    """What it says it has: as recorded, or found and not recorded yet."""
    desired: dict[str, str | None] = field(default_factory=dict)
    """What it shall have."""

    def __post_init__(self) -> None:
        self.bytes = {o.key: o.sha256 for o in self.found.objects}
        self.records = {o.key: o.sha256 for o in self.recorded.objects} if self.recorded else {}

    @property
    def name(self) -> str:
        return self.store.site

    def lacks(self) -> list[str]:
        """Keys whose right bytes are not there."""
        return [key for key, value in self.desired.items() if value is not None and self.bytes.get(key) != value]

    def surplus(self) -> list[str]:
        """Keys whose bytes are about to be overwritten or removed."""
        return [key for key in self.bytes if self.desired.get(key) != self.bytes[key]]


def survey(run: Meeting, begun: datetime) -> Objects:
    """Look at both sites; writes nothing.

    :raises Unavailable: a store does not answer
    """
    names = (run.link.source.site, run.link.target.site)
    sites = []
    stored: dict[str, Question] = {}
    for store in run.stores:
        recorded = _read_manifest(store, run.dataset)
        found = scan(store, run.dataset, None if run.thorough else recorded, begun)
        sites.append(Site(store, recorded, found, read_agreed(store, run.dataset, names)))
        for question in read_questions(store, run.dataset).values():
            if question.id not in stored or question.decision:  # killed between the two writes of a decision
                stored[question.id] = question
    return Objects(run, sites[0], sites[1], begun, stored)


@dataclass
class Objects:
    """The dataset's objects at two sites, and what becomes of them."""

    run: Meeting
    a: Site
    b: Site
    begun: datetime
    stored: Mapping[str, Question]
    problems: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    decided: list[Question] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agreed = newest(self.a.agreed, self.b.agreed)
        self.epoch = self.agreed.epoch if self.agreed else 0
        self.base = self._base()
        self.sizes = {
            (o.key, o.sha256): o.size
            for site in (self.a, self.b)
            for manifest in (site.recorded, site.found)
            for o in (manifest.objects if manifest else ())
        }
        for site, across in ((self.a, self.b), (self.b, self.a)):
            # The same bytes at both sites were brought there by a killed run: two disks do not rot alike.
            brought = {key for key, value in site.bytes.items() if across.bytes.get(key) == value}
            site.values = {**site.bytes, **{key: v for key, v in site.records.items() if key not in brought}}
        self.merged: Merge = merge(self.base, *(Side(s.name, s.values, self.is_current(s)) for s in (self.a, self.b)))
        self.contested: set[str] = set()
        self._decide()

    # --- what shall be

    def _base(self) -> dict[str, str]:
        base = dict(self.agreed.objects) if self.agreed else {}
        for site in (self.a, self.b):
            pending = self.agreed.deleting.get(site.name) if self.agreed else None
            # Begun by a killed run. Has anybody else committed anything since, the key may have been written anew.
            if pending and site.recorded and _identity(site.recorded) in (pending.manifest, pending.wanted):
                base.update(pending.keys)
        return base

    def is_current(self, site: Site) -> bool:
        """A site without the newest agreement, or without a manifest, was set back: absence there proves nothing."""
        if self.agreed is None:
            return True
        if site.recorded is None or site.agreed is None:
            return False
        # An announcement that a killed run wrote at one site only agrees on nothing more than the agreement before it.
        announced = bool(self.agreed.deleting) and self.agreed.parent == site.agreed.sha256
        return announced or site.agreed.epoch == self.agreed.epoch

    def _decide(self) -> None:
        a, b = self.a, self.b
        for key, value in self.merged.values.items():
            a.desired[key] = b.desired[key] = value
        for key in self.merged.undecided:
            self._decide_contested(key)
        for site, gone_at in ((a, b), (b, a)):
            keys = self.merged.deletions[site.name]
            if self.run.restore:
                gone_at.desired.update({key: site.values[key] for key in keys})
                site.desired.update({key: site.values[key] for key in keys})
                self.restored.extend(keys)
            elif self._suspicious(keys):
                self._decide_deletions(site, gone_at, keys)
        for question in self.stored.values():
            if question.kind == "object" and question.subject not in self.contested:
                self._decide_again(question)

    def _decide_contested(self, key: str) -> None:
        self.contested.add(key)
        versions = tuple(self._version(site, key) for site in (self.a, self.b))
        question = self._asked(
            "object", key, *sorted(v.sha256 for v in versions), options=(self.a.name, self.b.name), versions=versions
        )
        choice = question.decision.choice if question.decision else self.run.keeper
        for site in (self.a, self.b):
            chosen = site if choice is None else next(s for s in (self.a, self.b) if s.name == choice)
            site.desired[key] = chosen.values[key]
        if question.decision:
            self.decided.append(question)
            return
        self.questions.append(question)
        if choice is not None:
            kept, moved = sorted(versions, key=lambda v: v.site != choice)
            self.conflicts.append(Conflict(key, choice, kept.sha256, moved.site, moved.sha256, moved.aside))

    def _decide_again(self, question: Question) -> None:
        """One that the keeper's bytes have settled for the time being, or that a killed run has not carried out."""
        key = question.subject
        now = {self.a.desired.get(key), self.b.desired.get(key)}
        if question.settled is None or len(now) != 1 or not now <= {v.sha256 for v in question.versions}:
            return  # what was in question has been changed since
        question = self.run.answered(question)
        if question.decision is None:
            self.questions.append(question)
        elif question.decision.choice != question.settled or question.id in self.run.decisions:
            chosen = next(v for v in question.versions if v.site == question.decision.choice)
            self.sizes[key, chosen.sha256] = chosen.size
            self.a.desired[key] = self.b.desired[key] = chosen.sha256
            self.contested.add(key)
            self.decided.append(question)

    def _decide_deletions(self, site: Site, gone_at: Site, keys: Sequence[str]) -> None:
        question = self._asked(
            "deletions",
            gone_at.name,
            *(f"{key} {site.values[key]}" for key in keys),
            options=(KEEP, DELETE),
            keys=tuple(keys),
        )
        if question.decision:
            self.decided.append(question)
        else:
            self.questions.append(question)
        if question.decision and question.decision.choice == DELETE:
            return
        for key in keys:
            site.desired[key] = site.values[key]
            gone_at.desired[key] = site.values[key] if question.decision else None

    def _asked(
        self,
        kind: Kind,
        subject: str,
        *parts: str,
        options: tuple[str, ...],
        versions: tuple[Version, ...] = (),
        keys: tuple[str, ...] = (),
    ) -> Question:
        """The question as it is stored, or a new one; with its decision if there is one."""
        name = question_id(kind, self.run.dataset, subject, *parts)
        question = Question(
            id=name,
            kind=kind,
            dataset=self.run.dataset,
            bucket=BUCKET,
            subject=subject,
            options=options,
            versions=versions,
            keys=keys,
            settled=self.run.keeper if versions else None,
            decision=not_carried_out(self.stored.get(name)),
        )
        return self.run.answered(question)

    def _suspicious(self, keys: Sequence[str]) -> bool:
        most = max(MAX_DELETIONS, MAX_DELETED_SHARE * len(self.base))
        return bool(keys) and (len(keys) > most or len(keys) == len(self.base))

    def _version(self, site: Site, key: str) -> Version:
        value = site.values[key]
        ack = next((ack for ack in self.run.acks if (ack.key, ack.sha256) == (key, value)), None)
        if ack:
            written = f"write {ack.seq}, acknowledged by {ack.site} at {ack.acked_at:%Y-%m-%d %H:%M:%S} UTC"
        elif key in site.records and site.recorded:
            written = f"in {site.name}'s manifest of {site.recorded.created_at:%Y-%m-%d %H:%M:%S} UTC"
        else:
            written = f"found at {site.name}, in no manifest yet"
        aside = conflict_key(site.name, key, value)
        return Version(site=site.name, sha256=value, size=self.sizes[key, value], aside=aside, written=written)

    def removed(self, site: Site) -> list[str]:
        return [key for key in self.merged.deletions[site.name] if key in site.desired and site.desired[key] is None]

    def healed(self) -> list[str]:
        """Keys that a site had recorded, whose bytes are no longer those, and that come back as they were."""
        return sorted(
            {
                key
                for site, across in ((self.a, self.b), (self.b, self.a))
                for key in site.lacks()
                if key not in self.contested
                and site.records.get(key) == site.desired[key]
                and across.bytes.get(key) == site.desired[key]
            }
        )

    def manifest(self, site: Site) -> Manifest:
        objects = [
            ManifestObject(key=key, size=self.sizes[key, value], sha256=value)
            for key, value in site.desired.items()
            if value is not None
        ]
        return build_manifest(self.run.dataset, objects, self.begun)

    # --- doing it

    def apply(self) -> tuple[Delivery, Delivery, bool]:
        """Return what was copied to each site, and whether both manifests are the same now."""
        for question in [*self.questions, *self.decided]:
            for version in question.versions:
                if version.site != question.settled:  # the keeper's hold the name at both
                    self._keep_version(version, question.subject)
        current = {question.id: question for question in [*self.questions, *self.decided]}
        for question in {**self.stored, **current}.values():
            self.run.write_question(question)
        for site in (self.a, self.b):
            for key in site.surplus():
                self._keep_bytes(site, key)
        self._announce_deletions()

        link = self.run.link
        to_b = self._deliver(link, self.b)
        to_a = self._deliver(link.reversed(), self.a)
        self._check_rest(to_a, to_b)
        if to_a.failed or to_b.failed:
            self.problems.extend(done.problem for done in (to_b, to_a) if done.problem)
            return to_a, to_b, False
        return to_a, to_b, self._write_manifests()

    def _keep_version(self, version: Version, key: str) -> None:
        """Keep a version's bytes at both sites, wherever they are now."""
        stores = [self.a.store, self.b.store]
        for store in stores:
            if store.head(BUCKET, version.aside) is not None:
                continue
            source = next(((s.store, key) for s in (self.a, self.b) if s.bytes.get(key) == version.sha256), None)
            source = source or next(((s, version.aside) for s in stores if s.head(BUCKET, version.aside)), None)
            if source is None:
                self.problems.append(f"{version.site}'s version of {key} is damaged, and there is no other copy")
            else:
                copy_within(source[0], source[1], store, version.aside, BUCKET, version.sha256)

    def _keep_bytes(self, site: Site, key: str) -> None:
        """What is about to be overwritten or removed: to the trash if it was agreed on, else where a person looks."""
        digest = site.bytes[key]
        if self.base.get(key) == digest and key not in self.contested:
            trash = f"{TRASH}/{self.begun:%Y-%m-%d}/{key}/{digest}"
            copy_within(site.store, key, site.store, trash, BUCKET, digest)
        else:
            for store in (self.a.store, self.b.store):
                copy_within(site.store, key, store, conflict_key(site.name, key, digest), BUCKET, digest)

    def _announce_deletions(self) -> None:
        """Take them out of the agreement before the first is done: a key written anew after that is a creation."""
        deleting = {
            site.name: Deleting(
                keys={key: self.base[key] for key in removed},
                manifest=_identity(site.recorded),
                wanted=_identity(self.manifest(site)),
            )
            for site in (self.a, self.b)
            if (removed := [key for key in self.removed(site) if key in self.base]) and site.recorded
        }
        if self.agreed and deleting:
            gone = {key for pending in deleting.values() for key in pending.keys}
            objects = {key: value for key, value in self.base.items() if key not in gone}
            self._agree(objects, self.agreed.releases, deleting)

    def to_copy(self, target: Site) -> list[ManifestObject]:
        """What the other site has and ``target`` lacks."""
        source = self.b if target is self.a else self.a
        return [
            ManifestObject(key=key, size=self.sizes[key, value], sha256=value)
            for key in target.lacks()
            if (value := target.desired[key]) is not None and source.bytes.get(key) == value
        ]

    @property
    def equal(self) -> bool:
        """Whether both manifests say the same now."""
        a, b = self.a.recorded, self.b.recorded
        return a is not None and b is not None and a.fingerprint == b.fingerprint

    def _deliver(self, link: Link, target: Site) -> Delivery:
        wanted = self.to_copy(target)
        there = {o.key: o.size for o in target.found.objects}
        return deliver(link, BUCKET, wanted, there, self.run.on_progress)

    def _check_rest(self, to_a: Delivery, to_b: Delivery) -> None:
        """What neither site has under its name comes from where it was kept aside, or is said to be lost."""
        lost = []
        for site, across in ((self.a, self.b), (self.b, self.a)):
            for key in site.lacks():
                value = site.desired[key]
                if value is None or across.bytes.get(key) == value:
                    continue
                aside = next((k for k in self._asides(key, value) if site.store.head(BUCKET, k)), None)
                if aside is None:
                    lost.append(key)
                else:
                    copy_within(site.store, aside, site.store, key, BUCKET, value)
        if lost:
            # Their records stay: forgotten, damaged bytes would pass for new ones next time.
            self.problems.append(f"no site has a good copy of {some(sorted(set(lost)))}: restore from a backup")
        self.lost = set(lost)

    def _asides(self, key: str, value: str) -> list[str]:
        return [conflict_key(site.name, key, value) for site in (self.a, self.b)]

    def _write_manifests(self) -> bool:
        wanted = [self.manifest(site) for site in (self.a, self.b)]
        sites = (self.a, self.b)
        if any(
            s.recorded is None or s.recorded.fingerprint != w.fingerprint for s, w in zip(sites, wanted, strict=True)
        ):
            wanted = [write_over(s.store, w, s.recorded) for s, w in zip(sites, wanted, strict=True)]
        for site in sites:
            for key in self.removed(site):
                site.store.delete(BUCKET, key)
        self.done = True
        return wanted[0].fingerprint == wanted[1].fingerprint

    done = False
    lost: set[str] = field(default_factory=set)

    def agree(self, releases: Mapping[str, str]) -> None:
        """Write down at both sites what both now have; what is still open stays as it was agreed before."""
        before = self.agreed.releases if self.agreed else {}
        if not self.done:
            return
        objects = {}
        for key in {*self.a.desired, *self.b.desired}:
            value = self.a.desired.get(key)
            if value == self.b.desired.get(key) and key not in self.lost:
                if value is not None:
                    objects[key] = value
            elif key in self.base:
                objects[key] = self.base[key]
        self._agree(objects, {**before, **releases}, {})

    def _agree(self, objects: dict[str, str], releases: dict[str, str], deleting: dict[str, Deleting]) -> None:
        agreed = Agreed(
            dataset=self.run.dataset,
            sites=(min(self.a.name, self.b.name), max(self.a.name, self.b.name)),
            epoch=self.epoch + 1,
            parent=self.agreed.sha256 if self.agreed else None,
            objects=objects,
            releases=releases,
            deleting=deleting,
        ).sealed()
        if agreed.same_content(self.agreed) and self.a.agreed == self.b.agreed:
            return
        for store in (self.b.store, self.a.store):
            write_agreed(store, agreed)
        self.a.agreed = self.b.agreed = self.agreed = agreed
        self.epoch = agreed.epoch


def _identity(manifest: Manifest) -> str:
    """Of this very document: one with the same content written later has another."""
    return sha256(manifest.model_dump_json().encode())


def not_carried_out(question: Question | None) -> Decision | None:
    """A decision that a killed run has written down only; one carried out does not answer the same question again."""
    decision = question.decision if question else None
    return decision if question and decision and question.settled != decision.choice else None


def _read_manifest(store: ObjectStore, dataset: str) -> Manifest | None:
    try:
        return read_manifest(store, dataset)
    except Corrupted:
        return None  # it is written anew from the objects themselves


def copy_within(source: ObjectStore, key: str, target: ObjectStore, to: str, bucket: str, digest: str) -> None:
    """Copy one object to another name, unless it is there, and read it back."""
    if (there := target.get(bucket, to)) is not None and sha256(there) == digest:
        return
    data = source.get(bucket, key)
    if data is None or sha256(data) != digest:
        raise Unavailable(f"{key} at {source.site} changed while the sites were being reconciled; run again")
    target.put(bucket, to, data)
    if target.get(bucket, to) != data:
        raise Corrupted(f"{bucket}/{to} at {target.site} is not what was just written; check the disk there")
