"""A model that goes on learning, as a backup has it: copied as of one instant, and checked without learning."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pydantic import ValidationError

from ninelives.errors import Corrupted
from ninelives.state.arrays import State, digest_of
from ninelives.state.learner import parse_spec
from ninelives.state.log import Position, read_positions
from ninelives.state.model import Pointer, evidence_key

CURRENT, LOG, LOCK = "current.json", "updates.jsonl", "lock"


def models(folder: Path) -> list[Path]:
    """The folders of models below ``folder``; one in which no version answers yet is none."""
    return sorted(path.parent for path in folder.glob(f"*/{CURRENT}"))


def copy_model(source: Path, to: Path) -> str | None:
    """Copy a model into the new folder ``to``. Whoever writes waits for a moment only: the log is read afterwards.

    :return: why its state was left out, which the log makes anew; ``None`` where it is there
    :raises Corrupted: its pointer is damaged
    """
    to.mkdir(parents=True)
    with locked(source):
        data = (source / CURRENT).read_bytes()
        pointer = _pointer(data, source / CURRENT)
        state = source / "states" / f"{pointer.state}.safetensors"
        learnt = state.read_bytes() if state.exists() else b""
        size = (source / LOG).stat().st_size if (source / LOG).exists() else 0
        shutil.copytree(source / "versions", to / "versions")
    (to / CURRENT).write_bytes(data)
    _copy_lines(source / LOG, to / LOG, size)
    if digest_of(learnt) != pointer.state:
        return f"{state.name} is damaged or gone: `ninelives state replay {source.name} --mend` makes it anew"
    (to / "states").mkdir()
    (to / "states" / state.name).write_bytes(learnt)
    return None


def _copy_lines(source: Path, to: Path, size: int) -> None:
    """Whole lines of the first ``size`` bytes: they never change, whatever comes after them."""
    with to.open("wb") as copy:
        if size == 0:
            return
        with source.open("rb") as log:
            for line in log:
                size -= len(line)
                if size < 0 or not line.endswith(b"\n"):
                    return
                copy.write(line)


def check_model(folder: Path, known: Position | None = None) -> Position:
    """Read all of a model and say which update is its last one. A state that is not there is no damage: the log has it.

    :param known: an update that must be in the log too
    :raises Corrupted: something is not what was written, or does not belong to the rest
    """
    pointer = _pointer((folder / CURRENT).read_bytes(), folder / CURRENT)
    seen = [Position(pointer.seq, pointer.hash), Position(pointer.history[-1].since, pointer.since_hash)]
    seen += [known] if known else []
    last = Position()
    for position in chain([last], read_positions(folder / LOG)):
        if any(one.seq == position.seq and one != position for one in seen):
            raise Corrupted(f"{folder.name}: update {position.seq} of its log is another one than was seen before")
        last = position
    if (most := max(one.seq for one in seen)) > last.seq:
        raise Corrupted(f"{folder.name}: its log ends at update {last.seq}, and had {most}")
    for version in {one.version for one in pointer.history}:
        spec = folder / "versions" / f"{version}.json"
        if not spec.is_file():
            raise Corrupted(f"{folder.name}: the spec of version {version} is gone")
        parse_spec(spec.read_bytes())
    for state in (folder / "states").glob("*.safetensors"):
        if digest_of(data := state.read_bytes()) != state.stem:
            raise Corrupted(f"{folder.name}: {state.name} is not what was written")
        State.decode(data)
    return last


@dataclass(frozen=True)
class Switches:
    """What a pointer says of the versions that have answered: no other file of the model says whether that is right.

    :param digest: of all of it; it changes with the next switch only
    :param evidence: key of the last switch in the ledger; ``None`` while the first version answers
    """

    generation: int
    digest: str
    evidence: str | None


def switches(folder: Path) -> Switches:
    pointer = _pointer((folder / CURRENT).read_bytes(), folder / CURRENT)
    said = pointer.model_dump_json(include={"model", "history", "since_hash", "state_since", "proof", "by"})
    key = evidence_key(pointer) if pointer.generation > 1 else None
    return Switches(pointer.generation, digest_of(said.encode()), key)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody learns or switches meanwhile."""
    with (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pointer(data: bytes, path: Path) -> Pointer:
    try:
        return Pointer.model_validate_json(data)
    except ValidationError as error:
        raise Corrupted(f"{path}: {error.errors()[0]['msg']}; restore it") from error
