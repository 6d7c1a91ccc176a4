"""The real pynvml over a stand-in for NVIDIA's library: every fault that it can name, and every silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nvml_stub import StubbedMachine, build
from typer.testing import CliRunner

from ninelives.accelerators.check import check_accelerators
from ninelives.accelerators.findings import Finding, Report, State
from ninelives.accelerators.policy import gate_of, read_file, xid_table
from ninelives.adapters.nvml import Nvml, read_log
from ninelives.cli import app
from ninelives.errors import EstateError
from ninelives.estate.accelerators import Cache, Need, Policy, XidGate
from ninelives.ports import Device, Look, Unread

Check = Callable[..., Report]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def check(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Looks at a device that has the faults given, through the real pynvml."""
    machine = StubbedMachine(library, tmp_path, monkeypatch)

    def look(*faults: str, need: Need | None = None, policy: Policy | None = None, logged: str = "") -> Report:
        machine.play(*faults)
        with machine.log.open("a") as file:
            file.write(logged)
        return check_accelerators(machine.probe(), need, policy)

    return look


def states(report: Report) -> dict[str, State]:
    return {one.check: one.state for one in report.findings}


def test_a_sound_device_may_serve(check: Check) -> None:
    report = check()
    assert report.allowed, report.reasons
    assert set(states(report).values()) == {State.PASS}


@pytest.mark.parametrize(
    ("faults", "name"),
    [
        (["recovery=1"], "recovery_action"),
        (["ecc=0"], "ecc_mode"),
        (["ecc_pending=0"], "ecc_mode"),
        (["ecc_volatile=3"], "uncorrectable"),
        (["remap_pending=1"], "remap"),
        (["remap_failed=1"], "remap"),
        (["sram=1"], "sram"),
        (["retired=1"], "retired_pages"),
        (["temperature=90"], "temperature"),
        (["pcie=8"], "pcie_width"),
        (["nvlinks_down=1"], "nvlink"),
        (["repair_channel=1"], "repair"),
        (["repair_tpc=1"], "repair"),
        (["fabric=1"], "fabric"),
        (["fabric=2"], "fabric"),
        (["fabric_status=999"], "fabric"),
        (["mig=1"], "mig"),
        (["err.nvmlDeviceValidateInforom=14"], "inforom"),
        (["xids=79"], "xid_events"),
        (["xids=13,94"], "xid_events"),
        (["xids=999"], "xid_events"),
        (["count=0"], "inventory"),
    ],
)
def test_a_fault_blocks_and_is_named(check: Check, faults: list[str], name: str) -> None:
    report = check(*faults)
    assert not report.allowed
    assert all(f" {name}" in reason for reason in report.reasons), report.reasons


@pytest.mark.parametrize(
    ("faults", "name"),
    [
        (["ecc_aggregate=5"], "uncorrectable_ever"),
        (["banks_none=1"], "remap_banks"),
        (["throttle=8"], "throttling"),
        (["throttle=4"], "throttling"),
        (["temperature=87"], "temperature"),
        (["pid=4711"], "tenants"),
        (["power=400000"], "power"),
        (["xids=13"], "xid_events"),
    ],
)
def test_what_is_worth_a_warning_does_not_block(check: Check, faults: list[str], name: str) -> None:
    report = check(*faults)
    assert report.allowed, report.reasons
    assert states(report)[name] is State.WARN


def test_throttling_under_load_blocks(check: Check) -> None:
    assert not check("throttle=64", policy=Policy(under_load=True)).allowed


def test_a_slow_link_is_an_idle_one_unless_the_device_is_under_load(check: Check) -> None:
    assert check("pcie_generation=1").allowed
    report = check("pcie_generation=1", policy=Policy(under_load=True))
    assert [one.check for one in report.findings if one.state is State.BLOCK] == ["pcie_generation"]


def test_a_device_without_a_fabric_is_unknown_there_and_serves(check: Check) -> None:
    report = check("fabric=0")
    assert states(report)["fabric"] is State.UNKNOWN
    assert report.allowed


def test_a_tenant_who_is_expected_is_no_finding(check: Check) -> None:
    assert states(check("pid=4711", policy=Policy(tenants=(4711,))))["tenants"] is State.PASS


@pytest.mark.parametrize("code", [3, 13, 4, 999])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("nvmlDeviceGetRemappedRows", "remap"),
        ("nvmlDeviceGetEccMode", "ecc_mode"),
        ("nvmlDeviceGetTotalEccErrors", "uncorrectable"),
        ("nvmlDeviceRegisterEvents", "xid_events"),
        ("nvmlDeviceGetTemperatureThreshold", "temperature"),
        ("nvmlSystemGetDriverVersion", "driver"),
        ("field", "recovery_action"),
    ],
)
def test_a_question_that_has_no_answer_is_unknown_and_blocks_unless_the_policy_lets_it(
    check: Check, function: str, name: str, code: int
) -> None:
    fault = f"err.{function}={code}"
    report = check(fault)
    assert states(report)[name] is State.UNKNOWN
    assert not report.allowed
    assert check(fault, policy=Policy(optional=(name, "uncorrectable_ever"))).allowed


