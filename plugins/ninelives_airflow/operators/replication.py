"""The steps of replication."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator
from ninelives_airflow.operators.human_task import ToldToPeopleOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from ninelives.ports import CopyProgress
    from ninelives_airflow.hooks.estate import EstateHook


class PlanReplicationOperator(EstateOperator):
    """List what is to be copied, ``dataset``, ``source``, ``target`` and ``shard``, between sites that are open.

    The source is the dataset's primary, or its first open copy while the primary is closed. A dataset that nobody has
    written yet is left out: an estate that was just set up has not failed.
    """

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        copies = {
            dataset: sites
            for dataset, sites in open_copies(systems).items()
            if not self.missing(systems, dataset, sites)
        }
        return [
            {"dataset": dataset, "source": sites[0], "target": target, "shard": f"{number}/{shards}"}
            for dataset, sites in copies.items()
            for target in sites[1:]
            for shards in (systems.estate.dataset_by_name[dataset].shards,)
            for number in range(1, shards + 1)
        ]

    def missing(self, systems: EstateHook, dataset: str, sites: list[str]) -> bool:
        from ninelives.errors import NinelivesError
        from ninelives.replication.run import never_written

        try:
            nothing = never_written(systems, dataset, sites)
        except NinelivesError as error:  # the copy meets it again, and leaves it as evidence
            self.log.warning("It cannot be seen whether anybody wrote %s: %s", dataset, error)
            return False
        if nothing:
            self.log.warning("Nobody has written %s yet; there is nothing to replicate", dataset)
        return nothing


class ListCopiesOperator(EstateOperator):
    """List the copies, ``dataset`` and ``site``, for the gate: all but those that it judged lately as they are now."""

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        return [
            {"dataset": dataset, "site": site}
            for dataset, sites in open_copies(systems).items()
            for site in sites
            if not self.judged(systems, dataset, site)
        ]

    def judged(self, systems: EstateHook, dataset: str, site: str) -> bool:
        from ninelives.errors import NinelivesError
        from ninelives.gates.evidence import RENEW_AFTER, has_verdict

        try:
            known = has_verdict(systems, dataset, site, max_age=RENEW_AFTER)
        except NinelivesError as error:  # the gate meets it again, and fails for this copy alone
            self.log.warning("No verdict on %s at %s can be looked up: %s", dataset, site, error)
            return False
        if known:
            self.log.info("%s at %s was judged less than %s ago, exactly as it is", dataset, site, RENEW_AFTER)
        return known


def open_copies(systems: EstateHook) -> dict[str, list[str]]:
    """Dataset to the sites that hold it and are not closed, the primary first."""
    closed = systems.gateway().state().closed_sites
    return {
        dataset.name: [site for site in (dataset.primary, *dataset.copies) if site not in closed]
        for dataset in systems.estate.datasets
    }


class LinkOperator(EstateOperator):
    """One copy of one dataset.

    :param link: dataset, source, target and shard, as planned
    """

    template_fields = ("link",)

    def __init__(self, *, link: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.link = link
        self._told = 0.0

    @property
    def ends(self) -> tuple[str, str, str]:
        return self.link["dataset"], self.link["source"], self.link["target"]

    @property
    def shard(self) -> tuple[int, int]:
        number, _, of = str(self.link.get("shard", "1/1")).partition("/")
        return int(number), int(of)

    def only_with_the_first_shard(self) -> None:
        """What belongs to the whole copy is done once."""
        from airflow.sdk.exceptions import AirflowSkipException

        if self.shard[0] != 1:
            raise AirflowSkipException(f"the task of shard 1/{self.shard[1]} does this")

    def telling(self, context: Context) -> Callable[[CopyProgress], None]:
        """Progress in the task's log and, as XCom ``progress``, on the run; at most every five seconds."""

        def tell(progress: CopyProgress) -> None:
            if time.monotonic() - self._told >= 5:
                self._told = time.monotonic()
                left = f", {progress.eta_seconds:.0f} s left" if progress.eta_seconds is not None else ""
                done = (progress.objects, progress.bytes, progress.total_bytes)
                self.log.info("%s objects, %s of %s bytes%s", *done, left)
                context["ti"].xcom_push(key="progress", value=asdict(progress))

        return tell


class ReplicateModelsOperator(LinkOperator):
    """Copy what belongs to the models trained on a dataset: releases, registry artefacts, checkpoints, data versions.

    One task for all four, because each is little work and a task costs seconds. One that fails keeps none of the others
    back. Half-written checkpoints are left alone; an old data version is read again at both sites.
    """

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.replication.belongings import Belongings

        self.only_with_the_first_shard()
        belongings = Belongings(systems, *self.ends, self.telling(context))

        def releases() -> dict[str, Any]:
            return {one.model: {"version": one.version, "copied": one.copied} for one in belongings.releases()}

        def artefacts() -> dict[str, Any]:
            return {"copied": belongings.artefacts().copied}

        def checkpoints() -> dict[str, Any]:
            done = belongings.checkpoints()
            return {one.stream: {"newest": one.newest, "brought": list(one.brought)} for one in done}

        return every_one(releases, artefacts, checkpoints, belongings.versions)


class ReplicateDatasetOperator(LinkOperator, ToldToPeopleOperator):
    """Copy what a target lacks, read every new object back there and hash it, and leave evidence with the lag.

    Of several shards the last one to finish writes the manifests.
    """

    def brings(self) -> tuple[str, str, int]:
        return self.link["dataset"], self.link["target"], self.shard[0]

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.replication.replicate import Shard
        from ninelives.replication.run import replicate_and_record

        shard, since = Shard(*self.shard), context["dag_run"].start_date
        done = replicate_and_record(systems, *self.ends, self.telling(context), shard=shard, since=since)
        for finding in done.result.findings:
            self.log.warning("%s at %s was %s: %s", finding.key, finding.site, finding.what, finding.outcome)
        anchor_everywhere(systems)
        summary = asdict(done.result)
        return {key: summary[key] for key in ("objects", "copied", "verified", "repaired", "trashed")} | {
            "evidence": done.evidence
        }


class JudgeLagOperator(EstateOperator):
    """Fail where an open copy is further behind than its RPO, has been unknown for as long, or was not read in time."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.replication.run import copy_of, refuse_breaches

        copies = [
            copy_of(systems, dataset, site, sites[0])
            for dataset, sites in open_copies(systems).items()
            for site in sites[1:]
        ]
        refuse_breaches(systems, copies)
        return {
            f"{one.dataset}@{one.site}": {"lag_seconds": one.lag_seconds, "verdict": one.verdict, "proof": one.proof}
            for one in copies
        }


def every_one(*steps: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What each step returns, by its name.

    :raises NinelivesError: as ``try_each`` does
    """
    from ninelives.replication.transfer import try_each

    return dict(try_each(lambda step: (step.__name__, step()), steps))


def anchor_everywhere(systems: EstateHook) -> None:
    """The ledger's head into the store of every open site."""
    from ninelives.evidence.anchor import anchor

    closed = systems.gateway().state().closed_sites
    anchor(systems.ledger(), {site: store for site, store in systems.stores().items() if site not in closed})
