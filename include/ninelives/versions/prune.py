"""Remove data versions that nobody needs, and nothing else.

Everything is decided from what is needed, never from what looks old: an object goes only when no needed version lists
it. Whoever cannot be asked, a site, the registry or the ledger, may need everything, so nothing is removed then.
A version's manifest goes first, its objects after: killed in between, the objects are found again as nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ninelives.errors import Refused, Unavailable
from ninelives.versions.catalogue import Known, known_at, merge
from ninelives.versions.copies import find_files
from ninelives.versions.needs import gather, newest_of_each
from ninelives.versions.objects import BUCKET, list_records, object_key, object_name, record_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ninelives.ports import Lease, Ledger, ObjectStore, Systems

GRACE = timedelta(days=1)
"""A version or an object this young is left alone: whoever made it may not have said yet what for."""

LEASE = "data-versions"
LEASE_TTL = timedelta(minutes=10)
_TOGETHER = 200
"""Objects that are deleted behind one renewal of the lease: at three seconds each they fit into it."""


@dataclass(frozen=True)
class Pruning:
    """What goes and what stays. ``objects``: site to the names of the objects there that nobody needs."""

    removed: tuple[str, ...]
    kept: Mapping[str, tuple[str, ...]]
    """version to who needs it"""
    objects: Mapping[str, tuple[str, ...]]
    size: int
    """bytes, over all sites"""


@dataclass(frozen=True)
class Held:
    """An object at a site."""

    name: str
    size: int
    modified: datetime


def plan(
    versions: Mapping[str, Known],
    needs: Mapping[str, Iterable[str]],
    lists: Mapping[str, Iterable[str] | None],
    held: Mapping[str, Iterable[Held]],
    now: datetime,
    grace: timedelta = GRACE,
) -> Pruning:
    """Decide what may go. Pure.

    :param needs: version to who needs it
    :param lists: version to the names of its objects; ``None`` where no site has its list
    :param held: site to the objects there
    :raises Refused: the list of a version that stays cannot be read, so that nobody knows what it needs
    """
    kept = {version: tuple(sorted(who)) for version, who in needs.items()}
    for version, known in versions.items():
        if version not in kept and (known.kept_at is None or now - known.kept_at < grace):
            why = f"kept less than {grace} ago" if known.kept_at else "nothing says how old it is"
            kept[version] = (why,)
    wanted: set[str] = set()
    for version in kept:
        names = lists.get(version)
        if names is None and version in versions:
            raise Refused("pruning", [f"no site has the list of files of {version}: {kept[version][0]}"])
        wanted.update(names or (), (version,))
    gone = {
        site: tuple(o for o in objects if o.name not in wanted and now - o.modified >= grace)
        for site, objects in held.items()
    }
    return Pruning(
        removed=tuple(sorted(version for version in versions if version not in kept)),
        kept=kept,
        objects={site: tuple(o.name for o in objects) for site, objects in gone.items()},
        size=sum(o.size for objects in gone.values() for o in objects),
    )


def prune(
    systems: Systems, holder: str, clock: Callable[[], datetime], *, dry_run: bool = False, grace: timedelta = GRACE
) -> Pruning:
    """Remove at every site what no retained model, backup, incident or training needs; or only say what would go.

    :raises Refused: it cannot be known what a needed version consists of, or which data a model needs
    :raises Unavailable: a site, the registry or the ledger does not answer, or a version is being kept right now
    """
    with alone(systems.ledger(), holder) as renew:
        stores = [systems.store(site) for site in systems.estate.site_names]
        versions: dict[str, Known] = {}
        for store in stores:
            versions = merge(versions, known_at(store))
        kept_at = {
            version: (known.dataset, known.kept_at)
            for version, known in versions.items()
            if known.dataset is not None and known.kept_at is not None
        }
        needs = gather(systems, {k.manifest.fingerprint: v for v, k in versions.items() if k.manifest})
        for version, who in newest_of_each(kept_at).items():
            needs.setdefault(version, set()).update(who)
        lists = {version: _names(stores, version, versions.get(version, Known())) for version in {*versions, *needs}}
        decided = plan(versions, needs, lists, {store.site: held_at(store) for store in stores}, clock(), grace)
        if not dry_run:
            for store in stores:
                _remove(store, decided, renew)
    return decided


def _names(stores: Sequence[ObjectStore], version: str, known: Known) -> set[str] | None:
    """What the version consists of, by its list of files and by its manifest; ``None`` where neither is left."""
    files = find_files(stores, version)
    names = set(files.names) if files else set()
    names |= {name for o in (known.manifest.objects if known.manifest else ()) if (name := object_name(o.key))}
    return names or None


def held_at(store: ObjectStore) -> list[Held]:
    """Every object of DVC's at a site."""
    return [
        Held(name, info.size, info.modified)
        for info in store.list(BUCKET, "files/md5/")
        if (name := object_name(info.key)) is not None
    ]


def _remove(store: ObjectStore, decided: Pruning, renew: Callable[[], None]) -> None:
    datasets = list_records(store)
    renew()
    for version in decided.removed:
        if version in datasets:
            store.delete(BUCKET, record_key(datasets[version], version))
    # The lists of files before the files: a list whose files are gone would look like a damaged version.
    for number, name in enumerate(sorted(decided.objects[store.site], key=lambda name: not name.endswith(".dir"))):
        if number % _TOGETHER == 0:
            renew()
        store.delete(BUCKET, object_key(name))


@contextmanager
def alone(ledger: Ledger, holder: str, name: str = LEASE) -> Iterator[Callable[[], None]]:
    """Keeping and pruning exclude each other: what is about to be named again must not go.

    What it gives renews the lease, and raises ``Unavailable`` where it had expired: what was planned is then too old.

    :param name: of the lease; by default that of data versions
    :raises Unavailable: another holder is at it; try again
    """

    def take() -> Lease:
        try:
            return ledger.take_lease(name, holder, LEASE_TTL)
        except Refused as error:
            raise Unavailable(f"{name.replace('-', ' ')} are being kept or pruned by another: {error}") from error

    lease = take()

    def renew() -> None:
        nonlocal lease
        before, lease = lease.token, take()
        if lease.token != before:
            raise Unavailable(f"it took longer than {LEASE_TTL}, and another may have kept something since; try again")

    try:
        yield renew
    finally:
        ledger.release_lease(lease)
