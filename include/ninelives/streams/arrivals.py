"""What has arrived and is not landed yet, from a topic or from objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ninelives.errors import Refused
from ninelives.estate.streams import Format, Stream
from ninelives.ports import ObjectStore, Topic
from ninelives.replication.manifest import BUCKET
from ninelives.streams.decode import Raw, split_lines
from ninelives.streams.landing import Position, object_unit, range_unit

UNIT_HEADER = "unit."
"""A message's header ``unit.distance: km`` names the unit of one of its fields."""


@dataclass(frozen=True)
class Arrival:
    """One unit and the bytes that it consists of."""

    unit: str
    raws: tuple[Raw, ...]


class Arrivals(Protocol):
    def after(self, landed: Position) -> Iterator[Arrival]:
        """Every unit that is not landed and can be read now."""
        ...

    def acknowledge(self, landed: Position) -> None:
        """Tell the source what it need not keep any longer."""
        ...


class FromTopic:
    """Ranges of offsets.

    :param chunk: messages in one unit at most
    :param accept_gap: go on where the broker has deleted messages that were never landed
    """

    def __init__(self, topic: Topic, name: str, *, chunk: int, accept_gap: bool = False) -> None:
        self.topic, self.name, self.chunk, self.accept_gap = topic, name, chunk, accept_gap

    def after(self, landed: Position) -> Iterator[Arrival]:
        """Raises ``Refused`` where messages are lost, ``Corrupted`` where the topic is another one."""
        for partition in self.topic.partitions():
            first = self.topic.first(partition)
            start = landed.ends.get(partition, first)
            if start < first and not self.accept_gap:
                raise Refused(
                    f"ingest {self.name}",
                    [
                        f"partition {partition} was landed up to offset {start}, and the broker keeps from {first} on: "
                        "what is between was deleted unread; keep messages longer, and go on with --accept-gap"
                    ],
                )
            while messages := self.topic.read(partition, max(start, first), self.chunk):
                end = messages[-1].offset + 1
                raws = tuple(
                    Raw(
                        message.offset,
                        message.value or b"",
                        {
                            name.removeprefix(UNIT_HEADER): value
                            for name, value in message.headers.items()
                            if name.startswith(UNIT_HEADER)
                        },
                    )
                    for message in messages
                )
                yield Arrival(range_unit(partition, start, end), raws)
                start = end

    def acknowledge(self, landed: Position) -> None:
        self.topic.commit(landed.ends)


class FromObjects:
    """Objects below a prefix, each immutable and one unit."""

    def __init__(self, store: ObjectStore, stream: Stream) -> None:
        self.store, self.stream = store, stream

    def after(self, landed: Position) -> Iterator[Arrival]:
        source = self.stream.source
        for info in self.store.list(BUCKET, source.prefix or ""):
            if source.contains not in info.key or object_unit(info.key) in landed.landed:
                continue
            data = self.store.get(BUCKET, info.key)
            if data is not None:
                lines = self.stream.format is Format.JSON_LINES
                yield Arrival(object_unit(info.key), tuple(split_lines(data) if lines else [Raw(0, data)]))

    def acknowledge(self, landed: Position) -> None:
        """Objects stay where they are."""
