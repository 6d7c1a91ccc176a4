"""Which backups stay. Decided by when each arrived at the vault, by the vault's own clock.

What its maker's clock says decides nothing: who may add backups could otherwise add some that push the good ones out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from ninelives.errors import Refused
from ninelives.estate.model import Retention

AHEAD = timedelta(hours=1)
"""How far a clock may be ahead before nothing is removed any more, and a backup no longer counts as the newest."""
_PERIODS: tuple[tuple[str, Callable[[datetime], object]], ...] = (
    ("daily", lambda at: at.date()),
    ("weekly", lambda at: at.isocalendar()[:2]),
    ("monthly", lambda at: (at.year, at.month)),
)


def kept(
    arrived: Mapping[str, datetime], rule: Retention, now: datetime, sound: Collection[str] | None = None
) -> set[str]:
    """Those that some part of the rule wants: every one of the last ``every``, and the last of each day, week and month
    as long as the rule says.

    The newest always stays, and of those that were sound when they were made the newest too.

    :param sound: backups without a finding; ``None``: all
    """
    stays = {name for name, at in arrived.items() if now - at <= rule.every}
    for part, period in _PERIODS:
        last: dict[object, str] = {}
        for name in sorted(arrived, key=lambda one: (arrived[one], one)):
            last[period(arrived[name].astimezone(UTC))] = name
        stays |= {name for name in last.values() if now - arrived[name] <= getattr(rule, part)}
    for candidates in (arrived, [name for name in arrived if sound is None or name in sound]):
        if candidates:
            stays.add(max(candidates, key=lambda one: (arrived[one], one)))
    return stays


def removable(
    arrived: Mapping[str, datetime], rule: Retention, now: datetime, sound: Collection[str] | None = None
) -> list[str]:
    """The others, oldest first.

    :raises Refused: a backup arrived in the future: one of the clocks is wrong, and with it every age
    """
    if ahead := [name for name, at in arrived.items() if at - now > AHEAD]:
        latest = max(arrived[name] for name in ahead)
        raise Refused(
            "retention", [f"backup {ahead[0][:12]} arrived at {latest:%Y-%m-%d %H:%M}, which is in the future"]
        )
    stays = kept(arrived, rule, now, sound)
    return sorted(arrived.keys() - stays, key=lambda one: (arrived[one], one))
