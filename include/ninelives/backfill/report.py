"""The plans of every DAG that the estate names, for people and for the next step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ninelives.backfill.fill import Filling, declared_backfill, look, window
from ninelives.backfill.landed import merged
from ninelives.backfill.plan import Plan
from ninelives.errors import Refused
from ninelives.estate.model import Backfill
from ninelives.gates.interval import Interval
from ninelives.ports import Systems


@dataclass(frozen=True)
class DagPlan:
    """What was missed of one DAG, within ``where``, or why nothing can be done about it."""

    declared: Backfill
    where: Interval
    plan: Plan
    problem: tuple[str, ...] = ()

    @property
    def gap(self) -> dict[str, Any]:
        """JSON from which ``Filling.of_json`` goes on."""
        missed = sorted([*self.plan.fill, *(parked.interval for parked in self.plan.parked)])
        return Filling(self.declared.dag, tuple(missed)).as_json() | {"problem": list(self.problem)}

    def as_json(self) -> dict[str, Any]:
        declared, plan = self.declared, self.plan
        return {
            "dag": declared.dag,
            "window": str(self.where),
            "problem": list(self.problem),
            "missed": len(plan.fill) + len(plan.parked) + plan.later,
            "runs": len(plan.stretches) if declared.whole_gap else len(plan.fill),
            "max_active": declared.max_active,
            "stretches": [
                {"interval": str(one.whole), "intervals": len(one.intervals), "again": one.again}
                for one in plan.stretches
            ],
            "parked": [{"interval": str(one.interval), "reason": one.reason} for one in plan.parked],
            "running": [str(interval) for interval in plan.running],
            "done": plan.done,
            "later": plan.later,
        }

    def __str__(self) -> str:
        declared, plan = self.declared, self.plan
        if self.problem:
            return f"{declared.dag}: cannot be filled: {'; '.join(self.problem)}"
        if plan.whole:
            return f"{declared.dag}: nothing is missed in {self.where} ({plan.done} intervals done)"
        lines = [
            f"{declared.dag}: {len(plan.fill) + len(plan.parked) + plan.later} intervals missed in {self.where}",
            *(
                f"  fill   {one.whole}: {'1 run' if declared.whole_gap else f'{len(one.intervals)} runs'}"
                f"{', again: their data is gone' if one.again else ''}"
                for one in plan.stretches
            ),
            *(
                f"  park   {stretch}: {reason}"
                for reason in dict.fromkeys(one.reason for one in plan.parked)
                for stretch in merged(one.interval for one in plan.parked if one.reason == reason)
            ),
        ]
        if plan.running:
            lines.append(f"  leave  {len(plan.running)} that run now")
        if plan.later:
            lines.append(f"  later  {plan.later}, with the next run")
        lines.append(f"  at most {declared.max_active} runs side by side, after live runs")
        return "\n".join(lines)


def plan_all(systems: Systems, *, now: datetime, dag: str = "", start: str = "", end: str = "") -> list[DagPlan]:
    """One plan for each DAG that the estate names, or for ``dag`` alone; changes nothing anywhere.

    :param start: ISO 8601, UTC where it names no zone; empty: as far back as the estate says
    :param end: likewise; empty: now
    :raises Refused: the estate does not name the DAG, or a time cannot be read
    :raises Unavailable: Airflow or the gateway does not answer
    """
    wanted = (declared_backfill(systems.estate, dag),) if dag else systems.estate.backfills
    return [_plan(systems, one, window(one, now, _time(start), _time(end))) for one in wanted]


def _plan(systems: Systems, declared: Backfill, where: Interval) -> DagPlan:
    try:
        return DagPlan(declared, where, look(systems, declared, where).plan)
    except Refused as error:  # one DAG that cannot be filled must not keep the others from it
        return DagPlan(declared, where, Plan(), error.reasons)


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused("backfill", [f"{text!r} is not a time; write it like 2026-01-31T06:00"]) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