@pytest.mark.parametrize("code", [9, 15, 18])
def test_a_driver_that_does_not_start_blocks(check: Check, code: int) -> None:
    report = check(f"err.nvmlInitWithFlags={code}")
    assert states(report) == {"driver": State.BLOCK}
    assert not report.allowed


def test_a_device_that_fell_off_the_bus_blocks_even_where_unknown_is_let_pass(check: Check) -> None:
    report = check("lost=1", policy=Policy(optional=tuple(states(check()))))
    assert not report.allowed
    assert states(report)["remap"] is State.BLOCK


@pytest.mark.parametrize("code", [9, 15, 16, 18])
def test_a_driver_or_a_device_that_goes_away_in_the_middle_is_no_unsupported_question(check: Check, code: int) -> None:
    report = check(f"err.nvmlDeviceGetRetiredPagesPendingStatus={code}")
    assert states(report)["retired_pages"] is State.BLOCK, "which may stay unknown"
    assert not report.allowed


def test_a_device_that_is_not_the_expected_one_blocks(check: Check) -> None:
    assert check(policy=Policy(devices=("GPU-stub-0",))).allowed
    assert not check(policy=Policy(devices=("GPU-other",))).allowed
    assert not check("count=2", policy=Policy(devices=("GPU-stub-0",))).allowed


def test_an_xid_in_the_kernels_log_blocks_though_nvml_never_reported_it(check: Check) -> None:
    report = check(logged="NVRM: Xid (PCI:0000:17:00): 79, pid=1, GPU has fallen off the bus.\n")
    assert states(report)["xid_log"] is State.BLOCK
    assert states(report)["xid_events"] is State.PASS


def test_what_two_processes_brought_about_on_one_device_is_the_devices_own(check: Check) -> None:
    line = "NVRM: Xid (PCI:0000:{bus}:00): 31, pid={pid}, name=python, MMU Fault\n"
    assert check(logged=line.format(bus=17, pid=1) * 2 + line.format(bus=18, pid=2)).allowed
    again = check(logged=line.format(bus=17, pid=3))
    assert ["XID 31 of 2 processes" in one for one in again.reasons] == [True]
    assert check(policy=Policy(xids={31: XidGate.WARN})).allowed, "the policy's own word on it"


def test_the_policy_overrules_the_table_of_xids(check: Check) -> None:
    assert check("xids=79", policy=Policy(xids={79: XidGate.WARN})).allowed
    assert not check("xids=13", policy=Policy(xids={13: XidGate.BLOCK})).allowed


def test_a_log_that_is_missing_or_empty_or_a_sandboxs_own_says_nothing(tmp_path: Path) -> None:
    assert isinstance(read_log(tmp_path / "none"), Unread)
    (tmp_path / "empty").touch()
    assert isinstance(read_log(tmp_path / "empty"), Unread)
    (tmp_path / "sandbox").write_text("6,1,0,-;Starting the sandbox\n6,2,90,-;Ready\n")
    assert isinstance(read_log(tmp_path / "sandbox"), Unread)


def test_every_gate_of_the_table_is_one_that_we_know() -> None:
    assert {XidGate(one["gate"]) for one in xid_table()["xids"].values()} == set(XidGate)
    assert gate_of(Policy(), 4242) is XidGate.CORRELATE


def test_memory_is_compared_with_all_that_the_model_needs_and_the_arithmetic_is_shown(check: Check) -> None:
    cache = Cache(layers=32, heads=8, head_dim=128, tokens=8192, batch=16)
    need = Need(parameters=8_000_000_000, cache=cache, compute_capability=(9, 0), cuda=13)
    assert need.kept == 2 * 32 * 8 * 128 * 2 * 8192 * 16
    report = check(need=need)
    assert report.allowed, report.reasons
    limit = next(one.limit for one in report.findings if one.check == "memory")
    assert "cache 2 x 32 x 8 x 128 x 2 x 8192 x 16 B = 16.00 GiB" in limit
    assert not check("free_gib=30", need=need).allowed
    assert not check(need=need.model_copy(update={"compute_capability": (10, 0)})).allowed


