"""The declared estate: what there is, what was promised, who may do what.

Endpoints and secrets are not here: they live in Connections named ``ninelives_<site>_<kind>``.
"""

from __future__ import annotations

from datetime import date, timedelta
from enum import StrEnum
from functools import cached_property

from pydantic import Field, StrictBool

from ninelives.estate.accelerators import Host, Need
from ninelives.estate.artefacts import ArtefactRetention, RegistryAccount
from ninelives.estate.declared import Declared
from ninelives.estate.experiment import Experiment
from ninelives.estate.kubernetes import Kubernetes, Pods
from ninelives.estate.outside import Consumer, Provider
from ninelives.estate.streams import Stream
from ninelives.estate.units import DagId, Duration, Name, Percent, Principal, Ratio, TableName, Value


class Role(StrEnum):
    OPERATOR = "operator"
    APPROVER = "approver"
    KEEPER = "keeper"
    """Holds the key that may remove backups, and none that may act on the estate."""


class Mode(StrEnum):
    ACTIVE_ACTIVE = "active-active"
    ACTIVE_PASSIVE = "active-passive"


class StandbyKind(StrEnum):
    """What a site that waits for an active-passive service keeps ready for it."""

    COLD = "cold"
    """Its replicas run, and load the model when a failover comes."""
    WARM = "warm"
    """They have it loaded."""


class Approval(StrEnum):
    NONE = "none"
    FOUR_EYES = "four-eyes"


class Hardware(StrEnum):
    """What a model runs on, so far as a promotion has to look at it."""

    ACCELERATOR = "accelerator"
    CPU = "cpu"


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


class ScenarioName(StrEnum):
    """What can be broken on purpose; ``ninelives.drills.scenarios`` says how, and how it is undone."""

    SITE_LOSS = "site-loss"
    REPLICA_KILLED = "replica-killed"
    REPLICA_WEDGED = "replica-wedged"
    GATEWAY_LOST = "gateway-lost"
    REGISTRY_LOST = "registry-lost"
    SLOW_STORE = "slow-store"
    PARTITION = "partition"
    CORRUPT_OBJECT = "corrupt-object"
    CORRUPT_ARTEFACT = "corrupt-artefact"
    ACCELERATOR_FAULT = "accelerator-fault"
    PROVIDER_SILENT = "provider-silent"
    PROVIDER_NONSENSE = "provider-nonsense"
    PROVIDER_REPLAY = "provider-replay"
    CONTROL_PLANE_LOST = "control-plane-lost"
    EVERYTHING_LOST = "everything-lost"
    EXPERIMENT = "experiment"
    """A user's own, in Chaos Toolkit's JSON; its ``site`` is the experiment's name."""

    @property
    def at_a_site(self) -> bool:
        """Whether it breaks something of one site, which can be chosen."""
        from_outside = (self.PROVIDER_SILENT, self.PROVIDER_NONSENSE, self.PROVIDER_REPLAY)
        from_vault = (self.CONTROL_PLANE_LOST, self.EVERYTHING_LOST)
        return self not in (self.GATEWAY_LOST, self.REGISTRY_LOST, *from_outside, *from_vault, self.EXPERIMENT)


class GateEngine(StrEnum):
    """What judges a dataset's files; the suite is the same, and the verdict on the same rows."""

    DUCKDB = "duckdb"
    SPARK = "spark"


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
    accelerators: tuple[Host, ...] = Field(
        default=(), description="Its machines that have some, all of which are looked at before anything serves there."
    )


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
    gate_engine: GateEngine = Field(
        default=GateEngine.DUCKDB,
        description="What judges it: duckdb within one process, spark where the connection ninelives_spark says.",
    )
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
    need: Need | None = Field(default=None, description="What it needs of an accelerator; none: nobody knows.")
    access: tuple[Permission, ...] = Field(default=(), description="Everybody who may read or write its releases.")
    registry: tuple[RegistryAccount, ...] = Field(
        default=(),
        description="Who may do what with it in the registry, and nobody else; none: only its administrator.",
    )
    retention: ArtefactRetention | None = Field(
        default=None, description="Which of its versions may be deleted; none: not one."
    )


class Objective(Declared):
    """What was promised to users of a service."""

    availability: Ratio
    latency: Duration = Field(description="An answer that takes longer counts as slow.")
    quality: Ratio = Field(description="Share of answers that must be correct, measured with golden requests.")
    rto: Duration = Field(description="Loss of a site to the first correct answer that lasts.")
    rpo: Duration = Field(description="Loss of a site back to the last acknowledged write that survived.")
    window: Duration


