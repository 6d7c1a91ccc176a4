"""What a backup consists of: every file with its SHA-256, in one document that is written last and lies in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ninelives.errors import Corrupted
from ninelives.replication.manifest import Manifest, ManifestObject, build_manifest

NAME = "MANIFEST.json"
SIGNATURE = "MANIFEST.json.sig"
"""Of the manifest, and so of every file that it names; where the vault's connection has a key to sign with."""
_PIECE = 2**20


class Part(BaseModel):
    """One sort of thing in a backup. ``size`` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: int
    size: int
    rows: int | None = None
    """Of a database, what tells whether it shrank."""
    facts: dict[str, Any] = {}


class BackupManifest(BaseModel):
    """The whole of a backup. ``findings`` is what was already wrong with the sources when it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    estate: str
    made_at: AwareDatetime
    """When the first source was asked: what was written later may not be in it."""
    version: str
    """``ninelives.__version__`` that made it."""
    parts: dict[str, Part]
    findings: tuple[str, ...] = ()
    content: Manifest

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def parse_manifest(data: bytes, where: str) -> BackupManifest:
    """:raises Corrupted: it is none, or its fingerprint is not that of what it lists"""
    try:
        return BackupManifest.model_validate_json(data)
    except ValidationError as error:
        raise Corrupted(f"{where} has no manifest that can be trusted: {error.errors()[0]['msg']}") from error


def describe(
    folder: Path,
    *,
    estate: str,
    made_at: datetime,
    version: str,
    parts: Mapping[str, Mapping[str, Any]],
    findings: Iterable[str],
) -> BackupManifest:
    """Hash everything in ``folder``; the first folder of a path is its part.

    :param parts: part to its ``rows`` and ``facts``; one that left no file is in the manifest too
    """
    objects = hash_folder(folder)
    found = {}
    for name in {**parts, **{PurePosixPath(path).parts[0]: {} for path in objects}}:
        mine = [one for path, one in objects.items() if PurePosixPath(path).parts[0] == name]
        known = parts.get(name, {})
        found[name] = Part(
            files=len(mine),
            size=sum(one.size for one in mine),
            rows=known.get("rows"),
            facts=dict(known.get("facts", {})),
        )
    return BackupManifest(
        estate=estate,
        made_at=made_at,
        version=version,
        parts=found,
        findings=tuple(findings),
        content=build_manifest(estate, objects.values(), made_at),
    )


def hash_folder(folder: Path) -> dict[str, ManifestObject]:
    """Path below ``folder`` to what is there; the manifest and its signature are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            found[name] = ManifestObject(key=name, size=0, sha256="0" * 64)  # nothing that we have ever backed up
        elif path.is_file() and name not in (NAME, SIGNATURE):
            found[name] = ManifestObject(key=name, size=path.stat().st_size, sha256=hash_file(path))
    return found


def hash_file(path: Path) -> str:
    """SHA-256 (hex)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def compare_folder(folder: Path, manifest: BackupManifest, parts: Iterable[str] = ()) -> list[str]:
    """What in ``folder`` is not what ``manifest`` says, every byte read; empty where all is right.

    :param parts: only these; none: everything
    """
    only = set(parts)
    wanted = {key: one for key, one in manifest.content.by_key.items() if not only or key.split("/")[0] in only}
    there = hash_folder(folder)
    problems = [f"{key} is missing" for key in wanted.keys() - there.keys()]
    problems += [f"{key} is not in the manifest" for key in there.keys() - wanted.keys()]
    problems += [
        f"{key} is not what was backed up (SHA-256 {there[key].sha256[:12]}..., {there[key].size} bytes)"
        for key in wanted.keys() & there.keys()
        if there[key] != wanted[key]
    ]
    return sorted(problems)
