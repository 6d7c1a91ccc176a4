"""What the domain needs from outside, as Protocols; ``adapters`` implements them on real systems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ninelives.estate.accelerators import Host
from ninelives.estate.model import Estate, Service
from ninelives.estate.streams import Stream
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.gates.verdict import ExpectationEngine
    from ninelives.injections import Fault

Scalar = str | int | float | bool
Features = Mapping[str, Scalar]
"""One row of model input: feature name to value."""


@dataclass(frozen=True)
class Connection:
    """Where something is and how to sign in: the fields of an Airflow Connection, without Airflow."""

    conn_id: str
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    schema: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        """Of an HTTP service; the host may carry its scheme, as Airflow's http connections do."""
        host = self.host or ""
        return f"{host if '://' in host else f'http://{host}'}{f':{self.port}' if self.port else ''}"

    def bucket(self, name: str) -> str:
        """What a bucket is called in this store; AWS gives a name only once, so its sites have a ``bucket_prefix``."""
        return f"{self.extra.get('bucket_prefix') or ''}{name}"


class Connections(Protocol):
    """Finds a connection by id; raises ``Unavailable`` naming the id where there is none."""

    def get(self, conn_id: str) -> Connection: ...

    def find(self, conn_id: str) -> Connection | None:
        """The same where there need not be one; ``Unavailable`` only where nobody can say."""
        ...


# --- object stores -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    size: int
    """bytes"""
    modified: datetime


class ObjectStore(Protocol):
    """One site's object store. Every method raises ``Unavailable`` when the store does not answer in time."""

    site: str

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Return only when the store has acknowledged the whole object."""
        ...

    def get(self, bucket: str, key: str) -> bytes | None:
        """The object's bytes, ``None`` where it does not exist."""
        ...

    def head(self, bucket: str, key: str) -> ObjectInfo | None: ...

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]: ...

    def delete(self, bucket: str, key: str) -> None: ...

    def ensure_bucket(self, bucket: str) -> None: ...

    def ping(self, timeout: float = 1.0) -> None:
        """Raise ``Unavailable`` unless the store answers within ``timeout`` seconds."""
        ...


@dataclass(frozen=True)
class CopyProgress:
    objects: int
    bytes: int
    total_bytes: int
    eta_seconds: float | None


@dataclass(frozen=True)
class CopyReport:
    objects: int
    bytes: int
    seconds: float
    errors: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of keys, in hex: what the source's bytes were as they were copied."""


class ObjectCopier(Protocol):
    """Copies objects from one site's store to another's; never deletes at the target."""

    def copy(
        self,
        source: Connection,
        target: Connection,
        *,
        bucket: str,
        keys: Iterable[str] | None = None,
        prefix: str = "",
        on_progress: Callable[[CopyProgress], None] | None = None,
        force: bool = False,
        into: str = "",
        hashed: bool = False,
    ) -> CopyReport:
        """Copy ``keys`` (or everything under ``prefix``) that is missing or differs at the target.

        With ``force`` copy without looking at the target first, which may not know that its bytes have changed. With
        ``into`` the keys are written below that folder at the target. With ``hashed`` the report has the SHA-256 of
        the ``keys`` of which the copier could compute it while it read them.
        """
        ...


# --- model servers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a model server or the gateway answered to one inference request."""

    outputs: Mapping[str, Sequence[Scalar]]
    model_version: str | None
    degraded: str | None
    """Rung of the fallback ladder that answered, from the ``x-ninelives-degraded`` header; ``None`` for the model."""
    latency: float
    """seconds"""
    site: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One try at a replica."""

    at: float
    """Unix time, s, by the replica's clock"""
    latency: float
    """seconds"""
    good: bool
    """It gave an answer; a request that was wrong itself counts as neither."""
    agrees: bool | None = None
    """Of a copied request: whether the served release answers the same within its tolerance."""


@dataclass(frozen=True)
class Attempts:
    """What one process remembers, oldest first."""

    boot: str
    """Another one means that the process was started anew, and remembers nothing from before."""
    loaded: tuple[str, ...]
    """Versions of the model that it can answer with."""
    by_arm: Mapping[tuple[str, str], tuple[Attempt, ...]]
    """Per arm (``stable``, ``canary``, ``shadow``, ``beside``, ``control``, ``experiment``) and version."""


