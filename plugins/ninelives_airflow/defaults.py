"""What all DAGs share: default arguments, tags, assets and the schedules that the estate declares."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from ninelives.errors import NinelivesError
from ninelives.estate import Estate, load_estate
from ninelives.home import Home

DEFAULT_ARGS = {
    "owner": "ninelives",
    "retries": 2,
    "retry_delay": timedelta(seconds=5),
    "execution_timeout": timedelta(minutes=15),
}


class Tag(StrEnum):
    """The closed list of tags."""

    RECOVERY = "recovery"
    DRILL = "drill"
    DATA = "data"
    RELEASE = "release"


def declared() -> Estate | None:
    """The estate, or ``None`` where it is missing or wrong: parsing must go on, every task then says what is wrong."""
    try:
        return load_estate(Home.from_environment().estate_file)
    except NinelivesError:
        return None


def drill_schedule() -> str | None:
    """When the estate wants drills (cron, UTC); ``None``: by hand only."""
    estate = declared()
    return estate.drills.schedule if estate else None


def replication_schedule() -> timedelta | None:
    """A third of the shortest RPO: two runs may fail before a promise is broken."""
    estate = declared()
    return min((dataset.rpo for dataset in estate.datasets), default=None) / 3 if estate and estate.datasets else None
