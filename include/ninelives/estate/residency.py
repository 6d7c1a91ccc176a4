"""Data that may not leave a region: neither as a copy, nor as a model that was made of it."""

from __future__ import annotations

from ninelives.errors import Refused
from ninelives.estate.model import Estate


def residency_breach(estate: Estate, dataset: str, site: str) -> str | None:
    """Why ``dataset`` may not be at ``site``, for people; ``None`` where it may. A site of no region is refused."""
    declared, place = estate.dataset_by_name.get(dataset), estate.site_by_name.get(site)
    if declared is None or place is None or not declared.residency or place.region in declared.residency:
        return None
    where = f"is in {place.region}" if place.region else "names no region"
    return f"dataset {dataset} may not leave {', '.join(declared.residency)}, and {site} {where}"


def refuse_breach(estate: Estate, dataset: str, *sites: str) -> None:
    """:raises Refused: the data may not be at one of ``sites``"""
    breaches = [breach for site in sites if (breach := residency_breach(estate, dataset, site))]
    if breaches:
        raise Refused("residency", breaches)
