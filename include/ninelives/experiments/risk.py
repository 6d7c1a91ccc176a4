"""What an experiment may risk: nothing that the loss of a site would need, and a small part of the error budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from ninelives.errors import Refused
from ninelives.estate import Mode, Service
from ninelives.estate.units import format_duration

BUDGET_SHARE = 0.1
"""Of a window's error budget that one experiment may cost before its guard-rails stop it."""


@dataclass(frozen=True)
class Load:
    """What an experiment asks of a service."""

    peak: float
    """requests per second, of the whole service at its busiest"""
    exposure: float
    """Share of the units that see what is new, within (0, 0.5]."""
    cost: float = 1.0
    """What a request of the new version takes of a replica, over what one of the old takes."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Replicas per site that the experiment has for itself, so that they are lost to everybody else."""
    stop_within: timedelta = timedelta(minutes=5)
    """Until the guard-rails have stopped it, at the worst: they are asked so often, and the way back takes its time."""

    def __post_init__(self) -> None:
        if not (0 < self.peak < float("inf") and 0 < self.exposure <= 0.5 and 0 < self.cost < float("inf")):
            raise ValueError("a finite peak and cost above nought, an exposure above nought and at most a half")
        if self.stop_within <= timedelta(0) or any(count < 0 for count in self.taken.values()):
            raise ValueError("a time above nought, and no fewer than no replicas taken")


def check_risk(service: Service, replicas: Mapping[str, int], load: Load) -> None:
    """Whether the experiment may begin.

    :param replicas: number of replicas per site, those that the experiment takes included
    :raises Refused: with everything that is against it
    """
    against = [*_capacity(service, replicas, load), *_budget(service, load)]
    if against:
        raise Refused(f"an experiment on {service.name}", against)


def _capacity(service: Service, replicas: Mapping[str, int], load: Load) -> list[str]:
    """A lost site is not told in time that an experiment should end first, so each loss must be borne beside it."""
    if service.capacity is None:
        return ["its capacity is not declared, so nobody knows what the loss of a site would need"]
    strange = sorted(set(load.taken) - set(service.sites))
    if strange:
        return [f"it is not served from {', '.join(strange)}, where replicas would be taken"]
    return [one.shortage for one in arithmetic(service, replicas, load) if one.short]


@dataclass(frozen=True)
class Borne:
    """What is left of a service when a site is lost, and what its users then need beside the experiment."""

    lost: str | None
    replicas: int
    capacity: int
    """requests per second of a replica"""
    load: Load

    @property
    def carried(self) -> float:
        return self.replicas * self.capacity

    @property
    def needed(self) -> float:
        # At whatever site a user ends, what is new costs what it costs; cheaper requests are a gain nobody has yet.
        return self.load.peak * (1 + self.load.exposure * max(self.load.cost - 1, 0))

    @property
    def short(self) -> bool:
        return self.carried < self.needed

    @property
    def when(self) -> str:
        return f"with {self.lost} lost" if self.lost else "with every site there"

    @property
    def shortage(self) -> str:
        return f"{self.when}, {self.carried:g} requests a second could be answered, and {self.needed:.4g} are needed"

    def __str__(self) -> str:
        load = self.load
        return (
            f"{self.when}: {self.replicas} replicas x {self.capacity}/s = {self.carried:g}/s, needed {load.peak:g}/s x "
            f"(1 + exposure {load.exposure:.4g} x extra cost {max(load.cost - 1, 0):.4g}) = {self.needed:.4g}/s: "
            f"{'too little' if self.short else 'enough'}"
        )


def arithmetic(service: Service, replicas: Mapping[str, int], load: Load) -> list[Borne]:
    """With every site there, and with each of them lost; nothing where no capacity is declared."""
    if service.capacity is None:
        return []
    left = {site: replicas.get(site, 0) - load.taken.get(site, 0) for site in service.sites}
    losses = (None, *service.sites) if len(service.sites) > 1 else (None,)
    return [Borne(lost, max(0, serving(service, left, lost)), service.capacity, load) for lost in losses]


def serving(service: Service, left: Mapping[str, int], lost: str | None) -> int:
    """Replicas that answer when ``lost`` is: of the first site in order, or of all of them."""
    sites = [site for site in service.sites if site != lost]
    if service.mode is Mode.ACTIVE_PASSIVE:
        return left[sites[0]] if sites else 0
    return sum(max(0, left[site]) for site in sites)


def _budget(service: Service, load: Load) -> Sequence[str]:
    most = most_exposed(service, load.stop_within)
    if load.exposure <= most:
        return ()
    return [
        f"if all that is new were wrong for {format_duration(load.stop_within)}, an exposure of {load.exposure:.3g}"
        f" would cost more than {BUDGET_SHARE:.0%} of the error budget; at most {most:.3g}"
    ]


def most_exposed(service: Service, stop_within: timedelta) -> float:
    """The exposure at which an experiment of nothing but errors costs ``BUDGET_SHARE`` of the budget; at most a half.

    ``exposure * stop_within <= BUDGET_SHARE * (1 - availability) * window``, requests being spread evenly over time.
    """
    objective = service.objective
    return min(0.5, BUDGET_SHARE * (1 - objective.availability) * (objective.window / stop_within))
