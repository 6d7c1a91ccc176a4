"""The stand-in for NVIDIA's library has the prototypes, structs and numbers of NVIDIA's own header, which a package on
PyPI carries alone. It is fetched, compiled against and not kept.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.nvml_stub import build

from ninelives.adapters.stand_in import SOURCE

HEADER = "nvidia-nvml-dev==13.5.37"

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("header")
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), HEADER]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{HEADER} cannot be fetched, so the stand-in was not compared with NVIDIA's header: {done.stderr}")
    return next(folder.rglob("nvml.h")).parent


def complaints(include: Path, source: Path) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-DNVML_HEADER", f"-I{include}", "-Werror=incompatible-pointer-types", "-fsyntax-only", source]
    return subprocess.run(command, capture_output=True, text=True).stderr


def test_every_function_of_the_stand_in_is_as_nvidia_declares_it(include: Path, tmp_path: Path) -> None:
    assert complaints(include, SOURCE) == ""
    declared = (include / "nvml.h").read_text()
    library = build(tmp_path)
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    functions = re.findall(r" T (nvml\w+)", symbols)
    assert len(functions) > 30
    assert [one for one in functions if not re.search(rf"\b{one}\b", declared)] == [], "a name that NVIDIA has not"


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("u32 *cor, u32 *unc", "u64 *cor, u32 *unc", "conflicting types for .nvmlDeviceGetRemappedRows"),
        ("nvmlDeviceGetMemoryInfo_v2(dev d, memory *m)", "nvmlDeviceGetMemoryInfo_v2(dev d, event *m)", "conflicting"),
        ("SAME(field, 40)", "SAME(field, 48)", "another size"),
    ],
)
def test_a_stand_in_that_was_changed_is_found_out(
    include: Path, tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    text = SOURCE.read_text()
    assert text.count(right) == 1
    changed = tmp_path / "changed.c"
    changed.write_text(text.replace(right, wrong))
    assert re.search(said, complaints(include, changed))
