"""Give back exactly the data that a model was trained on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives.ports import ObjectStore, Systems
from ninelives.releases.publish import read_release
from ninelives.versions.copies import Healed, make_whole
from ninelives.versions.objects import read_files, save


def write_files(store: ObjectStore, version: str, folder: Path) -> dict[str, str]:
    """Write the version's files below ``folder``, all or none; return file name to SHA-256.

    A folder that holds exactly these files already is left as it is, so that a killed call is simply repeated.

    :raises Refused: the folder holds something else, or cannot be written
    :raises Corrupted: an object is missing or damaged
    :raises Unavailable: the store does not answer
    """
    files = read_files(store, version).files
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            hashes = {}
            for path, name in files.items():
                to = staging / path
                to.parent.mkdir(parents=True, exist_ok=True)
                hashes[path] = save(store, name, to)
            if folder.exists() and any(folder.iterdir()):
                if _same(staging, folder):
                    return hashes
                raise Refused(f"restore to {folder}", ["the folder holds something else; name an empty or a new one"])
            staging.chmod(0o755)
            os.replace(staging, folder)  # noqa: PTH105 - replaces an empty folder, which Path.rename need not
            return hashes
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise Refused(f"restore to {folder}", [f"it cannot be written: {error}"]) from error


def _same(left: Path, right: Path) -> bool:
    def contents(folder: Path) -> dict[str, Path]:
        return {str(path.relative_to(folder)): path for path in folder.rglob("*") if not path.is_dir()}

    ours, theirs = contents(left), contents(right)
    return ours.keys() == theirs.keys() and all(
        not theirs[name].is_symlink() and path.read_bytes() == theirs[name].read_bytes() for name, path in ours.items()
    )


@dataclass(frozen=True)
class ModelData:
    """Which data a model was trained on, and who says so."""

    model: str
    version: str
    dataset: str
    data_version: str
    data_hash: str | None
    told_by: str


def data_of(systems: Systems, model: str, version: str) -> ModelData:
    """The data version behind ``model`` in ``version``: from the registry, else the ledger, else a release pointer.

    :raises Refused: no such model or version is known, or it names no data
    :raises Unavailable: the registry does not answer and nobody else knows the version
    """
    declared = systems.estate.model_by_name.get(model)
    if declared is None:
        known = ", ".join(systems.estate.model_by_name)
        raise Refused(f"data of {model}@{version}", [f"the estate has no model {model!r}; it has {known}"])
    silent: list[str] = []
    try:
        for one in systems.registry().versions():
            if (one.model, one.version) == (model, version):
                if one.data_version is None:
                    raise Refused(f"data of {model}@{version}", ["the registry does not name its data version"])
                return ModelData(model, version, declared.trained_on, one.data_version, one.data_hash, "the registry")
    except Unavailable as error:
        silent.append(str(error))
    try:
        for record in systems.ledger().records(kind="release", subject=model):
            if record.facts.get("version") == version:
                facts = record.facts
                return ModelData(
                    model, version, declared.trained_on, str(facts["data_version"]), facts.get("data_hash"),
                    f"evidence {record.seq}",
                )  # fmt: skip
    except Unavailable as error:
        silent.append(str(error))
    found = _from_pointer(systems, model, version, declared.trained_on, silent)
    if found is not None:
        return found
    if silent:
        raise Unavailable(f"nobody that answers knows the data of {model}@{version}: {'; '.join(silent)}")
    raise Refused(f"data of {model}@{version}", ["neither the registry nor the ledger nor a site knows that version"])


def _from_pointer(systems: Systems, model: str, version: str, dataset: str, silent: list[str]) -> ModelData | None:
    for site in systems.estate.site_names:
        try:
            release = read_release(systems.store(site), model)
        except NinelivesError as error:
            silent.append(str(error))
            continue
        if release is not None and release.version == version:
            return ModelData(model, version, dataset, release.data_version, None, f"the release at {site}")
    return None


@dataclass(frozen=True)
class Restored:
    """``files``: name to SHA-256 (hex), written below ``folder``."""

    data: ModelData
    healed: Healed
    folder: Path
    files: Mapping[str, str]


def restore(systems: Systems, model: str, version: str, site: str, folder: Path) -> Restored:
    """Make the data of a model whole at ``site``, from wherever it is right, and write it to ``folder`` bit for bit.

    :raises Refused: no such model, version or site, or the folder holds something else
    :raises Corrupted: an object is right at no site, or the data is not what the registry says
    :raises Unavailable: the site does not answer, or one that may have the good copy does not
    """
    if site not in systems.estate.site_names:
        raise Refused("restore", [f"the estate has no site {site!r}; it has {', '.join(systems.estate.site_names)}"])
    data = data_of(systems, model, version)
    healed = make_whole(systems, data.dataset, data.data_version, site)
    if data.data_hash is not None and data.data_hash != healed.hash:
        raise Corrupted(
            f"the data of {model}@{version} at {site} have SHA-256 {healed.hash}, {data.told_by} says "
            f"{data.data_hash}: two contents under one MD5, ask who wrote them"
        )
    return Restored(data, healed, folder, write_files(systems.store(site), data.data_version, folder))
