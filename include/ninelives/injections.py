"""Which faults are injected right now: one file per injection, written before the fault, moved away after its undoing.

It is a file and not a ledger record because it must be readable by the last line of defence, the keeper, when
everything that a drill may take away is gone. It says exactly what is broken, so that nothing else is needed to know
what has to be mended.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ninelives.errors import Corrupted, Refused
from ninelives.files import sync_folder, write_atomically
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.ports import FaultControl

SITE_LOSS = "site-loss"


class _Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SiteLost(_Fault):
    """Every program of a site is killed and kept down; its disk is kept."""

    kind: Literal["site-lost"] = "site-lost"
    site: str


class _OfProgram(_Fault):
    program: str
    site: str | None = None
    """``None``: it belongs to no site."""


class Stopped(_OfProgram):
    """A program is stopped, those of sites by kill -9, and kept down."""

    kind: Literal["stopped"] = "stopped"


class Killed(_OfProgram):
    """A program is killed with -9, and its supervisor may start it again."""

    kind: Literal["killed"] = "killed"


class Frozen(_OfProgram):
    """A program is stopped by SIGSTOP: its port takes connections and nobody answers."""

    kind: Literal["frozen"] = "frozen"


class Slowed(_OfProgram):
    """A program is stopped and continued by turns, by a process of its own (``adapters/brake.py``)."""

    kind: Literal["slowed"] = "slowed"
    injection: str
    stopped_ms: Annotated[int, Field(gt=0)]
    running_ms: Annotated[int, Field(gt=0)]


class Flipped(_Fault):
    """One byte of an object is another on the store's disk, its size and times kept."""

    kind: Literal["flipped"] = "flipped"
    site: str
    bucket: str
    key: str
    offset: Annotated[int, Field(ge=0)]
    was: Annotated[int, Field(ge=0, le=255)]
    became: Annotated[int, Field(ge=0, le=255)]
    size: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the object as it was."""


class Planted(_Fault):
    """An object that does not belong there lies in a folder of its own in a store."""

    kind: Literal["planted"] = "planted"
    site: str
    bucket: str
    folder: Annotated[str, Field(pattern=r"^_drills/[^/]+/$")]
    name: str
    hex: str
    """Its bytes."""


class Replayed(_Fault):
    """A provider's recorded feed comes again, into a folder of the drill's own in the store of its stream."""

    kind: Literal["replayed"] = "replayed"
    provider: str
    site: str
    bucket: str
    folder: Annotated[str, Field(pattern=r"^_drills/[^/]+/$")]


class Played(_Fault):
    """A machine's accelerator has a fault: its script, which the stand-in for NVIDIA's library reads, says so."""

    kind: Literal["played"] = "played"
    site: str
    machine: str
    script: str
    """What the file says while the fault is in; without the file the device is sound."""


class Experiment(_Fault):
    """A user's experiment runs, in a process of its own (``adapters/chaos.py``); its rollbacks undo it."""

    kind: Literal["experiment"] = "experiment"
    name: str
    injection: str
    document: str
    """Chaos Toolkit's JSON, as it was when the drill began."""
    site: None = None


class Rebuilt(_Fault):
    """A second estate, built from the vault alone, stands in a folder of its own beside the running one."""

    kind: Literal["rebuilt"] = "rebuilt"
    injection: str
    site: None = None


Fault = SiteLost | Stopped | Killed | Frozen | Slowed | Flipped | Planted | Replayed | Played | Experiment | Rebuilt
"""One thing that is broken, with all that is needed to break and to mend it."""

AnyFault = Annotated[Fault, Field(discriminator="kind")]


