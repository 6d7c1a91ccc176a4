"""Programs that we run as children: none outlives us, whatever ends us."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

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
