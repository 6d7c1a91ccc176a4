"""What can be broken on purpose. A scenario injects one fault and undoes it; it never helps the recovery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ninelives.errors import Refused
from ninelives.estate import Estate, Mode
from ninelives.ports import GatewayState, Systems


@dataclass(frozen=True)
class Drill:
    """One drill: which scenario, on which service, at which site. ``id`` is unique and a valid file name."""

    id: str
    scenario: str
    service: str
    site: str


class Scenario(Protocol):
    """A fault with its steady state, abort condition and certain clean-up; each step may be repeated."""

    name: str

    def survivors(self, estate: Estate, state: GatewayState, drill: Drill) -> tuple[str, ...]:
        """Services that must stay correct throughout: the drill stops at once when they do not."""
        ...

    def inject(self, systems: Systems, drill: Drill) -> datetime:
        """Do it, and return the instant at which it took effect (UTC)."""
        ...

    def clean_up(self, systems: Systems, drill: Drill) -> None:
        """Undo it; undoing what was never done is not an error."""
        ...


class SiteLoss:
    """Every process of a site is killed, storage included; its disk is kept."""

    name = "site-loss"

    def survivors(self, estate: Estate, state: GatewayState, drill: Drill) -> tuple[str, ...]:
        # An active-active service keeps its other sites; an active-passive one survives when it is active elsewhere.
        return tuple(
            service.name
            for service in estate.services
            if service.mode is Mode.ACTIVE_ACTIVE or drill.site not in state.active[service.name]
        )

    def inject(self, systems: Systems, drill: Drill) -> datetime:
        return systems.control(drill.site).lose()

    def clean_up(self, systems: Systems, drill: Drill) -> None:
        systems.control(drill.site).restore()


SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in (SiteLoss(),)}


def find_scenario(name: str) -> Scenario:
    """:raises Refused: there is no such scenario"""
    if name not in SCENARIOS:
        raise Refused("drill", [f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}"])
    return SCENARIOS[name]
