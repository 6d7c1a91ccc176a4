"""What a look leaves in the ledger, and for how long and for what it counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.models import estate_of_two_sites
from support.nvml_stub import StubbedMachine, build, with_accelerators
from typer.testing import CliRunner

from ninelives.accelerators.evidence import KIND, MAX_AGE, declared_host, reasons_of, standing, validate
from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.cli import app
from ninelives.errors import Refused
from ninelives.estate.accelerators import Host
from ninelives.estate.check import check_references


class World:
    def __init__(self, machine: StubbedMachine, folder: Path) -> None:
        url = f"sqlite:///{folder / 'ledger.db'}"
        migrate(url)
        self.machine, self._ledger = machine, SqlLedger(url)
        self.estate = with_accelerators(estate_of_two_sites())

    def ledger(self) -> SqlLedger:
        return self._ledger

    def accelerators(self, site: str, host: Host) -> Any:
        return self.machine.probe(host.policy.kind)

    def look(self, *faults: str, site: str = "paris") -> Any:
        self.machine.play(*faults)
        return validate(self, site, f"gpu-{site}", run="run-1")  # type: ignore[arg-type]

    def reasons(self, site: str = "paris", *, later: timedelta = timedelta(0)) -> tuple[str, ...]:
        return standing(self.estate, self._ledger, site, "alpha", datetime.now(UTC) + later).reasons


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def world(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(StubbedMachine(library, tmp_path, monkeypatch), tmp_path)


def test_a_sound_machine_counts_for_an_hour_and_not_for_longer(world: World) -> None:
    assert any("nobody has looked" in one for one in world.reasons())
    record = world.look()
    assert (record.kind, record.subject, reasons_of(record)) == (KIND, "paris/gpu-paris", [])
    assert world.reasons() == ()
    assert world.reasons(later=MAX_AGE - timedelta(seconds=5)) == ()
    assert any("nobody has looked" in one for one in world.reasons(later=MAX_AGE + timedelta(seconds=1)))
    assert standing(world.estate, world.ledger(), "paris", "alpha").free == 79 << 30


def test_the_newest_look_at_a_machine_decides_whatever_was_found_before(world: World) -> None:
    world.look()
    bad = world.look("recovery=1")
    assert any("recovery_action" in one for one in reasons_of(bad))
    found = standing(world.estate, world.ledger(), "paris", "alpha")
    assert found.faults, "it was read from the device"
    assert found.faults == found.reasons
    world.look()
    assert world.reasons() == ()


def test_what_could_not_be_read_blocks_and_is_no_fault_of_the_device(world: World) -> None:
    world.look("err.nvmlDeviceGetEccMode=3")
    found = standing(world.estate, world.ledger(), "paris", "alpha")
    assert found.reasons
    assert not found.faults


def test_every_machine_of_a_site_must_have_said_yes(world: World) -> None:
    two = [{"name": "paris", "accelerators": [{"name": "gpu-paris"}, {"name": "gpu-two"}]}, {"name": "dublin"}]
    world.estate = with_accelerators(estate_of_two_sites(), sites=two)
    world.look()
    assert len(world.reasons()) == 1
    assert world.reasons()[0].startswith("paris/gpu-two: nobody has looked")
    validate(world, "paris", "gpu-two")  # type: ignore[arg-type]
    assert "as more than one machine" in world.reasons()[0], "the two queues have led to the same device"
    assert "declares no machine" in world.reasons("dublin")[0]


def test_a_model_that_does_not_fit_or_whose_need_nobody_knows_is_refused_with_the_arithmetic(world: World) -> None:
    big = {"parameters": 80_000_000_000}
    world.estate = with_accelerators(estate_of_two_sites(), need=big)
    assert any("80000000000 x 2 B" in one for one in reasons_of(world.look()))
    assert any("memory" in one for one in world.reasons())
    world.estate = with_accelerators(estate_of_two_sites(), need=None)
    assert any("models[].need" in one for one in reasons_of(world.look()))
    assert any("models[].need" in one for one in world.reasons())


def test_a_need_or_a_policy_that_was_changed_asks_for_another_look(world: World) -> None:
    world.look()
    world.estate = with_accelerators(estate_of_two_sites(), need={"parameters": 9_000_000_000})
    assert any("without what alpha needs now" in one for one in world.reasons())
    stricter = [{"name": "paris", "accelerators": [{"name": "gpu-paris", "policy": {"xids": {"43": "block"}}}]}]
    world.estate = with_accelerators(estate_of_two_sites(), sites=[*stricter, {"name": "dublin"}])
    assert any("another policy" in one for one in world.reasons())
    world.look()
    assert world.reasons() == (), "an XID's number is the same after the ledger"


def test_what_was_found_of_a_processor_never_counts_for_an_accelerator(world: World) -> None:
    policy = world.estate.sites[0].accelerators[0].policy.model_dump(mode="json")
    facts = {"kind": "cpu", "allowed": True, "reasons": [], "policy": policy, "models": {}}
    world.ledger().append(KIND, "paris/gpu-paris", facts)
    assert world.reasons() == ("paris/gpu-paris: was looked at as a machine without accelerators",)


def test_a_library_that_is_not_there_blocks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert any(one.startswith("skip library") for one in reasons_of(world.look()))
    assert any("skip library" in one for one in world.reasons())


def test_an_estate_that_makes_no_sense_of_its_machines_is_refused() -> None:
    same = [{"name": site, "accelerators": [{"name": "gpu"}]} for site in ("paris", "dublin")]
    problems = dict(check_references(with_accelerators(estate_of_two_sites(), sites=same)))
    assert "sites[0].accelerators[0] already" in problems["sites[1].accelerators[0].name"]
    none = [{"name": "paris", "accelerators": [{"name": "gpu", "policy": {"kind": "cpu"}}]}, {"name": "dublin"}]
    with pytest.raises(ValueError, match="leave it out"):
        with_accelerators(estate_of_two_sites(), sites=none)
    with pytest.raises(Refused, match=r"no machine gpu-9 .*gpu-paris"):
        declared_host(with_accelerators(estate_of_two_sites()), "paris", "gpu-9")


def test_the_command_leaves_the_same_evidence_and_says_no_with_three(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_home(home: Any) -> World:
        return world

    monkeypatch.setattr(ConnectedEstate, "of_home", of_home)
    ask = ["accelerators", "check", "--site", "paris", "--json"]
    run: Callable[[list[str]], Any] = lambda more: CliRunner().invoke(app, [*ask, *more])  # noqa: E731
    assert run(["--host", "gpu-nine"]).exit_code == 2
    assert run(["--host", "gpu-paris", "--need", str(tmp_path / "x")]).exit_code == 2
    done = run(["--host", "gpu-paris"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["evidence"] == 1
    assert world.reasons() == ()
    world.machine.play("lost=1")
    assert run(["--host", "gpu-paris"]).exit_code == 3
    assert world.reasons()
