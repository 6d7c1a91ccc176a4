"""The hash chain under the ledger: pure functions.

A record's hash is the SHA-256 of its canonical JSON (RFC 8785): everything in it but the hash itself, with the hash
of the record before. Whoever can write the tables could still cut the end off and compute a new one; anchors, copies of
the head kept at every site, are what finds that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

import rfc8785

from ninelives.errors import Refused
from ninelives.ports import Record

GENESIS = "0" * 64
"""``previous`` of the first record, and the hash of an empty ledger."""

MAX_BYTES = 1024 * 1024
"""Facts above this are refused: evidence names large things by their hash."""

_MAX_DEPTH = 32
_MAX_INTEGER = 2**53 - 1  # RFC 8785 numbers are IEEE 754 doubles


class FindingKind(StrEnum):
    ALTERED = "altered"
    REMOVED = "removed"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TRUNCATED = "truncated"


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is not as it was written."""

    seq: int
    kind: FindingKind
    message: str

    def __str__(self) -> str:
        return f"record {self.seq} {self.kind}: {self.message}"


@dataclass(frozen=True, order=True)
class Anchor:
    """What a site's store says the head of the ledger was."""

    seq: int
    hash: str
    at: str
    site: str


# --- canonical forms ---------------------------------------------------------------------------------------------


def timestamp(moment: datetime) -> str:
    """The one spelling of an instant in the ledger: UTC, microseconds, ``Z``; sorts as text.

    :raises ValueError: ``moment`` names no time zone
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} names no time zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_timestamp(text: str) -> datetime:
    """Inverse of ``timestamp``; raises ``ValueError`` for any other spelling."""
    moment = datetime.fromisoformat(text)
    if timestamp(moment) != text:
        raise ValueError(f"{text!r} is not spelled as the ledger spells an instant")
    return moment


def canonical_json(facts: Mapping[str, Any]) -> str:
    """``facts`` as RFC 8785 text. Aware datetimes become their ``timestamp``, mappings objects, tuples lists.

    :raises Refused: something in it has no exact JSON form (NaN, a naive datetime, a set, …), with where it is, or it
        is larger than ``MAX_BYTES``
    """
    text = rfc8785.dumps(_plain(facts, "facts", 0)).decode()
    if len(text) > MAX_BYTES:
        raise _refusal("facts", f"{len(text)} bytes are more than {MAX_BYTES}; name large things by their hash")
    return text


def parse_json(text: str) -> dict[str, Any]:
    """Inverse of ``canonical_json``; raises ``ValueError`` for any text that it would not have written."""
    facts = json.loads(text, parse_int=_number)
    if not isinstance(facts, dict) or rfc8785.dumps(facts).decode() != text:
        raise ValueError("not a canonical JSON object")
    return facts


def _number(digits: str) -> int | float:
    # RFC 8785 writes 1e20 as an integer; only a float can have been that large.
    value = int(digits)
    return value if abs(value) <= _MAX_INTEGER else float(digits)


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise _refusal(where, f"is nested deeper than {_MAX_DEPTH} levels")
    match value:
        case None | bool():
            return value
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _refusal(where, "holds a lone surrogate, which is not text") from None
            return str.__str__(value)
        case int():
            if abs(value) > _MAX_INTEGER:
                raise _refusal(where, f"{value} is not exact as a JSON number; write it as text")
            return int(value)
        case float():
            if value - value != 0:
                raise _refusal(where, f"{value} is not a JSON number; leave it out or write null")
            return float(value)
        case datetime():
            try:
                return timestamp(value)
            except ValueError as error:
                raise _refusal(where, str(error)) from None
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise _refusal(where, f"key {key!r} is not text")
                _plain(key, f"{where} key", depth)
            return {str.__str__(key): _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise _refusal(where, f"{type(value).__name__} has no exact JSON form; convert it first")


def _refusal(where: str, reason: str) -> Refused:
    return Refused("append evidence", [f"{where}: {reason}"])


def record_hash(
    *,
    seq: int,
    kind: str,
    subject: str,
    facts: Mapping[str, Any],
    at: datetime,
    previous: str,
    version: str,
    once: str | None,
) -> str:
    """SHA-256, in hexadecimal, of the record's canonical JSON. ``facts`` is plain, as ``parse_json`` returns it."""
    body: dict[str, Any] = {
        "at": timestamp(at),
        "facts": facts,
        "kind": kind,
        "once": once,
        "previous": previous,
        "seq": seq,
        "subject": subject,
        "version": version,
    }
    return hashlib.sha256(rfc8785.dumps(body)).hexdigest()


