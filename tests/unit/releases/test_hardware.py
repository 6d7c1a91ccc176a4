"""A model that needs an accelerator is promoted by what was found of every machine lately, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.nvml_stub import StubbedMachine, build, with_accelerators
from support.promotion import MODEL, Memory

from ninelives.accelerators import evidence
from ninelives.accelerators.evidence import KIND, validate
from ninelives.errors import Refused
from ninelives.estate.accelerators import Host
from ninelives.estate.model import Hardware
from ninelives.releases import promotion
from ninelives.releases.canary import Decision
from ninelives.releases.journal import of_run
from ninelives.releases.promotion import begin, check_hardware, promote, run_step, steps
from ninelives.releases.publish import BUCKET, candidate_key
from ninelives.releases.staging import stage_file


class World(Memory):
    """Two machines with accelerators; what is staged as version 2 needs one."""

    machine: StubbedMachine

    def accelerators(self, site: str, host: Host) -> Any:
        return self.machine.probe(host.policy.kind)

    def look(self, *faults: str, only: tuple[str, ...] = ("paris", "dublin")) -> None:
        """One stand-in plays both machines, so that each has a device of its own name."""
        for site in only:
            self.machine.play(*faults, f"uuid={site}")
            validate(self, site, f"gpu-{site}")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def world(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})
    world = World(tmp_path / "home")
    world.estate = with_accelerators(world.estate)
    world.machine = StubbedMachine(library, tmp_path, monkeypatch)
    restaged(world, Hardware.ACCELERATOR)
    return world


def restaged(world: World, hardware: Hardware) -> None:
    release = world.two[0].model_copy(update={"hardware": hardware})
    world.store("paris").put(BUCKET, candidate_key(MODEL, "2"), release.model_dump_json().encode())


def asked(world: World) -> dict[str, Any]:
    return check_hardware(world, begin(world, MODEL, "2", by="ada"))  # type: ignore[arg-type]


def test_every_site_must_have_been_looked_at(world: World) -> None:
    with pytest.raises(Refused, match=r"(?s)paris/gpu-paris: nobody has looked.*dublin/gpu-dublin: nobody"):
        asked(world)
    world.look(only=("paris",))
    with pytest.raises(Refused, match="dublin/gpu-dublin: nobody has looked") as refused:
        asked(world)
    assert "paris/" not in str(refused.value)
    world.look(only=("dublin",))
    assert asked(world) == {
        "hardware": "accelerator",
        "looked_at": True,
        "evidence": {"paris": {"gpu-paris": 2}, "dublin": {"gpu-dublin": 3}},
    }


def test_a_faulty_device_takes_the_promotion_back_before_any_replica_loads_the_version(world: World) -> None:
    world.look()
    world.look("remap_failed=1", only=("dublin",))
    plan = begin(world, MODEL, "2", by="ada")  # type: ignore[arg-type]
    ended = promote(world, plan, approve=lambda: None, judge=lambda *_: (Decision.PROMOTE, []))  # type: ignore[arg-type]
    assert ended.facts["outcome"] == "rolled back"
    assert "dublin/gpu-dublin: block remap" in ended.facts["why"]
    assert of_run(world.ledger(), plan).done == ("check_interface",)
    assert [replica.beside for site in ("paris", "dublin") for replica in world.replicas(site)] == [{}, {}]


def test_a_look_at_a_played_device_is_no_yes_for_a_promotion_however_sound(world: World) -> None:
    sites = [{"name": site, "accelerators": [{"name": f"gpu-{site}", "policy": {"kind": "stand-in"}}]}
             for site in ("paris", "dublin")]  # fmt: skip
    world.estate = with_accelerators(world.estate, sites=sites)
    world.look()
    with pytest.raises(Refused, match=r"(?s)paris/gpu-paris is looked at through a stand-in.*dublin/gpu-dublin is"):
        asked(world)


def test_a_sound_estate_promotes_a_model_that_needs_an_accelerator(world: World) -> None:
    world.look()
    plan = begin(world, MODEL, "2", by="ada")  # type: ignore[arg-type]
    ended = promote(world, plan, approve=lambda: None, judge=lambda *_: (Decision.PROMOTE, []))  # type: ignore[arg-type]
    assert ended.facts["outcome"] == "promoted", ended.facts["why"]


def test_a_look_that_grew_old_while_the_run_lay_cut_off_is_no_yes_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.look()
    plan = begin(world, MODEL, "2", by="ada")  # type: ignore[arg-type]
    known = steps(world, plan, approve=lambda: None)  # type: ignore[arg-type]
    for name in ("check_interface", "check_hardware", "scan_artefact", "verify_data", "approve"):
        run_step(world, plan, name, known[name])  # type: ignore[arg-type]
    monkeypatch.setattr(evidence, "MAX_AGE", evidence.MAX_AGE * 0)
    for name in ("check_hardware", "warm_up"):
        with pytest.raises(Refused, match="nobody has looked"):
            run_step(world, plan, name, known[name])  # type: ignore[arg-type]


def test_what_was_found_by_a_policy_for_processors_does_not_count(world: World) -> None:
    world.look()
    world.ledger().append(KIND, "paris/gpu-paris", {"kind": "cpu", "allowed": True, "reasons": [], "models": {}})
    with pytest.raises(Refused, match="without accelerators"):
        asked(world)


def test_a_model_whose_need_nobody_declared_is_refused(world: World) -> None:
    world.estate = with_accelerators(world.estate, need=None)
    world.look()
    with pytest.raises(Refused, match=r"models\[\]\.need"):
        asked(world)


def test_what_was_staged_for_the_processor_is_no_proof_of_an_accelerator(world: World) -> None:
    world.look()
    restaged(world, Hardware.CPU)
    with pytest.raises(Refused, match="version 2 was staged for the processor"):
        asked(world)
    staged = stage_file(world, MODEL, "3", world.two[1], data_version="none")  # type: ignore[arg-type]
    assert staged.hardware is Hardware.ACCELERATOR, "the estate says so"
