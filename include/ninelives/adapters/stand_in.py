"""A machine without accelerators that is looked at as if it had one, so that a fault can be played to the check.

The real pynvml asks a stand-in for NVIDIA's library (``nvml_stand_in.c``), whose answers come from a script: a text
file with one ``name=value`` a line, without which all is well. It runs in a process of its own, because a library that
was loaded once stays. It proves what is made of NVML's answers and says nothing of a device: the evidence of such a
look is of the kind ``stand-in``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ninelives.accelerators.look import from_document, to_document
from ninelives.errors import Refused
from ninelives.estate.accelerators import STAND_IN
from ninelives.ports import Connection, Look

SOURCE = Path(__file__).with_name("nvml_stand_in.c")
LIBRARY = "libnvidia-ml.so.1"
KERNEL_LOG = "NVRM: a stand-in for the log of the kernel, in which no XID ever is\n"
PATIENCE = 60
"""Seconds for one look: a busy machine needs two for a new process."""


class StandIn:
    """``ports.Accelerators``.

    :param library: built there by the C compiler of this machine when it is first needed
    :param script: what its one device has; absent: it is sound
    :param name: in the device's UUID
    """

    kind = STAND_IN

    def __init__(self, library: Path, script: Path, name: str) -> None:
        self._library, self._script, self._name = library, script, name

    @classmethod
    def of(cls, control: Connection, site: str, machine: str) -> StandIn:
        """As ``ninelives_<site>_control`` says; raises ``Refused`` where it says nothing."""
        found = control.extra.get("accelerators", {}).get(machine)
        if found is None:
            raise Refused(
                "look at accelerators",
                [f"{control.conn_id} says nothing of accelerators.{machine}: its library and script are needed there"],
            )
        return cls(Path(found["library"]), Path(found["script"]), f"{site}-{machine}")

    def look(self) -> Look:
        if not self._library.exists():
            try:
                build(self._library.parent)
            except Refused as refused:
                return Look(absent=str(refused))
        environment = {**os.environ, "NVML_STUB": str(self._script), "NVML_STUB_NAME": self._name}
        command = [sys.executable, "-m", __name__, str(self._library)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
            )
            return from_document(json.loads(done.stdout))
        except subprocess.CalledProcessError as error:
            return Look(broken=f"the stand-in: {error.stderr.strip()[-300:] or error}")
        except (subprocess.TimeoutExpired, ValueError) as error:
            return Look(broken=f"the stand-in: {error}")


def build(folder: Path) -> Path:
    """``libnvidia-ml.so.1`` in ``folder``, whole or not at all; raises ``Refused`` where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Refused("stand-in", [f"no C compiler, so no stand-in for {LIBRARY}: install gcc"])
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / LIBRARY
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        made = Path(aside) / LIBRARY
        command = [compiler, "-shared", "-fPIC", "-O1", f"-Wl,-soname,{LIBRARY}", "-o", str(made), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Refused("stand-in", [f"{SOURCE.name} cannot be compiled: {done.stderr.strip()[-300:]}"])
        made.replace(library)
    return library


def main() -> None:
    """One look, as JSON."""
    import ctypes

    import pynvml

    from ninelives.adapters.nvml import Nvml

    pynvml.nvmlLib = ctypes.CDLL(sys.argv[1])
    with tempfile.NamedTemporaryFile("w", prefix="kmsg-") as log:
        log.write(KERNEL_LOG)
        log.flush()
        print(json.dumps(to_document(Nvml(Path(log.name)).look())))


if __name__ == "__main__":
    main()
