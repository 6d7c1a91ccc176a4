"""The stand-in for NVIDIA's library: built once per session, loaded below the real pynvml."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from ninelives.adapters import stand_in
from ninelives.adapters.nvml import Nvml
from ninelives.errors import Refused
from ninelives.estate import Estate


def build(folder: Path) -> Path:
    """``libnvidia-ml.so.1`` in ``folder``; skips the test where there is no C compiler."""
    try:
        return stand_in.build(folder)
    except Refused as refused:
        pytest.skip(str(refused))


class StubbedMachine:
    """A machine with accelerators: the real pynvml, and below it the stand-in with the faults that were last played."""

    def __init__(self, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import pynvml

        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        self.script, self.log = folder / "faults", folder / "kern.log"
        monkeypatch.setenv("NVML_STUB", str(self.script))
        self.log.write_text("NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n")
        self.play()

    def play(self, *faults: str) -> None:
        """These, and no others."""
        self.script.write_text("".join(f"{one}\n" for one in faults))

    def probe(self, kind: str = "nvidia") -> Nvml:
        """As ``Systems.accelerators``, with a kernel's log of its own."""
        assert kind in ("nvidia", "stand-in")
        return Nvml(self.log)


GPU = {
    "sites": [
        {"name": "paris", "accelerators": [{"name": "gpu-paris"}]},
        {"name": "dublin", "accelerators": [{"name": "gpu-dublin"}]},
    ],
    "need": {"parameters": 8_000_000_000, "compute_capability": [9, 0], "cuda": 12},
}


def with_accelerators(estate: Estate, **changes: Any) -> Estate:
    """``estate`` with a machine at each of two sites, its first model and service needing an accelerator.

    :param changes: of ``GPU``; ``need=None``: undeclared
    """
    told = {**GPU, **changes}
    document = estate.model_dump(mode="json")
    document["sites"] = told["sites"]
    document["models"][0]["need"] = told["need"]
    for number, service in enumerate(document["services"]):
        service["release"]["hardware"] = "cpu" if number else "accelerator"
    return Estate.model_validate(document)
