"""A fault in mid-service takes the machine's replicas out first, and never the last that could answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.nvml_stub import StubbedMachine, build, with_accelerators
from support.promotion import MODEL, Killed, Memory, MemoryGateway

from ninelives.accelerators.drain import KIND, follow
from ninelives.accelerators.evidence import validate
from ninelives.errors import Unavailable
from ninelives.estate.accelerators import Host


class World(Memory):
    """One replica at each site, on the machine that its URL names; the gateway sees which are ready."""

    machine: StubbedMachine

    def accelerators(self, site: str, host: Host) -> Any:
        return self.machine.probe(host.policy.kind)

    def gateway(self) -> MemoryGateway:
        gateway = super().gateway()
        gateway.healthy_sites = self.healthy  # type: ignore[attr-defined]
        return gateway

    def healthy(self, service: str) -> Mapping[str, int]:
        return {site: sum(one.ready(MODEL) for one in self.replicas(site)) for site in ("paris", "dublin")}

    def look(self, *faults: str, site: str = "paris") -> list[str]:
        self.machine.play(*faults, f"uuid={site}")
        record = validate(self, site, f"gpu-{site}")  # type: ignore[arg-type]
        return follow(self, site, f"gpu-{site}", record)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "home")
    world.estate = with_accelerators(world.estate)
    world.machine = StubbedMachine(build(tmp_path), tmp_path, monkeypatch)
    for site in ("paris", "dublin"):
        world.replicas(site)[0].url = f"http://gpu-{site}.example:8000"
        world.replicas(site)[0].machine = f"gpu-{site}"
    return world


def test_a_faulty_machine_is_drained_and_given_back_when_it_is_sound(world: World) -> None:
    assert world.look() == []
    assert world.look("ecc_volatile=1") == ["alpha is taken out of http://gpu-paris.example:8000"]
    assert world.healthy(MODEL) == {"paris": 0, "dublin": 1}
    assert world.look("ecc_volatile=1"), "a repeated look finds it drained, and does it again"
    assert world.look() == ["alpha is back at http://gpu-paris.example:8000"]
    assert world.healthy(MODEL) == {"paris": 1, "dublin": 1}
    assert world.look() == []
    assert [one.facts["drained"] for one in world.ledger().records(kind=KIND)] == [False, True, True]


def test_the_last_replica_that_could_answer_stays(world: World) -> None:
    world.look("lost=1", site="dublin")
    assert world.look("lost=1") == ["alpha stays on gpu-paris: no other replica could answer"]
    assert world.healthy(MODEL) == {"paris": 1, "dublin": 0}


def test_what_could_not_be_read_drains_nothing(world: World) -> None:
    assert world.look("err.nvmlDeviceGetEccMode=3") == []
    assert world.healthy(MODEL) == {"paris": 1, "dublin": 1}


def test_a_machine_that_no_replica_runs_on_says_so(world: World) -> None:
    world.replicas("paris")[0].machine = "10"
    assert world.look("lost=1") == ["no replica of paris is known to run on gpu-paris, so none is drained"]


def test_a_drain_that_was_killed_half_way_is_given_back_when_all_is_sound(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(model: str) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(world.replicas("paris")[0], "unload", killed)
        with pytest.raises(Killed):
            world.look("lost=1")
    assert world.look() == ["alpha is back at http://gpu-paris.example:8000"], "what may be drained is loaded"


def test_a_replica_that_does_not_answer_is_named_beside_the_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(model: str) -> None:
        raise Unavailable("it does not answer")

    monkeypatch.setattr(world.replicas("paris")[0], "unload", silent)
    assert world.look("lost=1") == ["alpha could not be taken out of http://gpu-paris.example:8000: it does not answer"]
