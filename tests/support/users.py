"""Users of the light estate who say who they are, an estate with an experiment on them, and a process to kill.

``python -m support.users HOME NAME`` runs the experiment in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from support.models import ROW
from support.processes import stopping
from support.releases import NEGATIVE, Load, ReleaseWorld, systems_of

from ninelives.estate import Estate
from ninelives.experiments.run import begin, run
from ninelives.home import Home
from ninelives.serving.protocol import ARM_HEADER, decode_response, encode_request

HEADER = "ninelives-unit"


@dataclass
class Users(Load):
    """Each request is of another user, of 500; every fifth has a negative ``a``."""

    arms: dict[str, set[str]] = field(default_factory=dict)
    """Per user, the arms that their answers were marked with."""

    def __post_init__(self) -> None:
        self._turn = itertools.count()

    async def _ask(self, client: httpx.AsyncClient, row: Any) -> None:
        unit, version = f"user-{next(self._turn) % 500}", None
        path = f"{self.url}/services/alpha/v2/models/alpha/infer"
        try:
            answer = await client.post(path, json=encode_request([row]), headers={HEADER: unit})
            outcome = str(answer.status_code)
            if answer.status_code == 200:
                decoded = decode_response(answer.json(), answer.headers, 0)
                version = decoded.model_version
                right = version is not None and decoded.outputs["total"] == [row["a"] + 2 + int(version) - 1]
                outcome = "degraded" if decoded.degraded else "good" if right else "wrong"
                if arm := answer.headers.get(ARM_HEADER):
                    self.arms.setdefault(unit, set()).add(arm)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        self.outcomes.append((time.monotonic(), outcome, version))


def declared(name: str, version: str) -> dict[str, Any]:
    target = {"name": "sums kept", "outcomes": f"outcomes/{name}/", "wanted": "increase", "matters": 0.1}
    return {
        "name": name, "service": "alpha", "version": version, "exposure": "20%", "peak": 100, "target": target,
        "until": (datetime.now(UTC) + timedelta(days=2)).date().isoformat(), "look_every": "200ms",
        "stop_within": "1min",
    }  # fmt: skip


class ExperimentWorld(ReleaseWorld):
    experiments: tuple[dict[str, Any], ...] = ()

    def estate(self, **changes: Any) -> Estate:
        document = super().estate(**changes).model_dump(mode="json")
        document["services"][0]["capacity"] = 400
        document["experiments"] = self.experiments
        (self.home.root / "estate.json").write_text(json.dumps(document))
        return Estate.model_validate(document)


@contextmanager
def experiment_world(folder: Path) -> Iterator[ExperimentWorld]:
    world = ExperimentWorld(folder)
    with stopping(*world.sites.values(), world.envoy):
        world.start()
        yield world


def main() -> None:
    systems = systems_of(Home(Path(sys.argv[1])))
    record = run(systems, begin(systems, sys.argv[2], by="ada"), approve=lambda: None)
    print(record.facts["verdict"], *record.facts["reasons"])


if __name__ == "__main__":
    main()

__all__ = ["HEADER", "NEGATIVE", "ROW", "Users", "declared", "experiment_world"]