def is_intact(record: Record, *, seq: int | None = None) -> bool:
    """Whether ``record`` is what its hash was computed over, at ``seq`` where given."""
    try:
        return record.hash == record_hash(
            seq=record.seq if seq is None else seq,
            kind=record.kind,
            subject=record.subject,
            facts=record.facts,
            at=record.at,
            previous=record.previous,
            version=record.version,
            once=record.once,
        )
    except ValueError:  # no canonical form: nobody hashed that
        return False


# --- verification ------------------------------------------------------------------------------------------------


class _Link(NamedTuple):
    seq: int
    previous: str
    hash: str
    intact: bool


def verify_chain(records: Iterable[Record], anchors: Iterable[Anchor] = ()) -> list[Finding]:
    """Everything that is not as it was written; an empty list for a whole chain.

    :param records: all of the ledger, in its order; they are read once and not kept
    :param anchors: heads as they were seen earlier, read *before* the records
    """
    links: list[_Link] = []
    suspects: list[Record] = []
    for record in records:
        intact = is_intact(record)
        links.append(_Link(record.seq, record.previous, record.hash, intact))
        if not intact:
            suspects.append(record)

    findings = {
        Finding(later.seq, FindingKind.REORDERED, f"stands after record {earlier.seq}")
        for earlier, later in pairwise(links)
        if later.seq < earlier.seq
    }
    links.sort(key=lambda link: link.seq)
    findings.update(_judge_suspects(suspects, links))
    findings.update(_judge_links(links))
    findings.update(_judge_anchors(links, anchors))
    return sorted(findings)


def _judge_suspects(suspects: Sequence[Record], links: Sequence[_Link]) -> Iterable[Finding]:
    if not suspects:
        return
    # Where the hashes alone say that each record belongs, from the first on.
    follower = {link.previous: link.hash for link in links}
    belongs: dict[str, int] = {}
    current = follower.get(GENESIS)
    while current is not None and current not in belongs:
        belongs[current] = len(belongs) + 1
        current = follower.get(current)
    for record in suspects:
        places = (belongs.get(record.hash, record.seq), record.seq - 1, record.seq + 1)
        place = next((place for place in places if place != record.seq and is_intact(record, seq=place)), None)
        if place is None:
            yield Finding(record.seq, FindingKind.ALTERED, "its contents are not what its hash was computed over")
        else:
            yield Finding(record.seq, FindingKind.REORDERED, f"it was written as record {place}")


def _judge_links(links: Sequence[_Link]) -> Iterable[Finding]:
    before = _Link(0, "", GENESIS, True)
    for link in links:
        if link.seq < 1:
            yield Finding(link.seq, FindingKind.INSERTED, "the first record of a ledger is 1")
            continue
        if link.seq == before.seq:
            yield Finding(link.seq, FindingKind.INSERTED, "there are two records of this number")
        elif link.seq > before.seq + 1:
            last = link.seq - 1
            which = f"record {last} is" if last == before.seq + 1 else f"records {before.seq + 1} to {last} are"
            yield Finding(before.seq + 1, FindingKind.REMOVED, f"{which} missing")
        elif link.previous != before.hash:
            if before.seq == 0:
                yield Finding(link.seq, FindingKind.ALTERED, "it is not chained to the beginning of a ledger")
            elif link.previous == before.previous:
                yield Finding(before.seq, FindingKind.INSERTED, f"record {link.seq} follows the record before it")
            elif before.intact and link.intact:
                yield Finding(
                    before.seq,
                    FindingKind.ALTERED,
                    f"record {link.seq} was chained to another record {before.seq}: one of the two was written later",
                )
        before = link


def _judge_anchors(links: Sequence[_Link], anchors: Iterable[Anchor]) -> Iterable[Finding]:
    sites: dict[tuple[int, str], list[Anchor]] = {}
    for anchor in anchors:
        sites.setdefault((anchor.seq, anchor.hash), []).append(anchor)
    anchored = {seq for seq, _ in sites}
    hashes = {link.seq: link.hash for link in links if link.seq in anchored}
    last = links[-1].seq if links else 0
    for (seq, digest), copies in sites.items():
        seen = " and ".join(f"{copy.site} ({copy.at})" for copy in sorted(copies, key=lambda copy: copy.site))
        if seq > last:
            yield Finding(seq, FindingKind.TRUNCATED, f"the ledger ends at {last}; the anchor at {seen} had seen it")
        elif digest != (hashes.get(seq, digest) if seq else GENESIS):
            yield Finding(
                seq,
                FindingKind.TRUNCATED,
                f"the anchor at {seen} had seen another record {seq}: the ledger was cut before it and written anew",
            )
