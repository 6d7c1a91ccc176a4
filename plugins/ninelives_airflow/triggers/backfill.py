"""What a backfill waits for, and what starts one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

from ninelives.errors import NinelivesError, Unavailable

LOOK_EVERY = 2.0
"""Seconds between two looks at a native backfill; each costs the API server four requests."""
TELL_EVERY = 10.0
"""Seconds between two lines of progress in the task's log."""


class BackfillTrigger(BaseTrigger):
    """Fires when one of Airflow's own backfills has ended, or when the filling has taken too long.

    Progress, time left, and what it waits for are in the task's log.

    :param dag: whose backfill it is
    :param backfill: its id
    :param last: fire when its last run has ended, without waiting until Airflow marks it as completed
    :param until: when waiting is over (ISO 8601)
    """

    def __init__(self, *, dag: str, backfill: int, last: bool, until: str) -> None:
        super().__init__()
        self.dag = dag
        self.backfill = backfill
        self.last = last
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.BackfillTrigger", {
            "dag": self.dag,
            "backfill": self.backfill,
            "last": self.last,
            "until": self.until,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from airflow.sdk.configuration import conf

        from ninelives.backfill.fill import declared_backfill, watch
        from ninelives_airflow.hooks.estate import EstateHook

        systems = await asyncio.to_thread(EstateHook)
        declared = declared_backfill(systems.estate, self.dag)
        examined = conf.getint("scheduler", "max_dagruns_per_loop_to_schedule", fallback=20)
        until = datetime.fromisoformat(self.until)
        told, told_at = "", 0.0
        while True:
            try:
                seen, waits = await asyncio.to_thread(
                    watch, systems, declared, self.backfill, now=datetime.now(UTC), examined=examined
                )
            except Unavailable as error:  # Airflow's API may be restarted meanwhile; the backfill goes on
                self.log.warning("Cannot look at backfill %s now: %s", self.backfill, error)
            else:
                if seen is None or (self.last and seen.ended):
                    yield self._event(f"Backfill {self.backfill} of {self.dag} has ended: {seen or told}", late=False)
                    return
                line = f"{seen}; it may have to wait: {waits}" if waits else str(seen)
                if line != told and time.monotonic() - told_at >= TELL_EVERY:
                    self.log.info("Backfill %s of %s: %s", self.backfill, self.dag, line)
                    told, told_at = line, time.monotonic()
            if datetime.now(UTC) >= until:
                yield self._event(f"Backfill {self.backfill} of {self.dag} takes too long: {told}", late=True)
                return
            await asyncio.sleep(LOOK_EVERY)

    def _event(self, told: str, *, late: bool) -> TriggerEvent:
        return TriggerEvent({"told": told, "late": late})


class SourceBackTrigger(BaseEventTrigger):
    """Fires when the source of parked intervals has landed.

    :param every: seconds between two looks
    """

    def __init__(self, *, every: float = 10.0) -> None:
        super().__init__()
        self.every = every

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.SourceBackTrigger", {"every": self.every}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ninelives.backfill.fill import arrived
        from ninelives_airflow.hooks.estate import EstateHook

        told: dict[str, int] = {}
        while True:
            try:
                found = await asyncio.to_thread(lambda: arrived(EstateHook()))
            except NinelivesError as error:
                self.log.warning("Cannot look for sources that are back: %s", error)
            else:
                # Once per record: the run that this starts leaves a new one, whatever becomes of it.
                if new := {dag: record for dag, record in found.items() if told.get(dag) != record}:
                    told |= new
                    yield TriggerEvent({"dags": sorted(new)})
            await asyncio.sleep(self.every)