class Replica(Protocol):
    """One model-server process that speaks the Open Inference Protocol V2. All raise ``Unavailable``."""

    url: str
    machine: str
    """Which it runs on, as the estate calls it."""

    def live(self) -> bool: ...

    def ready(self, model: str) -> bool: ...

    def load(self, model: str) -> None:
        """Load the release that the site's own store names and warm it up; returns when it is ready."""
        ...

    def unload(self, model: str) -> None: ...

    def infer(self, model: str, rows: Sequence[Features]) -> Answer: ...

    def load_version(self, model: str, version: str) -> None:
        """Load ``<model>/releases/<version>.json`` beside the release that is served; returns when it is warm."""
        ...

    def unload_version(self, model: str, version: str) -> None: ...

    def infer_version(self, model: str, version: str, rows: Sequence[Features]) -> Answer:
        """Asks exactly this version."""
        ...

    def attempts(self, model: str) -> Attempts:
        """Every try that the process has answered lately, also those that the gateway hid by another."""
        ...


# --- gateway -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assignment:
    """Users who say who they are, divided between the stable version and another, each always the same way."""

    experiment: str
    """Its name, by which their keys are salted."""
    version: str
    """What is new."""
    parts: int
    """Ten-thousandths of the users who see it; as many again are the control."""
    header: str
    """Of a request: the user's key. Without it nobody is in the experiment."""


@dataclass(frozen=True)
class VersionSplit:
    """How a service's requests are divided between versions of its model while one of them is on its way in."""

    stable: str
    """The version that answers whatever the others could not: every second try goes to it."""
    shares: Mapping[str, int]
    """Percent per version, 100 in all."""
    shadow: str | None = None
    """A version that gets copies of requests; its answers go nowhere."""
    shadow_percent: int = 0
    beside: tuple[str, ...] = ()
    """Versions that are asked by their own path only."""
    assignment: Assignment | None = None
    """Of an experiment on users; the shares are those of all others."""


@dataclass(frozen=True)
class GatewayState:
    """What the gateway was told to do. ``active`` maps each service to the sites that may take its traffic."""

    active: Mapping[str, tuple[str, ...]]
    closed_sites: frozenset[str]
    tokens: Mapping[str, int]
    """Highest fencing token seen per scope (``service:NAME`` or ``site:NAME``)."""
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Percent of its traffic per site, of each active-passive service that is on its way back to a site."""
    versions: Mapping[str, VersionSplit] = field(default_factory=dict)
    """Of each service that has more than the release that its sites serve."""
    open_breakers: frozenset[str] = frozenset()
    """Services whose replicas are asked nothing until a person closes the breaker: the ladder answers."""


class RequestClass(StrEnum):
    """Who waits for an answer; batch gives way."""

    INFERENCE = "inference"
    BATCH = "batch"


@dataclass(frozen=True)
class BreakerReplica:
    """One replica as the gateway sees it."""

    site: str
    address: str
    healthy: bool
    ejected: bool
    """Taken out for a while because of what it answered."""
    detail: str


@dataclass(frozen=True)
class Breaker:
    """What the gateway has done for a service, counted since it started; ``None`` and no entry: nobody counts it."""

    open: bool
    """A person has taken the service's replicas out."""
    replicas: tuple[BreakerReplica, ...]
    full: Mapping[str, tuple[str, ...]]
    """Per class, the limits that are reached just now: ``requests``, ``pending``, ``connections``, ``retries``."""
    remaining: Mapping[str, int]
    """Per class, how many more requests may be under way."""
    retries: int | None
    retries_refused: int | None
    """By the retry budget."""
    timeouts: int | None
    """Of single tries."""
    ejections: int | None
    answers: Mapping[str, int]
    """By who answered: ``model``, a rung of the ladder (``smaller``, ``cached``, ``default``), or ``error``."""
    shed: Mapping[str, int]
    """Per class, requests over the limit."""


