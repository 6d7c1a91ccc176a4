"""Data that may not leave its regions is neither copied nor served elsewhere, also where nobody checked the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ninelives.adapters.connected import ConnectedEstate
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.estate.document import read_document
from ninelives.estate.residency import residency_breach
from ninelives.home import Home
from ninelives.ports import Connection
from ninelives.replication.checkpoints import replicate_checkpoints
from ninelives.replication.reconcile import meet
from ninelives.replication.replicate import replicate_dataset, replicate_registry, replicate_releases
from ninelives.replication.verify import verify_dataset
from ninelives.versions.replicate import replicate_versions

DATA = read_document(Path(__file__).parents[3] / "include/estates/demo/estate.yaml").data


def estate(paris: str | None, dublin: str | None, *residency: str) -> Estate:
    data = json.loads(json.dumps(DATA))
    for site, region in zip(data["sites"], (paris, dublin), strict=True):
        site["region"] = region
    data["datasets"][0]["residency"] = residency
    return Estate.model_validate(data)


class Nowhere:
    """Nothing may be contacted."""

    def get(self, conn_id: str) -> Connection:
        raise AssertionError(f"{conn_id} was asked for")


@pytest.mark.parametrize(
    ("region", "residency", "breach"),
    [
        ("us", (), None),
        ("eu", ("eu", "uk"), None),
        ("us", ("eu", "uk"), "dataset flights may not leave eu, uk, and dublin is in us"),
        (None, ("eu",), "dataset flights may not leave eu, and dublin names no region"),
    ],
)
def test_a_site_holds_only_what_may_be_there(
    region: str | None, residency: tuple[str, ...], breach: str | None
) -> None:
    assert residency_breach(estate("eu", region, *residency), "flights", "dublin") == breach


@pytest.mark.parametrize(
    "act",
    [
        lambda systems: replicate_dataset(systems, "flights", "paris", "dublin"),
        lambda systems: replicate_releases(systems, ["arrival-delay"], "paris", "dublin"),
        lambda systems: replicate_checkpoints(systems, ["arrival-delay"], "paris", "dublin"),
        lambda systems: replicate_registry(systems, "paris", "dublin"),
        lambda systems: replicate_versions(systems, "flights", "paris", "dublin"),
        lambda systems: verify_dataset(systems, "flights", "paris", "dublin"),
        lambda systems: meet(systems, "flights", "paris", "dublin"),
    ],
    ids=[
        "replicate the data",
        "replicate what was made of it",
        "replicate checkpoints",
        "replicate the registry",
        "replicate its versions",
        "repair it",
        "reconcile",
    ],
)
def test_what_would_break_it_is_refused_before_anything_is_contacted(
    act: Callable[[ConnectedEstate], object], tmp_path: Path
) -> None:
    systems = ConnectedEstate(estate("eu", "us", "eu"), Nowhere(), Home(tmp_path))
    with pytest.raises(Refused, match="may not leave eu, and dublin is in us"):
        act(systems)
