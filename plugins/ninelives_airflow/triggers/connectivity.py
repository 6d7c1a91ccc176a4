"""Waits for sources to come back for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class ConnectivityTrigger(BaseTrigger):
    """Fires ``back`` once one source of each group answered without a break for long enough, or ``expired``.

    A triggerer that dies starts the count anew elsewhere: nothing is taken for steady that nobody saw.

    :param needs: groups of sources, as ``ninelives.training.connectivity`` names them
    :param steady: seconds without a break; each break doubles it for its source
    :param deadline: ISO instant after which waiting is given up
    :param reasons: why the run waits, for people who look at the trigger
    :param every: seconds between two looks
    """

    def __init__(
        self, *, needs: list[list[str]], steady: float, deadline: str, reasons: list[str], every: float = 5.0
    ) -> None:
        super().__init__()
        self.needs = needs
        self.steady = steady
        self.deadline = deadline
        self.reasons = reasons
        self.every = every

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.ConnectivityTrigger", {
            "needs": self.needs,
            "steady": self.steady,
            "deadline": self.deadline,
            "reasons": self.reasons,
            "every": self.every,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ninelives.training.connectivity import Steadiness, observe
        from ninelives_airflow.hooks.estate import EstateHook

        systems = await asyncio.to_thread(EstateHook)
        # A look asks every source in turn, and one that hangs takes its time.
        watch = Steadiness(self.needs, self.steady, longest_gap=max(60.0, 4 * self.every))
        deadline, silent, known = datetime.fromisoformat(self.deadline), dict[str, str](), None
        while datetime.now(UTC) < deadline:
            silent = dict(await asyncio.to_thread(observe, systems, watch.sources))
            if silent.keys() != known:
                known = silent.keys()
                self.log.info("Waiting for %s; silent: %s", self.needs, silent or "none, until they stay so")
            if watch.look(time.monotonic(), silent):
                yield TriggerEvent({"state": "back", "reasons": []})
                return
            await asyncio.sleep(self.every)
        yield TriggerEvent(
            {"state": "expired", "reasons": list(silent.values()) or ["nothing stayed up for long enough"]}
        )
