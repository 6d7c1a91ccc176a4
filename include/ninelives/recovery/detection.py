"""Is a site lost? Independent observers must agree, for long enough, before anything is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

from ninelives.errors import NinelivesError
from ninelives.ports import Gateway, ObjectStore, Replica


class Observer(StrEnum):
    """Three ways to look at a site that fail independently of each other."""

    GATEWAY = "gateway"
    STORE = "store"
    REPLICAS = "replicas"


@dataclass(frozen=True)
class Observation:
    """What one observer saw of one site; ``up`` is ``None`` when it could not look."""

    site: str
    observer: Observer
    up: bool | None
    detail: str = ""


class Change(StrEnum):
    LOST = "lost"
    BACK = "back"


@dataclass(frozen=True)
class SiteChange:
    """A declared change: ``first_seen`` is when its first observation was made, ``at`` when it was certain enough.

    Both are seconds on the clock that the caller passed in.
    """

    site: str
    change: Change
    first_seen: float
    at: float
    reasons: tuple[str, ...]


@dataclass
class _Suspicion:
    since: float
    rounds: int = 0


@dataclass
class SiteWatch:
    """Declares a site lost, or back, from rounds of observations.

    Lost: at least ``quorum`` observers say down in ``confirm_lost`` rounds in a row. One round in which the quorum is
    not reached starts the count anew, so a flapping site is never declared lost. Back: at least ``quorum`` observers
    say up and none says down in ``confirm_back`` rounds in a row. The last site that is not lost is never declared
    lost: when everything seems gone, it is likelier that the watcher is cut off, and moving traffic would help nobody.
    """

    sites: tuple[str, ...]
    lost: set[str] = field(default_factory=set)
    quorum: int = 2
    confirm_lost: int = 3
    confirm_back: int = 5
    _suspicions: dict[str, _Suspicion] = field(default_factory=dict)

    def round(self, at: float, observations: Iterable[Observation]) -> list[SiteChange]:
        """Take one round of observations made at ``at`` (seconds); return what is now certain."""
        by_site: dict[str, list[Observation]] = {site: [] for site in self.sites}
        for observation in observations:
            by_site[observation.site].append(observation)
        return [change for site in self.sites if (change := self._judge(at, site, by_site[site]))]

    def _judge(self, at: float, site: str, seen: Sequence[Observation]) -> SiteChange | None:
        down = [one for one in seen if one.up is False]
        up = [one for one in seen if one.up]
        if site in self.lost:
            wanted, turned = self.confirm_back, len(up) >= self.quorum and not down
        else:
            wanted, turned = self.confirm_lost, len(down) >= self.quorum
        if not turned:
            self._suspicions.pop(site, None)
            return None
        suspicion = self._suspicions.setdefault(site, _Suspicion(at))
        suspicion.rounds += 1
        if suspicion.rounds < wanted or (site not in self.lost and self._is_last(site)):
            return None
        del self._suspicions[site]
        if site in self.lost:
            self.lost.remove(site)
            return SiteChange(site, Change.BACK, suspicion.since, at, tuple(f"{one.observer}: up" for one in up))
        self.lost.add(site)
        return SiteChange(
            site, Change.LOST, suspicion.since, at, tuple(f"{one.observer}: {one.detail or 'down'}" for one in down)
        )

    def _is_last(self, site: str) -> bool:
        # A site under suspicion is no better than a lost one here: two that vanish together point at the watcher.
        gone = self.lost | self._suspicions.keys()
        return all(other in gone for other in self.sites if other != site)


def observe(
    sites: Sequence[str],
    stores: Mapping[str, ObjectStore],
    replicas: Mapping[str, Sequence[Replica]],
    gateway: Gateway,
    pool: ThreadPoolExecutor,
) -> list[Observation]:
    """Let all observers look at all sites at once; takes as long as the slowest, bounded by the ports' timeouts."""

    def store(site: str) -> Observation:
        try:
            stores[site].ping()
        except NinelivesError as error:
            return Observation(site, Observer.STORE, False, str(error))
        return Observation(site, Observer.STORE, True)

    def servers(site: str) -> Observation:
        live = sum(_is_live(replica) for replica in replicas[site])
        return Observation(site, Observer.REPLICAS, live > 0, f"{live} of {len(replicas[site])} replicas are live")

    def through_gateway() -> list[Observation]:
        try:
            unhealthy = gateway.unhealthy_sites()
        except NinelivesError as error:
            return [Observation(site, Observer.GATEWAY, None, str(error)) for site in sites]
        return [Observation(site, Observer.GATEWAY, site not in unhealthy, unhealthy.get(site, "")) for site in sites]

    looks: list[Callable[[], list[Observation]]] = [through_gateway]
    for site in sites:
        looks += [lambda site=site: [store(site)], lambda site=site: [servers(site)]]  # type: ignore[misc]
    return [seen for look in [pool.submit(look) for look in looks] for seen in look.result()]


def _is_live(replica: Replica) -> bool:
    try:
        return replica.live()
    except NinelivesError:
        return False
