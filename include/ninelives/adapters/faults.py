"""Breaking things on purpose, and mending them: programs under supervisord, and bytes on a store's disk.

The connections say what can be broken from here: ``ninelives_<site>_control`` for what belongs to a site and
``ninelives_control`` for the rest, each with ``programs`` (kind to names), ``addresses`` (program to a URL that answers
when it is well) and, where they are on this machine, the store's ``disk`` and ``accelerators``: of each machine that is
looked at through the stand-in (``adapters/stand_in.py``) its ``library`` and ``script``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ninelives.adapters.chaos import check_experiment, start_experiment, undo_experiment
from ninelives.adapters.rebuild import rebuilt_folder, take_away
from ninelives.adapters.supervisor import ProcessInfo, Supervisor, SupervisorSite, answers
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.injections import (
    Experiment,
    Fault,
    Flipped,
    Frozen,
    Killed,
    Planted,
    Played,
    Rebuilt,
    Replayed,
    SiteLost,
    Slowed,
    Stopped,
)
from ninelives.ports import Connection, Connections, ObjectStore

POLL = 0.05
"""Seconds between two looks at a program."""

OfProgram = Stopped | Killed | Frozen | Slowed


class SupervisedFaults:
    """``ports.FaultControl``.

    :param patience: seconds that a program may take to be gone, or to answer again
    """

    def __init__(self, connections: Connections, home: Home, *, patience: float = 60.0) -> None:
        self._connections = connections
        self._home = home
        self._patience = patience

    def programs(self, kind: str, site: str | None = None) -> tuple[str, ...]:
        named = self._control(site).extra.get("programs", {}).get(kind, ())
        running = {info.name for info in self._supervisor(site).processes()}
        if not (found := tuple(name for name in named if name in running)):
            where = f" at {site}" if site else ""
            raise Refused("drill", [f"there is no {kind}{where} that can be broken from here; see ninelives_*_control"])
        return found

    def running(self, sites: Sequence[str]) -> dict[str, bool]:
        found = {}
        for site in (None, *sites):
            try:
                control = self._control(site)
            except Unavailable:
                continue  # nothing is known of it here, and nothing can be broken there
            if "server" not in control.extra:
                continue
            group = control.extra.get("group", site)
            for info in self._supervisor(site).processes(group):
                if site or not info.group.startswith("site-"):
                    found[f"{info.name} at {site}" if site else info.name] = info.state in {"RUNNING", "STARTING"}
        return found

    def check(self, fault: Fault) -> None:
        match fault:
            case Flipped():
                self._disk(fault)
            case Slowed() if not self._home.connections_file.exists():
                raise Refused("drill", [f"what slows {fault.program} needs {self._home.connections_file}"])
            case Played():
                self._script(fault)
            case Experiment():
                check_experiment(fault)

    def inject(self, fault: Fault) -> datetime:
        at = datetime.now(UTC)
        match fault:
            case SiteLost():
                return self._site(fault.site).lose()
            case Stopped():
                self._stop(fault)
            case Killed():
                self._signal(fault, "KILL")
            case Frozen():
                self._signal(fault, "STOP")
            case Slowed():
                self._brake(fault)
            case Flipped():
                self._flip(fault)
            case Planted():
                self._store(fault.site).put(fault.bucket, fault.folder + fault.name, bytes.fromhex(fault.hex))
            case Played():
                self._play(fault)
            case Rebuilt():
                rebuilt_folder(self._home, fault.injection).mkdir(mode=0o700, parents=True, exist_ok=True)
            case Experiment():
                start_experiment(self._home, fault, self._environment(os.environ))
        return at

    def undo(self, fault: Fault) -> None:
        match fault:
            case SiteLost():
                self._site(fault.site).restore()
            case Stopped() | Killed():
                self._start(fault)
            case Frozen() | Slowed():
                self._signal(fault, "CONT")
                self._start(fault)
            case Flipped():
                self._flip_back(fault)
            case Planted() | Replayed():
                self._uproot(fault)
            case Played():
                self._play_no_more(fault)
            case Rebuilt():
                take_away(self._home, fault.injection)
            case Experiment():
                undo_experiment(self._home, fault, self._environment(os.environ))

    # --- programs ------------------------------------------------------------------------------------------------

    def _control(self, site: str | None) -> Connection:
        return self._connections.get(f"ninelives_{site}_control" if site else "ninelives_control")

    def _supervisor(self, site: str | None) -> Supervisor:
        control = self._control(site)
        return Supervisor(control.extra["server"], control.login, control.password)

    def _site(self, site: str) -> SupervisorSite:
        return SupervisorSite.from_connection(self._control(site), site)

    def _info(self, fault: OfProgram) -> ProcessInfo:
        for info in self._supervisor(fault.site).processes():
            if info.name == fault.program:
                return info
        raise Unavailable(f"supervisord has no program {fault.program}; was the estate changed?")

    def _signal(self, fault: OfProgram, signal: str) -> None:
        self._supervisor(fault.site).signal(self._info(fault).group, fault.program, signal)

    def _stop(self, fault: Stopped) -> None:
        supervisor = self._supervisor(fault.site)

        def gone() -> bool:
            info = self._info(fault)
            if info.state in {"STOPPED", "FATAL"}:
                return True
            # One that crashed a moment ago is EXITED: it cannot be stopped, and supervisord starts it once more.
            supervisor.stop(info.group, info.name)
            return False

        self._await(gone, f"{fault.program} was stopped but is not gone")

    def _start(self, fault: OfProgram) -> None:
        supervisor = self._supervisor(fault.site)
        address = self._control(fault.site).extra.get("addresses", {}).get(fault.program)

        def well() -> bool:
            info = self._info(fault)
            if info.state == "RUNNING":
                return address is None or answers(address)
            if info.state in {"STOPPED", "EXITED", "FATAL"}:
                supervisor.start(info.group, info.name)
            return False

        self._await(well, f"{fault.program} was started but does not answer")

    def _await(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._patience
        while not done():
            if time.monotonic() > deadline:
                raise Unavailable(f"{what} within {self._patience:.0f} s")
            time.sleep(POLL)

    def _brake(self, fault: Slowed) -> None:
        """Start the process that stops and continues the program, and return once it has begun."""
        if not brake_is_on(self._home, fault):
            self._home.logs.mkdir(parents=True, exist_ok=True)
            with (self._home.logs / "brake.log").open("ab") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "ninelives.adapters.brake", fault.injection],
                    env=self._environment(os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # the task that starts it ends long before it
                )
        self._await(lambda: brake_is_on(self._home, fault), f"the brake of {fault.program} is not on")

    def _environment(self, known: Mapping[str, str]) -> dict[str, str]:
        # NINELIVES_STACK is what `ninelives stack down` finds the estate's processes by.
        return {**known, "NINELIVES_HOME": str(self._home.root), "NINELIVES_STACK": str(self._home.root)}

    # --- accelerators --------------------------------------------------------------------------------------------

    def _script(self, fault: Played) -> Path:
        """The file that the stand-in of the machine reads, on this machine."""
        machines = self._control(fault.site).extra.get("accelerators", {})
        if fault.machine not in machines:
            reason = (
                f"no fault can be played to {fault.machine} from here: ninelives_{fault.site}_control names no script"
            )
            raise Refused("drill", [reason])
        return Path(machines[fault.machine]["script"])

    def _play(self, fault: Played) -> None:
        script = self._script(fault)
        script.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(script, fault.script.encode())

    def _play_no_more(self, fault: Played) -> None:
        """Remove the script, unless it is another's; and what a killed writer left beside it."""
        script = self._script(fault)
        for left in script.parent.glob(f".{script.name}.*"):
            left.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            if script.read_text("utf-8") == fault.script:
                script.unlink()

    # --- bytes ---------------------------------------------------------------------------------------------------

    def _disk(self, fault: Flipped) -> Path:
        disk = self._control(fault.site).extra.get("disk")
        if disk is None:
            raise Refused("drill", [f"the disk behind the store of {fault.site} cannot be reached from here"])
        return Path(disk)

    def _flip(self, fault: Flipped) -> None:
        disk = self._disk(fault)
        path = disk / fault.bucket / fault.key
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == fault.sha256:
            _replace_byte(path, _aside(disk, fault), fault.offset, fault.became)
        elif hashlib.sha256(_mended(data, fault)).hexdigest() != fault.sha256:
            raise Corrupted(f"{path} is not the object that was to be damaged; look at it before anything else")

    def _flip_back(self, fault: Flipped) -> None:
        """Restore the byte, unless the estate has replaced or removed the object meanwhile: then it is not ours."""
        disk = self._disk(fault)
        path = disk / fault.bucket / fault.key
        _aside(disk, fault).unlink(missing_ok=True)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        broken = hashlib.sha256(data).hexdigest() != fault.sha256
        if broken and hashlib.sha256(_mended(data, fault)).hexdigest() == fault.sha256:
            _replace_byte(path, _aside(disk, fault), fault.offset, fault.was)

    def _store(self, site: str) -> ObjectStore:
        from ninelives.adapters.s3 import S3ObjectStore

        return S3ObjectStore.from_connection(self._connections.get(f"ninelives_{site}_store"), site)

    def _uproot(self, fault: Planted | Replayed) -> None:
        """Remove what arrived and all that came of it; its folder is the drill's own."""
        store = self._store(fault.site)
        # The manifest first: one without its objects would look like a loss.
        for prefix in (f"_manifests/{fault.folder.rstrip('/')}.json", fault.folder):
            for info in list(store.list(fault.bucket, prefix)):
                store.delete(fault.bucket, info.key)


def brake_file(home: Home, injection: str) -> Path:
    """Locked by the brake for as long as it works."""
    return home.injections / f"{injection}.brake"


def brake_is_on(home: Home, fault: Slowed) -> bool:
    """Whether the process that slows the program is at work; the kernel frees the lock of a killed one."""
    try:
        with brake_file(home, fault.injection).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _mended(data: bytes, fault: Flipped) -> bytes:
    """``data`` with the byte as it was; unchanged where another one is there."""
    if len(data) != fault.size or data[fault.offset] != fault.became:
        return data
    return data[: fault.offset] + bytes([fault.was]) + data[fault.offset + 1 :]


def _aside(disk: Path, fault: Flipped) -> Path:
    """Beside the store, where no listing shows it."""
    return disk.with_name(f".{disk.name}-{fault.sha256[:16]}")


def _replace_byte(path: Path, aside: Path, offset: int, value: int) -> None:
    """One byte, the file's size and times kept, all at once: no listing shows it, as with a disk that rots."""
    shutil.copy2(path, aside)
    before = path.stat()
    with aside.open("r+b") as file:
        os.pwrite(file.fileno(), bytes([value]), offset)
        os.fsync(file.fileno())
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    aside.replace(path)
