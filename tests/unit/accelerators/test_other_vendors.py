"""AMD and Gaudi where nothing of theirs is: a clear answer, never a pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ninelives.accelerators.check import check_accelerators
from ninelives.accelerators.findings import State
from ninelives.adapters.nvml import probe_of
from ninelives.errors import Refused
from ninelives.estate.accelerators import Need, Policy

PACKAGES = {"amd": "amdsmi==7.0.2", "gaudi": "habana-pyhlml==1.24.2.481"}


@pytest.mark.parametrize("kind", PACKAGES)
def test_without_the_vendors_package_nobody_looked_and_that_blocks(kind: str) -> None:
    report = check_accelerators(probe_of(kind), policy=Policy(kind=kind))
    assert (report.kind, report.allowed, report.findings[0].state) == (kind, False, State.SKIP)
    assert "not installed" in report.reasons[0]


def plug_in(folder: Path, name: str, code: str) -> None:
    """A package of somebody's own, as pip leaves it, with a probe of the kind ``name``."""
    (folder / f"probe_{name}.py").write_text(code)
    about = folder / f"probe_{name}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: probe-{name}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[ninelives.accelerators]\n{name} = probe_{name}:Probe\n")


PROBE = """
from ninelives.ports import Device, Look

class Probe:
    kind = "abacus"

    def look(self):
        return Look((Device("bead-1", "Abacus", {"free": 2**34}),), {"driver": "9.1"})
"""


def test_a_package_of_ones_own_adds_a_kind_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plug_in(tmp_path, "abacus", PROBE)
    plug_in(tmp_path, "broken", "raise OSError('no such device')")
    report = check_accelerators(probe_of("abacus"), Need(parameters=10**9), Policy(kind="abacus"))
    states = {one.check: one.state for one in report.findings}
    assert (report.kind, states["memory"], states["driver"]) == ("abacus", State.PASS, State.PASS)
    assert (states["remap"], report.allowed) == (State.UNKNOWN, False), "what it does not read"
    with pytest.raises(Refused, match=r"broken \(probe_broken:Probe\) cannot be used: .*no such device"):
        probe_of("broken")
    with pytest.raises(Refused, match="there are: abacus, broken"):
        probe_of("abbacus")


@pytest.mark.soak
@pytest.mark.parametrize("kind", PACKAGES)
def test_the_vendors_own_package_without_its_library_blocks_and_keeps_the_output_whole(
    kind: str, tmp_path: Path
) -> None:
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), PACKAGES[kind]]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"{PACKAGES[kind]} cannot be fetched: {done.stderr}")
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"kind: {kind}\n")
    done = subprocess.run(
        [sys.executable, "-m", "ninelives", "accelerators", "check", "--policy", str(policy), "--json"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["state"] in ("skip", "block")
    assert "lib" in finding["value"]
