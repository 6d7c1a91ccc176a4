"""Whole checkpoints of a training run: written so that a half-written one can never be taken for one.

A checkpoint is some files under one prefix, ``<stream>/step=<number>/``, and a manifest there that is written last and
lists them. Its files carry their SHA-256 in their keys, so a writer that was thought dead cannot change a checkpoint
that another has finished meanwhile. Files that no manifest lists are what a killed writer left: nobody reads them,
nobody copies them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import rfc8785
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ninelives.errors import Corrupted, Refused
from ninelives.estate.residency import refuse_breach
from ninelives.ports import ObjectStore, Scalar, Systems
from ninelives.replication.manifest import ManifestObject, Sha256
from ninelives.replication.transfer import Delivery, Link, OnProgress, deliver, link_between, try_each

CHECKPOINTS = "checkpoints"
"""The bucket."""

_STREAM = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*")
_MANIFEST = re.compile(r"(?P<stream>.+)/step=(?P<step>\d{12})/manifest\.json")


class Checkpoint(BaseModel):
    """The manifest: which files a step consists of, and what the trainer wants to remember of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: str
    step: Annotated[int, Field(ge=0)]
    created_at: AwareDatetime
    facts: dict[str, Scalar]
    """The trainer's own: data version, metrics, what resuming needs to know."""
    files: dict[str, ManifestObject]
    """name to object"""
    hash: Sha256
    """of everything else, so that a damaged manifest is no checkpoint"""

    @model_validator(mode="after")
    def _hash_is_of_the_rest(self) -> Self:
        if (actual := _hash(self.model_dump(mode="json", exclude={"hash"}))) != self.hash:
            raise ValueError(f"the hash is {self.hash}, the contents' is {actual}")
        return self

    @property
    def size(self) -> int:
        """bytes"""
        return sum(o.size for o in self.files.values())

    @property
    def key(self) -> str:
        return manifest_key(self.stream, self.step)


def _hash(document: Mapping[str, object]) -> str:
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()  # type: ignore[arg-type]


def manifest_key(stream: str, step: int) -> str:
    return f"{stream}/step={step:012}/manifest.json"


