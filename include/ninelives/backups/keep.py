"""The keeper's part: what retention no longer wants leaves the vault, by the one key that may remove."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninelives.backups.retention import removable
from ninelives.backups.run import SOUND, estate_tag, policy
from ninelives.errors import NinelivesError
from ninelives.estate import Estate
from ninelives.ports import VaultKeeper

log = logging.getLogger(__name__)
_RETRY = 600.0
"""Seconds after which what did not work is tried again."""


def retain(
    estate: Estate, keeper: VaultKeeper, now: datetime, journal: Path, *, dry_run: bool = False
) -> dict[str, Any]:
    """Remove what the declared rule does not want, and write down what was removed before doing so.

    Only backups of this estate are looked at. Repeating a killed call finishes it.

    :param journal: one JSON document a line, at the vault
    :raises Refused: a backup arrived in the future: a clock is wrong
    """
    rule, tag = policy(estate).retention, estate_tag(estate)
    arrived = keeper.arrivals()
    ours = {one.id: one for one in keeper.snapshots() if tag in one.tags and one.id in arrived}
    sound = {name for name, one in ours.items() if SOUND in one.tags}
    goes = removable({name: arrived[name] for name in ours}, rule, now, sound)
    document = {"at": now.isoformat(), "kept": len(ours) - len(goes), "removed": goes}
    if not dry_run:
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
        keeper.remove(goes)
    return document


def keep(connect: Callable[[], tuple[Estate, VaultKeeper]], journal: Path, every: timedelta) -> None:
    """Apply the retention as often as that, reckoned from the last time in ``journal``, until the process is ended."""
    while True:
        time.sleep(max(0.0, (_last(journal, datetime.now(UTC) - every) + every - datetime.now(UTC)).total_seconds()))
        try:
            done = retain(*connect(), datetime.now(UTC), journal)
            log.info("kept %d backups, removed %d", done["kept"], len(done["removed"]))
        except NinelivesError as error:
            log.error("nothing was removed: %s", error)
            time.sleep(_RETRY)


def _last(journal: Path, otherwise: datetime) -> datetime:
    """When the retention was last applied."""
    try:
        lines = journal.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return otherwise
    return datetime.fromisoformat(json.loads(lines[-1])["at"]) if lines else otherwise
