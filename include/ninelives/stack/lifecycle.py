"""Start, stop, look at, lose and restore the local estate."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ninelives.access.registry import apply, registry_accounts
from ninelives.adapters.postgres_programs import binaries
from ninelives.adapters.restic import find_restic
from ninelives.adapters.supervisor import ProcessInfo, Supervisor, SupervisorSite, answers
from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.estate import load_estate
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.injections import SiteLost, Stopped
from ninelives.stack import airflow, launch, postgres, processes, supervisord, vault
from ninelives.stack.keeper import read_injections
from ninelives.stack.local import (
    BUCKETS,
    LocalEstate,
    Record,
    open_secrets,
    project_folder,
    read_record,
    write_record,
)
from ninelives.stack.ports import Ports, check_free, port_base
from ninelives.stack.programs import Part, Program, programs
from ninelives.stack.secrets import private_folder

MIN_FREE = 1_000_000_000
"""Bytes that must be free on the disk before anything is started."""
log = logging.getLogger(__name__)
_MOST_LIVES = 3
"""Starts of one program before it counts as one that cannot live."""
_PATIENCE = 600.0
"""Seconds that one step may take. Airflow's start needs 90 CPU seconds, and the cores may be busy with other things."""


class Report(Protocol):
    """Told about each step when it begins (``seconds`` is ``None``) and when it is done."""

    def __call__(self, step: str, seconds: float | None) -> None: ...


def silent(step: str, seconds: float | None) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Started:
    """What ``up`` did."""

    started: tuple[str, ...]
    """Programs that were not running before."""
    new_passwords: dict[str, str] = field(repr=False)
    """Airflow user to password, of users that did not exist before: to be shown once."""
    left_lost: tuple[str, ...] = ()
    """Sites that a drill holds lost, which ``up`` does not bring back."""


def up(
    home: Home,
    estate_path: Path | None = None,
    without: frozenset[Part] | None = None,
    report: Report = silent,
    *,
    remember: bool = True,
) -> Started:
    """Start what does not run yet and return when all of it answers; on any failure stop what this call started.

    :param estate_path: by default the one of the last start, else the demo's
    :param without: parts to leave out; by default as at the last start
    :param remember: the next start leaves the same out
    :raises Refused: a port is taken, a binary is missing, the disk is full, or the running estate is another one
    :raises Unavailable: a program did not start; the message holds the last lines of its log
    """
    home.root.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        local = _prepare(home, estate_path, without, remember)
        supervisor = supervisord.client(local)
        if was_running := _runs(supervisor):
            _adopt_configuration(local, supervisor)
        else:
            _start_supervisord(local)
        before = {info.name for info in supervisor.processes() if info.state == "RUNNING"}
        lost = _lost_on_purpose(home)
        held = _held_down(home) if was_running else frozenset()
        missing = [
            program
            for program in local.programs
            if program.name not in before and program.name not in held and program.site not in lost
        ]
        if not missing and _complete(home).exists():
            return Started((), {}, tuple(sorted(lost)))
        _complete(home).unlink(missing_ok=True)
        try:
            _Start(local, supervisor, report, frozenset(lost), held).run()
            _complete(home).touch()
        except BaseException:
            if was_running:
                _stop(supervisor, {program.name for program in local.programs} - before)
            else:
                _down(home, local)
            raise
        return Started(tuple(program.name for program in missing), _new_passwords(local), tuple(sorted(lost)))


def down(home: Home) -> list[str]:
    """Stop everything, supervisord included, and return what was stopped; raises ``Unavailable`` if something stays."""
    if not home.root.exists():
        return []
    with _alone(home):
        return _down(home, _as_recorded(home))


def status(home: Home) -> dict[str, Any]:
    """State of every program, and addresses; ``up`` is true when all of them run."""
    local = LocalEstate.recorded(home)
    try:
        infos = {info.name: info for info in supervisord.client(local).processes()}
    except Unavailable:
        infos = {}
    rows = [_row(local, program, infos.get(program.name)) for program in local.programs]
    return {
        "up": bool(infos) and all(row["state"] == "RUNNING" for row in rows),
        "home": str(home.root),
        "estate": local.estate.name,
        "programs": rows,
        "urls": urls(local),
    }


