"""What is declared against what is there, for one site: pure, the clock passed in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ninelives.access.patterns import covers, overlaps
from ninelives.access.policy import EVERYBODY, Statement, possibly_allowed, read_statements, surely_allowed
from ninelives.estate.model import Estate, Permission, Right
from ninelives.ports import AccessPolicy
from ninelives.replication.manifest import BUCKET, manifest_key
from ninelives.replication.pointers import BUCKET as MODELS

BUCKETS = (BUCKET, MODELS)

NEEDED = {Right.READ: ("s3:GetObject",), Right.WRITE: ("s3:PutObject",)}
"""What a right means at the least."""
WATCHED = {
    Right.READ: ("s3:GetObject", "s3:GetObjectVersion"),
    Right.WRITE: ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectAcl"),
}
"""What nobody may do without the right."""


class Kind(StrEnum):
    MISSING = "missing"
    EXCESS = "excess"
    WILDCARD = "wildcard"
    PUBLIC = "public"
    UNCHECKED = "unchecked"
    """It cannot be told: never taken for sound, and no drift either."""


@dataclass(frozen=True, order=True)
class Finding:
    site: str
    kind: Kind
    subject: str
    """``dataset flights``, ``model arrival-delay``, ``bucket data`` or the site."""
    who: str
    detail: str

    @property
    def is_drift(self) -> bool:
        return self.kind is not Kind.UNCHECKED

    def __str__(self) -> str:
        return f"{self.site}: {self.subject}: {self.kind}: {f'{self.who} ' if self.who else ''}{self.detail}"


@dataclass(frozen=True)
class Target:
    """Objects that somebody may have access to."""

    subject: str
    bucket: str
    prefix: str
    access: tuple[Permission, ...]
    manifest: str | None = None
    """Key, in the same bucket, of the list of these objects; a model has none."""

    @property
    def resource(self) -> str:
        return f"arn:aws:s3:::{self.bucket}/{self.prefix}*"

    def holders(self, right: Right, site: str) -> set[str]:
        return {one.who for one in self.access if right in one.may and one.holds(site)}


def as_it_is(name: str) -> str:
    """What a bucket is called where the site's store has no prefix of its own."""
    return name


def targets(estate: Estate, site: str, called: Callable[[str], str] = as_it_is) -> list[Target]:
    """What is at ``site``: its datasets and the models made of them.

    :param called: what one of our buckets is called there
    """
    here = [dataset for dataset in estate.datasets if site in (dataset.primary, *dataset.copies)]
    names = {dataset.name for dataset in here}
    return [
        *(
            Target(f"dataset {one.name}", called(BUCKET), f"{one.name}/", one.access, manifest_key(one.name))
            for one in here
        ),
        *(
            Target(f"model {one.name}", called(MODELS), f"{one.name}/", one.access)
            for one in estate.models
            if one.trained_on in names
        ),
    ]


def compare(
    estate: Estate,
    site: str,
    policies: Sequence[AccessPolicy],
    public: Mapping[str, str],
    now: datetime,
    called: Callable[[str], str] = as_it_is,
) -> list[Finding]:
    """Every difference, sorted.

    :param policies: without those that a failover has granted
    :param public: buckets that something beside their policy opens to everybody, with what
    :param called: what one of our buckets is called there
    """
    statements = read_statements(policies, now)
    found = {Finding(site, Kind.PUBLIC, f"bucket {bucket}", "everybody", how) for bucket, how in public.items()}
    found.update(_wildcards(estate, site, statements, [called(bucket) for bucket in BUCKETS]))
    known = {who for one in statements for who in one.who} - {EVERYBODY, *estate.administrators}
    for target in targets(estate, site, called):
        for right in Right:
            found.update(_everybody(site, target, right, statements))
            if not target.access:
                continue
            holders = target.holders(right, site)
            found.update(_missing(site, target, right, holders - {*estate.administrators}, statements))
            found.update(_excess(site, target, right, known - holders, statements))
        if not target.access:
            found.add(Finding(site, Kind.UNCHECKED, target.subject, "", "cannot be checked: no access is declared"))
    return sorted(found)


def _missing(
    site: str, target: Target, right: Right, holders: Collection[str], statements: Sequence[Statement]
) -> Iterator[Finding]:
    for who in holders:
        lacking = [a for a in NEEDED[right] if not surely_allowed(statements, who, a, target.resource)]
        if lacking:
            detail = f"should have {right}, and is not sure to be allowed {', '.join(lacking)} on {target.resource}"
            yield Finding(site, Kind.MISSING, target.subject, who, detail)


def _excess(
    site: str, target: Target, right: Right, others: Collection[str], statements: Sequence[Statement]
) -> Iterator[Finding]:
    for who in others:
        own = [one for one in statements if not one.allows or who in one.who]  # what everybody may is said once
        for action in WATCHED[right]:
            if by := possibly_allowed(own, who, action, target.resource):
                detail = f"is not declared for {right}, and may be allowed {action} by {by.where}"
                yield Finding(site, Kind.EXCESS, target.subject, who, detail)
                break


def _everybody(site: str, target: Target, right: Right, statements: Sequence[Statement]) -> Iterator[Finding]:
    for action in WATCHED[right]:
        if by := possibly_allowed(statements, EVERYBODY, action, target.resource):
            limit = "" if by.certain else ", under a condition"
            yield Finding(site, Kind.PUBLIC, target.subject, "everybody", f"may {right} by {by.where}{limit}")
            return


def _wildcards(estate: Estate, site: str, statements: Sequence[Statement], names: Sequence[str]) -> Iterator[Finding]:
    """Permissions wider than anybody declared, also where what they open today is declared."""
    watched = [action.lower() for actions in WATCHED.values() for action in actions]
    buckets = [f"arn:aws:s3:::{name}/*" for name in names]
    for one in statements:
        wide = [text for text in one.actions if "*" in text and any(covers(text, action) for action in watched)]
        wide += [
            text
            for text in one.resources
            if any(overlaps(text, bucket) for bucket in buckets) and "*" in text.partition("/")[0]
        ]
        ours = any(overlaps(text, bucket) for text in one.resources for bucket in buckets)
        reaches = any(one.names(action) for action in watched)
        if one.allows and wide and ours and reaches:
            for who in one.who - {*estate.administrators}:
                name = "everybody" if who == EVERYBODY else who
                yield Finding(site, Kind.WILDCARD, one.where, name, f"is allowed {', '.join(sorted(set(wide)))}")
