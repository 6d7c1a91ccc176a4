"""The estate built a second time beside the running one, by the command that a person would run after a real loss."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from ninelives.adapters.children import die_with_parent
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.ports import Connections

LEFT_OUT = "airflow,feeder,keeper,mlflow,prober,vault"
"""Of the rebuilt estate: what no user's answer depends on, and what would write to the world outside."""
_GENTLE = 10
"""Niceness: users of the running estate come first, and the time that it takes is measured on the safe side."""
_PORTS = 60
"""Ports in a row that an estate of ten sites may use."""


class ChildRebuilder:
    """``ports.Rebuilder``: ``ninelives backup rebuild`` in a process that knows the vault's connection and no more."""

    def __init__(self, connections: Connections, home: Home, estate: str) -> None:
        self._connections = connections
        self._home = home
        self._estate = estate

    def rebuild(self, injection: str, snapshot: str, patience: timedelta) -> Mapping[str, Any]:
        folder = rebuilt_folder(self._home, injection)
        if not folder.is_dir():
            raise Refused("rebuild", [f"{folder} is not there: the drill was undone"])
        vault = folder / "vault.json"
        write_atomically(vault, json.dumps({"ninelives_vault": self._vault()}).encode(), mode=0o600)
        words = ["backup", "rebuild", snapshot, "--estate", self._estate, "--vault", str(vault), "--json"]
        child = subprocess.Popen(
            ["nice", "-n", str(_GENTLE), sys.executable, "-m", "ninelives", *words, "--without", LEFT_OUT],
            env=_environment(folder) | {"NINELIVES_PORT_BASE": str(_free_base())},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent(),
        )
        try:
            said, wrong = child.communicate(timeout=patience.total_seconds())
        except subprocess.TimeoutExpired:
            child.terminate()  # it takes what it started with it
            child.communicate()
            raise Unavailable(f"the estate was not rebuilt within {patience.total_seconds():.0f} s") from None
        if child.returncode:
            raise Corrupted(f"the estate cannot be rebuilt from backup {snapshot[:12]}: {wrong.strip()[-1000:]}")
        found: Mapping[str, Any] = json.loads(said)
        return found

    def _vault(self) -> dict[str, Any]:
        one = self._connections.get("ninelives_vault")
        return {
            "conn_type": "http", "host": one.host, "port": one.port, "login": one.login, "password": one.password,
            "extra": dict(one.extra),
        }  # fmt: skip


def rebuilt_folder(home: Home, injection: str) -> Path:
    return home.root / "rebuilt" / injection


def take_away(home: Home, injection: str) -> None:
    """End all that runs there and remove the folder; what is not there any more is no error."""
    folder = rebuilt_folder(home, injection)
    if not folder.exists():
        return
    done = subprocess.run(
        [sys.executable, "-m", "ninelives.stack.rebuild", str(folder / "home")],
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"what was rebuilt in {folder} cannot be taken away: {done.stderr.strip()[-500:]}")
    shutil.rmtree(folder)


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the running estate's."""
    home = folder / "home"
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    library = str(Path(__file__).parents[2])
    return kept | {
        "HOME": str(folder),
        "NINELIVES_HOME": str(home),
        "NINELIVES_STACK": str(home),
        "PYTHONPATH": library,
    }


def _free_base() -> int:
    """Where nobody listens, below the range that the kernel hands out; a port that is taken meanwhile is refused."""
    for base in random.sample(range(20000, 32000, _PORTS), 50):
        try:
            with ExitStack() as held:
                for port in range(base, base + _PORTS):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise Unavailable("no free ports for a second estate")