class Injection(BaseModel):
    """One fault: injected at ``started_at``, undone by anybody after ``expires_at`` if it is still open then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    scenario: str
    site: str
    """Empty where the scenario is not about one site."""
    service: str
    started_at: AwareDatetime
    expires_at: AwareDatetime
    faults: tuple[AnyFault, ...] = ()
    lost_at: AwareDatetime | None = None
    """The instant of the fault itself; ``None`` until it is done."""
    undoing_at: AwareDatetime | None = None
    """When its undoing began: nobody may break anything of it from then on."""
    undone_at: AwareDatetime | None = None
    undone_by: str | None = None

    @property
    def to_undo(self) -> tuple[Fault, ...]:
        """What to mend; a file of an older version names the lost site and nothing else."""
        if not self.faults and self.scenario == SITE_LOSS:
            return (SiteLost(site=self.site),)
        return self.faults

    @property
    def over(self) -> bool:
        """Whether it is undone, or about to be."""
        return self.undoing_at is not None or self.undone_at is not None


def open_injections(home: Home) -> list[Injection]:
    """Faults that are not undone yet, oldest first.

    :raises Corrupted: one of them cannot be read, so nobody knows what is broken
    """
    found = [one for path in sorted(home.injections.glob("*.json")) if (one := read_injection(path))]
    return sorted(found, key=lambda injection: injection.started_at)


def read_injection(path: Path) -> Injection | None:
    """``None`` where it is undone, so not there any more.

    :raises Corrupted: it cannot be read
    """
    try:
        return Injection.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Corrupted(
            f"{path} cannot be read, so nobody knows what it has broken ({' '.join(str(error).split())}); see what is "
            "down (ninelives stack status), start it (ninelives stack restore SITE), and remove the file"
        ) from error


def open_injection(home: Home, injection: Injection) -> None:
    """Write down what is about to be done; on return it survives a power cut."""
    home.injections.mkdir(parents=True, exist_ok=True)
    write_atomically(_path(home, injection.id), injection.model_dump_json(indent=2).encode())


def mark_lost(home: Home, injection_id: str, at: datetime) -> Injection:
    """Write down that the fault is in since ``at``.

    :raises Refused: somebody has begun to undo it meanwhile
    """
    with journal_lock(home):
        found = find_injection(home, injection_id)
        if found is None or found.over:
            raise Refused("drill", [f"{injection_id} was undone while it was being injected"])
        lost = found.model_copy(update={"lost_at": at})
        open_injection(home, lost)
    return lost


def prolong(home: Home, injection_id: str, until: datetime) -> None:
    """Say that its author is still at work, so that nobody else undoes it before ``until``.

    :raises Refused: somebody has begun to undo it
    """
    with journal_lock(home):
        found = find_injection(home, injection_id)
        if found is None or found.over:
            raise Refused("drill", [f"{injection_id} was undone while it was at work"])
        open_injection(home, found.model_copy(update={"expires_at": until}))


def undo_injection(home: Home, faults: FaultControl, injection_id: str, *, by: str) -> None:
    """Mend what an injection broke and archive it; where none is open there is nothing to mend.

    :raises Unavailable: it cannot be mended now; the injection stays open
    """
    injection = begin_undo(home, injection_id)
    if injection is None:
        return
    for fault in injection.to_undo:
        faults.undo(fault)
    close_injection(home, injection_id, by=by)


def begin_undo(home: Home, injection_id: str) -> Injection | None:
    """Say that the fault is about to be undone, so that nobody goes on breaking; ``None`` where none is open."""
    with journal_lock(home):
        if (injection := read_injection(_path(home, injection_id))) is None:
            return None
        if injection.undoing_at is None:
            injection = injection.model_copy(update={"undoing_at": datetime.now(UTC)})
            open_injection(home, injection)
    return injection


def close_injection(home: Home, injection_id: str, *, by: str) -> None:
    """Archive an injection that was undone; closing it twice is not an error."""
    path = _path(home, injection_id)
    if (injection := read_injection(path)) is None:
        return
    undone = injection.model_copy(update={"undone_at": datetime.now(UTC), "undone_by": by})
    archive = home.injections / "undone"
    archive.mkdir(exist_ok=True)
    write_atomically(archive / path.name, undone.model_dump_json(indent=2).encode())
    path.unlink(missing_ok=True)
    sync_folder(home.injections)


def find_injection(home: Home, injection_id: str) -> Injection | None:
    """An injection, open or undone."""
    open_one = read_injection(_path(home, injection_id))
    return open_one or read_injection(home.injections / "undone" / f"{injection_id}.json")


def experiment_journal(home: Home, injection_id: str) -> Path:
    """What Chaos Toolkit says of an experiment's method, once that is through."""
    return home.injections / "journals" / f"{injection_id}.json"


@contextmanager
def journal_lock(home: Home) -> Iterator[None]:
    """Whoever breaks by turns and whoever mends exclude each other; the kernel frees the lock of a killed one."""
    home.injections.mkdir(parents=True, exist_ok=True)
    with (home.injections / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _path(home: Home, injection_id: str) -> Path:
    return home.injections / f"{injection_id}.json"