class Gateway(Protocol):
    def state(self) -> GatewayState: ...

    def move(self, service: str, site: str, *, token: int) -> None:
        """Send all traffic of an active-passive service to ``site``; ``Refused`` for a token below the last seen."""
        ...

    def share(self, service: str, shares: Mapping[str, int], *, token: int) -> None:
        """Divide the traffic of an active-passive service between sites, in percent, until it is moved.

        The first is where the service is: to it all of the traffic returns where the others cannot take theirs.
        """
        ...

    def split(self, service: str, split: VersionSplit | None, *, token: int) -> None:
        """Divide requests between versions in one step; ``None``: whatever release each site serves.

        The fencing token is of the scope ``release:NAME``.
        """
        ...

    def close_site(self, site: str, *, token: int) -> None:
        """No service may send traffic to ``site`` until it is opened again."""
        ...

    def open_site(self, site: str, *, token: int) -> None: ...

    def open_breaker(self, service: str, *, token: int) -> None:
        """Ask no replica of ``service`` until the breaker is closed; the fencing token is of ``breaker:NAME``."""
        ...

    def close_breaker(self, service: str, *, token: int) -> None: ...

    def breaker(self, service: str) -> Breaker:
        """What the gateway has done for ``service`` since it started; raises ``Unavailable``."""
        ...

    def healthy_sites(self, service: str) -> Mapping[str, int]:
        """Number of healthy replicas per site in the gateway's own view; raises ``Unavailable``."""
        ...

    def unhealthy_sites(self) -> Mapping[str, str]:
        """Sites of which the gateway sees no healthy replica at all, with what it sees; raises ``Unavailable``.

        A site that is nothing but a cold standby is not among them: it has no model loaded that could be healthy.
        """
        ...


# --- the registry ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a model, with the exact data behind it; ``None`` where the registry does not say."""

    model: str
    version: str
    digest: str | None
    """Of the ONNX file."""
    data_version: str | None
    """DVC's name of the data that it was trained on."""
    data_hash: str | None
    """SHA-256 over that data's objects."""
    run: str | None = None
    created_at: datetime | None = None


class Registry(Protocol):
    """Every model version with its metrics and its data. All raise ``Unavailable`` when it does not answer."""

    def versions(self) -> list[ModelVersion]:
        """Every version of every model that has not been deleted."""
        ...

    def champion(self, model: str) -> str | None:
        """The version that the alias ``champion`` names."""
        ...

    def set_champion(self, model: str, version: str) -> None: ...

    def metrics(self, version: ModelVersion) -> Mapping[str, float]:
        """As they were recorded when it was trained."""
        ...

    def artefacts(self, version: ModelVersion) -> tuple[str, ...]:
        """Prefixes in the registry's bucket below which is what only this version has."""
        ...

    def delete_version(self, model: str, version: str) -> None:
        """Forget the version, not its run; deleting one that is gone is no error.

        Raises ``Refused`` where an alias names it.
        """
        ...

    def known_artefacts(self) -> frozenset[str]:
        """Prefixes in the registry's bucket of every version, model and run that it knows and has not deleted."""
        ...

    def ping(self) -> None: ...


@dataclass(frozen=True, order=True)
class Grant:
    """What a role of the registry gives."""

    kind: str
    """``registered_model`` or ``experiment``."""
    what: str
    permission: str
    """``READ`` or ``EDIT``"""

    def __str__(self) -> str:
        return f"{self.permission} on {self.kind} {self.what}"


@dataclass
class Accounts:
    """The registry's accounts, but for the one that asks."""

    users: set[str] = field(default_factory=set)
    """Without the administrators."""
    administrators: set[str] = field(default_factory=set)
    """Who may do everything, whatever roles say."""
    roles: dict[str, set[Grant]] = field(default_factory=dict)
    """Role to what it gives."""
    holders: dict[str, set[str]] = field(default_factory=dict)
    """Role to the accounts that have it."""


