"""Proof of backups: structure, bytes in turn, and a restore that answers, comes up, and verifies.

Evidence of kind ``backup-check`` says what was read, and of kind ``backup-restore`` what was restored and how long that
took: the RTO of the day on which everything is lost.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ninelives.backups.judge import learnt_until, staleness
from ninelives.backups.manifest import BackupManifest
from ninelives.backups.restore import fetch, staged, workplace
from ninelives.backups.retention import AHEAD, kept
from ninelives.backups.rotation import due, groups, overdue
from ninelives.backups.run import KIND, MOST_LISTED, policy, resolve, snapshots
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate.cron import longest_gap
from ninelives.estate.units import format_duration
from ninelives.evidence.anchor import read_anchors
from ninelives.evidence.chain import verify_chain
from ninelives.ports import Ledger, ObjectStore, Record, ScratchServer, Snapshot, Systems
from ninelives.state.kept import check_model

CHECK, RESTORE = "backup-check", "backup-restore"


# --- structure and bytes -----------------------------------------------------------------------------------------


def examine(systems: Systems, *, run: str = "", whole: bool = False, now: datetime | None = None) -> Record:
    """Check the vault's structure, read the groups that are due, and see that nothing is late or gone.

    :param whole: read every byte, whatever is due
    :return: evidence; its ``verdict`` is ``met``, ``missed`` where a promise of time is broken, or ``corrupted``
    :raises Unavailable: the vault or the ledger does not answer
    """
    rule, ledger, at = policy(systems.estate), systems.ledger(), now or datetime.now(UTC)
    every = longest_gap(rule.verify)
    of = groups(rule.verify_within, every)
    identity = _identity(systems)
    recorded, checks = (
        [one for one in ledger.records(kind=kind, subject=systems.estate.name) if _is_of(one, identity)]
        for kind in (KIND, CHECK)
    )
    read_at = _read_at(checks, of)
    since = min((record.at for record in recorded), default=at)
    read = list(range(1, of + 1)) if whole else due(read_at, of, rule.verify_within, every, since, at)
    found = systems.vault().examine(read, of)
    problems = list(found.problems)
    late: list[str] = []
    present: list[Snapshot] = []
    if not problems:  # else it would say the same less clearly
        present = snapshots(systems)
        problems += _gone(recorded, present, systems, at)
        read_at |= dict.fromkeys(read, at)
        for group, age in overdue(read_at, of, rule.verify_within, since, at).items():
            late.append(f"group {group} of {of} was not read for {age}, promised are {rule.verify_within}")
        if stale := staleness([one.made_at for one in present], rule.rpo, at):
            late.append(stale)
    strays = [
        *found.strays,
        *_unrecorded(recorded, present),
        *_from_the_future(present, at),
        *_keys_changed(checks, found.keys),
    ]
    facts = {
        "verdict": "corrupted" if problems else "missed" if late else "met",
        "vault": identity,
        "read": read if not problems else [],
        "of": of,
        "bytes": found.size,
        "snapshots": len(present) if not problems else None,
        "keys": list(found.keys),
        "seconds": round(found.seconds, 3),
        "problems": problems[:MOST_LISTED],
        "late": late,
        "strays": strays[:MOST_LISTED],
        "run": run,
    }
    return ledger.append(CHECK, systems.estate.name, facts)


def _identity(systems: Systems) -> str | None:
    """``None`` where it cannot be read, for which the examination has better words."""
    try:
        return systems.vault().identity()
    except (Corrupted, Refused):
        return None


def _is_of(record: Record, identity: str | None) -> bool:
    """Whether it is of this vault: one that was rebuilt, or begun beside a damaged one, knows nothing of the other."""
    return identity is None or record.facts.get("vault") in (None, identity)


def _read_at(records: Iterable[Record], of: int) -> dict[int, datetime]:
    """Newest first comes, and only readings by the same division count."""
    found: dict[int, datetime] = {}
    for record in records:
        if record.facts.get("of") == of:
            for group in record.facts.get("read", ()):
                found.setdefault(int(group), record.at)
    return found


def _gone(recorded: Sequence[Record], present: Sequence[Snapshot], systems: Systems, now: datetime) -> list[str]:
    """Backups that were made, that retention would have kept, and that the vault does not have."""
    arrived = {record.facts["snapshot"]: record.at for record in recorded}
    sound = {record.facts["snapshot"] for record in recorded if record.facts["verdict"] == "met"}
    wanted = kept(arrived, policy(systems.estate).retention, now, sound)
    there = {one.id for one in present}
    return [
        f"backup {name[:12]} of {arrived[name]:%Y-%m-%d %H:%M} is gone from the vault before its time"
        for name in sorted(wanted - there)
    ]


def _unrecorded(recorded: Sequence[Record], present: Sequence[Snapshot]) -> list[str]:
    known = {record.facts["snapshot"] for record in recorded}
    return [
        f"backup {one.id[:12]} of {one.made_at:%Y-%m-%d %H:%M} is in no evidence: its run was killed, or somebody "
        "else made it"
        for one in present
        if one.id not in known
    ]


def _from_the_future(present: Sequence[Snapshot], now: datetime) -> list[str]:
    return [
        f"backup {one.id[:12]} says that it was made at {one.made_at:%Y-%m-%d %H:%M}, which is in the future: until "
        "then it is the `latest`, so name another one by its id"
        for one in present
        if one.made_at - now > AHEAD
    ]


def _keys_changed(checks: Sequence[Record], keys: Sequence[str]) -> list[str]:
    """No engine misses a key, and whoever lacks theirs finds out too late."""
    if not checks:
        return []
    before, seq = set(checks[0].facts.get("keys", keys)), checks[0].seq
    return [
        *(
            f"key {key} is gone since evidence {seq}: the keeper took it away, or it was lost"
            for key in sorted(before - set(keys))
        ),
        *(f"key {key} is new since evidence {seq}: see that its owner is known" for key in sorted(set(keys) - before)),
    ]


# --- a restore that works ----------------------------------------------------------------------------------------


def choose(systems: Systems, seed: str) -> list[str]:
    """The newest backup and a random older one; the same ``seed`` chooses the same.

    :raises Refused: there is no backup
    """
    found = snapshots(systems)
    if not found:
        raise Refused("prove a restore", ["there is no backup yet"])
    older = found[:-1]
    return [found[-1].id, *([random.Random(seed).choice(older).id] if older else [])]  # noqa: S311 - no secret


def prove_restore(systems: Systems, name: str, *, run: str = "", now: datetime | None = None) -> Record:
    """Restore a backup into an empty folder and use it: weights, registry and ledger.

    :return: evidence; its ``verdict`` is ``met``, ``missed`` where it took longer than the RTO, or ``corrupted``
    :raises Unavailable: the vault, the ledger, or an empty database server cannot be had
    """
    rule, at = policy(systems.estate), now or datetime.now(UTC)
    snapshot = resolve(snapshots(systems), name)
    took: dict[str, float] = {}
    problems: list[str] = []
    size = 0
    began = time.monotonic()
    with staged(workplace(systems.home)) as folder:
        try:
            manifest = fetch(systems, snapshot, folder)
            size = manifest.content.size
            took["restored and checked"] = time.monotonic() - began
            problems += [*_models_answer(folder), *states_verify(folder, manifest)]
            took["models answered"] = time.monotonic() - began
            problems += _databases_come_up(systems, folder, manifest)
            took["databases came up"] = time.monotonic() - began
        except Corrupted as error:
            problems.append(str(error))
    seconds = time.monotonic() - began
    late = seconds > rule.rto.total_seconds()
    facts = {
        "verdict": "corrupted" if problems else "missed" if late else "met",
        "snapshot": snapshot.id,
        "made_at": snapshot.made_at.isoformat(),
        "age_seconds": round((at - snapshot.made_at).total_seconds(), 3),
        "bytes": size,
        "seconds": round(seconds, 3),
        "rto": format_duration(rule.rto),
        "steps": {name: round(value, 3) for name, value in took.items()},
        "problems": problems[:MOST_LISTED],
        "run": run,
    }
    return systems.ledger().append(RESTORE, systems.estate.name, facts)


def _models_answer(folder: Path) -> list[str]:
    """Load each release that a site served in a fresh process, and compare its answers with the known ones."""
    releases = sorted((folder / "models" / "pointers").glob("*/*/release.json"))
    wanted = {path.read_bytes(): path for path in releases}  # sites mostly serve the same
    problems = []
    for path in wanted.values():
        done = subprocess.run(
            [sys.executable, "-m", "ninelives.backups.answer", str(path), str(folder / "models" / "objects")],
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "PYTHONPATH": _library()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
        if done.returncode:
            said = (done.stdout or done.stderr).strip().splitlines() or [f"it ended with {done.returncode}"]
            problems.append(f"model {path.parent.name}: {said[-1]}")
    return problems


def states_verify(folder: Path, manifest: BackupManifest) -> list[str]:
    """Read each model that goes on learning: every update in its chain, its pointer and its state."""
    problems = []
    for model, learnt in learnt_until(manifest).items():
        try:
            check_model(folder / "state" / model, learnt.end)
        except (Corrupted, OSError) as error:
            problems.append(f"state: {error}")
    return problems


def _library() -> str:
    """Where this library is, for a process that inherits nothing else."""
    return str(Path(__file__).parents[2])


def _databases_come_up(systems: Systems, folder: Path, manifest: BackupManifest) -> list[str]:
    problems = []
    with systems.databases().scratch() as server:
        for part in ("ledger", "registry", "airflow"):
            for name in manifest.parts[part].facts["databases"]:
                try:
                    server.load(folder / part / name, name)
                except Corrupted as error:
                    problems.append(str(error))
        if not problems:
            problems += _ledger_verifies(systems, server, manifest)
            problems += _registry_opens(server, manifest)
    return problems


def _ledger_verifies(systems: Systems, server: ScratchServer, manifest: BackupManifest) -> list[str]:
    stores = {}
    for site in systems.estate.site_names:
        try:
            stores[site] = systems.store(site)
        except Unavailable:
            continue  # then its anchors are not there to compare with
    return ledger_problems(server.ledger(manifest.parts["ledger"].facts["databases"][0]), manifest, stores)


def ledger_problems(ledger: Ledger, manifest: BackupManifest, stores: Mapping[str, ObjectStore]) -> list[str]:
    """What is wrong with a restored ledger: its chain up to the record that the backup says it ended with, and against
    the anchors of that time, as far as ``stores`` still have them."""
    head, said = ledger.head(), manifest.parts["ledger"].facts["head"]
    if head.seq != said["seq"] or (head.seq and head.hash != said["hash"]):
        return [f"the ledger ends at record {head.seq} ({head.hash[:12]}), its backup said {said['seq']}"]
    anchors = [one for one in read_anchors(stores, ledger.ledger_id).anchors if one.seq <= head.seq]
    return [f"ledger: {finding}" for finding in verify_chain(ledger.scan(), tuple(anchors))][:MOST_LISTED]


def _registry_opens(server: ScratchServer, manifest: BackupManifest) -> list[str]:
    facts = manifest.parts["registry"].facts
    try:
        versions = server.registry(facts["databases"][0])
    except Corrupted as error:
        return [str(error)]
    declared = len(facts.get("artefacts", {}))
    return [] if versions == declared else [f"the registry has {versions} model versions, its backup said {declared}"]


# --- what follows from it ----------------------------------------------------------------------------------------


def refuse_unproven(records: Sequence[Record], *, restored: bool = True) -> None:
    """:param restored: a restore must be among them
    :raises Corrupted: a backup or the vault is damaged
    :raises Refused: nothing was proven, or a promise of time is broken: a backup is stale, bytes were not read, a
        restore took too long
    """
    damaged = [record for record in records if record.facts["verdict"] == "corrupted"]
    if damaged:
        said = [f"{problem} (evidence {one.seq})" for one in damaged for problem in one.facts["problems"][:5]]
        raise Corrupted(
            f"backups: {'; '.join(said)}; what is new in the next backup is sound, what it shares with these is "
            "not: keep the vault for a look, and begin another"
        )
    if lacking := {CHECK, *([RESTORE] if restored else [])} - {record.kind for record in records}:
        raise Refused("backups", [f"there is no evidence of kind {kind} from this run" for kind in sorted(lacking)])
    missed = [record for record in records if record.facts["verdict"] != "met"]
    if missed:
        reasons = []
        for one in missed:
            took = f"the restore took {one.facts['seconds']:.0f} s, promised are {one.facts.get('rto')}"
            reasons += [f"{reason} (evidence {one.seq})" for reason in one.facts.get("late") or [took]]
        raise Refused("backups", reasons)


def summary(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{"evidence": record.seq, "kind": record.kind, **record.facts} for record in records]
