"""Keep every data version at the other sites as well."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ninelives.errors import Corrupted
from ninelives.estate.residency import refuse_breach
from ninelives.ports import Systems
from ninelives.replication.transfer import OnProgress, link_between
from ninelives.versions.copies import make_whole
from ninelives.versions.objects import list_records, read_record

HOUR = 3600


def replicate_versions(
    systems: Systems, dataset: str, source: str, target: str, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Bring each version of ``dataset`` that one of the two sites lacks there, and read it back.

    In both directions: a site that lost its disk gets its versions back. Each hour another old version is read at both
    sites, and what rotted at one is brought from the other.

    :return: ``versions`` that both have now, ``copied`` and ``healed`` objects, ``read_again`` versions
    :raises Corrupted: objects are right at neither site; every other version has been brought all the same
    :raises Refused: the data may not leave its regions, or both sites are one store
    :raises Unavailable: a store does not answer; run again
    """
    refuse_breach(systems.estate, dataset, source, target)
    link = link_between(systems, source, target)
    at = {target: link.target, source: link.source}
    versions = sorted(
        {version for store in at.values() for version, of in list_records(store).items() if of == dataset}
    )
    lacking = {
        (version, site) for version in versions for site in at if read_record(at[site], dataset, version) is None
    }
    old = [version for version in versions if not {(version, site) for site in at} & lacking]
    turn = [old[int(datetime.now(UTC).timestamp() // HOUR) % len(old)]] if old else []
    again = {(version, site) for version in turn for site in at}
    brought: dict[tuple[str, str], int] = {}
    problems: list[str] = []
    for version, site in sorted(lacking | again):
        try:
            brought[version, site] = len(make_whole(systems, dataset, version, site, on_progress).copied)
        except Corrupted as error:
            problems.append(str(error))
    if problems:
        raise Corrupted(f"data versions of {dataset}: {'; '.join(problems)}")
    return {
        "versions": len(versions),
        "copied": sum(brought[one] for one in lacking),
        "healed": sum(brought[one] for one in again),
        "read_again": turn,
    }
