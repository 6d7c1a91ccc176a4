"""The log of updates: append-only, hash-chained, fsynced before anything counts, each of the caller's keys once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.files import append_lines, sync_folder
from ninelives.state.learner import A_NUMBER, is_number

GENESIS = "0" * 64
"""``previous`` of the first update, and the hash of an empty log."""
_LINE = re.compile(rb'\{"hash":"(?P<hash>[0-9a-f]{64})",(?P<hashed>.*)', re.DOTALL)
"""RFC 8785 writes names in order, so that ``hash`` comes first."""
_CHAINED = re.compile(
    rb'\{"hash":"(?P<hash>[0-9a-f]{64})",(?P<hashed>"previous":"(?P<previous>[0-9a-f]{64})","seq":(?P<seq>\d{1,18}),.*)\n',
    re.DOTALL,
)


class Update(BaseModel):
    """What was seen and what came of it. ``key`` is the caller's: the same one again is the same update."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: Annotated[str, Field(min_length=1, max_length=200)]
    features: Annotated[dict[str, str | int | float], Field(min_length=1)]
    target: int | float


@dataclass(frozen=True)
class Entry:
    """An update in the log. ``hash`` covers it, its number and, through ``previous``, all before it."""

    seq: int
    update: Update
    previous: str
    hash: str


@dataclass(frozen=True)
class Appended:
    new: int
    repeated: int


@dataclass(frozen=True)
class Position:
    """After which update: its number and hash."""

    seq: int = 0
    hash: str = GENESIS


class UpdateLog:
    """The log in a file. Appending is the caller's to do alone; reading needs no lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def read(self) -> Sequence[Entry]:
        """All that counts, oldest first; what this object has read before is not read again.

        Whoever means to rely on an entry calls ``sync`` first: a killed writer has not fsynced its last ones.

        :raises Corrupted: a line is not what was written, or not where it was written
        """
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read_to:
                    self._forget()
                file.seek(self._read_to)
                data = file.read()
        except FileNotFoundError:
            self._forget()
            return []
        for line in data.split(b"\n")[:-1]:
            number = len(self._entries) + 1
            entry = self._entry(line, number)
            previous = self._entries[-1].hash if self._entries else GENESIS
            if entry.previous != previous or entry.update.key in self._by_key:
                raise Corrupted(f"{self.path}:{number}: it does not follow the line before it; restore the log")
            self._entries.append(entry)
            self._by_key[entry.update.key] = entry.update
            self._read_to += len(line) + 1
        return self._entries

    def _forget(self) -> None:
        self._entries: list[Entry] = []
        self._by_key: dict[str, Update] = {}
        self._read_to = 0

    def append(self, updates: Sequence[Update]) -> Appended:
        """Append those whose keys are new; on return all of them survive a power cut.

        A writer killed in between has appended some, in order, which the caller's repeat finds.

        :raises Refused: a key is there with other contents, or an update has no exact form; nothing is appended
        :raises Unavailable: the disk refuses
        """
        entries = self.read()
        seq, previous = len(entries), entries[-1].hash if entries else GENESIS
        lines, fresh, reasons = list[bytes](), dict[str, Update](), list[str]()
        for update in updates:
            text = _canonical(update)
            if known := self._by_key.get(update.key) or fresh.get(update.key):
                if known != update:
                    reasons.append(f"the key {update.key!r} is there with other contents; a key is one update")
                continue
            fresh[update.key] = update
            seq += 1
            hashed = b'"previous":"%s","seq":%d,"update":%s}' % (previous.encode(), seq, text)
            previous = _hash(hashed)
            lines.append(b'{"hash":"%s",%s\n' % (previous.encode(), hashed))
        if reasons:
            raise Refused("learn", reasons[:10])
        try:
            if lines:
                append_lines(self.path, b"".join(lines))
            if len(lines) < len(updates):
                self.sync()
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be written: {error.strerror}; nothing was learnt") from error
        return Appended(new=len(lines), repeated=len(updates) - len(lines))

    def sync(self) -> None:
        """Make all that can be read survive a power cut, the lines of a writer that was killed before its fsync too.

        :raises OSError: the disk refuses
        """
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            sync_folder(self.path.parent)

    def _entry(self, line: bytes, number: int) -> Entry:
        try:
            parts = _LINE.fullmatch(line)
            if parts is None or _hash(parts["hashed"]) != parts["hash"].decode():
                raise ValueError("its hash is of something else")
            document = json.loads(line, parse_int=_whole)
            if document["seq"] != number:
                raise ValueError(f"it was written as line {document['seq']}")
            return Entry(number, Update.model_validate(document["update"]), document["previous"], document["hash"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise Corrupted(f"{self.path}:{number}: not what was written ({what}); restore the log") from error


def read_positions(path: Path) -> Iterator[Position]:
    """Every update's number and hash, checked in turn and no more kept than one: for whoever does not learn from them.

    :raises Corrupted: a line is not what was written, or not where it was written
    """
    last = Position()
    with path.open("rb") as file:
        for line in file:
            parts = _CHAINED.fullmatch(line)
            if (
                parts is None
                or _hash(parts["hashed"]) != parts["hash"].decode()
                or parts["previous"].decode() != last.hash
                or int(parts["seq"]) != last.seq + 1
            ):
                raise Corrupted(f"{path}:{last.seq + 1}: not what was written there; restore the log")
            last = Position(last.seq + 1, parts["hash"].decode())
            yield last


def _canonical(update: Update) -> bytes:
    """RFC 8785; raises ``Refused`` for what has no exact form in JSON, or is too large to be learnt."""
    bad = [name for name, value in update.features.items() if not isinstance(value, str) and not is_number(value)]
    bad += [] if is_number(update.target) else ["target"]
    if bad:
        raise Refused("learn", [f"{update.key!r}: {', '.join(bad)} must be {A_NUMBER}"])
    try:
        return rfc8785.dumps(update.model_dump())
    except (ValueError, UnicodeError) as error:
        raise Refused("learn", [f"{update.key!r} has no exact form in JSON: {error}"]) from error


def _whole(digits: str) -> int | float:
    """RFC 8785 writes a float beyond 2**53 with the digits of an integer, and has no such integers."""
    value = int(digits)
    return value if abs(value) < 2**53 else float(digits)


def _hash(hashed: bytes) -> str:
    """Of a line as RFC 8785 writes it without its hash."""
    return hashlib.sha256(b"{" + hashed).hexdigest()
