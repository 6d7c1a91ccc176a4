"""Drills of losses that only the vault survives. They run beside the estate: a drill never destroys the only copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ninelives.backups.proof import ledger_problems
from ninelives.backups.restore import fetch, staged, workplace
from ninelives.backups.run import policy, resolve, snapshots
from ninelives.drills.scenario import Drill, Promise, Scenario
from ninelives.errors import Corrupted, Unavailable
from ninelives.estate.model import ScenarioName
from ninelives.estate.units import format_duration
from ninelives.injections import Fault, Rebuilt
from ninelives.ports import GatewayState, Systems, UnfinishedRun

CONTINUES, REPEATED, LOST = "continues", "repeated", "lost"


class _FromVault(Scenario):
    promises = (Promise.USERS, Promise.RESTORED)

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        policy(systems.estate)
        return [] if snapshots(systems) else ["there is no backup in the vault: run back_up_estate"]


class EverythingLost(_FromVault):
    name = ScenarioName.EVERYTHING_LOST
    breaks = "nothing that runs: a second estate is built beside it, from the vault alone, and must answer"

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return (Rebuilt(injection=drill.id),)

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any]:
        snapshot = resolve(snapshots(systems), "latest")
        age = (datetime.now(UTC) - snapshot.made_at).total_seconds()
        found: dict[str, Any] = {"by": "backup rebuild", "evidence": None, "snapshot": snapshot.id, "age_seconds": age}
        try:
            report = systems.rebuilder().rebuild(drill.id, snapshot.id, systems.estate.drills.max_duration * 0.8)
        except (Corrupted, Unavailable) as error:
            return {**found, "restored": {}, "problems": [str(error)], "late": None}
        return {**found, "restored": dict(report), "problems": [], "late": _late(systems, report["seconds"])}


class ControlPlaneLost(_FromVault):
    name = ScenarioName.CONTROL_PLANE_LOST
    breaks = "nothing that runs: Airflow's database and the ledger come up from the vault in a server of their own"

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return ()

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any]:
        began = datetime.now(UTC)
        snapshot = resolve(snapshots(systems), "latest")
        head = systems.ledger().head().seq
        now = systems.databases().runs()
        found: dict[str, Any] = {
            "by": "restore of the control plane",
            "evidence": None,
            "snapshot": snapshot.id,
            "age_seconds": (began - snapshot.made_at).total_seconds(),
            "restored": {},
            "problems": [],
            "late": None,
        }
        try:
            with staged(workplace(systems.home)) as folder, systems.databases().scratch() as server:
                manifest = fetch(systems, snapshot, folder, ("ledger", "airflow"))
                for part in ("ledger", "airflow"):
                    for name in manifest.parts[part].facts["databases"]:
                        server.load(folder / part / name, name)
                ledger = server.ledger(manifest.parts["ledger"].facts["databases"][0])
                problems = ledger_problems(ledger, manifest, systems.stores())
                kept = ledger.head().seq
                then = server.runs(manifest.parts["airflow"].facts["databases"][0])
        except Corrupted as error:
            return {**found, "problems": [str(error)]}
        seconds = (datetime.now(UTC) - began).total_seconds()
        restored = {
            "seconds": seconds,
            "records": kept,
            "records_lost": head - kept,
            "runs": judge_runs(then, now),
        }
        return {**found, "restored": restored, "problems": problems, "late": _late(systems, seconds)}


def judge_runs(then: Iterable[UnfinishedRun], now: Iterable[UnfinishedRun] | None = None) -> list[dict[str, str]]:
    """What becomes of every run that had not ended, once Airflow starts on its database of ``then``. Pure.

    Airflow finds no heartbeat of what was at work, and tries it once more where a try is left. None is left out: a run
    that nobody names is a run that nobody misses.

    :param now: runs that had not ended at the loss itself, where that is known
    """
    known = None if now is None else {(one.dag, one.run) for one in now}
    found, seen = [], set()
    for one in then:
        seen.add((one.dag, one.run))
        if one.last_try:
            fate, why = LOST, f"{', '.join(one.last_try)} was at work in its last try"
        elif known is not None and (one.dag, one.run) not in known:
            fate, why = REPEATED, "it has ended since the backup, and goes on from where the backup saw it"
        elif one.at_work:
            fate, why = CONTINUES, f"{', '.join(one.at_work)} is tried again"
        else:
            fate, why = CONTINUES, "nothing of it was at work"
        found.append({"dag": one.dag, "run": one.run, "fate": fate, "why": why})
    for dag, run in sorted((known or set()) - seen):
        found.append({"dag": dag, "run": run, "fate": LOST, "why": "it began after the backup: start it again"})
    return found


def _late(systems: Systems, seconds: float) -> str | None:
    rto = policy(systems.estate).rto
    if seconds <= rto.total_seconds():
        return None
    return f"it took {seconds:.0f} s, promised are {format_duration(rto)}"
