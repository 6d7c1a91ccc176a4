"""Which part of the vault is read tonight, so that every byte is read again within the declared time.

The vault's packs fall into groups. A group is due when it would be overdue at the night after the next one: so a night
may be missed and no promise is broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

MAX_GROUPS = 256
"""More than the engine tells apart."""
_SPARE = 2
"""Nights before a group would be overdue at which it is read."""
_LATE = 0.25
"""Of a night, by which a run may begin later than the one before."""


def groups(within: timedelta, every: timedelta) -> int:
    """How many groups: as many as there are nights in ``within``, less those to spare."""
    nights = math.floor(within / every)
    return min(MAX_GROUPS, max(1, nights - _SPARE))


def due(
    read_at: Mapping[int, datetime], of: int, within: timedelta, every: timedelta, since: datetime, now: datetime
) -> list[int]:
    """The groups to read now: all that are due, and always the one that was read longest ago.

    :param read_at: group (from 1) to when it was last read whole
    :param since: when the vault got its first backup: nothing in it is older
    """
    last = {group: max(read_at.get(group, since), since) for group in range(1, of + 1)}
    oldest = min(last, key=lambda group: (last[group], group))
    return [group for group in last if group == oldest or last[group] + within <= now + (_SPARE + _LATE) * every]


def overdue(
    read_at: Mapping[int, datetime], of: int, within: timedelta, since: datetime, now: datetime
) -> dict[int, timedelta]:
    """The groups that have not been read within the declared time, with how long that is."""
    ages = {group: now - max(read_at.get(group, since), since) for group in range(1, of + 1)}
    return {group: age for group, age in ages.items() if age > within}
