"""Keep every data version at the other sites as well."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ninelives.ports import Systems
from ninelives.replication.transfer import OnProgress
from ninelives.versions.copies import make_whole
from ninelives.versions.objects import list_records, read_record

HOUR = 3600


def replicate_versions(
    systems: Systems, dataset: str, source: str, target: str, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Bring each version of ``dataset`` that ``target`` lacks there and read it back; each hour read another old one.

    Old ones are read at both sites, and what rotted at one is brought from the other.

    :return: ``versions`` at the target now, ``copied`` and ``healed`` objects, ``read_again`` versions
    :raises Corrupted: an object is right at neither site
    :raises Unavailable: a store does not answer; run again
    """
    here = systems.store(source)
    versions = sorted(version for version, of in list_records(here).items() if of == dataset)
    lacking = [version for version in versions if read_record(systems.store(target), dataset, version) is None]
    old = [version for version in versions if version not in lacking]
    turn = [old[int(datetime.now(UTC).timestamp() // HOUR) % len(old)]] if old else []
    copied = sum(len(make_whole(systems, dataset, version, target, on_progress).copied) for version in lacking)
    healed = sum(
        len(make_whole(systems, dataset, version, site, on_progress).copied)
        for version in turn
        for site in (source, target)
    )
    return {"versions": len(versions), "copied": copied, "healed": healed, "read_again": turn}
