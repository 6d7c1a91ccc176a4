"""Restore: into a folder apart, every byte checked there, and only then in one step to its place."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ninelives.backups.manifest import NAME, SIGNATURE, BackupManifest, compare_folder, parse_manifest
from ninelives.backups.run import clear, policy, resolve, snapshots
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.files import sync_folder
from ninelives.home import Home
from ninelives.ports import Signer, Snapshot, Systems, Vault


@dataclass(frozen=True)
class Restored:
    """``seconds`` from asking the vault to the last byte checked."""

    snapshot: Snapshot
    manifest: BackupManifest
    folder: Path
    seconds: float
    replaced: Path | None = None
    """Where what was there before has gone."""


def restore(
    systems: Systems,
    name: str,
    to: Path,
    *,
    parts: Sequence[str] = (),
    replace: bool = False,
    now: datetime | None = None,
) -> Restored:
    """Bring a backup, or ``parts`` of it, back to the folder ``to``: all of it right, or nothing of it there.

    :param name: ``latest``, or the beginning of a snapshot's id
    :param replace: what is at ``to`` moves to a dated folder beside it
    :raises Refused: ``to`` is not empty, or there is no such backup or part
    :raises Corrupted: what came out of the vault is not what was backed up; ``to`` stays as it was
    :raises Unavailable: the vault does not answer, or ``to`` cannot be written
    """
    policy(systems.estate)
    with _written(to):
        to = to.resolve()  # a link to a larger disk is what it leads to
    occupied = to.exists() and (not to.is_dir() or any(to.iterdir()))
    if occupied and not replace:
        raise Refused(f"restore to {to}", ["it is not empty: name another folder, or say --replace"])
    snapshot = resolve(snapshots(systems), name)
    with _written(to):
        to.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with staged(to.parent) as folder:  # on the same disk, so that the last step is a rename
        manifest = fetch(systems, snapshot, folder, parts)
        seconds = time.monotonic() - began
        before = None
        with _written(to):
            if occupied:
                before = to.with_name(f"{to.name}.before-{(now or datetime.now(UTC)):%Y%m%dT%H%M%SZ}")
                to.rename(before)
            try:
                folder.rename(to)
            except OSError:
                if before is not None:
                    before.rename(to)
                raise
            sync_folder(to.parent)
    return Restored(snapshot, manifest, to, seconds, before)


def fetch(systems: Systems, snapshot: Snapshot, folder: Path, parts: Sequence[str] = ()) -> BackupManifest:
    """Restore into the empty ``folder`` and check every byte and the signature.

    :raises Corrupted: anything is missing, too much, or other than it was backed up
    :raises Refused: the backup has no such part
    """
    return fetch_from(systems.vault(), systems.signer(), snapshot, folder, parts)


def fetch_from(
    vault: Vault, signer: Signer | None, snapshot: Snapshot, folder: Path, parts: Sequence[str] = ()
) -> BackupManifest:
    """As ``fetch``, where no estate is known yet: it lies in the backup.

    :param signer: ``None``: the signature is not looked at
    """
    vault.restore(snapshot.id, folder, parts=parts)
    where = f"backup {snapshot.id[:12]}"
    path = folder / NAME
    if not path.is_file():
        raise Corrupted(f"{where} has no manifest; restore an older one")
    manifest = parse_manifest(path.read_bytes(), where)
    if unknown := sorted(set(parts) - manifest.parts.keys()):
        raise Refused(f"restore {where}", [f"it has no part {', '.join(unknown)}, only {', '.join(manifest.parts)}"])
    if problems := compare_folder(folder, manifest, parts):
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise Corrupted(f"{where}: {'; '.join(problems[:5])}{more}; restore an older one")
    if signer is not None:
        signature = folder / SIGNATURE
        if not signature.is_file():
            raise Corrupted(f"{where} is not signed, though this estate signs its backups; restore an older one")
        signer.verify(path, signature.read_bytes())
    return manifest


@contextmanager
def staged(beside: Path) -> Iterator[Path]:
    """A private folder that is gone afterwards, unless it was renamed.

    :raises Unavailable: none can be made there
    """
    with _written(beside):
        folder = Path(tempfile.mkdtemp(prefix=".restore-", dir=beside))
    try:
        yield folder
    finally:
        clear(folder)


@contextmanager
def _written(place: Path) -> Iterator[None]:
    """:raises Unavailable: the disk refuses"""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter of links that lead to each other
        raise Unavailable(f"nothing can be written to {place}: {error}; name another folder, or mend it") from error


def workplace(home: Home) -> Path:
    """Where restores are tried."""
    folder = home.root / "backups"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
