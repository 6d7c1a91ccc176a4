"""A model that learns, in a folder: updates taken in, states kept, exported and proved, versions switched."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.evidence.chain import canonical_json
from ninelives.files import sync_folder, write_atomically
from ninelives.ports import Features, Ledger, Record
from ninelives.releases.golden import answers_match
from ninelives.state.arrays import State, digest_of
from ninelives.state.learner import Build, Learner, Spec, migrate, parse_spec
from ninelives.state.log import Appended, Entry, Position, Update, UpdateLog

CHECKPOINT_EVERY = 5_000
"""Updates after which ``learn`` keeps the state anew: as many are learnt in about half a second."""
KIND = "state_switch"
"""Of evidence."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,17}$")]
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Proof(_Frozen):
    """Old and new version after the same update, asked the same.

    :param held: requests that both were asked
    :param largest: largest difference of two answers, in the unit of the target
    :param tolerance: as ``answers_match`` means it
    """

    held: Annotated[int, Field(gt=0)]
    held_digest: Digest
    largest: Annotated[float, Field(ge=0)]
    tolerance: Annotated[float, Field(ge=0)]


class Stretch(_Frozen):
    """Which version has learnt from which update on.

    :param since: the last update that another version learnt
    :param back_to: it goes on where that stretch of the history ended, as if no other version had been between
    """

    version: Version
    since: Annotated[int, Field(ge=0)]
    back_to: int | None = None


class Pointer(_Frozen):
    """``current.json``: which version answers, and what it had learnt after which update.

    :param history: the last one is the version that answers
    :param since_hash: of the update that ``history[-1].since`` numbers: what was there then
    :param state_since: of the old version, as it was handed over
    :param proof: of the switch to it; none for the first version and on the way back
    :param by: who switched
    """

    model: str
    state: Digest
    seq: Annotated[int, Field(ge=0)]
    hash: Digest
    history: Annotated[tuple[Stretch, ...], Field(min_length=1)]
    since_hash: Digest
    state_since: Digest
    proof: Proof | None = None
    by: str = ""

    @property
    def version(self) -> str:
        return self.history[-1].version

    @property
    def generation(self) -> int:
        """1 for the first version, and one more with each switch."""
        return len(self.history)


@dataclass(frozen=True)
class Learnt:
    """A version brought to ``position``."""

    version: str
    learner: Learner
    position: Position

    @property
    def state(self) -> bytes:
        return self.learner.export().encode()


