"""A standby with accelerators is chosen by their health first, then by what is warm there, then by free memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.nvml_stub import StubbedMachine, build, with_accelerators
from support.promotion import MODEL, Memory

from ninelives.accelerators.evidence import validate
from ninelives.estate.accelerators import Host
from ninelives.estate.model import Hardware
from ninelives.recovery.failover import accelerators_of
from ninelives.recovery.playbook import mend
from ninelives.recovery.readiness import Readiness, StandbyFacts, choose_target, judge_readiness


class World(Memory):
    machine: StubbedMachine

    def accelerators(self, site: str, host: Host) -> Any:
        return self.machine.probe(host.policy.kind)

    def look(self, site: str, *faults: str) -> None:
        self.machine.play(*faults, f"uuid={site}")
        validate(self, site, f"gpu-{site}")  # type: ignore[arg-type]

    def judged(self, site: str) -> Readiness:
        """All else is well there."""
        service = self.estate.service_by_name[MODEL]
        facts = StandbyFacts(
            site=site, closed=False, in_drill=False, store_answers=True, live_replicas=2, release="1",
            newest_release="1", lag_seconds=0.0, **accelerators_of(self, service, site),  # type: ignore[arg-type]
        )  # fmt: skip
        return judge_readiness(service, self.estate.dataset_of(service), facts)

    def chosen(self) -> str | None:
        service = self.estate.service_by_name[MODEL]
        found = choose_target(service, [self.judged(site) for site in ("paris", "dublin")])
        return found and found.site


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "home")
    world.estate = with_accelerators(world.estate)
    world.machine = StubbedMachine(build(tmp_path), tmp_path, monkeypatch)
    return world


def cool(world: World, site: str) -> None:
    for replica in world.replicas(site):
        replica.served = None


def test_more_free_memory_decides_between_sound_and_warm_standbys(world: World) -> None:
    world.look("paris", "free_gib=40")
    world.look("dublin", "free_gib=70")
    assert world.chosen() == "dublin"
    world.look("paris", "free_gib=70")
    assert world.chosen() == "paris", "equal ones come in the estate's order"


def test_a_standby_that_has_the_model_loaded_comes_before_one_with_more_memory(world: World) -> None:
    world.look("paris", "free_gib=40")
    world.look("dublin", "free_gib=70")
    cool(world, "dublin")
    assert world.chosen() == "paris"


def test_a_faulty_accelerator_forbids_and_one_that_nobody_looked_at_comes_last(world: World) -> None:
    assert world.chosen() == "paris", "some answer is better than none"
    assert "nobody has looked" in world.judged("paris").warnings[0]
    world.look("dublin")
    assert world.chosen() == "dublin"
    world.look("dublin", "ecc_volatile=1")
    assert world.chosen() == "paris"
    assert "uncorrectable" in world.judged("dublin").reasons[0]
    world.look("paris", "lost=1")
    assert world.chosen() is None


def test_a_service_that_needs_none_is_asked_nothing_of_accelerators(world: World) -> None:
    world.look("paris", "lost=1")
    service = world.estate.service_by_name[MODEL]
    cpu = service.model_copy(update={"release": service.release.model_copy(update={"hardware": Hardware.CPU})})
    assert accelerators_of(world, cpu, "paris") == {}  # type: ignore[arg-type]


def test_the_playbook_says_on_which_machine_to_look(world: World) -> None:
    step = mend(world, world.estate.service_by_name[MODEL], "dublin", "accelerators")  # type: ignore[arg-type]
    assert step.run == ("ninelives accelerators check --site dublin --host gpu-dublin",)