def write_checkpoint(
    store: ObjectStore,
    stream: str,
    step: int,
    files: Mapping[str, bytes | Path],
    facts: Mapping[str, Scalar] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Checkpoint:
    """Write every file, then the manifest; when this returns the store has acknowledged the whole checkpoint.

    Killed before that, there is no checkpoint, and a repeated call finishes it. The same files under a step that is
    whole already are no error, and nothing is written.

    :param stream: one training run or model; lower case, may be nested with ``/``
    :param files: name to contents; a path is read when its turn comes, so one file at a time is in memory
    :raises Refused: the step is whole with other files: a checkpoint is never changed, write a later step
    :raises ValueError: a name that is no key, or no files at all
    :raises Unavailable: the store does not answer; the checkpoint is not whole
    """
    if not _STREAM.fullmatch(stream):
        raise ValueError(f"{stream!r} cannot name a stream: lower-case letters, digits, '.', '_', '-', nested with '/'")
    if broken := [name for name in files if not _FILE.fullmatch(name)]:
        raise ValueError(f"{broken[0]!r} cannot name a file of a checkpoint")
    if not files:
        raise ValueError(f"checkpoint {step} of {stream} has no files")
    store.ensure_bucket(CHECKPOINTS)
    before = _read_manifest(store, stream, step, damaged_is_none=True)
    present = {info.key: info.size for info in store.list(CHECKPOINTS, f"{stream}/step={step:012}/")}
    written: dict[str, ManifestObject] = {}
    for name, contents in files.items():
        data = contents.read_bytes() if isinstance(contents, Path) else contents
        digest = hashlib.sha256(data).hexdigest()
        o = ManifestObject(key=f"{stream}/step={step:012}/{digest}/{name}", size=len(data), sha256=digest)
        if before is not None and before.files.get(name) != o:
            raise _other(before, store, name)
        written[name] = o
        if before is None or present.get(o.key) != o.size:  # what a killed writer left is not trusted
            store.put(CHECKPOINTS, o.key, data)
    if before is not None:
        if extra := sorted(set(before.files) - set(written)):
            raise _other(before, store, extra[0])
        return before
    checkpoint = _build(stream, step, clock(), dict(facts or {}), written)
    store.put(CHECKPOINTS, checkpoint.key, checkpoint.model_dump_json().encode())
    return checkpoint


def _build(
    stream: str, step: int, created_at: datetime, facts: dict[str, Scalar], files: dict[str, ManifestObject]
) -> Checkpoint:
    draft = Checkpoint.model_construct(
        stream=stream, step=step, created_at=created_at, facts=facts, files=files, hash=""
    )
    document = draft.model_dump(mode="json", exclude={"hash"})
    return Checkpoint.model_validate({**document, "hash": _hash(document)})


def _other(before: Checkpoint, store: ObjectStore, name: str) -> Refused:
    return Refused(
        f"checkpoint {before.step} of {before.stream} at {store.site}",
        [
            f"it is whole already with another {name}: a checkpoint is never changed; "
            "resume from it or write a later one"
        ],
    )


def _read_manifest(store: ObjectStore, stream: str, step: int, *, damaged_is_none: bool = False) -> Checkpoint | None:
    """``None`` where there is none.

    :raises Corrupted: it is truncated, or not this step's
    """
    data = store.get(CHECKPOINTS, manifest_key(stream, step))
    if data is None:
        return None
    try:
        return parse_checkpoint(data, stream, step, store.site)
    except Corrupted:
        if damaged_is_none:
            return None
        raise


def parse_checkpoint(data: bytes, stream: str, step: int, site: str) -> Checkpoint:
    """The manifest in ``data``.

    :raises Corrupted: it is truncated, damaged, or of another stream or step than its key says
    """
    where = f"the manifest of checkpoint {step} of {stream} at {site}"
    try:
        found = Checkpoint.model_validate_json(data)
    except ValidationError as error:
        raise Corrupted(f"{where} cannot be trusted: {error.errors()[0]['msg']}; use another site's") from error
    if (found.stream, found.step) != (stream, step):
        raise Corrupted(f"{where} is of checkpoint {found.step} of {found.stream}")
    return found


@dataclass(frozen=True)
class StreamListing:
    """What a site holds of a stream."""

    whole: tuple[Checkpoint, ...]
    """In the order of their steps."""
    half: tuple[int, ...]
    """Steps with files but without a manifest: being written, or left by a killed writer."""
    damaged: tuple[tuple[int, str], ...]
    """Steps whose manifest is there, and why they do not count as whole."""


def list_stream(store: ObjectStore, stream: str) -> StreamListing:
    """Sort out what is there, by manifests and sizes; only ``read_checkpoint`` reads the files.

    :raises Unavailable: the store does not answer
    """
    store.ensure_bucket(CHECKPOINTS)
    sizes: dict[str, int] = {}
    steps: dict[int, bool] = {}
    for info in store.list(CHECKPOINTS, f"{stream}/step="):
        sizes[info.key] = info.size
        found = re.match(r"step=(\d{12})/", info.key.removeprefix(f"{stream}/"))
        if found:
            step = int(found[1])
            steps[step] = steps.get(step, False) or info.key == manifest_key(stream, step)
    whole: list[Checkpoint] = []
    damaged: list[tuple[int, str]] = []
    for step in sorted(step for step, has_manifest in steps.items() if has_manifest):
        try:
            checkpoint = _read_manifest(store, stream, step)
        except Corrupted as error:
            damaged.append((step, str(error)))
            continue
        if checkpoint is None:
            continue  # removed since it was listed
        lost = [o.key for o in checkpoint.files.values() if sizes.get(o.key) != o.size]
        if lost:
            damaged.append((step, f"{lost[0]} at {store.site} is missing or has another size"))
        else:
            whole.append(checkpoint)
    half = tuple(sorted(step for step, has_manifest in steps.items() if not has_manifest))
    return StreamListing(tuple(whole), half, tuple(damaged))


def whole_checkpoints(store: ObjectStore, stream: str) -> list[Checkpoint]:
    """The checkpoints that a run can resume from, oldest first; one half written or damaged is not among them.

    :raises Unavailable: the store does not answer
    """
    return list(list_stream(store, stream).whole)


def read_checkpoint(store: ObjectStore, stream: str, step: int) -> tuple[Checkpoint, dict[str, bytes]]:
    """The manifest and the contents of every file, each hashed.

    :raises Corrupted: it is not whole here, or a byte is not what was written; take another site's or an earlier one
    :raises Unavailable: the store does not answer
    """
    checkpoint = _read_manifest(store, stream, step)
    if checkpoint is None:
        raise Corrupted(f"{store.site} has no whole checkpoint {step} of {stream}; ask for whole_checkpoints first")
    contents: dict[str, bytes] = {}
    for name, o in checkpoint.files.items():
        data = store.get(CHECKPOINTS, o.key)
        if data is None or hashlib.sha256(data).hexdigest() != o.sha256:
            state = "missing" if data is None else "damaged"
            raise Corrupted(
                f"{o.key} of checkpoint {step} of {stream} is {state} at {store.site}; take another site's copy"
            )
        contents[name] = data
    return checkpoint, contents


def streams(store: ObjectStore, prefixes: Iterable[str] = ("",)) -> list[str]:
    """Names of the streams with at least one manifest whose name is a prefix of ``prefixes`` or nested below one.

    :raises Unavailable: the store does not answer
    """
    store.ensure_bucket(CHECKPOINTS)
    found = set()
    for prefix in prefixes:
        for info in store.list(CHECKPOINTS, f"{prefix}/" if prefix else ""):
            if named := _MANIFEST.fullmatch(info.key):
                found.add(named["stream"])
    return sorted(found)


def newest(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The one with the highest step."""
    return max(checkpoints, key=lambda one: one.step, default=None)


# --- copies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamReplication:
    """What one run did for one stream. Counts are files unless said otherwise."""

    stream: str
    source: str
    target: str
    checkpoints: int
    """whole ones at the target now"""
    newest: int | None
    """step"""
    brought: tuple[int, ...]
    """Steps that became whole at the target in this run."""
    half: tuple[int, ...]
    """Steps left alone because the source has no manifest of them yet."""
    copied: int
    bytes: int
    verified: int
    repaired: int


def replicate_stream(link: Link, stream: str, on_progress: OnProgress | None = None) -> StreamReplication:
    """Bring every whole checkpoint to the target: its files, each read there, and then its manifest.

    The newest whole checkpoint is read at the target in each run, because it is what a training resumes from.

    :raises Refused: the sites mean different checkpoints by one step
    :raises Corrupted: files are not what their manifests say; every sound checkpoint has been brought all the same
    :raises Unavailable: a store does not answer; run again
    """
    ours, theirs = list_stream(link.source, stream), list_stream(link.target, stream)
    there = {info.key: info.size for info in link.target.list(CHECKPOINTS, f"{stream}/step=")}
    held = {one.step: one for one in theirs.whole}
    latest = newest(ours.whole)
    done, problems, brought = Delivery(), [why for step, why in ours.damaged if step not in held], []
    for checkpoint in ours.whole:
        copy = held.get(checkpoint.step)
        if copy is not None and copy.files != checkpoint.files:
            raise Refused(
                f"replication of {stream} to {link.target.site}",
                [f"it and {link.source.site} mean different files by step {checkpoint.step}: reconcile the sites"],
            )
        if copy is not None and checkpoint != latest:
            continue
        delivered = deliver(link, CHECKPOINTS, list(checkpoint.files.values()), there, on_progress)
        done += delivered
        if delivered.problem:
            problems.append(f"checkpoint {checkpoint.step}: {delivered.problem}")
        elif copy is None:
            link.target.put(CHECKPOINTS, checkpoint.key, checkpoint.model_dump_json().encode())
            brought.append(checkpoint.step)
    if problems:
        raise Corrupted(f"replication of {stream} {link.source.site} → {link.target.site}: {'; '.join(problems)}")
    steps = {*held, *brought}
    return StreamReplication(
        stream,
        link.source.site,
        link.target.site,
        len(steps),
        max(steps, default=None),
        tuple(brought),
        ours.half,
        done.copied,
        done.bytes,
        done.verified,
        done.repaired,
    )


def replicate_checkpoints(
    systems: Systems, models: Sequence[str], source: str, target: str, on_progress: OnProgress | None = None
) -> list[StreamReplication]:
    """Every stream that is named after one of ``models`` or nested below it, between two sites of an estate.

    :raises Refused: also where the data that a model was made of may not leave its regions
    """
    for model in models:
        refuse_breach(systems.estate, systems.estate.model_by_name[model].trained_on, target)
    link = link_between(systems, source, target)
    found = streams(link.source, models) if models else []
    return try_each(lambda stream: replicate_stream(link, stream, on_progress), found)
