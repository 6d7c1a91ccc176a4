"""Part what keeps the contract from what does not: every record ends up in exactly one of the two."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from ninelives.errors import Corrupted
from ninelives.estate.streams import Format, Stream, StreamField
from ninelives.streams.change import UNIT, Change, Kind, classify, renamed_back
from ninelives.streams.decode import Part, Raw, decode
from ninelives.streams.types import Standing, arrow_type, plain_type, standing, wider

Mask = npt.NDArray[np.bool_]

_ENTRIES = pa.schema(
    [
        ("rows", pa.list_(pa.int64())),
        ("reasons", pa.list_(pa.string())),
        ("kinds", pa.list_(pa.string())),
        ("format", pa.string()),
        ("units", pa.string()),
        ("payload", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Entry:
    """Records in quarantine, for the same reasons.

    :param rows: where in the unit each came from
    :param payload: their bytes, which ``decode`` reads once they are mended or the contract is
    """

    rows: tuple[int, ...]
    reasons: tuple[str, ...]
    kinds: tuple[Kind, ...]
    format: Format
    payload: bytes
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sifted:
    """``good`` in the order of ``rows``; ``changes`` that are compatible passed with it."""

    good: pa.Table
    rows: tuple[int, ...]
    entries: tuple[Entry, ...]
    changes: tuple[Change, ...]

    @property
    def quarantined(self) -> int:
        """records"""
        return sum(len(entry.rows) for entry in self.entries)


def declared_schema(stream: Stream) -> pa.Schema:
    """What a record that keeps the contract looks like."""
    return pa.schema([_landed_field(one, arrow_type(one.type)) for one in stream.fields])


def _landed_field(declared: StreamField, arrow: pa.DataType) -> pa.Field:
    return pa.field(declared.name, arrow, metadata={UNIT: declared.unit.encode()} if declared.unit else None)


def sift(stream: Stream, raws: Sequence[Raw]) -> Sifted:
    """Sort the records of one unit. Pure: the same bytes by the same contract give the same answer."""
    parts, poison = decode(stream, raws)
    entries = [
        Entry((one.raw.row,), (one.reason,), (Kind.POISON,), stream.format, one.raw.data, one.raw.units)
        for one in poison
    ]
    good: list[tuple[pa.Table, tuple[int, ...]]] = []
    passed: set[Change] = set()
    seen: dict[str, str] = {}
    for part in parts:
        units = part.raws[0].units if part.raws else {}
        changes = classify(stream, part.table.schema, units)
        changes = (*changes, *_at_odds(changes, seen))
        breaking = [change for change in changes if not change.compatible]
        if breaking:
            entries += _whole(stream, part, breaking)
            continue
        passed.update(changes)
        seen |= {change.field: wider(seen.get(change.field, change.found), change.found) for change in changes}
        table, lost = _conform(stream, part.table, units)
        bad = [*_judged(stream, table), *lost]
        keep = np.ones(table.num_rows, dtype=bool)
        for _, mask in bad:
            keep &= ~mask
        entries += _picked(stream, part, bad)
        if keep.any():
            good.append((table.filter(pa.array(keep)), tuple(int(row) for row in np.asarray(part.rows)[keep])))
    table, rows = _united(stream, good)
    return Sifted(table, rows, tuple(sorted(entries, key=lambda entry: entry.rows)), tuple(sorted(passed)))


def _at_odds(changes: Sequence[Change], seen: Mapping[str, str]) -> Iterator[Change]:
    """Fields that came before in this unit with a type that neither holds this one nor is held by it."""
    for change in changes:
        before = seen.get(change.field)
        if before and change.compatible and standing(arrow_type(before), arrow_type(change.found)) is Standing.OTHER:
            yield Change(change.field, Kind.RETYPED, before, change.found)


def _united(stream: Stream, good: Sequence[tuple[pa.Table, tuple[int, ...]]]) -> tuple[pa.Table, tuple[int, ...]]:
    if not good:
        return declared_schema(stream).empty_table(), ()
    # Declared fields first and in their order, new ones by name: the same records give the same bytes.
    names = list(stream.field_by_name)
    names += sorted({name for table, _ in good for name in table.column_names} - set(names))
    table = pa.concat_tables([table for table, _ in good], promote_options="permissive").select(names)
    rows = np.concatenate([np.asarray(rows, dtype=np.int64) for _, rows in good])
    order = np.argsort(rows, kind="stable")
    if len(good) > 1:
        table = table.take(pa.array(order))
    return table.combine_chunks(), tuple(int(row) for row in rows[order])


def _conform(stream: Stream, table: pa.Table, units: Mapping[str, str]) -> tuple[pa.Table, list[tuple[Change, Mask]]]:
    """The table in the declared names, units and order; rows that conversion would spoil are named."""
    back = renamed_back(stream, table.column_names)
    table = table.rename_columns([back.get(name, name) for name in table.column_names])
    columns: list[pa.ChunkedArray] = []
    fields: list[pa.Field] = []
    lost: list[tuple[Change, Mask]] = []
    for declared in stream.fields:
        arrow = arrow_type(declared.type)
        if declared.name not in table.column_names:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, arrow)]))
            fields.append(_landed_field(declared, arrow))
            continue
        arrived = table.schema.field(declared.name)
        unit = (arrived.metadata or {}).get(UNIT, b"").decode() or units.get(declared.name)
        column = table[declared.name].cast(plain_type(arrived.type))
        if unit is not None and unit != declared.unit and unit in declared.convert:
            column, spoilt = _convert(column, declared.convert[unit], arrow)
            if spoilt.any():
                lost.append((Change(declared.name, Kind.RANGE, declared.type, f"a value in {unit}"), spoilt))
        columns.append(column)
        fields.append(_landed_field(declared, column.type))
    for name in table.column_names:
        if name not in stream.field_by_name:
            column = table[name].cast(plain_type(table.schema.field(name).type))
            columns.append(column)
            fields.append(pa.field(name, column.type, metadata=table.schema.field(name).metadata))
    return pa.table(columns, schema=pa.schema(fields)), lost


def _convert(column: pa.ChunkedArray, factor: float, arrow: pa.DataType) -> tuple[pa.ChunkedArray, Mask]:
    """Times ``factor`` as the declared type, and where that does not hold the result."""
    values = pc.multiply(column.cast(pa.float64(), safe=False), factor)
    if pt.is_integer(arrow):
        values = pc.round(values, round_mode="half_to_even")
        signed = pt.is_signed_integer(arrow)
        high = 2.0 ** (arrow.bit_width - signed)
        holds = pc.and_(pc.greater_equal(values, -high if signed else 0.0), pc.less(values, high))
    elif pt.is_decimal(arrow):
        values = pc.round(values, ndigits=arrow.scale, round_mode="half_to_even")
        holds = pc.less(pc.abs(values), 10.0 ** (arrow.precision - arrow.scale))
    else:
        holds = pc.less_equal(pc.abs(values), float(np.finfo(arrow.to_pandas_dtype()).max))
    spoilt = _mask(pc.invert(holds))
    values = pc.if_else(pa.array(spoilt), None, values)
    return values.cast(arrow, safe=not pt.is_decimal(arrow)), spoilt


def _mask(condition: Any) -> Mask:
    """Null counts as no: what is not there is judged by ``nullable`` alone."""
    filled = pc.fill_null(condition, False)
    return np.asarray(filled.to_numpy() if isinstance(filled, pa.ChunkedArray) else filled, dtype=bool)


def _judged(stream: Stream, table: pa.Table) -> Iterator[tuple[Change, Mask]]:
    """What is wrong with single records, and which."""
    for declared in stream.fields:
        column = table[declared.name]
        if not declared.nullable and column.null_count:
            yield Change(declared.name, Kind.NULL), np.asarray(column.is_null().to_numpy(), dtype=bool)
        if declared.allowed:
            allowed = pa.array(declared.allowed).cast(column.type)
            bad = _mask(pc.and_(pc.is_valid(column), pc.invert(pc.is_in(column, value_set=allowed))))
            # One reason per foreign value: a person reads which.
            for value in pc.unique(column.filter(pa.array(bad))).to_pylist() if bad.any() else ():
                same = bad & _mask(pc.equal(column, pa.scalar(value, column.type)))
                yield Change(declared.name, Kind.VALUES, found=str(value)[:80]), same
        for bound, compare, sign in (
            (declared.at_least, pc.greater_equal, ">="),
            (declared.at_most, pc.less_equal, "<="),
        ):
            if bound is not None:
                # Not "less than": a NaN is neither, and is not within the range.
                bad = _mask(pc.invert(compare(column.cast(pa.float64(), safe=False), bound)))
                if bad.any():
                    yield Change(declared.name, Kind.RANGE, f"{sign} {bound:g}"), bad
    repeated = _repeated(table, stream.keys)
    if repeated.any():
        yield Change(" + ".join(stream.keys), Kind.KEY), repeated


def _repeated(table: pa.Table, keys: Sequence[str]) -> Mask:
    """Records whose key was there before in the same table; the first of them may pass."""
    if table.num_rows < 2:
        return np.zeros(table.num_rows, dtype=bool)
    numbered = table.select(list(keys)).append_column("", pa.array(np.arange(table.num_rows)))
    first = numbered.group_by(list(keys)).aggregate([("", "min")])["_min"].to_numpy()
    mask = np.ones(table.num_rows, dtype=bool)
    mask[first] = False
    return mask


def _whole(stream: Stream, part: Part, breaking: Sequence[Change]) -> Iterator[Entry]:
    """The whole part as it arrived."""
    reasons = tuple(str(change) for change in breaking)
    kinds = tuple(change.kind for change in breaking)
    if stream.format is Format.JSON_LINES:
        for raw in part.raws:
            yield Entry((raw.row,), reasons, kinds, stream.format, raw.data, raw.units)
    else:
        raw = part.raws[0]
        yield Entry(part.rows, reasons, kinds, stream.format, raw.data, raw.units)


def _picked(stream: Stream, part: Part, bad: Sequence[tuple[Change, Mask]]) -> Iterator[Entry]:
    """Single records of a part, those with the same reasons together."""
    if not bad:
        return
    groups: dict[tuple[Change, ...], list[int]] = {}
    for index in np.flatnonzero(np.any([mask for _, mask in bad], axis=0)):
        groups.setdefault(tuple(change for change, mask in bad if mask[index]), []).append(int(index))
    for changes, indices in groups.items():
        reasons, kinds = tuple(str(change) for change in changes), tuple(change.kind for change in changes)
        if stream.format is Format.JSON_LINES:
            for raw in (part.raws[index] for index in indices):
                yield Entry((raw.row,), reasons, kinds, stream.format, raw.data, raw.units)
        else:
            rows = tuple(part.rows[index] for index in indices)
            payload = to_parquet(part.table.take(pa.array(indices)))
            yield Entry(rows, reasons, kinds, Format.PARQUET, payload, part.raws[0].units)


# --- as they are stored ----------------------------------------------------------------------------------------------


def to_parquet(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """The same bytes for the same table, with one version of pyarrow (it writes its version into the file)."""
    kept = {
        **(table.schema.metadata or {}),
        **{key.encode(): value.encode() for key, value in (metadata or {}).items()},
    }
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(kept or None), buffer, version="2.6", compression="snappy",
        row_group_size=1 << 20, use_dictionary=True, write_statistics=True, store_schema=True,
    )  # fmt: skip
    return buffer.getvalue()


def pack(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    """Entries of one unit as one object."""
    rows = [
        {
            "rows": list(entry.rows),
            "reasons": list(entry.reasons),
            "kinds": [kind.value for kind in entry.kinds],
            "format": entry.format.value,
            "units": json.dumps(dict(sorted(entry.units.items()))),
            "payload": entry.payload,
        }
        for entry in entries
    ]
    return to_parquet(pa.Table.from_pylist(rows, schema=_ENTRIES), metadata)


def unpack(data: bytes) -> tuple[list[Entry], dict[str, str]]:
    """What ``pack`` made, and its metadata; raises ``Corrupted`` for anything else."""
    try:
        table = pq.read_table(io.BytesIO(data))
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        entries = [
            Entry(
                tuple(row["rows"]),
                tuple(row["reasons"]),
                tuple(Kind(kind) for kind in row["kinds"]),
                Format(row["format"]),
                row["payload"],
                json.loads(row["units"]),
            )
            for row in table.to_pylist()
        ]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise Corrupted(f"this is no quarantined part: {error}; compare it with the other sites' copies") from error
    return entries, {key: value for key, value in metadata.items() if key.startswith("ninelives.")}


def sift_again(stream: Stream, entries: Sequence[Entry]) -> Sifted:
    """What has become good by the present contract, and what has not; ``rows`` are those of the unit."""
    good: list[tuple[pa.Table, tuple[int, ...]]] = []
    rest: list[Entry] = []
    passed: set[Change] = set()
    repeated = str(Change(" + ".join(stream.keys), Kind.KEY))
    for entry in entries:
        if repeated in entry.reasons:  # alone it would look like the first of its key
            rest.append(entry)
            continue
        # A field that was not missed then has been declared since: no record of that time can have it.
        absent_is_null = stream.absent_is_null or not {Kind.DROPPED, Kind.RENAMED} & set(entry.kinds)
        update = {"format": entry.format, "absent_is_null": absent_is_null}
        again = sift(stream.model_copy(update=update), [Raw(0, entry.payload, entry.units)])
        where = entry.rows
        passed.update(again.changes)
        if again.good.num_rows:
            good.append((again.good, tuple(where[row] for row in again.rows)))
        for left in again.entries:
            rows = where if Kind.POISON in left.kinds else tuple(where[row] for row in left.rows)
            rest.append(Entry(rows, left.reasons, left.kinds, left.format, left.payload, left.units))
    table, rows = _united(stream, good)
    return Sifted(table, rows, tuple(sorted(rest, key=lambda entry: entry.rows)), tuple(sorted(passed)))


def reasons(entries: Sequence[Entry]) -> dict[str, int]:
    """Records per reason."""
    counted: Counter[str] = Counter()
    for entry in entries:
        for reason in entry.reasons:
            counted[reason] += len(entry.rows)
    return dict(sorted(counted.items()))
