"""kill -9 before each change that a process makes of a file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

CHANGES = ("open", "os.rename", "os.remove", "os.utime", "os.mkdir", "sqlite3.connect")
"""What Python tells an audit hook before it does it."""


def killed_before_change(number: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that is killed with -9 before its change ``number``; whether it was, or ended before."""
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in CHANGES and not (event == "open" and arguments[1] in ("r", "rb")):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed without being killed"
    return False
