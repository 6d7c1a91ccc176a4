"""The stand-in for NVIDIA's library: built once per session, loaded below the real pynvml."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """``libnvidia-ml.so.1`` in ``folder``; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, so no stand-in for libnvidia-ml.so.1")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return library
