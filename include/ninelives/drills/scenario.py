"""What a drill is, and what every scenario says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar

from ninelives.estate import Estate, Service
from ninelives.estate.model import ScenarioName
from ninelives.injections import Fault
from ninelives.ports import GatewayState, Systems


@dataclass(frozen=True)
class Drill:
    """One drill: which scenario, on which service, at which site. ``id`` is unique and a valid file name."""

    id: str
    scenario: str
    service: str
    site: str
    """Empty where the scenario is not about one site."""
    fingerprint: str = ""
    """Of what was planned, where somebody could change that: it is then done as it was planned, or not at all."""

    @property
    def subject(self) -> str:
        """Of its evidence."""
        return f"{self.scenario}/{self.service}/{self.site}".rstrip("/")


class Promise(StrEnum):
    """What must hold in a drill, each judged from measurement alone (``ninelives.drills.promises``)."""

    RTO = "rto"
    """Lasting correct answers of the drilled service, within its RTO."""
    RPO = "rpo"
    """The acknowledged writes that survived, within its RPO."""
    USERS = "users"
    """No user of any service felt anything."""
    REPAIRED = "repaired"
    """The estate's own check found the damage, named it and repaired it."""
    QUARANTINED = "quarantined"
    """Every record that breaks the contract waits in quarantine with its reason, and none was landed."""
    LANDED = "landed"
    """Of a disturbed feed each sound record landed once, and nothing of a broken batch did."""
    REGISTRY = "registry"
    """The registry answers again."""
    COPIES = "copies"
    """The copy has caught up: it is within its RPO."""
    HYPOTHESIS = "hypothesis"
    """The experiment's own steady state held, and none of its activities failed."""
    RESTORED = "restored"
    """What the vault gave back is whole and works, within the RTO of backups."""
    DRAINED = "drained"
    """The estate's own look found the fault, and the machine's replicas were out before anything else happened."""
    WRITES = "writes"
    """Writes go on where they stopped, and none is missing."""


class Scenario:
    """A fault with its steady state, its abort condition and what must hold; each step may be repeated.

    It breaks nothing itself: ``plan`` says what is to be broken, the plan is written down, and whatever the journal
    says is injected and undone through ``ports.FaultControl``.
    """

    name: ClassVar[ScenarioName]
    breaks: ClassVar[str]
    """What happens, for people."""
    promises: ClassVar[tuple[Promise, ...]]
    hold: ClassVar[timedelta] = timedelta(0)
    """How long the fault is kept at least, where nothing tells when it may end."""

    def usual_site(self, estate: Estate, state: GatewayState, service: Service) -> str:
        """Where it strikes unless somebody says otherwise: the first open site that serves."""
        return state.active[service.name][0]

    def survivors(self, estate: Estate, state: GatewayState, drill: Drill) -> tuple[str, ...]:
        """Services that must stay correct throughout: the drill stops at once when they do not."""
        return tuple(service.name for service in estate.services)

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        """What of this scenario's own steady state is not as it should be before it starts."""
        return []

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        """Exactly what is to be broken; looks, and changes nothing.

        :raises Refused: it cannot be broken from here
        """
        raise NotImplementedError

    def fingerprint(self, systems: Systems, drill: Drill) -> str:
        """SHA-256 (hex) of what a person has written that says what is to be broken; empty where there is none.

        :raises Refused: it cannot be read
        """
        return ""

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any] | None:
        """Start the estate's own check where nothing else would start it in time, and return what it found.

        ``None`` for a scenario whose recovery starts by itself.
        """
        return None

    def after(self, systems: Systems, drill: Drill) -> None:
        """Start the estate's own way back once the fault is undone, where nothing else would start it in time.

        :raises Unavailable: it did not come to its end; it is tried again
        """