class Fallback(Declared):
    """A degraded answer that the gateway gives while no replica can: marked, and never counted as correct.

    The rungs in their order: another service's smaller model, an answer that was kept, the default ``answer``.
    """

    service: Name | None = Field(
        default=None,
        description="A service with a smaller model that takes the same inputs and gives the same outputs.",
    )
    cached_for: Duration | None = Field(
        default=None, description="How old a kept answer to the same request may be; none: answers are not kept."
    )
    answer: dict[str, Value] = Field(min_length=1)


class Golden(Declared):
    """A request with a known answer. The answer is computed when a release is made, by the model that was trained."""

    inputs: dict[str, Value] = Field(min_length=1)


class CanaryStep(Declared):
    """A share of the traffic for the new version, and how long it is judged at least before the next."""

    share: Percent
    hold: Duration


class ReleasePolicy(Declared):
    """How a new version of the model comes into service."""

    shadow: int = Field(default=20, ge=0, le=100, description="Percent of requests copied to the new version; 0: none.")
    shadow_for: Duration = Field(default="5min", validate_default=True, description="How long they are copied.")
    canary: tuple[CanaryStep, ...] = Field(
        default=(
            CanaryStep(share=5, hold=timedelta(minutes=5)),
            CanaryStep(share=25, hold=timedelta(minutes=10)),
            CanaryStep(share=50, hold=timedelta(minutes=10)),
        ),
        min_length=1,
        description="Growing shares of real traffic before all of it.",
    )
    labels: StrictBool = Field(
        default=False,
        description="The truth comes later, by ninelives release label; without enough of it nothing is promoted.",
    )
    patience: Duration = Field(
        default="1h", validate_default=True, description="How long a step may stay undecided before it is rolled back."
    )
    approval: Approval | None = Field(default=None, description="Who must agree; none given: as for a drill.")
    keep_for: Duration = Field(
        default="1d", validate_default=True, description="How long the old version stays loaded for a way back."
    )
    hardware: Hardware = Field(
        default=Hardware.ACCELERATOR, description="cpu: no accelerator is needed, and none is looked at."
    )


