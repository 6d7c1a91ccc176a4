"""What belongs in a backup, read from the sources and checked on the way: what is damaged there is left out and told.

A backup holds what the loss of every site must not take: the weights and pointers of every release, the registry, the
estate and what was compiled from it, the ledger, Airflow's metadata, the gate's suites, DVC's lists of files, and what
models that go on learning have learnt. Not the data: sites keep verified copies of it. Not passwords: they belong where
the vault's own key is kept.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ninelives.backups.manifest import hash_file
from ninelives.errors import Corrupted, Unavailable
from ninelives.evidence.verify import verify_ledger
from ninelives.ports import Dumped, Ledger, ObjectStore, Systems
from ninelives.releases.publish import BUCKET as MODELS
from ninelives.releases.publish import Release
from ninelives.replication.manifest import Manifest, read_pieces
from ninelives.replication.pointers import Move
from ninelives.state.kept import check_model, copy_model, models, switches
from ninelives.state.log import Position
from ninelives.versions.objects import BUCKET as VERSIONS
from ninelives.versions.objects import NAME as VERSION
from ninelives.versions.objects import object_key, object_name

ARTEFACTS = "mlflow"
"""The registry's bucket."""
DATABASES = ("ledger", "registry", "airflow")
IMMUTABLE = ("models/objects/", "registry/artefacts/", "versions/")
"""What lies below these never changes once it is there: other bytes under the same name are damage."""


@dataclass(frozen=True)
class Learnt:
    """What a backup has of a model that goes on learning: up to which update, and after which switches."""

    end: Position
    generation: int
    switches: str

    def facts(self) -> dict[str, Any]:
        return {"seq": self.end.seq, "hash": self.end.hash, "generation": self.generation, "switches": self.switches}


@dataclass
class Contents:
    """What was collected so far."""

    folder: Path
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    """Paths that were left out because their bytes are wrong."""
    releases: list[tuple[str, Release]] = field(default_factory=list)
    """What each site serves."""

    def leave_out(self, path: str, why: str) -> None:
        self.damaged.add(path)
        self.findings.append(f"{path} was left out: {why}")


def collect(
    systems: Systems,
    folder: Path,
    known: Mapping[str, str] | None = None,
    learnt: Mapping[str, Learnt] | None = None,
) -> Contents:
    """Write everything that belongs in a backup into the empty ``folder``.

    The databases come first: what they refer to was there before them, and is collected after them.

    :param known: path to SHA-256 of what the backup before held
    :param learnt: model to what it had learnt then
    :raises Unavailable: a database does not answer, or no site's store does
    """
    contents = Contents(folder)
    stores = _answering(systems, contents)
    for part in DATABASES:
        _dump(systems, contents, part)
    _artefacts(systems, stores, contents, known or {})
    _models(systems, stores, contents, known or {})
    _versions(systems, stores, contents, known or {})
    _ledger(systems, stores, contents)
    _states(systems, contents, known or {}, learnt or {})
    _copy_tree(systems.home.expectations, folder / "suites")
    _copy_file(systems.home.estate_file, folder / "estate" / "estate.yaml")
    _copy_tree(systems.home.gateway, folder / "estate" / "gateway", leave=("*.lock", "*.log", "*.sock"))
    for part in ("estate", "suites"):
        contents.parts.setdefault(part, {})
    return contents


def _answering(systems: Systems, contents: Contents) -> dict[str, ObjectStore]:
    found = {}
    for site in systems.estate.site_names:
        try:
            store = systems.store(site)
            store.ping(5.0)
            found[site] = store
        except Unavailable as error:
            contents.findings.append(f"site {site} was not read: {error}")
    if not found:
        raise Unavailable("no site's store answers; there is nothing to back up from")
    return found


def _dump(systems: Systems, contents: Contents, part: str) -> None:
    dumps: list[Dumped] = systems.databases().dump(part, contents.folder / part)
    facts: dict[str, Any] = {"databases": [dump.database for dump in dumps]}
    for dump in dumps:
        facts |= dump.facts
    contents.parts[part] = {"rows": sum(dump.rows for dump in dumps), "facts": facts}