class RegistryAccounts(Protocol):
    """Keeps the registry's accounts. All raise ``Unavailable``."""

    def read(self) -> Accounts: ...

    def experiment(self, model: str) -> str | None:
        """The id of the model's experiment, ``None`` where there is none yet."""
        ...

    def ensure_model(self, model: str) -> str:
        """Make the registered model and its experiment where they are missing; the experiment's id."""
        ...

    def ensure_user(self, name: str, password: str) -> None:
        """Make the account, or give it this password."""
        ...

    def set_role(self, role: str, grants: set[Grant], holders: set[str]) -> None:
        """Make the role give exactly this to exactly these."""
        ...

    def remove_role(self, role: str) -> None: ...


# --- brokers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """One record of a topic; the broker never changes what it has under an offset."""

    offset: int
    value: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)


class Topic(Protocol):
    """A broker's topic as one consumer group sees it. All raise ``Unavailable``."""

    def partitions(self) -> tuple[int, ...]: ...

    def first(self, partition: int) -> int:
        """The lowest offset that the broker still keeps."""
        ...

    def read(self, partition: int, start: int, limit: int) -> list[Message]:
        """Up to ``limit`` messages from ``start`` on, in order; fewer where there are no more now.

        Raises ``Corrupted`` where the partition ends before ``start``: it is not the one that was read before.
        """
        ...

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Tell the broker, per partition, the offset from which on nothing has been landed yet."""
        ...

    def committed(self) -> dict[int, int]:
        """What was committed last, per partition; nothing for one that never was."""
        ...

    def close(self) -> None: ...


# --- the ledger --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One line of evidence. ``hash`` covers everything else, ``previous`` chains it to the record before."""

    seq: int
    kind: str
    subject: str
    facts: Mapping[str, Any]
    at: datetime
    previous: str
    hash: str
    version: str = ""
    """``ninelives.__version__`` that wrote it."""
    once: str | None = None
    """Key under which it can be written only once."""


@dataclass(frozen=True)
class Head:
    seq: int
    hash: str


@dataclass(frozen=True)
class Lease:
    """The right to do one thing alone for a while. ``token`` only ever grows, over all leases of a ledger."""

    name: str
    holder: str
    token: int
    expires_at: datetime


