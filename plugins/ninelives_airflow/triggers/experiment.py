"""What watches an experiment on users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class ExperimentTrigger(BaseTrigger):
    """Looks at a running experiment, and fires when it has ended.

    All users are back with the control by then: the way through the scheduler takes seconds. Another triggerer goes on
    from the last look.

    :param plan: of the experiment
    """

    def __init__(self, *, plan: dict[str, Any]) -> None:
        super().__init__()
        self.plan = plan

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.ExperimentTrigger", {"plan": self.plan}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ninelives.errors import NinelivesError
        from ninelives.experiments.journal import ExperimentPlan
        from ninelives.experiments.run import Watch, end
        from ninelives_airflow.hooks.estate import EstateHook

        systems = await asyncio.to_thread(EstateHook)
        plan = ExperimentPlan.from_dict(self.plan)
        watch = await asyncio.to_thread(Watch, systems, plan)
        while (ending := await asyncio.to_thread(watch.look)) is None:
            await asyncio.sleep(watch.pause)
        self.log.info("The experiment ends: %s: %s", ending.verdict, "; ".join(ending.reasons))
        try:
            await asyncio.to_thread(end, systems, plan, ending, by=plan.by)
        except NinelivesError as error:
            self.log.error("Not all is back, so return_users has to see to it: %s", error)
        yield TriggerEvent({"verdict": str(ending.verdict), "reasons": list(ending.reasons)})