def _artefacts(
    systems: Systems, stores: Mapping[str, ObjectStore], contents: Contents, known: Mapping[str, str]
) -> None:
    """The registry's files, and whether every model of the dump has its own.

    Nothing in their names says what their bytes are: where the backup before had others, a site that still has those
    is believed. Where none has, the file may have been written anew: it is kept, and told.
    """
    kept: set[str] = set()
    others: dict[str, list[str]] = {}
    unreadable: dict[str, list[str]] = {}
    for store in _primary_first(systems, stores):
        for key in _keys(store, ARTEFACTS):
            path = f"registry/artefacts/{key}"
            if path in kept or key.startswith("_") or not _safe(key):
                continue
            try:
                found = _save(store, ARTEFACTS, key, contents.folder / path)
            except _Unreadable:
                (contents.folder / path).unlink(missing_ok=True)
                unreadable.setdefault(path, []).append(store.site)
                continue
            if found is not None and found == known.get(path, found):
                kept.add(path)
            elif found is not None:
                others.setdefault(path, []).append(store.site)
    for path, sites in sorted(others.items()):
        where = "taken from another site" if path in kept else "kept as it is now: older backups have it as it was"
        contents.findings.append(f"{path} at {', '.join(sites)} has other bytes than the backup before; {where}")
        kept.add(path)
    for path, sites in sorted(unreadable.items()):
        if path in kept:
            contents.findings.append(f"{path}: cannot be read at {', '.join(sites)}, taken from another site")
        else:
            contents.leave_out(path, f"it cannot be read at {', '.join(sites)}")
    gone = {path for path in known if path.startswith("registry/artefacts/")} - kept
    for name, location in contents.parts["registry"]["facts"].get("artefacts", {}).items():
        prefix = f"registry/artefacts/{artefact_prefix(str(location))}"
        if not any(path.startswith(prefix) for path in kept):
            contents.findings.append(f"registry: model {name} has no artefact below {location}")
        elif lost := sorted(path for path in gone if path.startswith(prefix)):
            contents.findings.append(f"registry: of model {name} {len(lost)} files are gone, {lost[0]} first")


def artefact_prefix(location: str) -> str:
    """Where in the registry's bucket the artefacts of a URI like ``mlflow-artifacts:/1/models/m-1/artifacts`` are."""
    url = urlsplit(location)
    return f"{url.path.strip('/')}/"


def _models(systems: Systems, stores: Mapping[str, ObjectStore], contents: Contents, known: Mapping[str, str]) -> None:
    """Every version's weights once, and each site's pointers with their history and what is staged or kept beside."""
    models = sorted(systems.estate.model_by_name)
    wanted: dict[str, list[ObjectStore]] = {}
    # The pointers first: a move is written before the pointer that it leads to.
    pointers = {
        site: _read(store, [f"{model}/release.json" for model in models], contents) for site, store in stores.items()
    }
    for site, store in stores.items():
        keys = [key for key in _keys(store, MODELS) if key.split("/")[0] in models and _safe(key)]
        for key in keys:
            if key.split("/")[1] == "sha256":
                wanted.setdefault(key, []).append(store)
        beside = [key for key in keys if key.split("/")[1] in ("moves", "releases")]
        pointers[site] |= _read(store, beside, contents)
    whole = len(stores) == len(systems.estate.site_names)  # else what leads to a pointer may be at the other site
    moves = {key for found in pointers.values() for key in found if "/moves/" in key} if whole else set()
    for site, found in pointers.items():
        for key, data in found.items():
            _pointer(site, key, data, moves, contents, known)
    for site, release in contents.releases:
        holders = wanted.setdefault(release.object, [])
        if holders and stores[site] not in holders:
            contents.findings.append(f"models/objects/{release.object}: gone at {site}, taken from another site")
    for key, holders in sorted(wanted.items()):
        _first_right(contents, holders, MODELS, key, f"models/objects/{key}", PurePosixPath(key).stem)
    contents.parts["models"] = {
        "facts": {
            "releases": sorted({f"{release.model}@{release.version}" for _, release in contents.releases}),
            "data_versions": sorted({release.data_version for _, release in contents.releases}),
        }
    }


def _read(store: ObjectStore, keys: Iterable[str], contents: Contents) -> dict[str, bytes]:
    """Those that are there: one that was listed may have gone since."""
    found = {}
    for key in keys:
        try:
            data = _get(store, MODELS, key)
        except _Unreadable:
            contents.leave_out(_pointer_path(store.site, key), "it cannot be read")
            continue
        if data is not None:
            found[key] = data
    return found


def _pointer_path(site: str, key: str) -> str:
    return f"models/pointers/{site}/{key}"