class Ledger(Protocol):
    """Append-only evidence and the leases that go with it. All raise ``Unavailable`` when it does not answer."""

    @property
    def ledger_id(self) -> str:
        """Random at creation; keeps the anchors of two ledgers apart."""
        ...

    def append(self, kind: str, subject: str, facts: Mapping[str, Any], *, once: str | None = None) -> Record:
        """Append evidence; with ``once`` a repeated call with the same key returns the record already written.

        Other contents under a key already used are ``Refused``: a step that measures anew when it is repeated asks
        ``written`` first, and the first measurement stands.
        """
        ...

    def written(self, once: str) -> Record | None:
        """The record that was appended with this ``once`` key."""
        ...

    def records(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[Record]:
        """Newest first; ``Corrupted`` where one is not what was written."""
        ...

    def scan(self) -> Iterator[Record]:
        """All of them, oldest first, as they are stored: for verification, nothing is checked."""
        ...

    def head(self) -> Head:
        """Last record; ``Head(0, GENESIS)`` for an empty ledger."""
        ...

    def take_lease(self, name: str, holder: str, ttl: timedelta) -> Lease:
        """``Refused`` while another holder has it and it has not expired; the same holder gets it renewed."""
        ...

    def release_lease(self, lease: Lease) -> None:
        """Give it back; releasing one that expired or was taken over is not an error."""
        ...

    def current_lease(self, name: str) -> Lease | None: ...


# --- Airflow's schedule ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """How Airflow runs a DAG by itself."""

    paused: bool
    periodic: bool
    """Whether Airflow's backfill can fill it at all."""
    has_intervals: bool
    """Whether a run stands for a stretch of time, not only for an instant."""
    start: datetime | None
    """No interval begins before it."""
    next_start: datetime | None
    """Start of the next interval that Airflow will run by itself."""


@dataclass(frozen=True)
class IntervalRun:
    """A run that has a logical date."""

    start: datetime
    """The logical date: where its interval begins."""
    state: str
    """``queued``, ``running``, ``success`` or ``failed``"""
    by_hand: bool = False
    """Then it need not lie on the schedule."""
    conf: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NativeBackfill:
    """One of Airflow's own backfills that is not completed. A DAG has at most one."""

    id: int
    first: datetime
    last: datetime
    created: datetime
    paused: bool


class Scheduler(Protocol):
    """Airflow, as far as missed intervals are concerned. Every method raises ``Unavailable``."""

    def schedule(self, dag_id: str) -> Schedule:
        """Raises ``Refused`` where there is no such DAG."""
        ...

    def ticks(self, dag_id: str, start: datetime, end: datetime) -> list[datetime]:
        """Starts of the intervals in between that have ended, from a dry run of Airflow's backfill; running ones may
        be left out."""
        ...

    def interval_runs(self, dag_id: str, start: datetime, end: datetime) -> list[IntervalRun]:
        """Runs whose logical date lies in between, both included."""
        ...

    def open_backfill(self, dag_id: str) -> NativeBackfill | None: ...

    def start_backfill(
        self,
        dag_id: str,
        first: datetime,
        last: datetime,
        *,
        again: bool,
        max_active: int,
        conf: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Fill the intervals that begin from ``first`` to ``last``, in order; runs that run now are left alone.

        :param again: also those whose run succeeded
        :return: the backfill's id, ``None`` while another backfill of the DAG is open
        """
        ...

    def live_runs(self) -> int:
        """How many runs of any DAG run now that belong to no backfill."""
        ...


# --- permissions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AccessPolicy:
    """One policy as it is written: of a user or role, or of a bucket, whose document names its principals."""

    where: str
    """For people."""
    document: Mapping[str, Any]
    who: str | None = None
    name: str = ""
    account: str = ""
    """Whose site it is: users and roles of others are somebody else."""


class AccessControl(Protocol):
    """What keeps a site's permissions. All raise ``Unavailable``, and ``Refused`` where we may not look or act."""

    site: str

    def bucket(self, name: str) -> str:
        """What one of our buckets is called at the site."""
        ...

    def policies(self, buckets: Sequence[str]) -> list[AccessPolicy]:
        """Of every user and role, and of ``buckets``."""
        ...

    def public(self, buckets: Sequence[str]) -> dict[str, str]:
        """Those that something beside a policy opens to everybody, with what."""
        ...

    def put(self, who: str, name: str, document: Mapping[str, Any]) -> None:
        """Write a policy of that name for a user or role; ``Refused`` where there is none."""
        ...

    def remove(self, who: str, name: str) -> None:
        """Removing what is not there is no error."""
        ...


# --- site control ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessState:
    name: str
    running: bool
    pid: int | None
    detail: str


class SiteControl(Protocol):
    """Takes a site away and brings it back: drills only."""

    site: str

    def lose(self) -> datetime:
        """Kill -9 every process of the site, storage included, keep its disk; return the instant of the kill (UTC)."""
        ...

    def restore(self) -> None:
        """Start what the site runs and return when it answers; restoring a running site is not an error."""
        ...

    def processes(self) -> list[ProcessState]: ...


class FaultControl(Protocol):
    """Breaks one thing of the estate and mends it: drills only. All raise ``Unavailable`` where that cannot be done."""

    def programs(self, kind: str, site: str | None = None) -> tuple[str, ...]:
        """What programs of ``kind`` (store, replica, gateway, registry or provider) are called.

        Raises ``Refused`` where the connections do not say: they cannot be broken from here.
        """
        ...

    def running(self, sites: Sequence[str]) -> dict[str, bool]:
        """Every program of ``sites``, and of none, that is known here, and whether it runs."""
        ...

    def check(self, fault: Fault) -> None:
        """Raise ``Refused`` where it could not be broken, or not undone; changes nothing."""
        ...

    def inject(self, fault: Fault) -> datetime:
        """Break it; return the instant just before (UTC). Breaking what is broken is not an error."""
        ...

    def undo(self, fault: Fault) -> None:
        """Mend it, and return when what was broken answers; mending what was never broken is not an error."""
        ...


# --- backups -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """One backup in the vault. ``made_at`` is what its maker's clock said."""

    id: str
    made_at: datetime
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Added:
    """What one backup put into the vault."""

    snapshot: str
    bytes: int
    """Read, of all files."""
    added: int
    """Bytes that the vault did not have yet, after deduplication and compression."""
    seconds: float


@dataclass(frozen=True)
class Examination:
    """What the vault's own structure and some or all of its bytes say."""

    problems: tuple[str, ...]
    strays: tuple[str, ...]
    """Files that no backup uses: left by a run that was killed, or put there by somebody."""
    size: int
    """Bytes in the vault."""
    seconds: float
    keys: tuple[str, ...] = ()
    """Ids of everything that opens the vault."""


class Vault(Protocol):
    """The place apart, with the right to add and to read. All raise ``Unavailable`` when it does not answer,
    ``Refused`` for a wrong key, and ``Corrupted`` where what is read is not what was written."""

    def identity(self) -> str:
        """Which vault it is: it keeps this while its address and its keys change, and no other one has it."""
        ...

    def snapshots(self) -> list[Snapshot]:
        """Oldest first."""
        ...

    def add(self, folder: Path, *, tags: Sequence[str]) -> Added:
        """Back up everything in ``folder``; returns when the vault has all of it. A killed call leaves no snapshot."""
        ...

    def read(self, snapshot: str, path: str) -> bytes:
        """One file of a snapshot."""
        ...

    def restore(self, snapshot: str, to: Path, *, parts: Sequence[str] = ()) -> None:
        """Write a snapshot, or only the folders ``parts`` of it and what lies beside all folders, into ``to``."""
        ...

    def examine(self, groups: Sequence[int] = (), of: int = 1) -> Examination:
        """Check the structure, and read every byte of ``groups`` (from 1) of the ``of`` that the packs fall into."""
        ...


class Signer(Protocol):
    """Signs what is handed to the vault, so that who can only write there cannot make a backup of the estate's."""

    def sign(self, file: Path) -> bytes: ...

    def verify(self, file: Path, signature: bytes) -> None:
        """Raises ``Corrupted`` where the signature is not of this file, or not by the estate's key."""
        ...


class VaultKeeper(Protocol):
    """The vault with the right to remove, held by its keeper alone."""

    def arrivals(self) -> dict[str, datetime]:
        """Snapshot to when it arrived, by the vault's clock: what its maker's clock said decides nothing."""
        ...

    def snapshots(self) -> list[Snapshot]: ...

    def remove(self, snapshots: Sequence[str]) -> None:
        """Remove them and what only they used."""
        ...


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that had not ended when Airflow's database was read."""

    dag: str
    run: str
    at_work: tuple[str, ...] = ()
    """Tasks that a worker had begun."""
    last_try: tuple[str, ...] = ()
    """Of these, the ones that Airflow would not try once more."""


class ScratchServer(Protocol):
    """An empty database server of its own, gone afterwards."""

    def load(self, dump: Path, name: str) -> None:
        """Load a dump into a new database; raises ``Corrupted`` where it does not load without an error."""
        ...

    def ledger(self, name: str) -> Ledger:
        """The ledger in the database ``name``."""
        ...

    def runs(self, name: str) -> list[UnfinishedRun]:
        """Runs that Airflow's database ``name`` says have not ended; ``Corrupted`` where it is none of Airflow's."""
        ...

    def registry(self, name: str) -> int:
        """Open the database ``name`` as the registry does; how many model versions it finds there. ``Corrupted`` where
        it cannot use the database."""
        ...


@dataclass(frozen=True)
class Dumped:
    """What one database held in the one instant that its dump shows."""

    database: str
    rows: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What refers to things outside: ``artefacts`` of a registry, ``head`` of a ledger."""


class Databases(Protocol):
    """The databases that are backed up. All raise ``Unavailable`` when one does not answer."""

    def dump(self, part: str, to: Path) -> list[Dumped]:
        """Dump the databases of ``part`` (ledger, registry, airflow) below ``to``, each as of one instant."""
        ...

    def runs(self) -> list[UnfinishedRun]:
        """Runs that have not ended, in Airflow's database as it is now."""
        ...

    def scratch(self) -> AbstractContextManager[ScratchServer]: ...


class Rebuilder(Protocol):
    """Builds the estate a second time, from the vault alone, beside the running one: drills only."""

    def rebuild(self, injection: str, snapshot: str, patience: timedelta) -> Mapping[str, Any]:
        """Its report: ``seconds``, ``steps``, ``answers``, ``records``, ``lacking``.

        Raises ``Corrupted`` with its own words where it failed, ``Unavailable`` where it took longer than ``patience``.
        What was built stays until the fault ``Rebuilt`` is undone.
        """
        ...


# --- accelerators ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unread:
    """Why a value could not be read; never to be taken for a good one."""

    why: str
    lost: bool = False
    """The device or its driver is gone, rather than unable to answer this question."""


@dataclass(frozen=True)
class Xid:
    """One error that NVIDIA's driver reported."""

    code: int
    device: str
    """UUID, or the PCI address that the kernel's log has."""
    text: str


@dataclass(frozen=True)
class Device:
    """One accelerator and what it says of itself; a value that could not be read is ``Unread``."""

    uuid: str
    name: str
    readings: Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """What one look at the accelerators of this machine found."""

    devices: tuple[Device, ...] = ()
    readings: Mapping[str, Any] = field(default_factory=dict)
    """Of the machine: ``driver``, ``cuda``, ``xid_events``, ``xid_log``."""
    absent: str | None = None
    """Why nothing could be looked at, where the library is not there at all."""
    broken: str | None = None
    """What the library said instead of starting."""


class Accelerators(Protocol):
    """Looks at this machine's accelerators; raises nothing for what is missing or broken, that is its finding.

    A package of one's own adds another kind by an entry point in the group ``ninelives.accelerators``: a class that is
    made without arguments.
    """

    kind: str
    """``nvidia``, ``amd``, ``gaudi``, ``cpu``, or what the entry point is called."""

    def look(self) -> Look: ...


class Systems(Protocol):
    """An estate together with the real systems behind it; nothing is contacted before it is used."""

    @property
    def estate(self) -> Estate: ...

    @property
    def home(self) -> Home: ...

    @property
    def connections(self) -> Connections: ...

    def store(self, site: str) -> ObjectStore: ...

    def stores(self) -> dict[str, ObjectStore]: ...

    def copier(self, dataset: str | None = None) -> ObjectCopier:
        """What copies ``dataset`` between sites, as the estate declares; what copies everything else."""
        ...

    def replicas(self, site: str) -> list[Replica]: ...

    def client(self, service: Service) -> Callable[[Sequence[Features]], Answer]:
        """Asks ``service`` through the gateway, as its users do; raises ``Unavailable``."""
        ...

    def control(self, site: str) -> SiteControl: ...

    def faults(self) -> FaultControl:
        """What drills break things with."""
        ...

    def gateway(self) -> Gateway: ...

    def access(self, site: str) -> AccessControl | None:
        """What keeps the site's permissions; ``None`` where nothing does."""
        ...

    def topic(self, stream: Stream) -> Topic:
        """The topic that a stream comes from."""
        ...

    def ledger(self) -> Ledger: ...

    def registry(self) -> Registry: ...

    def accounts(self) -> RegistryAccounts:
        """Who has an account of the registry, asked and changed as its administrator."""
        ...

    def accelerators(self, site: str, host: Host) -> Accelerators:
        """What looks at the accelerators of ``host``, which is this machine; raises ``Refused`` where nothing can."""
        ...

    def scheduler(self) -> Scheduler: ...

    def vault(self) -> Vault: ...

    def signer(self) -> Signer | None:
        """Signs backups; ``None`` where the vault's connection has no key for it."""
        ...

    def databases(self) -> Databases: ...

    def rebuilder(self) -> Rebuilder: ...

    def expectations(self, dataset: str | None = None) -> ExpectationEngine:
        """What runs a gate's expectations on ``dataset``, as the estate declares, or on a table; raises ``Refused``
        where it is not installed."""
        ...
