"""Back the estate up: collect, check, describe, hand over to the vault, and leave evidence."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ninelives
from ninelives.backups.contents import collect
from ninelives.backups.judge import compare, known_bytes, learnt_until, staleness
from ninelives.backups.manifest import NAME, SIGNATURE, BackupManifest, describe, parse_manifest
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import Estate
from ninelives.estate.model import Backups
from ninelives.home import Home
from ninelives.ports import Added, Ledger, Record, Signer, Snapshot, Systems, Vault

SOUND, SUSPECT = "sound", "suspect"
"""Tags: whether anything was wrong with the sources when it was made."""
KIND = "backup"
MOST_LISTED = 100
"""Findings in a record; the rest is counted, and the manifest has all of them."""


def estate_tag(estate: Estate) -> str:
    """Of every snapshot of this estate: a vault may keep several."""
    return f"estate:{estate.name}"


def policy(estate: Estate) -> Backups:
    """:raises Refused: the estate declares no backups"""
    if estate.backups is None or estate.vault is None:
        raise Refused("backups", [f"estate {estate.name} declares none; add vault and backups to it"])
    return estate.backups


def snapshots(systems: Systems) -> list[Snapshot]:
    """Of this estate, oldest first."""
    tag = estate_tag(systems.estate)
    return [one for one in systems.vault().snapshots() if tag in one.tags]


def resolve(found: Sequence[Snapshot], name: str) -> Snapshot:
    """The snapshot that ``name`` means: ``latest``, or the beginning of its id.

    :raises Refused: there is none, or more than one
    """
    if name == "latest" and found:
        return found[-1]
    meant = [one for one in found if len(name) >= 4 and one.id.startswith(name)]
    if len(meant) != 1:
        why = "more than one begins like that" if meant else "there is none of that name" if found else "there is none"
        raise Refused(f"backup {name!r}", [f"{why}; `ninelives backup list` has all of them"])
    return meant[0]


def read_manifest(vault: Vault, snapshot: Snapshot, signer: Signer | None) -> BackupManifest:
    """:raises Corrupted: it is damaged in the vault, or not signed by ``signer``"""
    data = vault.read(snapshot.id, NAME)
    if signer is not None:
        signature = vault.read(snapshot.id, SIGNATURE)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / NAME).write_bytes(data)
            signer.verify(Path(folder) / NAME, signature)
    return parse_manifest(data, f"backup {snapshot.id[:12]}")


def back_up(systems: Systems, *, run: str = "", now: datetime | None = None) -> Record:
    """Make one backup; what is wrong with the sources is in its ``findings``, and it is made all the same.

    A killed call leaves no backup and no evidence, and its half-filled folder is cleared by the next one.

    :return: evidence of kind ``backup``; its ``verdict`` is ``met`` only without findings
    :raises Refused: no backups are declared, or another one is being made on this machine
    :raises Unavailable: a database, every site, or the vault does not answer, or the disk refuses
    """
    rule, vault, at = policy(systems.estate), systems.vault(), now or datetime.now(UTC)
    with _staging(systems.home) as stage:
        identity, earlier = vault.identity(), snapshots(systems)
        before, damaged = _newest_whole(vault, systems.signer(), earlier)
        contents = collect(systems, stage, known_bytes(before), learnt_until(before))
        contents.findings += [*damaged, *_another_vault(systems.ledger(), systems.estate, identity)]
        manifest = describe(
            stage,
            estate=systems.estate.name,
            made_at=at,
            version=ninelives.__version__,
            parts=contents.parts,
            findings=contents.findings,
        )
        findings = [*contents.findings, *(compare(before, manifest) if before else [])]
        if earlier and (late := staleness([one.made_at for one in earlier], rule.rpo, at)):
            findings.append(f"this one comes late: {late}")
        manifest = manifest.model_copy(update={"findings": tuple(findings)})
        (stage / NAME).write_bytes(manifest.to_bytes())  # written last: without it the folder is no backup
        if (signer := systems.signer()) is not None:
            (stage / SIGNATURE).write_bytes(signer.sign(stage / NAME))
        added = vault.add(stage, tags=[estate_tag(systems.estate), SUSPECT if findings else SOUND])
    facts = {**_facts(manifest, added, findings, run), "vault": identity}
    return systems.ledger().append(KIND, systems.estate.name, facts)


def _another_vault(ledger: Ledger, estate: Estate, identity: str) -> list[str]:
    """Told once, by the first backup in it."""
    newest = ledger.records(kind=KIND, subject=estate.name, limit=1)
    if not newest or newest[0].facts.get("vault", identity) == identity:
        return []
    return [
        f"the vault is another one than that of the backup before (evidence {newest[0].seq}): see that somebody meant "
        "it, and keep the other until its backups are no longer wanted"
    ]


def _newest_whole(
    vault: Vault, signer: Signer | None, earlier: Sequence[Snapshot]
) -> tuple[BackupManifest | None, list[str]]:
    """The manifest to compare with, and which newer ones are damaged or forged: no reason to make no backup now."""
    damaged: list[str] = []
    for one in reversed(earlier):
        try:
            return read_manifest(vault, one, signer), damaged
        except Corrupted as error:
            damaged.append(f"backup {one.id[:12]} of {one.made_at:%Y-%m-%d %H:%M} was not compared with: {error}")
    return None, damaged


def _facts(manifest: BackupManifest, added: Added, findings: Sequence[str], run: str) -> dict[str, Any]:
    models = manifest.parts["models"].facts
    return {
        "snapshot": added.snapshot,
        "verdict": "missed" if findings else "met",
        "made_at": manifest.made_at.isoformat(),
        "files": len(manifest.content.objects),
        "bytes": added.bytes,
        "added": added.added,
        "seconds": round(added.seconds, 3),
        "fingerprint": manifest.content.fingerprint,
        "parts": {name: {"files": part.files, "bytes": part.size} for name, part in manifest.parts.items()},
        # Named, so that pruning leaves the data alone that a restored model would be looked at with.
        "releases": models.get("releases", []),
        "data_versions": models.get("data_versions", []),
        "findings": list(findings[:MOST_LISTED]),
        "more": max(0, len(findings) - MOST_LISTED),
        "run": run,
    }


def refuse_suspect(record: Record) -> None:
    """:raises Refused: something was wrong with the sources of this backup"""
    if record.facts["verdict"] != "met":
        said = [*record.facts["findings"][:10], f"see evidence {record.seq}"]
        raise Refused(f"backup {record.facts['snapshot'][:12]} was made, and is suspect", said)


@contextmanager
def _staging(home: Home) -> Iterator[Path]:
    """An empty private folder, always the same so that the engine recognises what did not change; gone afterwards.

    :raises Refused: another backup is being made; the kernel frees the lock of a killed one
    :raises Unavailable: the disk refuses
    """
    root = home.root / "backups"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    stage = root / "stage"
    with (root / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("backup", [f"another one is being made: it holds {lock.name}"]) from None
        clear(stage)
        try:
            stage.mkdir(mode=0o700)
            yield stage
        except OSError as error:
            raise Unavailable(f"nothing can be put into {stage}: {error}; make room, or mend it") from error
        finally:
            clear(stage)


def clear(folder: Path) -> None:
    """Remove a folder; one that is not there is no error."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"{folder} cannot be cleared: {error}") from error