def _pointer(
    site: str, key: str, data: bytes, moves: Collection[str], contents: Contents, known: Mapping[str, str]
) -> None:
    """Keep a pointer, or a step that led to one, unless its own bytes or the moves say that it is damaged.

    Neither a move nor what is staged ever changes: where the backup before had other bytes, that is told.
    """
    path, (model, *rest) = _pointer_path(site, key), key.split("/")
    digest = hashlib.sha256(data).hexdigest()
    try:
        if rest[0] == "moves":
            move = Move.model_validate_json(data)
            if f"{move.model}/moves/{move.document}.json" != key:
                raise ValueError(f"it is a move of {move.model} to {move.document[:12]}")
        elif key.endswith(".json"):
            release = Release.model_validate_json(data)
            if release.model != model or (rest[0] == "releases" and f"{release.version}.json" != rest[-1]):
                raise ValueError(f"it is {release.model}@{release.version}")
            if rest[0] == "release.json":
                steps = {name for name in moves if name.startswith(f"{model}/moves/")}
                if steps and f"{model}/moves/{digest}.json" not in steps:
                    raise ValueError("no move leads to it")
                contents.releases.append((site, release))
    except ValueError as error:
        contents.leave_out(path, f"it is damaged ({str(error).splitlines()[0]})")
        return
    if rest[0] != "release.json" and key.endswith(".json") and known.get(path, digest) != digest:
        now = "kept as it is now: older backups have it as it was"
        contents.findings.append(f"{path} has other bytes than the backup before; {now}")
    _write(contents.folder / path, data)


def _versions(
    systems: Systems, stores: Mapping[str, ObjectStore], contents: Contents, known: Mapping[str, str]
) -> None:
    """DVC's lists of files and our manifests of them: with them the data of any model can be told and found."""
    lists: dict[str, list[ObjectStore]] = {}
    records: dict[str, list[ObjectStore]] = {}
    for store in _primary_first(systems, stores):
        for key in _keys(store, VERSIONS):
            name = object_name(key)
            if name and name.endswith(".dir") and VERSION.fullmatch(name):
                lists.setdefault(key, []).append(store)
            elif key.startswith("_manifests/") and _safe(key):
                records.setdefault(key, []).append(store)
    for key, holders in sorted(lists.items()):
        name = str(object_name(key)).removesuffix(".dir")
        _first_right(contents, holders, VERSIONS, key, f"versions/{key}", name, md5=True)
    for key, holders in sorted(records.items()):
        _record(contents, holders, key, known.get(f"versions/{key}"))
    for site, release in contents.releases:
        if not (VERSION.fullmatch(release.data_version) and release.data_version.endswith(".dir")):
            continue
        path = f"versions/{object_key(release.data_version)}"
        if path not in contents.damaged and not (contents.folder / path).exists():
            contents.leave_out(
                path, f"no site has it, and {release.model}@{release.version} at {site} was trained on it"
            )
    contents.parts["versions"] = {}


def _record(contents: Contents, holders: Iterable[ObjectStore], key: str, known: str | None) -> None:
    """Of a version of data, from the first site whose bytes are those of the backup before, and else have their own
    fingerprint; it never changes."""
    sound, wrong = dict[str, bytes](), list[str]()
    for store in holders:
        try:
            data = _get(store, VERSIONS, key) or b""
            Manifest.model_validate_json(data)
        except (ValueError, _Unreadable):
            wrong.append(store.site)
            continue
        sound[store.site] = data
        if known is not None and hashlib.sha256(data).hexdigest() != known:
            wrong.append(store.site)
    path = f"versions/{key}"
    if not sound:
        contents.leave_out(path, f"{', '.join(wrong)} damaged")
        return
    site = next((site for site in sound if site not in wrong), next(iter(sound)))
    if wrong:
        taken = "kept as it is now: older backups have it as it was" if site in wrong else f"taken from {site}"
        contents.findings.append(f"{path}: damaged at {', '.join(wrong)}, {taken}")
    _write(contents.folder / path, sound[site])


def _first_right(
    contents: Contents,
    holders: Iterable[ObjectStore],
    bucket: str,
    key: str,
    path: str,
    digest: str,
    *,
    md5: bool = False,
) -> None:
    """Save the object from the first site whose bytes are those of its name, and say which sites' are not."""
    wrong = []
    for store in holders:
        with suppress(_Unreadable):
            if _save(store, bucket, key, contents.folder / path, md5=md5) == digest:
                break
        (contents.folder / path).unlink(missing_ok=True)
        wrong.append(store.site)
    else:
        contents.leave_out(path, f"{', '.join(wrong)} damaged" if wrong else "no site has it")
        return
    if wrong:
        contents.findings.append(f"{path}: damaged at {', '.join(wrong)}, taken from another site")


