"""What goes along with a dataset to another site: all that was made of it, and its versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ninelives.ports import Systems
from ninelives.replication.checkpoints import StreamReplication, replicate_checkpoints
from ninelives.replication.replicate import (
    ModelReplication,
    ReplicationResult,
    replicate_registry,
    replicate_releases,
)
from ninelives.replication.transfer import OnProgress
from ninelives.versions.replicate import replicate_versions


@dataclass(frozen=True)
class Belongings:
    """Four copies that do not need each other; each raises ``NinelivesError`` as the function behind it does."""

    systems: Systems
    dataset: str
    source: str
    target: str
    on_progress: OnProgress | None = None

    def releases(self) -> list[ModelReplication]:
        return replicate_releases(self.systems, self._models, self.source, self.target, self.on_progress)

    def artefacts(self) -> ReplicationResult:
        """The registry's, of all models."""
        return replicate_registry(self.systems, self.source, self.target, self.on_progress)

    def checkpoints(self) -> list[StreamReplication]:
        return replicate_checkpoints(self.systems, self._models, self.source, self.target, self.on_progress)

    def versions(self) -> dict[str, Any]:
        return replicate_versions(self.systems, self.dataset, self.source, self.target, self.on_progress)

    @property
    def _models(self) -> list[str]:
        return [model.name for model in self.systems.estate.models if model.trained_on == self.dataset]
