"""How far every declared copy is behind, against its RPO."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ninelives.errors import Corrupted, NinelivesError, Unavailable
from ninelives.estate import Dataset
from ninelives.ports import Systems
from ninelives.replication.acks import JOURNAL, read_acks
from ninelives.replication.lag import listing_lag, replication_lag
from ninelives.replication.manifest import BUCKET, read_manifest


@dataclass(frozen=True)
class CopyStatus:
    dataset: str
    site: str
    verdict: Literal["met", "missed", "unknown"]
    lag_seconds: float | None
    rpo_seconds: float
    objects: int | None
    replicated_at: datetime | None
    """Writes before this are at the copy."""
    fingerprint: str | None
    problem: str | None = None


def replication_status(systems: Systems, now: datetime) -> list[CopyStatus]:
    """One status per dataset and copy; what cannot be found out is unknown, with the problem."""
    return [copy_status(systems, dataset, site, now) for dataset in systems.estate.datasets for site in dataset.copies]


def copy_status(systems: Systems, dataset: Dataset, site: str, now: datetime) -> CopyStatus:
    """How far the copy of ``dataset`` at ``site`` is behind the journal of acknowledged writes.

    Where nobody journals the dataset's writes, the primary's listing is compared instead.
    """
    rpo = dataset.rpo.total_seconds()
    try:
        manifest = read_manifest(systems.store(site), dataset.name)
        acks = [ack for ack in read_acks(systems.home.feed / JOURNAL) if ack.dataset == dataset.name]
        if acks:
            lag = replication_lag(acks, manifest, now)
        else:
            lag = listing_lag(systems.store(dataset.primary).list(BUCKET, f"{dataset.name}/"), manifest, now)
    except (Unavailable, Corrupted) as error:
        return CopyStatus(dataset.name, site, "unknown", None, rpo, None, None, None, _problem(error))
    if manifest is None:
        # A copy that was never made is not up to date, however young the data is.
        return CopyStatus(dataset.name, site, "unknown", lag, rpo, None, None, None, "never replicated")
    verdict: Literal["met", "missed", "unknown"] = "unknown" if lag is None else "met" if lag <= rpo else "missed"
    return CopyStatus(
        dataset.name, site, verdict, lag, rpo, len(manifest.objects), manifest.created_at, manifest.fingerprint
    )


def _problem(error: NinelivesError) -> str:
    return f"{type(error).__name__}: {error}"
