"""What all DAGs share: default arguments, tags, assets and the schedules that the estate declares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from airflow.sdk import CronTriggerTimetable

from ninelives.errors import NinelivesError
from ninelives.estate import Estate, load_estate
from ninelives.estate.model import ScenarioName
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
    ACCESS = "access"


def declared() -> Estate | None:
    """The estate, or ``None`` where it is missing or wrong: parsing must go on, every task then says what is wrong."""
    try:
        return load_estate(Home.from_environment().estate_file)
    except NinelivesError:
        return None


@dataclass(frozen=True)
class DrillDefaults:
    """When the estate wants drills (``None``: by hand only) and of which service."""

    schedule: CronTriggerTimetable | None
    service: str
    scenarios: tuple[str, ...] = tuple(one.value for one in ScenarioName)
    """All there are, whatever the estate says."""


def drill_defaults() -> DrillDefaults:
    estate = declared()
    if estate is None:
        return DrillDefaults(None, "")
    cron = estate.drills.schedule
    return DrillDefaults(calendar(cron) if cron else None, estate.services[0].name)


def calendar(cron: str) -> CronTriggerTimetable:
    """By the clock, in UTC, for a DAG without a start date; what was due before Airflow was started is not made up for.

    ``run_immediately=False`` would still do so within a tenth of the time between two runs.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0))


def backfills_declared() -> bool:
    """Whether the estate names a DAG to fill after downtime; without one nothing needs to be watched."""
    estate = declared()
    return bool(estate and estate.backfills)


def accelerator_hosts() -> list[tuple[str, str]]:
    """Site and name of every machine that the estate says has accelerators."""
    estate = declared()
    return [(site.name, host.name) for site in estate.sites for host in site.accelerators] if estate else []


def on_kubernetes() -> bool:
    """Whether the estate runs there, so that clusters are audited and pods look at accelerators."""
    estate = declared()
    return bool(estate and estate.kubernetes)


def replication_interval() -> timedelta:
    """A third of the shortest RPO: two runs may fail before a promise is broken. Daily where nothing is declared."""
    estate = declared()
    rpos = [dataset.rpo for dataset in estate.datasets] if estate else []
    return min(rpos) / 3 if rpos else timedelta(days=1)


def ingestion_interval() -> timedelta:
    """Of the stream that is landed most often. Daily where nothing is declared."""
    estate = declared()
    return min((stream.every for stream in estate.streams), default=timedelta(days=1)) if estate else timedelta(days=1)


def backup_schedule() -> CronTriggerTimetable | None:
    """When the estate wants backups; ``None`` where it declares none: by hand, to be told so."""
    estate = declared()
    return calendar(estate.backups.schedule) if estate and estate.backups else None


def verification_schedule() -> CronTriggerTimetable | None:
    """When the estate wants its backups proven."""
    estate = declared()
    return calendar(estate.backups.verify) if estate and estate.backups else None
