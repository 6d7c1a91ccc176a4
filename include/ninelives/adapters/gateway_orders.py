"""Orders that no gateway carries out, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping

from ninelives.errors import Refused
from ninelives.estate import Mode, Service


def check_move(service: Service, site: str) -> None:
    """Raises ``Refused`` where the service cannot be moved there by its declaration."""
    if service.mode is not Mode.ACTIVE_PASSIVE:
        raise Refused("move", [f"{service.name} is active-active: close the site that must not get traffic instead"])
    if site not in service.sites:
        raise Refused("move", [f"{service.name} is not declared at {site}, only at {', '.join(service.sites)}"])


def check_shares(service: Service, shares: Mapping[str, int]) -> None:
    """Raises ``Refused`` where the service's traffic cannot be divided so; shares are percent."""
    if service.mode is not Mode.ACTIVE_PASSIVE:
        raise Refused("share", [f"{service.name} is active-active: all of its open sites share its traffic"])
    if sum(shares.values()) != 100 or min(shares.values()) < 1 or len(shares) < 2:
        raise Refused("share", [f"{dict(shares)} does not divide 100 percent between two sites or more"])
    if strange := sorted(set(shares) - set(service.sites)):
        raise Refused("share", [f"{service.name} is not declared at {', '.join(strange)}"])
