"""Two versions at once: who would be broken stays on the old one until a date, and nothing of it is forgotten."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.promotion import Memory, release_of

from ninelives.compilers.envoy import ROUTES, compile_gateway
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.releases import promotion
from ninelives.releases.canary import Decision
from ninelives.releases.promotion import begin, check_interface, promote, retire
from ninelives.releases.publish import stage
from ninelives.releases.status import release_status
from ninelives.releases.stays import forget, forgotten

TODAY = datetime.now(UTC).date()


def consumer(until: date | None, version: str = "1") -> dict[str, Any]:
    """Sends a field that no version takes."""
    stays = {"stays_on": {"version": version, "until": until.isoformat()}} if until else {}
    return {
        "name": "billing", "service": "alpha", "contact": "billing@example.org",
        "sends": {"a": "FP32", "b": "INT64", "tag": "BYTES", "c": "INT64"}, "reads": {"total": "FP32"}, **stays,
    }  # fmt: skip


def declare(systems: Memory, *consumers: dict[str, Any]) -> None:
    document = systems.estate.model_dump(mode="json") | {"consumers": consumers}
    systems.estate = Estate.model_validate(document)


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})
    return Memory(tmp_path, {"shadow": 0})


def promoted(systems: Memory) -> Any:
    plan = begin(systems, "alpha", "2", by="ada")  # type: ignore[arg-type]
    promote(systems, plan, approve=lambda: None, judge=lambda *_: (Decision.PROMOTE, []))  # type: ignore[arg-type]
    return plan


@pytest.mark.parametrize(
    ("stays", "refused"),
    [
        (consumer(None), True),
        (consumer(TODAY), False),
        (consumer(TODAY - timedelta(days=1)), True),
        (consumer(TODAY + timedelta(days=9), version="3"), True),
    ],
)
def test_who_stays_on_the_old_version_today_is_not_broken_by_the_new_one(
    systems: Memory, stays: dict[str, Any], refused: bool
) -> None:
    declare(systems, stays)
    plan = begin(systems, "alpha", "2", by="ada")  # type: ignore[arg-type]
    if refused:
        with pytest.raises(Refused, match="billing: c is sent, and the new version does not take it"):
            check_interface(systems, plan)  # type: ignore[arg-type]
    else:
        assert check_interface(systems, plan)["stays"] == {"billing": str(TODAY)}  # type: ignore[arg-type]


def test_the_old_version_outlives_its_way_back_while_somebody_stays_and_is_reported_afterwards(systems: Memory) -> None:
    declare(systems, consumer(TODAY))
    plan = promoted(systems)
    assert retire(systems, plan)  # type: ignore[arg-type]
    assert all("1" in one.beside for site in ("paris", "dublin") for one in systems.replicas(site))
    status = release_status(systems, "alpha")  # type: ignore[arg-type]
    assert (status["problems"], status["stays"]["billing"]["version"]) == ([], "1")
    (late,) = release_status(systems, "alpha", datetime.now(UTC) + timedelta(days=2))["problems"]  # type: ignore[arg-type]
    assert "ask billing@example.org" in late
    declare(systems)
    assert forgotten(systems, systems.estate.services[0]) == {"http://paris": ["1"], "http://dublin": ["1"]}  # type: ignore[arg-type]
    assert "which nobody asks for: ninelives release retire alpha" in str(release_status(systems, "alpha")["problems"])  # type: ignore[arg-type]
    forget(systems, systems.estate.services[0])  # type: ignore[arg-type]
    assert not any(one.beside for site in ("paris", "dublin") for one in systems.replicas(site))
    assert release_status(systems, "alpha")["problems"] == []  # type: ignore[arg-type]


def test_what_a_promotion_has_just_loaded_is_not_forgotten(systems: Memory) -> None:
    plan = begin(systems, "alpha", "2", by="ada")  # type: ignore[arg-type]
    promotion.warm_up(systems, plan)  # type: ignore[arg-type]
    assert forgotten(systems, systems.estate.services[0]) == {}  # type: ignore[arg-type]


def test_a_replica_that_lacks_what_somebody_stays_on_is_named(systems: Memory) -> None:
    stage(systems.store("paris"), *release_of("3", 2.0))  # type: ignore[arg-type]
    declare(systems, consumer(TODAY, version="3"))
    problems = release_status(systems, "alpha")["problems"]  # type: ignore[arg-type]
    assert [one.split(",")[0] for one in problems] == [
        "http://paris has no version 3", "http://dublin has no version 3",
    ]  # fmt: skip


def test_its_address_is_there_before_a_promotion_and_after_it(systems: Memory) -> None:
    def addresses() -> list[str]:
        files = compile_gateway(
            systems.estate, systems.gateway().state(), {"paris": [("127.0.0.1", 1)], "dublin": [("127.0.0.1", 2)]},
            folder=Path("/gateway"), listen=("127.0.0.1", 80), admin=("127.0.0.1", 81),
        )  # fmt: skip
        routes = files[ROUTES]["resources"][0]["virtual_hosts"][0]["routes"]
        return [one["match"]["path"] for one in routes if "/versions/" in one["match"]["path"]]

    address = "/services/alpha/v2/models/alpha/versions/1/infer"
    assert addresses() == []
    declare(systems, consumer(TODAY))
    assert addresses() == [address]
    plan = promoted(systems)
    assert addresses().count(address) == 1
    retire(systems, plan)  # type: ignore[arg-type]
    assert addresses() == [address]
