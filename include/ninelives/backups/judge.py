"""What is wrong with a backup beside the one before it, and with time: in words, for evidence and for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from ninelives.backups.contents import IMMUTABLE, Learnt
from ninelives.backups.manifest import BackupManifest
from ninelives.backups.retention import AHEAD
from ninelives.estate.units import format_duration
from ninelives.state.log import Position

MAX_SHRINK = 0.2
"""Share of a part's files, bytes or rows that may be gone since the backup before: people delete, disks vanish."""
_FRICTION = {"airflow", "estate", "suites"}
"""Parts whose size says little: people clean Airflow's history and rewrite files."""
_WRITTEN_ONCE = re.compile(r"state/[^/]+/versions/[^/]+|models/pointers/[^/]+/[^/]+/(moves|releases)/[^/]+")
"""Of a version that learns, and what leads to a pointer: they never change either."""
_CLOCKED = "toc.dat"
"""A dump's table of contents holds the time at which it was made."""


def compare(before: BackupManifest, now: BackupManifest) -> list[str]:
    """What the backup ``before`` makes suspicious in this one: nothing new at all, or a source that shrank."""
    findings = []
    if _contents(before) == _contents(now):
        findings.append(
            f"nothing is new since the backup of {before.made_at:%Y-%m-%d %H:%M}, not even the ledger, to which each "
            "backup adds: the sources may not be the living ones"
        )
    for name, part in before.parts.items():
        found = now.parts.get(name)
        if found is None:
            findings.append(f"{name} is not there any more")
            continue
        measures = [("files", part.files, found.files), ("bytes", part.size, found.size)]
        if part.rows is not None:
            measures.append(("rows", part.rows, found.rows or 0))
        for what, had, has in measures:
            limit = 1.0 if name in _FRICTION else MAX_SHRINK
            if had and (had - has) / had >= limit and had > has:
                findings.append(f"{name} shrank from {had:,} to {has:,} {what}; older backups still hold the rest")
    return findings + _head(before, now)


def _head(before: BackupManifest, now: BackupManifest) -> list[str]:
    """A ledger only ever grows; one that became shorter is another one, or was cut."""
    had, has = (one.parts["ledger"].facts if "ledger" in one.parts else {} for one in (before, now))
    if not had.get("head") or not has.get("head"):
        return []
    if had.get("ledger_id") != has.get("ledger_id"):
        return ["ledger: it is another ledger than in the backup before"]
    if has["head"]["seq"] < had["head"]["seq"]:
        return [f"ledger: it ends at record {has['head']['seq']}, the backup before at {had['head']['seq']}"]
    return []


def _contents(manifest: BackupManifest) -> dict[str, str]:
    return {one.key: one.sha256 for one in manifest.content.objects if not one.key.endswith(f"/{_CLOCKED}")}


def known_bytes(before: BackupManifest | None) -> dict[str, str]:
    """Path to SHA-256 of everything in a backup that can never change."""
    objects = before.content.objects if before else ()
    return {one.key: one.sha256 for one in objects if one.key.startswith(IMMUTABLE) or _WRITTEN_ONCE.fullmatch(one.key)}


def learnt_until(before: BackupManifest | None) -> dict[str, Learnt]:
    """Model that goes on learning to what a backup has of it."""
    part = before.parts.get("state") if before else None
    return {
        model: Learnt(Position(one["seq"], one["hash"]), one["generation"], one["switches"])
        for model, one in (part.facts["learnt"] if part else {}).items()
    }


def staleness(made_at: Sequence[datetime], rpo: timedelta, now: datetime) -> str | None:
    """Why the newest backup is too old, ``None`` where it is not. No backup at all is too old.

    One whose maker's clock was ahead makes no other one younger.
    """
    past = [at for at in made_at if at - now <= AHEAD]
    if not past:
        return "there is no backup at all"
    age = now - max(past)
    if age <= rpo:
        return None
    rounded = timedelta(seconds=round(age.total_seconds()))
    return f"the newest backup is {format_duration(rounded)} old, promised are {format_duration(rpo)}"