def lose(home: Home, site: str) -> datetime:
    """Kill -9 every process of a site and keep its disk; returns the instant."""
    return _site(home, site).lose()


def restore(home: Home, site: str) -> None:
    """Bring a site back and return when it answers."""
    _site(home, site).restore()


def urls(local: LocalEstate) -> dict[str, str]:
    ports = local.ports
    found = {Part.GATEWAY: ports.gateway, Part.AIRFLOW: ports.airflow, Part.MLFLOW: ports.mlflow}
    addresses = {part.value: f"http://127.0.0.1:{port}" for part, port in found.items() if part not in local.without}
    return addresses | {f"{site}-store": f"http://127.0.0.1:{ports.site(site).store}" for site in ports.sites}


class _Start:
    """One start: independent steps side by side, each waiting for what it needs."""

    def __init__(
        self, local: LocalEstate, supervisor: Supervisor, report: Report, lost: frozenset[str], held: frozenset[str]
    ) -> None:
        self.local = local
        self.supervisor = supervisor
        self.report = report
        self.lost = lost
        self.held = held
        self.cancelled = threading.Event()

    def run(self) -> None:
        names = {program.part for program in self.local.programs}
        sites = [site for site in self.local.estate.site_names if site not in self.lost]
        with ThreadPoolExecutor(max_workers=8) as pool:
            database = pool.submit(self._step, "PostgreSQL", self._postgres)
            ledger = pool.submit(self._step, "ledger", self._ledger, database)
            stores = {site: pool.submit(self._step, f"{site}: object store", self._store, site) for site in sites}
            steps: list[Future[None]] = [database, ledger, *stores.values()]
            if Part.AIRFLOW in names:  # the slowest first
                steps.append(pool.submit(self._step, "Airflow", self._airflow, database))
            if Part.MLFLOW in names:
                steps.append(pool.submit(self._step, "MLflow", self._mlflow, database, *stores.values()))
            replicas = [
                pool.submit(self._step, f"{site}: replicas", self._replicas, site, stores[site]) for site in sites
            ]
            steps += replicas
            if Part.GATEWAY in names:
                steps.append(pool.submit(self._step, "gateway", self._gateway))
            if Part.VAULT in names:
                steps.append(pool.submit(self._step, "vault", self._vault))
            self._finish(steps)
            tools = [
                program for program in self.local.programs if program.part in {Part.KEEPER, Part.FEEDER, Part.PROBER}
            ]
            if tools:
                self._step(", ".join(tool.name for tool in tools), self._run, tools)

    def _finish(self, steps: list[Future[None]]) -> None:
        """Return when all are done; when one fails, or the user has enough, let the others give up and raise it."""
        try:
            for step in wait(steps, return_when=FIRST_EXCEPTION).done:
                step.result()
        except BaseException:
            self.cancelled.set()
            raise

    def _step(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        needed = [argument for argument in arguments if isinstance(argument, Future)]
        for future in needed:
            future.result()
        self.report(name, None)
        began = time.monotonic()
        action(*(argument for argument in arguments if not isinstance(argument, Future)))
        self.report(name, time.monotonic() - began)

    def _postgres(self) -> None:
        postgres.create(self.local)
        self._run(self._programs("postgres"), lambda: postgres.accepts_connections(self.local))
        postgres.provision(self.local)

    def _ledger(self) -> None:
        from ninelives.adapters.ledger import migrate

        migrate(self.local.database_url("ledger_owner", "ledger"), writer_role="ledger_writer")

    def _store(self, site: str) -> None:
        from ninelives.adapters.connections import FileConnections
        from ninelives.adapters.s3 import S3ObjectStore

        self.local.store_folder(site).mkdir(parents=True, exist_ok=True)
        url = f"http://127.0.0.1:{self.local.ports.site(site).link}"
        self._run([one for one in self._of_site(site) if one.kind in ("store", "link")], lambda: answers(url))
        connections = FileConnections(self.local.home.connections_file)
        store = S3ObjectStore.from_connection(connections.get(f"ninelives_{site}_store"), site)
        for bucket in BUCKETS:
            store.ensure_bucket(bucket)

    def _replicas(self, site: str) -> None:
        live = [f"http://127.0.0.1:{port}/v2/health/live" for port in self.local.ports.site(site).replicas]
        programs = [program for program in self._of_site(site) if program.kind == "replica"]
        self._run(programs, lambda: all(answers(url) for url in live))

    def _gateway(self) -> None:
        from ninelives.adapters.connections import FileConnections
        from ninelives.adapters.envoy import EnvoyGateway

        self.local.home.gateway.mkdir(parents=True, exist_ok=True)
        EnvoyGateway.from_connections(FileConnections(self.local.home.connections_file), self.local.estate).initialise()
        ready = f"http://127.0.0.1:{self.local.ports.gateway_admin}/ready"
        self._run(self._programs("gateway"), lambda: answers(ready))

    def _mlflow(self) -> None:
        config = self.local.home.root / "mlflow" / "auth.ini"
        private_folder(config.parent)
        write_atomically(config, launch.mlflow_auth_config(self.local).encode(), mode=0o600)
        health = f"http://127.0.0.1:{self.local.ports.mlflow}/health"
        self._run(self._programs("mlflow"), lambda: answers(health))
        if registry_accounts(self.local.estate) and answers(health):  # a drill may hold it down
            self._registry_accounts()

    def _registry_accounts(self) -> None:
        from ninelives.adapters.connected import ConnectedEstate
        from ninelives.adapters.connections import FileConnections

        connections = FileConnections(self.local.home.connections_file)
        systems = ConnectedEstate(self.local.estate, connections, self.local.home)
        apply(systems)

    def _vault(self) -> None:
        vault.create(self.local)
        programs = [program for program in self.local.programs if program.part is Part.VAULT]
        self._run(programs, lambda: vault.answers(self.local))

    def _airflow(self) -> None:
        airflow.write_config(self.local)
        airflow.migrate(self.local, supervisord.environment(self.local))
        components = [program for program in self.local.programs if program.part is Part.AIRFLOW]
        self._run(components, lambda: airflow.healthy(self.local))

    def _programs(self, name: str) -> list[Program]:
        return [self.local.program(name)]

    def _of_site(self, site: str) -> list[Program]:
        return [program for program in self.local.programs if program.site == site]

    def _run(self, programs: list[Program], ready: Callable[[], bool] = lambda: True) -> None:
        """Start programs and wait until they run and are ``ready``; those that a drill holds down stay down."""
        if held := [program for program in programs if program.name in self.held]:
            # What is held down cannot answer, so the answer to all of them together is not waited for.
            if others := [program for program in programs if program not in held]:
                self._run(others)
            return
        for program in programs:
            self.supervisor.start(program.group, program.name)
        deadline = time.monotonic() + _PATIENCE
        names = {program.name for program in programs}
        lives: dict[str, set[int | None]] = {name: set() for name in names}
        while True:
            infos = [info for info in self.supervisor.processes() if info.name in names]
            for info in infos:
                lives[info.name].add(info.pid)
                if info.state in {"FATAL", "STOPPED", "STOPPING"}:
                    raise self._failure(info.name, f"cannot run ({info.detail or info.state})")
                if len(lives[info.name] - {None}) > _MOST_LIVES:
                    raise self._failure(info.name, "ends again and again")
            if all(info.state == "RUNNING" for info in infos) and ready():
                return
            if time.monotonic() > deadline:
                raise self._failure(programs[0].name, f"did not answer within {_PATIENCE:.0f} s")
            if self.cancelled.wait(0.2):
                raise Unavailable("given up, because another step failed")

    def _failure(self, program: str, what: str) -> Unavailable:
        log = self.local.log_of(program)
        return Unavailable(f"{program} {what}; the last lines of {log}:\n{airflow.tail(log)}")


def _prepare(home: Home, estate_path: Path | None, without: frozenset[Part] | None, remember: bool) -> LocalEstate:
    """Check everything that can be checked beforehand, then write secrets, connections and the record."""
    record = read_record(home)
    source = (estate_path or (record.source if record and record.source.exists() else _demo_estate())).resolve()
    without = (record.without if record else frozenset()) if without is None else without
    estate, text = load_estate(source), source.read_bytes()
    ports = Ports(port_base(record.base if record else None), estate.site_names)
    private_folder(home.root / "run")
    local = LocalEstate(home, estate, ports, open_secrets(home), without)
    for name in ("supervisord", "rclone", *(["envoy"] if Part.GATEWAY not in without else [])):
        launch.binary(name)
    binaries()
    if any(program.part is Part.VAULT for program in local.programs):
        find_restic()
    _check_disk(home)
    copy = home.root / "estate.yaml"
    if _runs(supervisord.client(local)):
        if record and (record.base != ports.base or copy.read_bytes() != text):
            what = "the estate file" if copy.read_bytes() != text else "the port base"
            raise Refused("the local estate runs already", [f"{what} has changed: run `ninelives stack down` first"])
    else:
        if left := processes.remaining(home):
            processes.end(left)
        check_free(_ports_in_use(local))
    home.logs.mkdir(exist_ok=True)
    for folder in (home.golden, home.probes, home.feed, home.injections):
        folder.mkdir(exist_ok=True)
    write_atomically(copy, text)
    kept = without if remember or record is None else record.without
    write_record(home, Record(source, kept, ports.base), ports.named())
    _write_connections(local)
    return local


def _ports_in_use(local: LocalEstate) -> dict[str, int]:
    """Ports of the parts that are started; a lighter stack does not claim the others."""
    used = {program.name: port for program in local.programs if (port := local.port_of(program))}
    return used | ({"gateway-admin": local.ports.gateway_admin} if "gateway" in used else {})


def _check_disk(home: Home) -> None:
    free = shutil.disk_usage(home.root).free
    if free < MIN_FREE:
        raise Refused(
            "the disk is nearly full",
            [
                f"{home.root} has {free / 1e9:.2f} GB free, the local estate needs {MIN_FREE / 1e9:.0f} GB",
                "make room, or set NINELIVES_HOME to another disk",
            ],
        )


def _write_connections(local: LocalEstate) -> None:
    """Our connections, beside those that somebody else put into the file."""
    path = local.home.connections_file
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    text = json.dumps(known | local.connections(), indent=1)
    if not path.exists() or path.read_text("utf-8") != text:
        write_atomically(path, text.encode(), mode=0o600)


def _start_supervisord(local: LocalEstate) -> None:
    supervisord.write_config(local)
    supervisord.start(local)
    client = supervisord.client(local)
    deadline = time.monotonic() + 20
    while not _runs(client):
        if time.monotonic() > deadline:
            log = local.log_of("supervisord")
            raise Unavailable(f"supervisord does not answer; the last lines of {log}:\n{airflow.tail(log)}")
        time.sleep(0.05)
    processes.remember_session(local.home, client.pid())


def _complete(home: Home) -> Path:
    """There when the last start went through all its steps; a killed one must be repeated."""
    return home.root / "run" / "complete"


def _adopt_configuration(local: LocalEstate, supervisor: Supervisor) -> None:
    """Let a running supervisord add and remove what has changed since it was started."""
    if not supervisord.write_config(local):
        return
    [[added, changed, removed]] = supervisor.call("reloadConfig")
    for group in (*changed, *removed):
        supervisor.call("stopProcessGroup", group)
        supervisor.call("removeProcessGroup", group)
    for group in (*added, *changed):
        supervisor.call("addProcessGroup", group)


def _down(home: Home, local: LocalEstate | None) -> list[str]:
    """Users first, storage last; then whatever supervisord does not know of."""
    stopped: list[str] = []
    _complete(home).unlink(missing_ok=True)
    if local is not None and _runs(supervisor := supervisord.client(local)):
        pid = supervisor.pid()
        running = {info.name: info for info in supervisor.processes() if info.pid}
        stopped = list(running)
        drained = {program.name for program in programs(local.estate) if program.kind == "replica"}
        replicas = [info for info in running.values() if info.name in drained]
        _stop(supervisor, {"prober", "feeder", "keeper"})  # the end of an estate is not an outage to measure
        for info in running.values():
            if not info.group.startswith("site-") and info.name != "postgres":
                supervisor.stop(info.group, info.name)
        for info in replicas:  # drain, before SIGKILL ends the site
            supervisor.signal(info.group, info.name, "TERM")
        _await_gone({info.pid for info in replicas if info.pid}, patience=5.0)
        _stop(supervisor, set(running) - {"postgres"})
        _stop(supervisor, {"postgres"})
        supervisor.call("shutdown")
        _await_gone({pid}, patience=10.0)
    if left := processes.remaining(home):
        stopped += [f"{process.pid}" for process in left]
        if stayed := processes.end(left):
            raise Unavailable(
                f"cannot stop processes {', '.join(str(process.pid) for process in stayed)}: kill them by hand"
            )
    return stopped


def _as_recorded(home: Home) -> LocalEstate | None:
    """``None`` where the record is missing or spoilt: the processes can be found and ended without it."""
    try:
        return LocalEstate.recorded(home)
    except (NinelivesError, ValueError, KeyError) as error:
        log.warning("ending processes without the record of the estate: %s", error)
        return None


def _stop(supervisor: Supervisor, names: set[str]) -> None:
    """Stop programs and wait; supervisord itself turns to SIGKILL after each one's patience."""
    members = [info for info in supervisor.processes() if info.name in names]
    for info in members:
        supervisor.stop(info.group, info.name)
    deadline = time.monotonic() + 60
    while [info for info in supervisor.processes() if info.name in names and info.state in _MOVING]:
        if time.monotonic() > deadline:
            return  # what is left is ended by pid afterwards
        for info in supervisor.processes():
            if info.name in names and info.state != "STOPPING":
                supervisor.stop(info.group, info.name)
        time.sleep(0.1)


# EXITED counts: supervisord starts such a program again at its next look.
_MOVING = {"RUNNING", "STARTING", "BACKOFF", "STOPPING", "EXITED"}


def _await_gone(pids: set[int], patience: float) -> None:
    import psutil

    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    processes.wait(found, patience)


def _runs(supervisor: Supervisor) -> bool:
    try:
        supervisor.pid()
    except Unavailable:
        return False
    return True


def _lost_on_purpose(home: Home) -> set[str]:
    """Sites that a running drill took away: bringing them back is its business, or the keeper's once it expired."""
    injections, _ = read_injections(home)
    return {
        fault.site
        for injection in injections
        if injection.expires_at > datetime.now(UTC)
        for fault in injection.to_undo
        if isinstance(fault, SiteLost)
    }


def _held_down(home: Home) -> frozenset[str]:
    """Programs that a running drill keeps down. An estate that is started anew starts them: its drill is over."""
    injections, _ = read_injections(home)
    return frozenset(
        fault.program
        for injection in injections
        if injection.expires_at > datetime.now(UTC)
        for fault in injection.faults
        if isinstance(fault, Stopped)
    )


def _site(home: Home, site: str) -> SupervisorSite:
    from ninelives.adapters.connections import FileConnections

    local = LocalEstate.recorded(home)
    if site not in local.estate.site_names:
        raise Refused(f"no site {site}", [f"the estate has {', '.join(local.estate.site_names)}"])
    return SupervisorSite.from_connection(FileConnections(home.connections_file).get(f"ninelives_{site}_control"), site)


def _row(local: LocalEstate, program: Program, info: ProcessInfo | None) -> dict[str, Any]:
    return {
        "program": program.name,
        "site": program.site,
        "state": info.state if info else "STOPPED",
        "pid": info.pid if info else None,
        "port": local.port_of(program),
        "uptime": info.uptime if info else None,
        "log": str(local.log_of(program.name)),
    }


def _new_passwords(local: LocalEstate) -> dict[str, str]:
    if Part.AIRFLOW in local.without:
        return {}
    path = local.home.root / "secrets" / "shown.json"
    shown = set(json.loads(path.read_text("utf-8"))) if path.exists() else set()
    known = airflow.passwords(local)
    people = {person.name: known[person.name] for person in local.estate.people if person.name in known}
    write_atomically(path, json.dumps(sorted(shown | set(people))).encode())
    return {name: password for name, password in people.items() if name not in shown}


def _demo_estate() -> Path:
    return project_folder() / "include" / "estates" / "demo" / "estate.yaml"


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One start or stop at a time; the kernel frees the lock of a killed one."""
    with (home.root / "stack.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                "another `ninelives stack` command is at work", [f"it holds {file.name}; wait for it"]
            ) from None
        yield
