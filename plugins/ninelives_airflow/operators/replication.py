"""The steps of replication."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.ports import CopyProgress
    from ninelives_airflow.hooks.estate import EstateHook


class PlanReplicationOperator(EstateOperator):
    """List what is to be copied, ``dataset``, ``source`` and ``target``, between sites that are open.

    The source is the dataset's primary, or its first open copy while the primary is closed.
    """

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        copies = open_copies(systems)
        return [
            {"dataset": dataset, "source": sites[0], "target": target}
            for dataset, sites in copies.items()
            for target in sites[1:]
        ]


class ListCopiesOperator(EstateOperator):
    """List every copy, ``dataset`` and ``site``, that the gate should know."""

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        return [{"dataset": dataset, "site": site} for dataset, sites in open_copies(systems).items() for site in sites]


def open_copies(systems: EstateHook) -> dict[str, list[str]]:
    """Dataset to the sites that hold it and are not closed, the primary first."""
    closed = systems.gateway().state().closed_sites
    return {
        dataset.name: [site for site in (dataset.primary, *dataset.copies) if site not in closed]
        for dataset in systems.estate.datasets
    }


class LinkOperator(EstateOperator):
    """One copy of one dataset.

    :param link: dataset, source and target, as planned
    """

    template_fields = ("link",)

    def __init__(self, *, link: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.link = link
        self._told = 0.0

    def tell(self, progress: CopyProgress) -> None:
        """Progress in the task's log, at most every five seconds."""
        if time.monotonic() - self._told >= 5:
            self._told = time.monotonic()
            left = f", {progress.eta_seconds:.0f} s left" if progress.eta_seconds is not None else ""
            self.log.info("%s objects, %s of %s bytes%s", progress.objects, progress.bytes, progress.total_bytes, left)


class ReplicateReleasesOperator(LinkOperator):
    """Copy the releases of the models trained on a dataset, and the registry's artefacts behind them."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.replication.replicate import replicate_registry, replicate_releases

        source, target = self.link["source"], self.link["target"]
        models = [model.name for model in systems.estate.models if model.trained_on == self.link["dataset"]]
        releases = replicate_releases(systems, models, source, target, self.tell)
        registry = replicate_registry(systems, source, target, self.tell)
        return {
            "releases": {release.model: release.version for release in releases},
            "registry_objects": registry.objects,
            "registry_copied": registry.copied,
        }


class ReplicateDatasetOperator(LinkOperator):
    """Copy what a target lacks, read every new object back there and hash it, and leave evidence with the lag."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.evidence.anchor import anchor
        from ninelives.replication.replicate import record_replication, replicate_dataset

        ledger = systems.ledger()
        done = replicate_dataset(systems, self.link["dataset"], self.link["source"], self.link["target"], self.tell)
        record = record_replication(ledger, done)
        closed = systems.gateway().state().closed_sites
        anchor(ledger, {site: store for site, store in systems.stores().items() if site not in closed})
        summary = asdict(done)
        return {key: summary[key] for key in ("objects", "copied", "verified", "repaired", "lag_seconds")} | {
            "evidence": record.seq
        }
