"""Which faults are injected right now: one file per injection, written before the fault, moved away after its undoing.

It is a file and not a ledger record because it must be readable by the last line of defence, the keeper, when
everything that a drill may take away is gone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict

from ninelives.files import sync_folder, write_atomically
from ninelives.home import Home


class Injection(BaseModel):
    """One fault: injected at ``started_at``, undone by anybody after ``expires_at`` if it is still open then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    scenario: str
    site: str
    service: str
    started_at: AwareDatetime
    expires_at: AwareDatetime
    lost_at: AwareDatetime | None = None
    """The instant of the fault itself; ``None`` until it is done."""
    undone_at: AwareDatetime | None = None
    undone_by: str | None = None


def open_injections(home: Home) -> list[Injection]:
    """Faults that are not undone yet, oldest first."""
    found = []
    for path in sorted(home.injections.glob("*.json")):
        try:
            found.append(Injection.model_validate_json(path.read_bytes()))
        except FileNotFoundError:
            continue  # undone between the listing and the reading
    return sorted(found, key=lambda injection: injection.started_at)


def open_injection(home: Home, injection: Injection) -> None:
    """Write down what is about to be done; on return it survives a power cut."""
    home.injections.mkdir(parents=True, exist_ok=True)
    write_atomically(_path(home, injection.id), injection.model_dump_json(indent=2).encode())


def close_injection(home: Home, injection_id: str, *, by: str) -> None:
    """Archive an injection that was undone; closing it twice is not an error."""
    path = _path(home, injection_id)
    try:
        injection = Injection.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return
    undone = injection.model_copy(update={"undone_at": datetime.now(UTC), "undone_by": by})
    archive = home.injections / "undone"
    archive.mkdir(exist_ok=True)
    write_atomically(archive / path.name, undone.model_dump_json(indent=2).encode())
    path.unlink(missing_ok=True)
    sync_folder(home.injections)


def find_injection(home: Home, injection_id: str) -> Injection | None:
    """An injection, open or undone."""
    for path in (_path(home, injection_id), home.injections / "undone" / f"{injection_id}.json"):
        if path.exists():
            return Injection.model_validate_json(path.read_bytes())
    return None


def _path(home: Home, injection_id: str) -> Path:
    return home.injections / f"{injection_id}.json"
