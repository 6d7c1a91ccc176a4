"""An experiment in memory: users whose tries appear at the replicas as the gateway really divides them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support.promotion import Killed, Memory, MemoryReplica

from ninelives.estate import Estate
from ninelives.experiments.assign import Arm, Experiment, assign
from ninelives.ports import Attempt, Attempts
from ninelives.releases import promotion

NAME = "warmer-sums"
DECLARED: dict[str, Any] = {
    "name": NAME,
    "service": "alpha",
    "version": "2",
    "exposure": 0.2,
    "peak": 100,
    "until": (datetime.now(UTC) + timedelta(days=2)).date().isoformat(),
    "look_every": "100ms",
    "stop_within": "1min",
    "target": {"name": "sums kept", "outcomes": "outcomes/", "wanted": "increase", "matters": 0.1},
}


class CountingReplica(MemoryReplica):
    """Remembers tries of both arms; ``wrong`` is the share of the new version's that fail."""

    def remember(self, arm: str, version: str, *, good: bool, latency: float = 0.001) -> None:
        self.tries.setdefault((arm, version), []).append(Attempt(self.clock, latency, good))
        self.clock += 0.001

    def forget(self) -> None:
        """Started anew."""
        self.boot, self.tries = self.boot + "'", {}
        self.beside.clear()

    def attempts(self, model: str) -> Attempts:
        loaded = (*([self.served.version] if self.served else []), *self.beside)
        return Attempts(self.boot, loaded, {key: tuple(tries) for key, tries in self.tries.items()})


class ExperimentMemory(Memory):
    """``alpha`` with two sites and one experiment declared."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__(folder)
        self.declare(**changes)
        for site, store in self._stores.items():
            replica = CountingReplica(f"http://{site}", store, self.fuse)
            replica.tries, replica.clock = {}, 1000.0
            self._replicas[site] = [replica]
        self._gateway.healthy_sites = lambda service: {  # type: ignore[attr-defined]
            site: sum(one.up for one in replicas) for site, replicas in self._replicas.items()
        }
        self.random = random.Random(7)
        self.wrong, self.slow, self.lift = 0.0, 0.0, 0.0
        self.users, self.requests = 0, 60

    def declare(self, **changes: Any) -> None:
        document = self.estate.model_dump(mode="json")
        document["services"][0]["capacity"] = 200
        document["experiments"] = [{**DECLARED, **changes}] if changes.get("name", NAME) else []
        self.estate = Estate.model_validate(document)

    def live(self, seconds: float) -> None:
        """Users ask, and their outcomes arrive; as the gateway really divides them."""
        used = self._gateway.used
        rows = []
        for number in range(self.requests):
            replica = self._replicas["paris" if number % 2 else "dublin"][0]
            arm, version = "stable", "1"
            if used and used.assignment:
                unit = f"user-{self.users}"
                self.users += 1
                found = assign(Experiment(used.assignment.experiment, used.assignment.parts / 10_000), unit)
                if found is not Arm.OUTSIDE:
                    arm, version = found.value, used.assignment.version if found is Arm.EXPERIMENT else used.stable
                if number < 200:
                    kept = self.random.random() < 0.4 + (self.lift if arm == "experiment" else 0)
                    rows.append({"unit": unit, "value": int(kept)})
            new = arm == "experiment"
            replica.remember(
                arm, version, good=not (new and self.random.random() < self.wrong),
                latency=0.001 + 0.0001 * self.random.random() + (self.slow if new else 0),
            )  # fmt: skip
        if rows:
            name = f"outcomes/{self.users:09}.jsonl"
            self._stores["paris"].objects["data", name] = "\n".join(map(json.dumps, rows)).encode()


def approved() -> None:
    return None


def no_gate(systems: Any, plan: Any) -> Mapping[str, Any]:
    return {"evidence": {}}


__all__ = ["NAME", "ExperimentMemory", "Killed", "approved", "no_gate", "promotion"]