def _ledger(systems: Systems, stores: Mapping[str, ObjectStore], contents: Contents) -> None:
    found = verify_ledger(systems.ledger(), stores)
    if found.verdict == "broken":
        contents.findings.append(f"ledger: {found} First: {found.findings[0]}")


def _states(systems: Systems, contents: Contents, known: Mapping[str, str], learnt: Mapping[str, Learnt]) -> None:
    """Models that go on learning: each as of one instant, its log read from the first update to the last."""
    ends: dict[str, dict[str, Any]] = {}
    for folder in models(systems.home.state):
        path = f"state/{folder.name}"
        to, before = contents.folder / path, learnt.get(folder.name)
        try:
            if left_out := copy_model(folder, to):
                contents.findings.append(f"{path}: {left_out}")
            end = check_model(to, before.end if before else None)
            for spec in sorted((to / "versions").iterdir()):
                name = spec.relative_to(contents.folder).as_posix()
                if known.get(name) not in (None, hash_file(spec)):
                    raise Corrupted(f"{name} is not what it was in the backup before, and a version never changes")
            now = switches(to)
            if before and now.generation <= before.generation and now.digest != before.switches:
                raise Corrupted(
                    f"its pointer has other versions than in the backup before, and no switch more ({path})"
                )
        except (Corrupted, OSError) as error:
            shutil.rmtree(to, ignore_errors=True)
            contents.leave_out(path, str(error))
            continue
        if now.evidence:
            _switch_is_evidence(systems.ledger(), now.evidence, path, contents)
        ends[folder.name] = Learnt(end, now.generation, now.digest).facts()
    if ends or learnt:
        contents.parts["state"] = {"facts": {"learnt": ends}}
    lost = sorted(learnt.keys() - ends.keys())
    contents.findings += [f"state/{model} is gone" for model in lost if f"state/{model}" not in contents.damaged]


def _switch_is_evidence(ledger: Ledger, key: str, path: str, contents: Contents) -> None:
    """A damaged ledger keeps no state out of the backup."""
    try:
        record = ledger.written(key)
    except Corrupted as error:
        contents.findings.append(f"{path}: its last switch: {error}")
        return
    if record is None:
        contents.findings.append(f"{path}: the ledger does not have its last switch: repeat it, or restore the pointer")


def _primary_first(systems: Systems, stores: Mapping[str, ObjectStore]) -> list[ObjectStore]:
    primary = systems.estate.datasets[0].primary if systems.estate.datasets else ""
    return [stores[site] for site in sorted(stores, key=lambda site: site != primary)]


def _keys(store: ObjectStore, bucket: str) -> Iterator[str]:
    store.ensure_bucket(bucket)
    yield from [info.key for info in store.list(bucket)]


def _safe(key: str) -> bool:
    """Whether the key is a path below a folder, and nothing cleverer."""
    parts = key.split("/")
    return all(part not in ("", ".", "..") for part in parts) and "\0" not in key


class _Unreadable(Exception):
    """One object, which a store that answers does not give."""


@contextmanager
def _asking(store: ObjectStore) -> Iterator[None]:
    """:raises _Unreadable: it was about this object only
    :raises Unavailable: the store is gone
    """
    try:
        yield
    except Unavailable as error:
        store.ping(5.0)
        raise _Unreadable(str(error)) from error


def _get(store: ObjectStore, bucket: str, key: str) -> bytes | None:
    with _asking(store):
        return store.get(bucket, key)


def _save(store: ObjectStore, bucket: str, key: str, to: Path, *, md5: bool = False) -> str | None:
    """Write an object to ``to`` and return its hash (hex); ``None`` where it does not exist."""
    with _asking(store):
        if (pieces := read_pieces(store, bucket, key)) is None:
            return None
        digest = hashlib.md5(usedforsecurity=False) if md5 else hashlib.sha256()
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()


def _write(to: Path, data: bytes) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(data)


def _copy_file(source: Path, to: Path) -> None:
    _write(to, source.read_bytes())


def _copy_tree(source: Path, to: Path, leave: tuple[str, ...] = ()) -> None:
    if not source.is_dir():
        return
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not path.is_symlink() and not any(name.match(pattern) for pattern in leave):
            to.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to / name)
