"""The last line of defence of a drill: a fault whose time is over is undone, whatever became of its author.

It needs nothing but the home folder and supervisord; the ledger, Airflow and every site may be gone.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from ninelives.errors import Corrupted, NinelivesError
from ninelives.home import Home
from ninelives.injections import Injection, read_injection, undo_injection
from ninelives.ports import FaultControl

log = logging.getLogger(__name__)
INTERVAL = 1.0
"""seconds between two looks"""


def read_injections(home: Home) -> tuple[list[Injection], dict[Path, str]]:
    """Open faults, and the files that cannot be understood with what is wrong: they must not hold up the others."""
    found, broken = [], {}
    for path in sorted(home.injections.glob("*.json")):
        try:
            if injection := read_injection(path):
                found.append(injection)
        except Corrupted as error:
            broken[path] = str(error)
    return found, broken


def undo_expired(home: Home, now: datetime, faults: FaultControl) -> list[Injection]:
    """Undo every fault that expired before ``now`` and archive its file; returns what was undone.

    What cannot be undone now is tried again at the next look: its file stays.
    """
    undone = []
    injections, broken = read_injections(home)
    for problem in broken.values():
        log.error("cannot tell what to undo: %s", problem)
    for injection in injections:
        if injection.expires_at > now:
            continue
        try:
            undo_injection(home, faults, injection.id, by="keeper")
        except NinelivesError as error:
            log.error("cannot undo %s yet (injection %s): %s", injection.scenario, injection.id, error)
            continue
        except Exception:  # what nobody foresaw, a full or failing disk, must not keep the others from being undone
            log.exception("cannot undo %s yet (injection %s)", injection.scenario, injection.id)
            continue
        log.warning("undid %s: injection %s expired at %s", injection.scenario, injection.id, injection.expires_at)
        undone.append(injection)
    return undone


def keep(home: Home, faults: FaultControl) -> None:
    """Look once a second, until the process is ended."""
    while True:
        undo_expired(home, datetime.now(UTC), faults)
        time.sleep(INTERVAL)
