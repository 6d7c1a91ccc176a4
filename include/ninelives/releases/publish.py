"""Publish a release to a site's store by digest, and remember its golden answers.

The object is content-addressed and written first, read back, and only then does the pointer ``<model>/release.json``
name it: whoever reads the pointer finds a whole object, whenever a publisher was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ninelives.errors import Corrupted, Refused
from ninelives.estate.model import Hardware
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.ports import ObjectStore, Scalar
from ninelives.replication.pointers import record_move

BUCKET = "models"
TOLERANCE = 0.001
"""Of golden answers, as ``answers_match`` means it: far above what float32 costs, far below what users would notice."""

VERSION = "[1-9][0-9]{0,17}"
"""Of a model: a number, as the registry counts them."""

Value = bool | int | float | str


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class GoldenAnswer(_Frozen):
    """A request, and what the trained model itself answers to it: output name to one value per row."""

    inputs: dict[str, Value] = Field(min_length=1)
    outputs: dict[str, tuple[Value, ...]] = Field(min_length=1)


class Release(_Frozen):
    """One version of a model as sites serve it: the content of ``release.json``. ``size`` in bytes."""

    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    version: Annotated[str, Field(pattern=f"^{VERSION}$")]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    object: str
    size: Annotated[int, Field(gt=0)]
    data_version: str
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    golden: tuple[GoldenAnswer, ...] = Field(min_length=1)
    created_at: AwareDatetime
    hardware: Hardware = Hardware.CPU
    """A replica without an accelerator refuses a release that says so."""

    @model_validator(mode="after")
    def _object_is_named_by_digest(self) -> Self:
        if self.object != object_key(self.model, self.digest):
            raise ValueError(
                f"object {self.object} is not {object_key(self.model, self.digest)}, which the digest names"
            )
        return self


def object_key(model: str, digest: str) -> str:
    return f"{model}/sha256/{digest.removeprefix('sha256:')}.onnx"


def pointer_key(model: str) -> str:
    return f"{model}/release.json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def candidate_key(model: str, version: str) -> str:
    return f"{model}/releases/{version}.json"


def signature_key(model: str, version: str) -> str:
    return f"{model}/releases/{version}.sig"


def read_release(store: ObjectStore, model: str) -> Release | None:
    """The release of ``model`` that the site serves, ``None`` where it has none.

    :raises Corrupted: the pointer cannot be read or names another model
    :raises Unavailable: the store does not answer
    """
    return _read(store, model, pointer_key(model))


def read_candidate(store: ObjectStore, model: str, version: str) -> Release | None:
    """A version that was staged at the site, served or not; raises as ``read_release``."""
    found = _read(store, model, candidate_key(model, version))
    if found and found.version != version:
        raise Corrupted(f"{BUCKET}/{candidate_key(model, version)} at {store.site} is version {found.version}")
    return found


def stage(store: ObjectStore, release: Release, onnx: bytes) -> None:
    """Put a version where it can be loaded beside the one that is served, which stays. May be repeated.

    :raises Refused: another model is staged under the same version
    :raises Corrupted: as ``publish``
    :raises Unavailable: the store does not answer
    """
    _check_bytes(release, onnx)
    store.ensure_bucket(BUCKET)
    there = read_candidate(store, release.model, release.version)
    if there and there.digest != release.digest:
        what = f"stage {release.model} version {release.version} at {store.site}"
        raise Refused(what, [f"that version is {there.digest} there, this one is {release.digest}"])
    _put_object(store, release, onnx)
    if there is None:
        store.put(BUCKET, candidate_key(release.model, release.version), release.model_dump_json(indent=1).encode())


def _read(store: ObjectStore, model: str, key: str) -> Release | None:
    data = store.get(BUCKET, key)
    if data is None:
        return None
    where = f"{BUCKET}/{key} at {store.site}"
    try:
        release = Release.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise Corrupted(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}; publish it again") from error
    if release.model != model:
        raise Corrupted(f"{where} is a release of {release.model}; publish it again")
    return release


def publish(
    store: ObjectStore, release: Release, onnx: bytes, *, by: str | None = None, instead_of: str | None = None
) -> bool:
    """Make ``release`` what the site serves; ``False`` where it already was. A killed call is simply repeated.

    :param by: who publishes, for whoever must decide between two releases later
    :param instead_of: a newer version that a rollback takes back; ``release`` must have a time of its own then, so that
        its pointer is a new one that comes after the newer version's
    :raises Refused: the site serves a newer version, or another model under the same version
    :raises Corrupted: ``onnx`` is not what the release names, or the store gives back other bytes than it took
    :raises Unavailable: the store does not answer; the release before stays in service
    """
    _check_bytes(release, onnx)
    store.ensure_bucket(BUCKET)
    current = read_release(store, release.model)
    if current is None or current.version != instead_of:
        _refuse_backwards(store.site, current, release)
    _put_object(store, release, onnx)
    if current and current.model_copy(update={"created_at": release.created_at}) == release:
        return False
    before, after = store.get(BUCKET, pointer_key(release.model)), release.model_dump_json(indent=1).encode()
    record_move(store, release.model, before, after, by=by)
    store.put(BUCKET, pointer_key(release.model), after)
    return True


def _check_bytes(release: Release, onnx: bytes) -> None:
    if (digest_of(onnx), len(onnx)) != (release.digest, release.size):
        raise Corrupted(
            f"the bytes of {release.model} version {release.version} hash to {digest_of(onnx)}, its release says "
            f"{release.digest}; fetch the model from the registry again"
        )


def _put_object(store: ObjectStore, release: Release, onnx: bytes) -> None:
    if store.get(BUCKET, release.object) != onnx:
        store.put(BUCKET, release.object, onnx)
        if store.get(BUCKET, release.object) != onnx:
            raise Corrupted(
                f"{store.site} gave back other bytes for {BUCKET}/{release.object} than it took; the release before "
                "stays in service; look at the store's disk"
            )


def _refuse_backwards(site: str, current: Release | None, release: Release) -> None:
    if current is None:
        return
    what = f"publish {release.model} version {release.version} at {site}"
    if int(current.version) > int(release.version):
        raise Refused(what, [f"it serves version {current.version}; register the older model as a new version"])
    if current.version == release.version and current.digest != release.digest:
        raise Refused(
            what, [f"that version is {current.digest} there, this one is {release.digest}; a version never changes"]
        )


def record_golden(home: Home, release: Release, *, candidate: bool = False) -> None:
    """Let the prober know the release's answers, beside those of the versions that may still answer.

    To be called before ``publish``: a correct answer that the prober does not know yet would count as wrong.

    :param candidate: it is not the newest release whatever its number: no standby has to have it
    :raises Corrupted: the file that is there is not one of golden answers
    """
    path = golden_file(home, release.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    answers = release.model_dump(mode="json", include={"tolerance", "golden"})
    with _locked(path.with_suffix(".lock")):
        known = {key: _read_golden(path, key) for key in ("releases", "candidates")}
        mine, other = ("candidates", "releases") if candidate else ("releases", "candidates")
        if known[mine].get(release.version) == answers and release.version not in known[other]:
            return
        known[other].pop(release.version, None)
        known[mine][release.version] = answers
        document = {"model": release.model, "releases": known["releases"]}
        if known["candidates"]:
            document["candidates"] = known["candidates"]
        write_atomically(path, json.dumps(document, indent=1).encode())


def newest_golden_version(home: Home, model: str) -> str | None:
    """The newest version whose golden answers are known here, ``None`` where none is.

    :raises Corrupted: the file is not one of golden answers
    """
    return newest(tuple(_read_golden(golden_file(home, model))))


def known_golden_versions(home: Home, model: str) -> tuple[str, ...]:
    """Versions whose golden answers the prober knows; raises ``Corrupted`` as above."""
    return tuple(_read_golden(golden_file(home, model)))


def newest(versions: Sequence[str]) -> str | None:
    """By number: version 10 is newer than version 9."""
    return max(versions, key=int, default=None)


def golden_file(home: Home, model: str) -> Path:
    return home.golden / f"{model}.json"


def _read_golden(path: Path, key: str = "releases") -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        releases = document["releases"] if key == "releases" else document.get(key, {})
        if not isinstance(releases, dict) or not all(version.isdecimal() for version in releases):
            raise ValueError("releases must be an object with one entry per version number")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupted(f"{path}: not a file of golden answers ({error!r}); remove it and publish again") from error
    return releases


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def golden_answers(
    inputs: Sequence[dict[str, Scalar]], outputs: dict[str, Sequence[Scalar]]
) -> tuple[GoldenAnswer, ...]:
    """Pair each request with its row of the model's outputs."""
    return tuple(
        GoldenAnswer(inputs=dict(row), outputs={name: (values[number],) for name, values in outputs.items()})
        for number, row in enumerate(inputs)
    )
