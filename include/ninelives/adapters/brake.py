"""``python -m ninelives.adapters.brake INJECTION``: stop and continue a program by turns, so that it becomes slow.

It ends by itself when the injection is being undone or its time is over, and continues the program whenever it ends. If
it is killed with the program stopped, the program stays stopped until the fault is undone: by the drill, or by the
keeper. It stops the program only while it holds the journal's lock and the journal says that the fault is wanted, so
whoever has begun to undo can be sure that nobody stops it again.
"""

from __future__ import annotations

import fcntl
import sys
import time
from datetime import UTC, datetime
from types import FrameType

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.faults import brake_file
from ninelives.adapters.supervisor import Supervisor
from ninelives.home import Home
from ninelives.injections import Injection, Slowed, find_injection, journal_lock


def main(injection_id: str) -> None:
    """Brake until it is no longer wanted; return at once where another one does."""
    home = Home.from_environment()
    with brake_file(home, injection_id).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        found = find_injection(home, injection_id)
        for fault in found.faults if found else ():
            if isinstance(fault, Slowed):
                _brake(home, fault)
        brake_file(home, injection_id).unlink(missing_ok=True)


def _brake(home: Home, fault: Slowed) -> None:
    control = FileConnections(home.connections_file).get(
        f"ninelives_{fault.site}_control" if fault.site else "ninelives_control"
    )
    supervisor = Supervisor(control.extra["server"], control.login, control.password)
    group = next(info.group for info in supervisor.processes() if info.name == fault.program)
    try:
        while True:
            with journal_lock(home):
                if not _wanted(find_injection(home, fault.injection)):
                    return
                supervisor.signal(group, fault.program, "STOP")
            time.sleep(fault.stopped_ms / 1000)
            supervisor.signal(group, fault.program, "CONT")
            time.sleep(fault.running_ms / 1000)
    finally:
        supervisor.signal(group, fault.program, "CONT")


def _wanted(injection: Injection | None) -> bool:
    return injection is not None and not injection.over and datetime.now(UTC) < injection.expires_at


if __name__ == "__main__":
    import signal

    def _end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)  # through the finally: the program is continued

    signal.signal(signal.SIGTERM, _end)
    main(sys.argv[1])
