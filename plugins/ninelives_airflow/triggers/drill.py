"""What a drill waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

LOOK_EVERY = 0.5
"""Seconds between two looks: the prober writes once a second."""


class RecoveryTrigger(BaseTrigger):
    """Fires when a drilled service has recovered for good, when the drill must stop, or when waiting is pointless."""

    def __init__(self, *, plan: dict[str, Any], lost_at: str) -> None:
        super().__init__()
        self.plan = plan
        self.lost_at = lost_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.RecoveryTrigger", {"plan": self.plan, "lost_at": self.lost_at}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ninelives.drills.scenario import Drill
        from ninelives.drills.watch import State, judge_progress
        from ninelives_airflow.hooks.estate import EstateHook

        systems = await asyncio.to_thread(EstateHook)
        drill = Drill(self.plan["id"], self.plan["scenario"], self.plan["service"], self.plan["site"])
        lost_at = datetime.fromisoformat(self.lost_at)
        while True:
            progress = await asyncio.to_thread(judge_progress, systems, drill, self.plan["survivors"], lost_at)
            if progress.state is not State.ONGOING:
                yield TriggerEvent({"state": str(progress.state), "reason": progress.reason})
                return
            await asyncio.sleep(LOOK_EVERY)


class ReturnTrigger(BaseTrigger):
    """Fires when the gateway may send traffic to a site again."""

    def __init__(self, *, site: str) -> None:
        super().__init__()
        self.site = site

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.ReturnTrigger", {"site": self.site}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ninelives_airflow.hooks.estate import EstateHook

        def closed() -> bool:
            return self.site in EstateHook().gateway().state().closed_sites

        while await asyncio.to_thread(closed):
            await asyncio.sleep(LOOK_EVERY)
        yield TriggerEvent({"site": self.site, "state": "open"})
