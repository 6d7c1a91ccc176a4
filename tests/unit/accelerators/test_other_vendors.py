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
from ninelives.estate.accelerators import Policy

PACKAGES = {"amd": "amdsmi==7.0.2", "gaudi": "habana-pyhlml==1.24.2.481"}


@pytest.mark.parametrize("kind", PACKAGES)
def test_without_the_vendors_package_nobody_looked_and_that_blocks(kind: str) -> None:
    report = check_accelerators(probe_of(kind), policy=Policy(kind=kind))
    assert (report.kind, report.allowed, report.findings[0].state) == (kind, False, State.SKIP)
    assert "not installed" in report.reasons[0]


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
