"""Records that break a stream's contract, one rule each, and the estate's own landing of them.

They arrive in a folder of the drill's own, under the very contract of the stream: what is under test is the contract
and the landing, and no real record may meet them, because nobody could tell afterwards which is which.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ninelives.drills.scenario import Drill
from ninelives.errors import Refused
from ninelives.estate.streams import Format, Source, Stream
from ninelives.injections import Planted, find_injection
from ninelives.ports import Systems
from ninelives.replication.manifest import BUCKET
from ninelives.streams.alone import WithStream
from ninelives.streams.ingest import ingest, waiting
from ninelives.streams.landing import data_key, position
from ninelives.streams.sift import declared_schema

NAME = "arrived/nonsense.parquet"
SOUND = 1
"""Real records that stay as they are: the contract must let them through."""


def stream_for(systems: Systems, service: str) -> Stream:
    """The stream of landed Parquet objects that feeds the service's dataset.

    :raises Refused: the estate declares none
    """
    dataset = systems.estate.dataset_of(systems.estate.service_by_name[service]).name
    for stream in systems.estate.streams:
        prefix = stream.source.prefix or ""
        if stream.format is Format.PARQUET and dataset in (stream.name, prefix.partition("/")[0]):
            return stream
    raise Refused("drill", [f"the estate declares no stream of Parquet objects for {dataset}: no contract to try"])


def nonsense(systems: Systems, drill: Drill) -> Planted:
    """An object of real records of which each but one breaks one rule of the contract.

    :raises Refused: nothing has arrived yet that could be spoilt
    """
    stream = stream_for(systems, drill.service)
    rows = _sample(systems, stream)
    if len(rows) <= SOUND:
        raise Refused("drill", [f"of {stream.name} nothing has arrived yet, so there is nothing to spoil"])
    spoilt = [row | wrong for row, wrong in zip(rows[SOUND:], _mistakes(stream), strict=False)]
    table = pa.Table.from_pylist([*rows[:SOUND], *spoilt], schema=declared_schema(stream))
    data = io.BytesIO()
    pq.write_table(table, data)
    return Planted(site=stream.site, bucket=BUCKET, folder=folder(drill), name=NAME, hex=data.getvalue().hex())


def folder(drill: Drill) -> str:
    return f"_drills/{drill.id}/"


def land_nonsense(systems: Systems, drill: Drill) -> Mapping[str, Any]:
    """Land what was planted as the stream's own landing does, and say what became of it. Repeating it adds nothing."""
    declared = stream_for(systems, drill.service)
    name = folder(drill).rstrip("/")
    source = Source(prefix=f"{folder(drill)}arrived/")
    own = declared.model_copy(update={"name": name, "source": source})
    injection = find_injection(systems.home, drill.id)
    (planted,) = [one for one in injection.faults if isinstance(one, Planted)] if injection else []
    only = cast(Systems, WithStream(systems, own))
    done = ingest(only, name, holder=f"drill {drill.id}")
    reasons: dict[str, int] = {}
    for part in waiting(only, name):
        reasons |= {why: reasons.get(why, 0) + rows for why, rows in part.reasons.items()}
    held = sum(part.records for part in waiting(only, name))
    landed = sum(_rows(only, own, one.name) for one in position(systems.store(own.site), name).landed.values())
    return {
        "by": f"ingest of {declared.name}",
        "evidence": done.evidence,
        "planted": _count(bytes.fromhex(planted.hex)) - SOUND,
        "quarantined": held,
        "sound": SOUND,
        "landed": landed,
        "reasons": reasons,
    }


def _rows(systems: Systems, stream: Stream, name: str) -> int:
    data = systems.store(stream.site).get(BUCKET, data_key(stream.name, name))
    return 0 if data is None else _count(data)


def _count(parquet: bytes) -> int:
    return int(pq.ParquetFile(io.BytesIO(parquet)).metadata.num_rows)


def _sample(systems: Systems, stream: Stream) -> list[dict[str, Any]]:
    """Some real records, different ones."""
    store, names = systems.store(stream.site), [field.name for field in stream.fields]
    rows: list[dict[str, Any]] = []
    wanted = SOUND + sum(1 for _ in _mistakes(stream))
    for info in store.list(BUCKET, stream.source.prefix or ""):
        if stream.source.contains in info.key and (data := store.get(BUCKET, info.key)):
            table = pq.read_table(io.BytesIO(data))
            rows += table.select([name for name in names if name in table.column_names]).to_pylist()
        if len(rows) >= wanted:
            break
    return rows[:wanted]


def _mistakes(stream: Stream) -> Iterator[dict[str, Any]]:
    """One way to break each rule of the contract that a single record can break."""
    for field in stream.fields:
        whole = "int" in field.type
        if not field.nullable:
            yield {field.name: None}
        if field.allowed and field.type == "string":
            yield {field.name: "nonsense"}
        if field.at_least is not None and not (field.type.startswith("u") and field.at_least <= 0):
            yield {field.name: int(field.at_least) - 1 if whole else field.at_least - 1.0}
        if field.at_most is not None:
            yield {field.name: int(field.at_most) + 1 if whole else field.at_most + 1.0}
