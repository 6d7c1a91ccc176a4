"""The declared estate: what there is, what was promised, who may do what.

Endpoints and secrets are not here: they live in Connections named ``ninelives_<site>_<kind>``.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from ninelives.estate.streams import Stream
from ninelives.estate.units import DagId, Duration, Name, Principal, Ratio, TableName, Value


class Declared(BaseModel):
    """Frozen, and an unknown key is an error: a typo must not silently drop a promise."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))


class Role(StrEnum):
    OPERATOR = "operator"
    APPROVER = "approver"


class Mode(StrEnum):
    ACTIVE_ACTIVE = "active-active"
    ACTIVE_PASSIVE = "active-passive"


class Approval(StrEnum):
    NONE = "none"
    FOUR_EYES = "four-eyes"


class Deletions(StrEnum):
    """What an object means that was deleted at the primary: a loss, or a wish."""

    RESTORE = "restore"
    FOLLOW = "follow"


class Right(StrEnum):
    READ = "read"
    WRITE = "write"


class AccessKind(StrEnum):
    """How a site says who may do what; ``none`` is a store that asks for one key and nothing else."""

    NONE = "none"
    AWS = "aws"


class Engine(StrEnum):
    """What copies a dataset's objects between sites; the proof at the target is the same."""

    RCLONE = "rclone"
    DATASYNC = "datasync"


class Person(Declared):
    """Somebody who may act; ``name`` is the user name in Airflow."""

    name: Name
    roles: tuple[Role, ...] = Field(min_length=1)


class Site(Declared):
    """A place that can be lost."""

    name: Name
    description: str = ""
    region: Name | None = Field(default=None, description="Where its data is for the law, like eu-west-3.")
    access: AccessKind = Field(default=AccessKind.NONE, description="What keeps its permissions: aws is IAM and S3.")


class Permission(Declared):
    """Who may do what; ``who`` is a user or a role as the sites' policies name it."""

    who: Principal
    may: tuple[Right, ...] = Field(min_length=1)
    at: tuple[Name, ...] = Field(default=(), description="The sites where; none: at all.")
    in_failover: bool = Field(
        default=False, description="A failover lets it read at the standby too, for the time of access_for."
    )

    def holds(self, site: str) -> bool:
        """Whether it is declared for ``site``."""
        return not self.at or site in self.at


class Dataset(Declared):
    """Data that must survive the loss of its primary site."""

    name: Name
    primary: Name = Field(description="The site where new data lands.")
    copies: tuple[Name, ...] = Field(min_length=1, description="The sites that keep a verified copy.")
    rpo: Duration = Field(description="How much of the newest data may be lost with the primary site.")
    suite: Name = Field(description="Folder below expectations/ that holds the gate's suite.")
    verify_within: Duration = Field(
        default=timedelta(days=7), description="Every byte of a copy, and of its source, is read again within this."
    )
    deletions: Deletions = Field(
        default=Deletions.RESTORE,
        description="An object deleted at the primary is brought back, or its copy follows it into a dated trash.",
    )
    trash_for: Duration = Field(default=timedelta(days=30), description="How long a copy's trash is kept.")
    shards: int = Field(default=1, ge=1, le=256, description="How many tasks share the copying of this dataset.")
    engine: Engine = Field(
        default=Engine.RCLONE,
        description="What copies it between sites: rclone through a worker, datasync from S3 bucket to bucket on AWS.",
    )
    residency: tuple[Name, ...] = Field(
        default=(), description="Regions that it and what is made of it may not leave; none: it may be anywhere."
    )
    access: tuple[Permission, ...] = Field(default=(), description="Everybody who may read or write it.")


class Table(Declared):
    """Data in a database, which the gate judges there. No copy of it is made here: that is the database's own business,
    and so no model, stream or backfill of the estate can be about it.
    """

    name: Name
    site: Name = Field(description="Where it is; its database is the connection ninelives_<site>_database.")
    table: TableName = Field(description="schema.name of a table or view in PostgreSQL.")
    suite: Name = Field(description="Folder below expectations/ that holds the gate's suite.")


class Model(Declared):
    """A model in the registry; ``trained_on`` names its dataset."""

    name: Name
    trained_on: Name
    warm_up: Duration = Field(description="Time from start to ready, as measured; a promise cannot be shorter.")
    access: tuple[Permission, ...] = Field(default=(), description="Everybody who may read or write its releases.")


