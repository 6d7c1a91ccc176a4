"""What belongs in a backup, read from the sources and checked on the way: what is damaged there is left out and told.

A backup holds what the loss of every site must not take: the weights and pointers of every release, the registry, the
estate and what was compiled from it, the ledger, Airflow's metadata, the gate's suites, and DVC's lists of files. Not
the data: sites keep verified copies of it. Not passwords: they belong where the vault's own key is kept.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ninelives.errors import Unavailable
from ninelives.evidence.verify import verify_ledger
from ninelives.ports import Dumped, ObjectStore, Systems
from ninelives.releases.publish import BUCKET as MODELS
from ninelives.releases.publish import Release
from ninelives.replication.manifest import read_pieces
from ninelives.versions.objects import BUCKET as VERSIONS
from ninelives.versions.objects import NAME as VERSION
from ninelives.versions.objects import object_name

ARTEFACTS = "mlflow"
"""The registry's bucket."""
DATABASES = ("ledger", "registry", "airflow")
IMMUTABLE = ("models/objects/", "registry/artefacts/", "versions/")
"""What lies below these never changes once it is there: other bytes under the same name are damage."""


@dataclass
class Contents:
    """What was collected so far."""

    folder: Path
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    """Paths that were left out because their bytes are wrong."""
    releases: list[Release] = field(default_factory=list)

    def leave_out(self, path: str, why: str) -> None:
        self.damaged.add(path)
        self.findings.append(f"{path} was left out: {why}")


def collect(systems: Systems, folder: Path, known: Mapping[str, str] | None = None) -> Contents:
    """Write everything that belongs in a backup into the empty ``folder``.

    The databases come first: what they refer to was there before them, and is collected after them.

    :param known: path to SHA-256 of what the backup before held
    :raises Unavailable: a database does not answer, or no site's store does
    """
    contents = Contents(folder)
    stores = _answering(systems, contents)
    for part in DATABASES:
        _dump(systems, contents, part)
    _artefacts(systems, stores, contents, known or {})
    _models(systems, stores, contents)
    _versions(systems, stores, contents)
    _ledger(systems, stores, contents)
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
    for store in _primary_first(systems, stores):
        for key in _keys(store, ARTEFACTS):
            path = f"registry/artefacts/{key}"
            if path in kept or key.startswith("_") or not _safe(key):
                continue
            found = _save(store, ARTEFACTS, key, contents.folder / path)
            if found is not None and found == known.get(path, found):
                kept.add(path)
            elif found is not None:
                others.setdefault(path, []).append(store.site)
    for path, sites in sorted(others.items()):
        where = "taken from another site" if path in kept else "kept as it is now: older backups have it as it was"
        contents.findings.append(f"{path} at {', '.join(sites)} has other bytes than the backup before; {where}")
        kept.add(path)
    for name, location in contents.parts["registry"]["facts"].get("artefacts", {}).items():
        prefix = f"registry/artefacts/{artefact_prefix(str(location))}"
        if not any(path.startswith(prefix) for path in kept):
            contents.findings.append(f"registry: model {name} has no artefact below {location}")


def artefact_prefix(location: str) -> str:
    """Where in the registry's bucket the artefacts of a URI like ``mlflow-artifacts:/1/models/m-1/artifacts`` are."""
    url = urlsplit(location)
    return f"{url.path.strip('/')}/"


def _models(systems: Systems, stores: Mapping[str, ObjectStore], contents: Contents) -> None:
    """Every version's weights once, and each site's pointers with their history and what is staged or kept beside."""
    models = systems.estate.model_by_name
    wanted: dict[str, list[ObjectStore]] = {}
    for site, store in stores.items():
        for key in _keys(store, MODELS):
            model, _, rest = key.partition("/")
            if model not in models or not _safe(key):
                continue
            if rest.startswith("sha256/"):
                wanted.setdefault(key, []).append(store)
            elif rest == "release.json" or rest.startswith(("moves/", "releases/")):
                _pointer(store, key, f"models/pointers/{site}/{key}", contents)
    wanted |= {release.object: wanted.get(release.object, []) for release in contents.releases}
    for key, holders in sorted(wanted.items()):
        _first_right(contents, holders, MODELS, key, f"models/objects/{key}", PurePosixPath(key).stem)
    contents.parts["models"] = {
        "facts": {
            "releases": sorted({f"{release.model}@{release.version}" for release in contents.releases}),
            "data_versions": sorted({release.data_version for release in contents.releases}),
        }
    }


def _pointer(store: ObjectStore, key: str, path: str, contents: Contents) -> None:
    data = store.get(MODELS, key)
    if data is None:
        return  # it has moved on meanwhile
    if key.endswith("/release.json"):
        try:
            contents.releases.append(Release.model_validate_json(data))
        except ValueError as error:
            contents.leave_out(path, f"it is no release ({str(error).splitlines()[0]})")
            return
    _write(contents.folder / path, data)


def _versions(systems: Systems, stores: Mapping[str, ObjectStore], contents: Contents) -> None:
    """DVC's lists of files and our manifests of them: with them the data of any model can be told and found."""
    lists: dict[str, list[ObjectStore]] = {}
    for store in _primary_first(systems, stores):
        for key in _keys(store, VERSIONS):
            name = object_name(key)
            if name and name.endswith(".dir") and VERSION.fullmatch(name):
                lists.setdefault(key, []).append(store)
            elif key.startswith("_manifests/") and _safe(key) and not (contents.folder / "versions" / key).exists():
                _save(store, VERSIONS, key, contents.folder / "versions" / key)
    for key, holders in sorted(lists.items()):
        name = str(object_name(key)).removesuffix(".dir")
        _first_right(contents, holders, VERSIONS, key, f"versions/{key}", name, md5=True)
    contents.parts["versions"] = {}


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


def _save(store: ObjectStore, bucket: str, key: str, to: Path, *, md5: bool = False) -> str | None:
    """Write an object to ``to`` and return its hash (hex); ``None`` where it does not exist."""
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
