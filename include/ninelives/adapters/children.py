"""Programs that we run as children: none outlives us, whatever ends us."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ninelives.errors import Unavailable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> Callable[[], None] | None:
    """For ``subprocess.Popen(preexec_fn=...)``: the child is killed when the thread that starts it ends, so that thread
    must wait for it. ``None`` where the system cannot."""
    if _libc is None:
        return None
    parent = os.getpid()

    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


def find_program(name: str, advice: str) -> str:
    """The one beside this interpreter, where ``scripts/bootstrap`` and wheels put it, else the one on PATH.

    :param advice: how to install it
    :raises Unavailable: there is none
    """
    own = Path(sys.executable).with_name(name)
    found = str(own) if os.access(own, os.X_OK) else shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} was not found; {advice}")
    return found