class Objective(Declared):
    """What was promised to users of a service."""

    availability: Ratio
    latency: Duration = Field(description="An answer that takes longer counts as slow.")
    quality: Ratio = Field(description="Share of answers that must be correct, measured with golden requests.")
    rto: Duration = Field(description="Loss of a site to the first correct answer that lasts.")
    rpo: Duration = Field(description="Loss of a site back to the last acknowledged write that survived.")
    window: Duration


class Fallback(Declared):
    """A degraded answer that the gateway gives while no replica can: marked, and never counted as correct."""

    answer: dict[str, Value] = Field(min_length=1)


class Golden(Declared):
    """A request with a known answer. The answer is computed when a release is made, by the model that was trained."""

    inputs: dict[str, Value] = Field(min_length=1)


class Service(Declared):
    """What users call."""

    name: Name
    owner: Name
    model: Name
    mode: Mode
    sites: tuple[Name, ...] = Field(min_length=1, description="Active-passive: the first is active, then in order.")
    objective: Objective
    golden: tuple[Golden, ...] = Field(min_length=1)
    fallback: Fallback | None = None


class DrillPolicy(Declared):
    """Under which rules a deliberate loss may happen."""

    schedule: str | None = Field(default=None, description="Cron expression in UTC; none: by hand only.")
    approval: Approval = Approval.FOUR_EYES
    max_duration: Duration = Field(description="The site comes back after this time whatever else happens.")
    min_good: Ratio = Field(description="Survivors' share of correct answers below which a drill stops at once.")


class Backfill(Declared):
    """A DAG whose missed intervals are filled after downtime."""

    dag: DagId
    source: Name | None = Field(
        default=None,
        description="The dataset it reads: an interval that has not landed there, or that the gate refuses, is parked.",
    )
    dataset: Name | None = Field(
        default=None,
        description="The dataset it writes: the gate judges each filled interval, and what is gone counts as missed.",
    )
    look_back: Duration = Field(
        default="7d", validate_default=True, description="How far back missed intervals are looked for."
    )
    whole_gap: bool = Field(
        default=False, description="One run over the whole gap; the DAG asks interval_of(context) what to work on."
    )
    max_active: int = Field(default=2, ge=1, le=16, description="Runs that fill side by side; 1: strictly in order.")
    max_duration: Duration = Field(
        default="1d", validate_default=True, description="After it the filling is reported as late."
    )


class Estate(Declared):
    """All that is declared. References between its parts are checked by ``ninelives.estate.check``."""

    name: Name
    people: tuple[Person, ...] = Field(min_length=1)
    sites: tuple[Site, ...] = Field(min_length=1)
    datasets: tuple[Dataset, ...] = ()
    models: tuple[Model, ...] = Field(min_length=1)
    services: tuple[Service, ...] = Field(min_length=1)
    drills: DrillPolicy
    streams: tuple[Stream, ...] = ()
    backfills: tuple[Backfill, ...] = ()
    tables: tuple[Table, ...] = ()
    administrators: tuple[Principal, ...] = Field(
        default=(), description="Users and roles that may do everything at every site, and are not looked at."
    )
    access_for: Duration = Field(
        default="1d", validate_default=True, description="How long what a failover grants is valid."
    )

    @cached_property
    def service_by_name(self) -> dict[str, Service]:
        return {service.name: service for service in self.services}

    @cached_property
    def dataset_by_name(self) -> dict[str, Dataset]:
        return {dataset.name: dataset for dataset in self.datasets}

    @cached_property
    def table_by_name(self) -> dict[str, Table]:
        return {table.name: table for table in self.tables}

    @cached_property
    def model_by_name(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    @cached_property
    def stream_by_name(self) -> dict[str, Stream]:
        return {stream.name: stream for stream in self.streams}

    @cached_property
    def site_by_name(self) -> dict[str, Site]:
        return {site.name: site for site in self.sites}

    @property
    def grants_in_failover(self) -> bool:
        """Whether a failover of anything has to give somebody access."""
        declared = [*(one.access for one in self.datasets), *(one.access for one in self.models)]
        return any(permission.in_failover for access in declared for permission in access)

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.sites)

    def people_with(self, role: Role) -> tuple[str, ...]:
        """User names of everybody who has ``role``."""
        return tuple(person.name for person in self.people if role in person.roles)

    def services_at(self, site: str) -> tuple[Service, ...]:
        return tuple(service for service in self.services if site in service.sites)

    def dataset_of(self, service: Service) -> Dataset:
        """The dataset that the service's model was trained on, which its gate looks at."""
        return self.dataset_by_name[self.model_by_name[service.model].trained_on]