def test_the_driver_must_be_able_to_run_the_cuda_that_is_needed(check: Check) -> None:
    def driver(*faults: str, cuda: int) -> Finding:
        report = check(*faults, need=Need(parameters=8, cuda=cuda))
        return next(one for one in report.findings if one.check == "driver")

    assert driver(cuda=13).state is State.PASS
    assert driver("driver=570.1", cuda=13).state is State.BLOCK, "by NVIDIA's table"
    assert driver("cuda=12080", cuda=13).state is State.BLOCK, "by what the driver itself says"
    assert driver("driver=700.1", "cuda=14000", cuda=14).state is State.PASS, "newer than the table"
    assert driver(cuda=99).state is State.BLOCK
    assert driver("err.nvmlSystemGetCudaDriverVersion=3", cuda=13).state is State.UNKNOWN


def test_where_mig_divides_a_device_the_smallest_slice_must_hold_the_model(check: Check) -> None:
    policy, need = Policy(mig=True), Need(parameters=8_000_000_000)
    divided = ("mig=1", "mig_pending=1", "slices=3", "slice_gib=20")
    assert check(*divided, "other_slices_gib=20", need=need, policy=policy).allowed
    small = check(*divided, "other_slices_gib=9", need=need, policy=policy)
    assert ["9.00 GiB free" in one for one in small.reasons] == [True]
    none = check("mig=1", "mig_pending=1", "slices=0", need=need, policy=policy)
    assert ["no slice" in one for one in none.reasons] == [True]


class Machine:
    kind = "other"

    def __init__(self, look: Look) -> None:
        self.found = look

    def look(self) -> Look:
        return self.found


def test_a_probe_that_reads_nothing_is_unknown_throughout_and_may_not_serve() -> None:
    report = check_accelerators(Machine(Look((Device("one", "one", {}),))))
    assert not report.allowed
    assert {state for name, state in states(report).items() if name != "inventory"} == {State.UNKNOWN}


@given(st.lists(st.sampled_from(State), max_size=6), st.booleans())
def test_only_findings_without_block_unknown_and_skip_may_serve(found: list[State], cpu: bool) -> None:
    report = Report("nvidia", tuple(Finding("x", one, "", "", "") for one in found), cpu=cpu)
    bad = {State.BLOCK, State.UNKNOWN} | (set() if cpu else {State.SKIP})
    assert report.allowed == (bool(found) and not bad & set(found))


def test_without_the_library_nothing_was_looked_at_which_blocks_unless_the_policy_says_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pynvml

    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    report = check_accelerators(Nvml(tmp_path))
    assert states(report) == {"library": State.SKIP}
    assert not report.allowed
    assert check_accelerators(Nvml(tmp_path), policy=Policy(kind="cpu")).allowed


def test_the_command_finds_the_library_by_itself_and_says_no_with_three(library: Path, tmp_path: Path) -> None:
    (tmp_path / "faults").write_text("remap_pending=1\n")
    done = subprocess.run(
        [sys.executable, "-m", "ninelives", "accelerators", "check", "--json"],
        env={**os.environ, "LD_LIBRARY_PATH": str(library.parent), "NVML_STUB": str(tmp_path / "faults")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert any("remap" in reason for reason in json.loads(done.stdout)["reasons"])


def test_a_file_that_is_wrong_is_wrong_usage_and_says_where(tmp_path: Path) -> None:
    file = tmp_path / "need.yaml"
    file.write_text("parameters: -1\nwieghts: 3\n")
    with pytest.raises(EstateError, match=r"(?s)parameters.*wieghts"):
        read_file(Need, file)
    assert CliRunner().invoke(app, ["accelerators", "check", "--need", str(file)]).exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "parameters"),
        ("- 1\n", "dictionary"),
        ("parameters: true\n", "parameters"),
        ("parameters: 8\nparameters: 9\n", "repeated"),
        (f"parameters: 1{'0' * 400}\n", "parameters"),
        (f"parameters: 1{'0' * 5000}\n", "cannot be read"),
        ("parameters: 8\nbytes: .inf\n", "bytes"),
        ("parameters: 8\nbytes: .nan\n", "bytes"),
        ("parameters: 8\ncompute_capability: [-9, 0]\n", "compute_capability"),
        ("[" * 5000, "cannot be read"),
        ("a\0b", "cannot be read"),
        ("? [parameters]\n: 8\n", "a key must be text"),
    ],
)
def test_a_need_that_makes_no_sense_is_refused_with_its_place_and_never_a_traceback(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "need.yaml").write_text(text)
    done = CliRunner().invoke(app, ["accelerators", "check", "--need", str(tmp_path / "need.yaml")])
    assert done.exit_code == 2
    assert said in done.output


def test_a_policy_names_a_kind_that_something_here_can_look_at(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("kind: abacus\n")
    done = CliRunner().invoke(app, ["accelerators", "check", "--policy", str(file)])
    assert done.exit_code == 2
    assert "nvidia, amd, gaudi, cpu" in " ".join(done.output.split())
    file.write_text("kind: cpu\n")
    assert CliRunner().invoke(app, ["accelerators", "check", "--policy", str(file), "--json"]).exit_code == 0
