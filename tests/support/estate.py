"""A whole local estate of a test's own, and waiting for what happens in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ninelives.adapters.connected import ConnectedEstate
from ninelives.home import Home

ROOT = Path(__file__).parents[2]
MINUTES = 60.0
PROBE_RATE = 5
"""A quarter of the usual, for the other tests' sake: at 20 a second they take a quarter of a core."""


def free_base(size: int = 30) -> int:
    """A base with ``size`` free ports after it, below the range that the kernel hands out."""
    for base in range(20000 + os.getpid() % 50 * 200, 32000, size):
        try:
            for port in range(base, base + size):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


class Estate:
    """The running demo, used as its users do: through the command line."""

    def __init__(self, home: Path, base: int) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "NINELIVES"))},
            "NINELIVES_HOME": str(home),
            "NINELIVES_PORT_BASE": str(base),
            "NINELIVES_PROBE_RATE": str(PROBE_RATE),
        }
        self.home = Home(home)

    def run(self, *arguments: str, timeout: float = 10 * MINUTES, typed: str = "") -> subprocess.CompletedProcess[str]:
        """:param typed: at the keyboard, such as a password; there is no terminal"""
        return subprocess.run(
            [sys.executable, "-m", "ninelives", *arguments], env=self.environment, cwd=ROOT, text=True,
            capture_output=True, timeout=timeout, check=False, input=typed or None, start_new_session=bool(typed),
        )  # fmt: skip

    @property
    def passwords(self) -> dict[str, str]:
        """Of the estate's people and the service account, in Airflow."""
        return json.loads((self.home.root / "secrets" / "airflow-passwords.json").read_text())

    def pid(self, program: str) -> int | None:
        (pid,) = (row["pid"] for row in self.json("stack", "status")["programs"] if row["program"] == program)
        return pid

    def kill(self, program: str) -> None:
        """Kill -9 the process that runs ``program`` now, if one does."""
        if pid := self.pid(program):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def json(self, *arguments: str, timeout: float = 10 * MINUTES) -> Any:
        done = self.run(*arguments, "--json", timeout=timeout)
        assert done.stdout, done.stderr[-3000:]
        return json.loads(done.stdout)

    @property
    def systems(self) -> ConnectedEstate:
        from ninelives.adapters.connections import FileConnections
        from ninelives.estate import load_estate

        estate = load_estate(self.home.root / "estate.yaml")
        return ConnectedEstate(estate, FileConnections(self.home.connections_file), self.home)


def await_(condition: Callable[[], Any], within: float, what: str) -> Any:
    """What ``condition`` returns once that is true; fails after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within:.0f} s"
        time.sleep(0.5)
    return found
