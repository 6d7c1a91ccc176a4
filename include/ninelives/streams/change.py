"""What changed between a contract and what arrived, and whether that may pass.

Compatible are a new nullable field and a wider type: they pass, are evidence, and propose the contract's next version.
Everything else breaks somebody who reads the stream by its contract, and is quarantined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.types as pt
import rfc8785

from ninelives.estate.streams import FieldName, Stream, StreamField, is_field_name
from ninelives.streams.types import Standing, arrow_type, plain_type, standing, type_name, wider

UNIT = b"unit"
"""Key of a field's Arrow metadata that names its unit of measurement."""
_ALIKE = 0.6
"""From this similarity on (``difflib``, 0 to 1) a field that is missing is taken for one that is new."""
_SHOWN = 80
"""Letters of a name or a type that arrived; a reason is read by people, and kept in the ledger."""


class Kind(StrEnum):
    ADDED = "added"
    WIDENED = "widened"

    DROPPED = "dropped"
    RENAMED = "renamed"
    NARROWED = "narrowed"
    RETYPED = "retyped"
    UNIT = "unit changed"
    REQUIRED = "added and never null"
    UNDECLARABLE = "of a type that no contract can declare"
    UNNAMEABLE = "of a name that no contract can declare"
    VALUES = "value not allowed"
    RANGE = "out of range"
    NULL = "null"
    KEY = "key repeated"
    POISON = "cannot be read"

    @property
    def compatible(self) -> bool:
        return self in (Kind.ADDED, Kind.WIDENED)


@dataclass(frozen=True, order=True)
class Change:
    """One difference; ``found`` is the type, name, unit or value that arrived."""

    field: str
    kind: Kind
    declared: str = ""
    found: str = ""

    @property
    def compatible(self) -> bool:
        return self.kind.compatible

    def __str__(self) -> str:
        what = f"{self.field}: {self.kind.value}" if self.field else self.kind.value
        match (self.declared, self.found):
            case ("", ""):
                return what
            case ("", found):
                return f"{what} ({found})"
            case (declared, ""):
                return f"{what} (declared {declared})"
        return f"{what} (declared {self.declared}, found {self.found})"

    def facts(self) -> dict[str, str]:
        return {**asdict(self), "kind": self.kind.value}


def contract_sha(stream: Stream) -> str:
    """SHA-256 (hex) of everything in the contract that decides what passes; its version number does not."""
    said = stream.model_dump(mode="json", include={"format", "keys", "fields", "absent_is_null"})
    return hashlib.sha256(rfc8785.dumps(said)).hexdigest()


def renamed_back(stream: Stream, names: Iterable[str]) -> dict[str, FieldName]:
    """Which of the names that arrived are declared aliases, and of which field; a field under its own name wins."""
    there = set(names)
    return {
        alias: field.name
        for field in stream.fields
        if field.name not in there
        for alias in [next((alias for alias in field.aliases if alias in there), None)]
        if alias is not None
    }


def classify(stream: Stream, schema: pa.Schema, units: Mapping[str, str] | None = None) -> tuple[Change, ...]:
    """Every difference between the contract and a schema that arrived; empty where there is none.

    :param units: units of fields where the format has no place for them
    """
    back = renamed_back(stream, schema.names)
    found: dict[str, pa.Field] = {}
    repeated = []
    for field in schema:
        name = back.get(field.name, field.name)
        if name in found:
            repeated.append(Change(name, Kind.RETYPED, found="two fields of this name"))
        found[name] = field
    missing = [field for field in stream.fields if field.name not in found]
    added = [name for name in found if name not in stream.field_by_name]
    renamed = dict(_renamed(stream, missing, {name: found[name] for name in added}))
    changes = [*repeated, *(Change(old, Kind.RENAMED, old, new) for old, new in renamed.items())]
    for declared in missing:
        if declared.name not in renamed and not (stream.absent_is_null and declared.nullable):
            changes.append(Change(declared.name, Kind.DROPPED, declared.type))
    changes += (_addition(name, found[name]) for name in added if name not in renamed.values())
    for declared in stream.fields:
        if declared.name in found:
            changes += _difference(declared, found[declared.name], (units or {}).get(declared.name))
    return tuple(sorted(changes))


def _renamed(
    stream: Stream, missing: Iterable[StreamField], added: Mapping[str, pa.Field]
) -> Iterator[tuple[str, str]]:
    """A missing field and the new one that it seems to have become: of the same type, and most alike in name."""
    left = dict(added)
    missing = list(missing)
    for declared in missing:
        fits = [
            name
            for name, field in left.items()
            if standing(arrow_type(declared.type), plain_type(field.type)) is not Standing.OTHER
        ]
        alike = {name: SequenceMatcher(None, declared.name, name).ratio() for name in fits}
        best = max(alike, key=lambda name: (alike[name], name), default=None)
        only = len(missing) == len(added) == 1 and not stream.absent_is_null
        if best is not None and (only or alike[best] >= _ALIKE):
            del left[best]
            yield declared.name, best


def _addition(name: str, field: pa.Field) -> Change:
    declared = type_name(field.type)
    if not is_field_name(name):
        return Change(name[:_SHOWN], Kind.UNNAMEABLE)
    if declared is None:
        return Change(name, Kind.UNDECLARABLE, found=str(field.type)[:_SHOWN])
    return Change(name, Kind.ADDED if field.nullable else Kind.REQUIRED, found=declared)


def _difference(declared: StreamField, field: pa.Field, unit: str | None) -> Iterator[Change]:
    if (field.metadata or {}).get(UNIT):
        unit = field.metadata[UNIT].decode("utf-8", "replace")
    found = plain_type(field.type)
    if declared.unit is not None and unit is not None and unit != declared.unit:
        if unit in declared.convert and (pt.is_integer(found) or pt.is_floating(found) or pt.is_decimal(found)):
            return  # the type may have changed with the unit, and conversion takes it back
        if unit not in declared.convert:
            yield Change(declared.name, Kind.UNIT, declared.unit, unit[:_SHOWN])
    named = type_name(found)
    names = (declared.type, named or str(found)[:_SHOWN])
    match standing(arrow_type(declared.type), found):
        case Standing.WIDER if named:
            yield Change(declared.name, Kind.WIDENED, *names)
        case Standing.NARROWER:
            yield Change(declared.name, Kind.NARROWED, *names)
        case Standing.OTHER | Standing.WIDER:  # of a wider one without a name no contract could be proposed
            yield Change(declared.name, Kind.RETYPED, *names)


def propose(stream: Stream, changes: Iterable[Change]) -> Stream | None:
    """The contract's next version, with every compatible change in it; ``None`` where there is nothing new.

    :raises Refused: a field came with two types of which neither holds the other
    """
    fields = dict(stream.field_by_name)
    for change in sorted(changes):
        known = fields.get(change.field)
        if not change.compatible:
            continue
        if known is None:
            fields[change.field] = StreamField(name=change.field, type=change.found, nullable=True)
        else:
            fields[change.field] = known.model_copy(update={"type": wider(known.type, change.found)})
    if fields == stream.field_by_name:
        return None
    return stream.model_copy(update={"version": stream.version + 1, "fields": tuple(fields.values())})


def change_of(facts: Mapping[str, Any]) -> Change:
    """Back from the facts of evidence."""
    return Change(facts["field"], Kind(facts["kind"]), facts["declared"], facts["found"])
