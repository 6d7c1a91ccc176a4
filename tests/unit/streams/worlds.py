"""A site in memory, a topic in memory and a ledger on disk, killed between any two of their changes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from unit.replication.memory import Fuse, MemoryStore
from unit.streams.contract import stream

from ninelives.adapters.ledger import SqlLedger
from ninelives.errors import Corrupted
from ninelives.estate import Estate
from ninelives.estate.streams import Stream
from ninelives.ports import Message, Systems
from ninelives.streams.landing import Position, position, read_quarantined, read_table
from ninelives.streams.sift import unpack


class MemoryTopic:
    """As a broker: offsets never change, committing is a change like any other."""

    def __init__(self, partitions: int, fuse: Fuse) -> None:
        self.logs: list[list[bytes | None]] = [[] for _ in range(partitions)]
        self.offsets: dict[int, int] = {}
        self.deleted = 0
        self.fuse = fuse

    def partitions(self) -> tuple[int, ...]:
        return tuple(range(len(self.logs)))

    def first(self, partition: int) -> int:
        return self.deleted

    def read(self, partition: int, start: int, limit: int) -> list[Message]:
        log = self.logs[partition]
        if start > len(log):
            raise Corrupted("shorter than what was landed")
        assert start >= self.deleted
        return [Message(start + index, value) for index, value in enumerate(log[start : start + limit])]

    def commit(self, offsets: Mapping[int, int]) -> None:
        self.fuse.burn()
        self.offsets |= offsets

    def committed(self) -> dict[int, int]:
        return dict(self.offsets)

    def close(self) -> None:
        """Nothing is open."""


class World:
    """``ports.Systems`` as far as streams need it."""

    def __init__(self, folder: Path, migrated: Path, declared: Stream, partitions: int = 2) -> None:
        self.fuse = Fuse()
        self.memory = MemoryStore("paris", self.fuse)
        self.broker = MemoryTopic(partitions, self.fuse)
        folder.mkdir(parents=True, exist_ok=True)
        self._ledger = SqlLedger(f"sqlite:///{shutil.copy(migrated, folder)}")
        self.declare(declared)

    def declare(self, declared: Stream) -> None:
        self.stream = declared
        self.estate = Estate.model_construct(streams=(declared,))

    @property
    def systems(self) -> Systems:
        return cast(Systems, self)

    def store(self, site: str) -> MemoryStore:
        assert site == "paris"
        return self.memory

    def topic(self, declared: Stream) -> MemoryTopic:
        return self.broker

    def ledger(self) -> SqlLedger:
        return self._ledger

    @property
    def at(self) -> Position:
        return position(self.memory, self.stream.name)

    def landed(self) -> list[int]:
        """``id`` of every landed record."""
        return sorted(read_table(self.memory, self.stream)["id"].to_pylist()) if self.at.data else []

    def waiting(self) -> Counter[bytes]:
        """The bytes of every record that is in quarantine now."""
        at = self.at
        parts = [unpack(read_quarantined(self.memory, at, one.name))[0] for one in at.open]
        return Counter(entry.payload for entries in parts for entry in entries)


def topic_stream(**changes: Any) -> Stream:
    return stream("json-lines", **{"source": {"topic": "trips"}, **changes})
