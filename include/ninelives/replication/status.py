"""How far every declared copy is behind, against its RPO."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ninelives.errors import Corrupted, NinelivesError, Unavailable
from ninelives.estate import Dataset
from ninelives.ports import ObjectStore, Systems
from ninelives.replication.acks import JOURNAL, read_acks
from ninelives.replication.lag import listing_lag, replication_lag
from ninelives.replication.manifest import BUCKET, read_manifest
from ninelives.replication.proof import read_rotation
from ninelives.replication.replicate import Shard, oldest

Verdict = Literal["met", "missed", "unknown"]


@dataclass(frozen=True)
class CopyStatus:
    dataset: str
    site: str
    verdict: Verdict
    lag_seconds: float | None
    rpo_seconds: float
    objects: int | None
    replicated_at: datetime | None
    """Writes before this are at the copy."""
    fingerprint: str | None
    problem: str | None = None
    proof: Verdict = "unknown"
    """Whether every byte was read again within the declared time; unknown until the first rotation is done."""
    verified_since: datetime | None = None

    @property
    def met(self) -> bool:
        return self.verdict == "met" and self.proof != "missed"

    def breach(self) -> str | None:
        """Why the copy is not what was promised, in one sentence."""
        if self.verdict == "missed":
            return (
                f"the copy of {self.dataset} at {self.site} is {self.lag_seconds:.0f} s behind the oldest write it has "
                f"not, and the RPO is {self.rpo_seconds:.0f} s"
            )
        if self.proof == "missed":
            return (
                f"objects of {self.dataset} at {self.site} were last read before {self.verified_since:%Y-%m-%d %H:%M}"
            )
        return None


def copy_status(
    systems: Systems, dataset: Dataset, site: str, now: datetime, *, source: str | None = None
) -> CopyStatus:
    """How far the copy of ``dataset`` at ``site`` is behind the journal of acknowledged writes.

    Where nobody journals the dataset's writes, the listing of ``source`` (by default the primary) is compared instead.
    """
    rpo = dataset.rpo.total_seconds()
    try:
        manifest = read_manifest(systems.store(site), dataset.name)
        since = verified_since(systems.store(site), dataset)
        acks = [ack for ack in read_acks(systems.home.feed / JOURNAL) if ack.dataset == dataset.name]
        if acks:
            lag = replication_lag(acks, manifest, now)
        else:
            lag = listing_lag(systems.store(source or dataset.primary).list(BUCKET, f"{dataset.name}/"), manifest, now)
    except (Unavailable, Corrupted) as error:
        return CopyStatus(dataset.name, site, "unknown", None, rpo, None, None, None, _problem(error))
    if manifest is None:
        # A copy that was never made is not up to date, however young the data is.
        return CopyStatus(dataset.name, site, "unknown", lag, rpo, None, None, None, "never replicated")
    verdict: Verdict = "unknown" if lag is None else "met" if lag <= rpo else "missed"
    proof: Verdict = "unknown" if since is None else "met" if now - since <= dataset.verify_within else "missed"
    return CopyStatus(
        dataset.name,
        site,
        verdict,
        lag,
        rpo,
        len(manifest.objects),
        manifest.created_at,
        manifest.fingerprint,
        proof=proof,
        verified_since=since,
    )


def verified_since(store: ObjectStore, dataset: Dataset) -> datetime | None:
    """Every byte of the copy was read later than this; ``None`` where that is not known.

    :raises Unavailable: the store does not answer
    """
    shards = (Shard(number, dataset.shards) for number in range(1, dataset.shards + 1))
    return oldest([read_rotation(store, dataset.name, BUCKET, shard.part).verified_since for shard in shards])


def _problem(error: NinelivesError) -> str:
    return f"{type(error).__name__}: {error}"
