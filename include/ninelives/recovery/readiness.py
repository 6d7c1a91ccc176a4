"""Could this site take over this service now, and if not, why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ninelives.estate import Dataset, Service


@dataclass(frozen=True)
class StandbyFacts:
    """What was found at a standby. ``None``: could not be found out, which never counts in its favour."""

    site: str
    closed: bool
    in_drill: bool
    store_answers: bool
    live_replicas: int
    release: str | None
    """Version of the release in the standby's own store."""
    newest_release: str | None
    """Newest version known to the control plane."""
    lag_seconds: float | None
    """Age of the oldest acknowledged write that is not at the standby; 0 when all are."""
    residency: str | None = None
    """Why the data may not be at the standby at all; ``None`` where it may."""
    licence: str | None = None
    """Why no licence lets the service run there; ``None`` where one does or none is needed."""
    grace: str | None = None
    """What is used beyond what was bought, and until when that is allowed."""
    accelerator_faults: tuple[str, ...] = ()
    """What is wrong with an accelerator there that the service would run on."""
    accelerator_doubts: tuple[str, ...] = ()
    """Why nobody knows lately that its accelerators are sound."""
    warm: bool = False
    """A live replica has the model loaded."""
    free_memory: int | None = None
    """Bytes, of its accelerator with the least."""


@dataclass(frozen=True)
class Readiness:
    site: str
    reasons: tuple[str, ...]
    """Why the site cannot take over; empty when it can."""
    warnings: tuple[str, ...] = ()
    warm: bool = False
    free_memory: int | None = None

    @property
    def eligible(self) -> bool:
        return not self.reasons


def judge_readiness(service: Service, dataset: Dataset, facts: StandbyFacts) -> Readiness:
    """Whether ``facts.site`` can take ``service`` over.

    Data behind the RPO warns and does not forbid: users get an answer from slightly old data rather than none, and the
    evidence shows the missed RPO. A release older than the newest is likewise worse than the newest and better than
    nothing. No release, no live replica, no store or no licence forbid, and so does data that may not leave its
    regions. An accelerator that was found faulty forbids; one that nobody has looked at lately warns.
    """
    reasons, warnings = [facts.residency] if facts.residency else [], []
    if facts.closed:
        reasons.append(f"{facts.site} is closed at the gateway until it passes the gate again")
    if facts.in_drill:
        reasons.append(f"{facts.site} is in a drill")
    if not facts.store_answers:
        reasons.append(f"the store of {facts.site} does not answer")
    if facts.live_replicas == 0:
        reasons.append(f"no replica is live at {facts.site}")
    if facts.licence:
        reasons.append(facts.licence)
    if facts.grace:
        warnings.append(facts.grace)
    reasons += facts.accelerator_faults
    warnings += facts.accelerator_doubts[:1]  # one, because many machines are no worse than many days
    if facts.release is None:
        reasons.append(f"{facts.site} has no release of model {service.model}; run replicate_data")
    elif facts.release != facts.newest_release:
        warnings.append(f"{facts.site} has release {facts.release}, the newest is {facts.newest_release or 'unknown'}")
    if facts.lag_seconds is None:
        warnings.append(f"how far {dataset.name} at {facts.site} lags is unknown")
    elif facts.lag_seconds > dataset.rpo.total_seconds():
        rpo = dataset.rpo.total_seconds()
        warnings.append(f"{dataset.name} at {facts.site} lags {facts.lag_seconds:.0f} s, the RPO is {rpo:.0f} s")
    return Readiness(facts.site, tuple(reasons), tuple(warnings), facts.warm, facts.free_memory)


def choose_target(service: Service, readiness: Sequence[Readiness]) -> Readiness | None:
    """The first eligible site in the order that the estate declares; sites without a warning come first.

    Of accelerators, those come first that have the model loaded, then those with more free memory.
    """

    def order(one: Readiness) -> tuple[int, tuple[bool, int], int]:
        return len(one.warnings), preference(one.warm, one.free_memory), service.sites.index(one.site)

    return min((one for one in readiness if one.eligible), key=order, default=None)


def preference(warm: bool, free_memory: int | None) -> tuple[bool, int]:
    """Less is better; the same for all sites of a service that needs no accelerator."""
    return not warm, -(free_memory or 0)
