"""Where a training keeps its whole checkpoints, and where it finds the last one: at whichever site has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import ObjectStore, Scalar, Systems
from ninelives.replication.checkpoints import read_checkpoint, whole_checkpoints, write_checkpoint


@dataclass(frozen=True)
class Found:
    """A whole checkpoint with its files, every byte hashed."""

    step: int
    site: str
    files: Mapping[str, bytes]


@dataclass
class Keeper:
    """Keeps checkpoints at ``site``, which must acknowledge each, and at the others as far as they answer.

    :param on_kept: called after each; what it raises ends the training
    """

    systems: Systems
    stream: str
    site: str
    others: Sequence[str]
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    on_kept: Callable[[], None] = lambda: None
    kept: int = 0
    """checkpoints"""
    resumed_from: Found | None = None
    missed: dict[str, str] = field(default_factory=dict)
    """Site to why it has not every checkpoint of this attempt; replication brings them later."""

    def newest(self) -> Found | None:
        """The last checkpoint that is whole at any site that answers; a damaged one is passed over for another's.

        :raises Unavailable: ``site`` does not answer
        """
        candidates: list[tuple[int, ObjectStore]] = []
        for name in (self.site, *self.others):
            try:
                store = self.systems.store(name)
                candidates += [(one.step, store) for one in whole_checkpoints(store, self.stream)]
            except Unavailable as error:
                if name == self.site:
                    raise
                self.missed[name] = str(error)
        for step, store in sorted(candidates, key=lambda one: one[0], reverse=True):  # of equals, ``site`` first
            try:
                _, files = read_checkpoint(store, self.stream, step)
            except (Corrupted, Unavailable) as error:
                self.missed[store.site] = str(error)
                continue
            self.resumed_from = Found(step, store.site, files)
            return self.resumed_from
        return None

    def keep(self, step: int, files: Mapping[str, bytes]) -> None:
        """:raises Unavailable: ``site`` did not acknowledge the whole checkpoint"""
        now = datetime.now(UTC)  # the same at every site, so that the copies are equal
        for name in (self.site, *self.others):
            if name in self.missed and name != self.site:
                continue  # asked once, not before every checkpoint: waiting for it would stop the training
            try:
                write_checkpoint(self.systems.store(name), self.stream, step, files, self.facts, lambda: now)
            except Unavailable as error:
                if name == self.site:
                    raise
                self.missed[name] = str(error)
        self.kept += 1
        self.on_kept()
