"""Processes of one local estate that supervisord does not, or no longer, know: found by facts, never by name.

A process is ours when it carries the environment marker that only the estate's supervisord sets, or when it belongs to
the session that this supervisord leads (some programs overwrite their environment to show a title).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from ninelives.files import write_atomically
from ninelives.home import Home

MARKER = "NINELIVES_STACK"
"""Its value is the estate's home folder. A user's shell never has it, unlike NINELIVES_HOME."""


def remember_session(home: Home, pid: int) -> None:
    """Record the supervisord that leads the session of all programs."""
    record = {"pid": pid, "created": psutil.Process(pid).create_time()}
    write_atomically(home.root / "run" / "session.json", json.dumps(record).encode())


def remaining(home: Home) -> list[psutil.Process]:
    """Every living process of the estate, supervisord included, apart from ourselves and those we descend from."""
    marker, session = f"{MARKER}={home.root}".encode(), _session(home)
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in mine and _alive(process) and (_session_of(process) == session or _marked(process, marker))
    ]


def end(found: list[psutil.Process], patience: float = 5.0) -> list[psutil.Process]:
    """SIGTERM, after ``patience`` seconds SIGKILL; returns those that are still there."""
    _send(found, signal.SIGTERM)
    if left := wait(found, patience):
        _send(left, signal.SIGKILL)
        return wait(left, 5.0)
    return []


def replace_predecessor(home: Home, program: str) -> None:
    """Kill what an earlier, crashed incarnation of ``program`` left running, and record ourselves as the current one.

    A scheduler that was killed leaves the workers that it forked, which would go on with tasks that the next scheduler
    starts again.
    """
    path = home.root / "run" / f"{program}.json"
    with suppress(FileNotFoundError, ValueError):
        previous = int(json.loads(path.read_text("utf-8"))["pid"])
        # Both numbers stay taken while any process uses them, so a match cannot be a stranger.
        _send(_of_family(previous), signal.SIGKILL)
    write_atomically(path, json.dumps({"pid": os.getpid()}).encode())


def _of_family(previous: int) -> list[psutil.Process]:
    """Living processes of our session in the process group that ``previous`` led, with all their descendants."""
    session = os.getsid(0)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if process.pid != os.getpid() and os.getsid(process.pid) == session and os.getpgid(process.pid) == previous:
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


def _session(home: Home) -> int | None:
    """Session id of the estate's programs; ``None`` where the number has been given to somebody else since."""
    try:
        record = json.loads((home.root / "run" / "session.json").read_text("utf-8"))
        pid, created = int(record["pid"]), float(record["created"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if created < psutil.boot_time() - 5:
        return None
    with suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(pid).create_time() - created) > 1:
            return None
    return pid


def _session_of(process: psutil.Process) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(process.pid)
    return -1


def _marked(process: psutil.Process, marker: bytes) -> bool:
    try:
        with open(f"/proc/{process.pid}/environ", "rb") as file:  # noqa: PTH123
            return marker in file.read().split(b"\0")
    except (OSError, ProcessLookupError):
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _send(found: list[psutil.Process], number: signal.Signals) -> None:
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def wait(found: list[psutil.Process], patience: float) -> list[psutil.Process]:
    return wait_while(lambda: [process for process in found if _alive(process)], patience)


def wait_while(left: Callable[[], list[psutil.Process]], patience: float) -> list[psutil.Process]:
    """Poll until nothing is left or ``patience`` seconds are over; returns what is left."""
    deadline = time.monotonic() + patience
    while (still := left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return still