class StatefulModel:
    """The model in ``folder``, whose name is the model's. Safe to use from several processes.

    :param build: makes learners of a spec
    :raises Refused: the folder's name is no name of a model
    """

    def __init__(self, folder: Path, build: Build) -> None:
        if not _NAME.fullmatch(folder.name):
            raise Refused("model name", [f"{folder.name[:60]!r} is no name: small letters, digits and hyphens only"])
        self.folder, self.name, self._build = folder, folder.name, build
        self.log = UpdateLog(folder / "updates.jsonl")

    # --- taking in -----------------------------------------------------------------------------------------------

    def add(self, version: str, spec: Spec) -> bool:
        """Make a version known; the first one answers from now on, having learnt nothing. Whether it was new.

        :raises Refused: the version is there with another spec: a version never changes
        """
        path = self._spec_file(version)
        data = spec.model_dump_json(indent=1).encode()
        self.folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        with self._alone():
            known = path.read_bytes() if path.exists() else None
            if known is not None and parse_spec(known) != spec:
                raise Refused(f"add {self.name} version {version}", ["it is there and differs; take another number"])
            if known is None:
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, data)
            if self._read_pointer() is None:
                first = Learnt(version, self._build(spec, None), Position())
                self._point(first, (Stretch(version=version, since=0),), first, None, "")
        return known is None

    def learn(self, updates: Sequence[Update]) -> Appended:
        """Take updates in; on return they survive a power cut, and every later answer has learnt them.

        :raises Refused: an update lacks what the version that answers takes, the version before could not learn it
            on the way back, or its key is there with other contents; nothing is taken in then
        :raises Corrupted: the log is not the one that the state has learnt
        """
        with self._alone():
            pointer = self.pointer()
            self._check_position(pointer, self.log.read())
            now = self.spec(pointer.version)
            before = [self.spec(one.version) for one in pointer.history[-2:-1]]
            problems = [
                f"{one.key!r}: {why}"
                for one in updates
                for why in (now.check(one.features), *(spec.check(one.features, whole=False) for spec in before))
                if why
            ]
            if problems:
                raise Refused("learn", problems[:10])
            appended = self.log.append(updates)
            entries = self.log.read()
            if len(entries) - pointer.seq >= CHECKPOINT_EVERY:
                self._write(pointer.model_copy(update=self._kept(self._brought_on(pointer, entries))))
            return appended

    # --- looking -------------------------------------------------------------------------------------------------

    def pointer(self) -> Pointer:
        """Raises ``Refused`` where there is no such model yet, ``Corrupted`` where the file is damaged."""
        found = self._read_pointer()
        if found is None:
            what = (
                f"{self.folder} has no such model; add its first version: ninelives state add {self.name} --version 1"
            )
            raise Refused(f"use {self.name}", [f"{what} --spec FILE"])
        return found

    def spec(self, version: str) -> Spec:
        try:
            return parse_spec(self._spec_file(version).read_bytes())
        except FileNotFoundError:
            raise Refused(
                f"use {self.name} version {version}",
                [f"it is not there, only {self._known()}; add it: ninelives state add"],
            ) from None
        except Corrupted as error:
            raise Corrupted(f"{self._spec_file(version)}: {error}") from error

    def current(self) -> Learnt:
        """The version that answers, with all that is in the log."""
        with self._alone():
            pointer, entries = self.pointer(), self.log.read()
            self._check_position(pointer, entries)
            learner = self._opened(pointer)
        return _taught(pointer.version, learner, entries, pointer.seq)

    def rebuilt(self) -> Learnt:
        """The same from the first update on, through every switch, without any kept state."""
        with self._alone():
            pointer, entries = self.pointer(), self.log.read()
            self._check_position(pointer, entries)
        return self._stretch(pointer.history, len(pointer.history) - 1, entries, len(entries))

    def mend(self) -> bool:
        """Make the kept state anew from the log where it is missing or damaged; ``False`` where it is whole.

        :raises Corrupted: the log makes another state than the one that ``current.json`` names
        """
        with self._alone():
            pointer, entries = self.pointer(), self.log.read()
            self._check_position(pointer, entries)
            path = self._state_file(pointer.state)
            if path.exists() and digest_of(path.read_bytes()) == pointer.state:
                return False
            data = self._stretch(pointer.history, len(pointer.history) - 1, entries, pointer.seq).state
            if digest_of(data) != pointer.state:
                raise Corrupted(
                    f"{self.log.path} makes another state after update {pointer.seq} than {self._current} names: "
                    "restore the folder, or install the versions of Python packages that learnt it"
                )
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
            return True

    # --- handing over --------------------------------------------------------------------------------------------

    def rehearse(self, version: str, held: Sequence[Features], tolerance: float) -> tuple[Learnt, Proof]:
        """What ``switch`` would make current, proved, and nothing changed."""
        spec = self.spec(version)
        old = self.current()
        return self._handed_over(old, spec, version, held, tolerance)

    def switch(self, version: str, held: Sequence[Features], *, tolerance: float, ledger: Ledger, by: str) -> Record:
        """Hand the state over to ``version``, prove it equal on held requests, and let it answer; leaves evidence.

        May be killed at any instant and repeated: either version answers then, and both have every update.

        :param held: requests that were kept aside for this
        :param tolerance: as ``answers_match`` means it; 0 wants the same bits
        :raises Refused: no request is held, an answer differs, or the state does not fit
        """
        spec = self.spec(version)
        with self._alone():
            pointer, entries = self._witnessed(ledger), self.log.read()
            if pointer.version == version and pointer.generation == 1:
                raise Refused(f"switch {self.name} to version {version}", ["it is the first one, and answers already"])
            if pointer.version != version:
                old = self._brought_on(pointer, entries)
                self.log.sync()
                new, proof = self._handed_over(old, spec, version, held, tolerance)
                history = (*pointer.history, Stretch(version=version, since=new.position.seq))
                pointer = self._point(new, history, old, proof, by)
            return self._evidence(ledger, pointer)

    def back(self, *, ledger: Ledger, by: str) -> Record:
        """Let the version before answer again, having learnt every update since as if it had never been replaced.

        :raises Refused: there is none before
        """
        with self._alone():
            pointer, entries = self._witnessed(ledger), self.log.read()
            index = len(pointer.history) - 2
            if pointer.history[-1].back_to is None:
                if index < 0:
                    raise Refused(f"switch {self.name} back", [f"version {pointer.version} is its first one"])
                self._check_position(pointer, entries)
                self.log.sync()
                before = pointer.history[index]
                learnt = self._stretch(pointer.history, index, entries, len(entries))
                stretch = Stretch(version=before.version, since=len(entries), back_to=index)
                old = self._brought_on(pointer, entries)
                pointer = self._point(learnt, (*pointer.history, stretch), old, None, by)
            return self._evidence(ledger, pointer)

    def _handed_over(
        self, old: Learnt, spec: Spec, version: str, held: Sequence[Features], tolerance: float
    ) -> tuple[Learnt, Proof]:
        what = f"switch {self.name} from version {old.version} to {version}"
        if not held:
            raise Refused(what, ["no request is held: nothing would be proved; keep some aside and pass them"])
        old_spec = self.spec(old.version)
        problems = [
            f"held request {number}: {why}"
            for number, row in enumerate(held, start=1)
            if (why := old_spec.check(row) or spec.check(row))
        ]
        if problems:
            raise Refused(what, problems[:10])
        state = migrate(old.learner.export(), old_spec, spec)
        # Through the bytes that will be read again: what is proved is what answers.
        new = Learnt(version, self._build(spec, State.decode(state.encode())), old.position)
        largest, problems = 0.0, []
        for number, row in enumerate(held, start=1):
            mine, theirs = old.learner.answer(row), new.learner.answer(row)
            if not answers_match({"answer": [mine]}, {"answer": [theirs]}, tolerance):
                problems.append(f"held request {number}: version {old.version} answers {mine}, {version} {theirs}")
            largest = max(largest, abs(mine - theirs))
        if problems:
            raise Refused(what, [f"{len(problems)} of {len(held)} answers differ", *problems[:5]])
        digest = digest_of("\n".join(sorted(_text(row) for row in held)).encode())
        return new, Proof(held=len(held), held_digest=digest, largest=largest, tolerance=tolerance)

    def _witnessed(self, ledger: Ledger) -> Pointer:
        """The pointer, with evidence: the ledger must answer before anything is switched, and have the last switch."""
        pointer = self.pointer()
        if pointer.generation > 1:
            self._evidence(ledger, pointer)
        else:
            ledger.head()
        return pointer

    def _evidence(self, ledger: Ledger, pointer: Pointer) -> Record:
        return ledger.append(KIND, self.name, switch_facts(pointer), once=evidence_key(pointer))

    # --- states --------------------------------------------------------------------------------------------------

    def _stretch(self, history: Sequence[Stretch], index: int, entries: Sequence[Entry], end: int) -> Learnt:
        """The version of a stretch after update ``end``, from the first update on."""
        path = list[tuple[Stretch, int]]()  # from the last one back to the first: one came after the other's end
        while index >= 0:
            stretch = history[index]
            if stretch.back_to is not None:
                index = stretch.back_to
                continue
            path.append((stretch, end))
            index, end = index - 1, stretch.since
        learnt: Learnt | None = None
        for stretch, end in reversed(path):
            spec = self.spec(stretch.version)
            state = migrate(learnt.learner.export(), self.spec(learnt.version), spec) if learnt else None
            learnt = _taught(stretch.version, self._build(spec, state), entries[:end], stretch.since)
        assert learnt is not None  # noqa: S101
        return learnt

    def _brought_on(self, pointer: Pointer, entries: Sequence[Entry]) -> Learnt:
        self._check_position(pointer, entries)
        return _taught(pointer.version, self._opened(pointer), entries, pointer.seq)

    def _opened(self, pointer: Pointer) -> Learner:
        path = self._state_file(pointer.state)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        if digest_of(data) != pointer.state:
            raise Corrupted(
                f"{path} is not the state that {self._current} names; the log has it: "
                f"`ninelives state replay {self.name} --mend` makes it anew"
            )
        return self._build(self.spec(pointer.version), State.decode(data))

    def _check_position(self, pointer: Pointer, entries: Sequence[Entry]) -> None:
        for seq, wanted in ((pointer.seq, pointer.hash), (pointer.history[-1].since, pointer.since_hash)):
            found = entries[seq - 1].hash if 0 < seq <= len(entries) else Position().hash if seq == 0 else "nothing"
            if found != wanted:
                raise Corrupted(
                    f"{self.log.path} has {len(entries)} updates, and {self._current} has seen another update {seq}: "
                    "the log was cut or written anew; restore it"
                )

    # --- files ---------------------------------------------------------------------------------------------------

    @property
    def _current(self) -> Path:
        return self.folder / "current.json"

    def _spec_file(self, version: str) -> Path:
        if not version.isdecimal() or version.startswith("0"):
            raise Refused(f"use {self.name}", [f"{version!r} is no version number"])
        return self.folder / "versions" / f"{version}.json"

    def _state_file(self, digest: str) -> Path:
        return self.folder / "states" / f"{digest}.safetensors"

    def versions(self) -> list[str]:
        return sorted((path.stem for path in (self.folder / "versions").glob("[0-9]*.json")), key=int)

    def _known(self) -> str:
        return ", ".join(self.versions()) or "no version"

    def _read_pointer(self) -> Pointer | None:
        try:
            return Pointer.model_validate_json(self._current.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise Corrupted(f"{self._current}: {error.errors()[0]['msg']}; restore it") from error

    def _point(self, new: Learnt, history: tuple[Stretch, ...], old: Learnt, proof: Proof | None, by: str) -> Pointer:
        kept = self._kept(new)
        pointer = Pointer(
            model=self.name,
            history=history,
            since_hash=new.position.hash,
            state_since=digest_of(old.state),
            proof=proof,
            by=by,
            **kept,
        )
        self._write(pointer)
        return pointer

    def _kept(self, learnt: Learnt) -> dict[str, Any]:
        """Keep a state; what a pointer says of it."""
        data = learnt.state
        path = self._state_file(digest_of(data))
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, data)
        return {"state": digest_of(data), "seq": learnt.position.seq, "hash": learnt.position.hash}

    def _write(self, pointer: Pointer) -> None:
        """The one rename that counts; only then the states before are of no use."""
        write_atomically(self._current, pointer.model_dump_json(indent=1).encode())
        for path in (self.folder / "states").iterdir():
            if path != self._state_file(pointer.state):
                path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The kernel drops the lock of a process that is killed."""
        try:
            file = (self.folder / "lock").open("a")
        except FileNotFoundError:
            self.pointer()
            raise
        except OSError as error:
            raise Unavailable(f"{self.folder} cannot be used: {error.strerror}") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            except OSError as error:
                raise Unavailable(
                    f"{self.folder}: {error.strerror}; what counts is whole, and the same command again goes on from it"
                ) from error


def evidence_key(pointer: Pointer) -> str:
    """Under which the switch to the version that answers is in the ledger, once."""
    return f"{KIND}/{pointer.model}/{pointer.generation}/{digest_of(canonical_json(switch_facts(pointer)).encode())}"


def switch_facts(pointer: Pointer) -> dict[str, Any]:
    """What the evidence of a switch says; ``state_before`` is the old version's state that was handed over."""
    last = pointer.history[-1]
    return {
        "from": pointer.history[-2].version if pointer.generation > 1 else None,
        "to": last.version,
        "back": last.back_to is not None,
        "after_update": last.since,
        "log_hash": pointer.since_hash,
        "state_before": pointer.state_since,
        "proof": pointer.proof.model_dump() if pointer.proof else None,
        "by": pointer.by,
    }


def _taught(version: str, learner: Learner, entries: Sequence[Entry], after: int) -> Learnt:
    new = entries[after:]  # once: whoever appends meanwhile lengthens the log's own list
    for entry in new:
        learner.learn(entry.update.features, entry.update.target)
    last = new[-1] if new else entries[after - 1] if after else None
    return Learnt(version, learner, Position(last.seq, last.hash) if last else Position())


def _text(row: Features) -> str:
    return "\x00".join(f"{name}={row[name]!r}" for name in sorted(row))
