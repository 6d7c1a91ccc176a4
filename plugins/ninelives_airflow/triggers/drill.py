"""What a drill waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

LOOK_EVERY = 0.5
"""Seconds between two looks at whether everything is back."""


class RecoveryTrigger(BaseTrigger):
    """Fires when a drilled service has recovered for good, when the drill must stop, or when waiting is pointless.

    A drill that must stop is undone from here: the way through the scheduler to ``restore_site`` takes seconds, and
    ``restore_site`` then finds it done.
    """

    def __init__(self, *, plan: dict[str, Any], lost_at: str) -> None:
        super().__init__()
        self.plan = plan
        self.lost_at = lost_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.RecoveryTrigger", {"plan": self.plan, "lost_at": self.lost_at}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ninelives.drills.run import WATCH_EVERY, undo_fault
        from ninelives.drills.scenario import Drill
        from ninelives.drills.watch import State, Watch
        from ninelives.errors import NinelivesError
        from ninelives_airflow.hooks.estate import EstateHook

        systems = await asyncio.to_thread(EstateHook)
        drill = Drill(self.plan["id"], self.plan["scenario"], self.plan["service"], self.plan["site"])
        watch = Watch(systems, drill, self.plan["survivors"], datetime.fromisoformat(self.lost_at))
        while not watch.due() or (progress := await asyncio.to_thread(watch.look)).state is State.ONGOING:
            await asyncio.sleep(WATCH_EVERY)
        if progress.state is State.ABORT:
            self.log.warning("The drill must stop: %s", progress.reason)
            try:
                await asyncio.to_thread(undo_fault, systems, drill, by="abort")
            except NinelivesError as error:
                self.log.error("It could not be undone at once, so restore_site has to: %s", error)
        yield TriggerEvent({"state": str(progress.state), "reason": progress.reason})


class ReturnTrigger(BaseTrigger):
    """Fires when the estate is as it was before a drill.

    :param site: fires when the gateway may send traffic to it, where there is no ``plan``
    :param plan: output of the preflight
    """

    def __init__(self, *, site: str, plan: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.site = site
        self.plan = plan

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.ReturnTrigger", {"site": self.site, "plan": self.plan}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while not await asyncio.to_thread(self._back):
            await asyncio.sleep(LOOK_EVERY)
        yield TriggerEvent({"site": self.site, "state": "open"})

    def _back(self) -> bool:
        from ninelives.drills.run import is_back
        from ninelives.drills.scenario import Drill
        from ninelives.errors import NinelivesError
        from ninelives_airflow.hooks.estate import EstateHook

        systems = EstateHook()
        if self.site and self.site in systems.gateway().state().closed_sites:
            return False
        if self.plan is None:
            return True
        drill = Drill(self.plan["id"], self.plan["scenario"], self.plan["service"], self.plan["site"])
        try:
            return is_back(systems, drill)
        except NinelivesError as error:
            self.log.info("It cannot be seen yet whether everything is back: %s", error)
            return False
