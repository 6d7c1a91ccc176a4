"""Journals in the ledger: what each run of a kind did, one record a step, so that a killed run goes on from there."""

from __future__ import annotations

from typing import Any

from ninelives.ports import Ledger, Record


def write_step(
    ledger: Ledger, kind: str, subject: str, *, run: str, entry: str, name: str = "", **facts: Any
) -> Record:
    """Append once; what was written first stands."""
    once = f"{kind}/{run}/{entry}/{name}"
    body = {"run": run, "entry": entry, "name": name, **facts}
    return ledger.written(once) or ledger.append(kind, subject, body, once=once)


def read_runs(ledger: Ledger, kind: str, subject: str) -> list[tuple[Record, ...]]:
    """The records of every run, both oldest first; raises ``Corrupted`` where a record is not what was written."""
    by_run: dict[str, list[Record]] = {}
    for record in reversed(ledger.records(kind=kind, subject=subject)):
        by_run.setdefault(record.facts["run"], []).append(record)
    return [tuple(records) for records in by_run.values()]