class Service(Declared):
    """What users call."""

    name: Name
    owner: Name
    model: Name
    mode: Mode
    sites: tuple[Name, ...] = Field(min_length=1, description="Active-passive: the first is active, then in order.")
    standby: StandbyKind = Field(
        default=StandbyKind.COLD,
        description="Of an active-passive service; warm: each standby has the model loaded, cold: a failover loads it.",
    )
    objective: Objective
    golden: tuple[Golden, ...] = Field(min_length=1)
    fallback: Fallback | None = None
    capacity: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Requests per second that one replica answers, as measured; the gateway's limits follow from it.",
    )
    release: ReleasePolicy = ReleasePolicy()
    pods: Pods = Field(default=Pods(), description="Its replicas, where the estate runs on Kubernetes.")

    @property
    def needed(self) -> int | None:
        """Replicas at each site for the busiest hour with one site lost; ``None`` where peak or capacity is not known.

        An active-active service divides its requests between the sites that are left; of an active-passive one each
        site must bear all of them alone.
        """
        if self.pods.peak is None or self.capacity is None:
            return None
        left = max(1, len(self.sites) - 1) if self.mode is Mode.ACTIVE_ACTIVE else 1
        return -(-self.pods.peak // (self.capacity * left))


class PlannedDrill(Declared):
    """A drill that is due again and again; each run of the drills' schedule takes the one longest overdue."""

    scenario: ScenarioName
    service: Name = Field(description="What is measured.")
    site: Name | None = Field(
        default=None,
        description="Where; none: the site that the scenario is about just then. Of an experiment: its name.",
    )
    every: Duration = Field(description="How old the last measured drill of this kind may become.")


class DrillPolicy(Declared):
    """Under which rules a deliberate loss may happen."""

    schedule: str | None = Field(default=None, description="Cron expression in UTC; none: by hand only.")
    approval: Approval = Approval.FOUR_EYES
    max_duration: Duration = Field(description="The site comes back after this time whatever else happens.")
    min_good: Ratio = Field(description="Survivors' share of correct answers below which a drill stops at once.")
    calendar: tuple[PlannedDrill, ...] = Field(
        default=(), description="What the schedule runs; none: the loss of the first service's site each time."
    )


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


class Vault(Declared):
    """The place apart where backups are kept: no site, and nobody who runs the estate may remove there."""

    site: Name = Field(description="What the place is called; nothing is served from it.")
    keeper: Name = Field(description="The person who holds the key that may remove.")
    region: Name | None = Field(default=None, description="Where it is for the law, like eu-west-3.")


class Retention(Declared):
    """How long a backup stays in the vault; a backup that any of these wants stays."""

    every: Duration = Field(default="7d", validate_default=True, description="Every backup stays this long.")
    daily: Duration = Field(default="30d", validate_default=True, description="The last of each day.")
    weekly: Duration = Field(default="90d", validate_default=True, description="The last of each week.")
    monthly: Duration = Field(default="366d", validate_default=True, description="The last of each month.")


class Backups(Declared):
    """When the estate is backed up, how that is proven, and what the loss of everything may cost."""

    schedule: str = Field(description="Cron expression in UTC.")
    rpo: Duration = Field(description="How old the newest backup may become.")
    rto: Duration = Field(description="All is lost: from asking the vault to everything restored and checked.")
    verify: str = Field(description="Cron expression in UTC: when structure, bytes and a restore are tried.")
    verify_within: Duration = Field(
        default="7d", validate_default=True, description="Every byte in the vault is read again within this."
    )
    retention: Retention = Retention()


class Failback(Declared):
    """How a service goes back to the first of its sites after a failover."""

    approval: Approval | None = Field(default=None, description="Who must agree; none given: as for a drill.")
    after: Duration = Field(
        default="5min", validate_default=True, description="How long the site must have been back before."
    )
    shares: tuple[Percent, ...] = Field(
        default=(5, 25, 50), description="Percent of the traffic that goes back step by step before all of it."
    )
    hold: Duration = Field(
        default="30s", validate_default=True, description="How long each step is watched before the next."
    )


class RecoveryPolicy(Declared):
    """Under which rules traffic is moved by itself."""

    failovers_per_hour: int = Field(
        default=10, ge=1, le=1000, description="How often one service may be moved within an hour without a person."
    )
    failback: Failback = Failback()
    answer_within: Duration | None = Field(
        default="1h",
        validate_default=True,
        description="How long a run that stopped waits for a person to mend what stopped it; null: it fails at once.",
    )


class Licence(Declared):
    """The right to run what a vendor sells. Its seats are counted in the ledger; a standby takes them when it is
    activated, and the site that a service has left gives them back.
    """

    name: Name
    product: str = Field(min_length=1, max_length=200, description="What the vendor calls it.")
    seats: int = Field(ge=1, le=1_000_000, description="How many were bought.")
    each: int = Field(
        default=1, ge=1, le=1_000_000, description="Seats that one service takes at one site: its replicas, say."
    )
    sites: tuple[Name, ...] = Field(default=(), description="Where it is valid; none: everywhere.")
    models: tuple[Name, ...] = Field(default=(), description="Every service of these models needs it.")
    services: tuple[Name, ...] = Field(default=(), description="And these services.")
    expires: date = Field(description="The last day of its term, in UTC.")
    grace: Duration | None = Field(
        default=None, description="How long it may be used after its term, or with more seats than were bought."
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
    vault: Vault | None = None
    backups: Backups | None = None
    recovery: RecoveryPolicy = RecoveryPolicy()
    kubernetes: Kubernetes | None = Field(
        default=None, description="Where the services run on Kubernetes; none: as the Connections say."
    )
    licences: tuple[Licence, ...] = ()
    providers: tuple[Provider, ...] = ()
    consumers: tuple[Consumer, ...] = Field(
        default=(), description="Who calls the services; a new version that would break one is not promoted."
    )
    experiments: tuple[Experiment, ...] = ()
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

    @cached_property
    def licence_by_name(self) -> dict[str, Licence]:
        return {licence.name: licence for licence in self.licences}

    @cached_property
    def provider_by_name(self) -> dict[str, Provider]:
        return {provider.name: provider for provider in self.providers}

    @cached_property
    def experiment_by_name(self) -> dict[str, Experiment]:
        return {experiment.name: experiment for experiment in self.experiments}

    def licences_of(self, service: Service) -> tuple[Licence, ...]:
        """Those that the service needs wherever it serves."""
        return tuple(one for one in self.licences if service.name in one.services or service.model in one.models)

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

    def hardware_of(self, model: str) -> Hardware:
        """An accelerator where one of the services that the model answers asks for it."""
        asked = {service.release.hardware for service in self.services if service.model == model}
        return Hardware.ACCELERATOR if Hardware.ACCELERATOR in asked else Hardware.CPU

    def services_at(self, site: str) -> tuple[Service, ...]:
        return tuple(service for service in self.services if site in service.sites)

    def dataset_of(self, service: Service) -> Dataset:
        """The dataset that the service's model was trained on, which its gate looks at."""
        return self.dataset_by_name[self.model_by_name[service.model].trained_on]
