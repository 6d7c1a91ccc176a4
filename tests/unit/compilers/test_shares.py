"""A service that is on its way back: its sites get their shares, and nobody else's files change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.compilers.test_envoy import compiled, state

from ninelives.compilers.envoy import serving_sites
from ninelives.ports import GatewayState


def divided(paris: int, *closed: str) -> GatewayState:
    before = state("dublin", closed)
    shares = {"alpha": {"dublin": 100 - paris, "paris": paris}}
    return replace(before, active={**before.active, "alpha": ("dublin", "paris")}, shares=shares)


def weights(files: Any, service: str = "alpha") -> dict[str, list[int | None]]:
    (assignment,) = files[f"eds-{service}.yaml"]["resources"]
    return {
        group["locality"]["zone"]: [one.get("load_balancing_weight") for one in group["lb_endpoints"]]
        for group in assignment["endpoints"]
    }


@pytest.mark.parametrize("share", [1, 5, 50, 99])
def test_each_replica_carries_its_part_of_its_sites_share(share: int) -> None:
    found = weights(compiled(divided(share)))
    there, here = sum(found["paris"]), sum(found["dublin"])
    assert there / (there + here) == pytest.approx(share / 100)


def test_only_the_divided_service_has_weights_and_only_its_file_changes() -> None:
    whole, files = compiled(state("dublin")), compiled(divided(20))
    assert weights(whole) == {"paris": [None] * 2, "dublin": [None] * 2}
    assert {name for name in files if files[name] != whole[name]} == {"eds-alpha.yaml"}


def test_a_site_that_closes_on_the_way_gets_nothing_and_the_other_everything() -> None:
    (alpha,) = (service for service in estate_services() if service.name == "alpha")
    assert serving_sites(alpha, divided(20, "paris")) == ("dublin",)


def estate_services() -> Any:
    from support.models import estate_of_two_sites

    return estate_of_two_sites().services
