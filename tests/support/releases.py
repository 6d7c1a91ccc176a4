"""Promotions on the light estate of two sites: models that are bad in their own ways, load, and a process to kill.

``python -m support.releases HOME VERSION`` promotes ``alpha`` in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from support.models import ROW, sum_model
from support.processes import stopping, wait_until
from support.two_sites import Systems as TwoSites
from support.two_sites import World

from ninelives.adapters.connections import FileConnections
from ninelives.estate import Estate
from ninelives.home import Home
from ninelives.ports import ModelVersion
from ninelives.releases import canary
from ninelives.releases.canary import ERRORS, LATENCY, Decision
from ninelives.releases.promotion import begin, promote
from ninelives.serving.protocol import decode_response, encode_request

POLICY = {
    "hardware": "cpu",
    "shadow": 50,
    "shadow_for": "300ms",
    "canary": [{"share": 20, "hold": "300ms"}, {"share": 50, "hold": "300ms"}],
    "patience": "20s",
    "keep_for": "1d",
}
ARMS = ("control", "experiment")
NEGATIVE = {**ROW, "a": -1.5}


class FileRegistry:
    """``ports.Registry``, as far as a promotion goes, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def versions(self) -> list[ModelVersion]:
        return [ModelVersion("alpha", str(number), None, None, None) for number in range(1, 50)]

    def champion(self, model: str) -> str | None:
        return self.path.read_text() if self.path.exists() else "1"

    def set_champion(self, model: str, version: str) -> None:
        temporary = self.path.with_suffix(".new")
        temporary.write_text(version)
        temporary.replace(self.path)


class Systems(TwoSites):
    def registry(self) -> Any:
        return FileRegistry(self.home.root / "champion")


class ReleaseWorld(World):
    policy: dict[str, Any] = POLICY

    def estate(self, **changes: Any) -> Estate:
        document = super().estate(**changes).model_dump(mode="json")
        document["services"][0]["release"] = self.policy
        # A busy machine must not look like a lost replica: there is one at each site.
        document["services"][0]["objective"]["latency"] = "2s"
        written = self.home.root / "estate.json.new"  # renamed, because a child may read it just now
        written.write_text(json.dumps(document))
        written.replace(self.home.root / "estate.json")
        return Estate.model_validate(document)

    def systems(self, **changes: Any) -> Systems:
        return systems_of(self.home, self.estate(**changes))


def systems_of(home: Home, estate: Estate | None = None) -> Systems:
    estate = estate or Estate.model_validate_json((home.root / "estate.json").read_bytes())
    return Systems(estate, FileConnections(home.connections_file), home)


@contextmanager
def release_world(folder: Path) -> Iterator[ReleaseWorld]:
    world = ReleaseWorld(folder)
    with stopping(*world.sites.values(), world.envoy):
        world.start()
        yield world


def plain_judge(metrics: list[dict[str, Any]], horizon: int) -> tuple[Decision, list[str]]:
    """Fixed limits: these tests are about what follows from a decision, and a good version needs minutes of traffic."""
    errors, latency = (next(one for one in metrics if one["name"] == name) for name in (ERRORS, LATENCY))
    rates, slow = _rates(errors), _rates(latency)
    if min(sum(errors[f"{arm}_attempts"]) for arm in ARMS) < 20:
        return Decision.INCONCLUSIVE, ["fewer than 20 attempts"]
    if rates[1] > rates[0] + 0.05:
        return Decision.ROLL_BACK, [f"errors {rates[1]:.1%} against {rates[0]:.1%}"]
    if slow[1] > slow[0] + 0.45:
        return Decision.ROLL_BACK, [f"latency: {slow[1]:.0%} slow against {slow[0]:.0%}"]
    return Decision.PROMOTE, []


def _rates(metric: dict[str, Any]) -> list[float]:
    return [sum(metric[arm]) / max(sum(metric[f"{arm}_attempts"]), 1) for arm in ARMS]


def flaky_model(bias: float) -> bytes:
    """As ``sum_model``, but no number for a negative ``a``: an error, after its golden answers were right."""
    from onnx import helper

    def spoil(graph: Any) -> None:
        nodes = [
            helper.make_node("Log", ["a"], ["log_a"]),
            helper.make_node("Mul", ["log_a", "nothing"], ["no_number"]),
            helper.make_node("Add", ["sum", "no_number"], ["total"]),
        ]
        graph.node.extend(nodes)

    return _changed(bias, spoil)


def slow_model(bias: float, layers: int = 150, width: int = 512) -> bytes:
    """As ``sum_model``, after tens of milliseconds of multiplying."""
    import numpy as np
    from onnx import helper, numpy_helper

    def slow_down(graph: Any) -> None:
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.ones((1, width), np.float32), "wide"),
                numpy_helper.from_array(np.full((width, width), 1 / width, np.float32), "layer"),
            ]
        )
        graph.node.append(helper.make_node("MatMul", ["a", "wide"], ["x0"]))
        for number in range(layers):
            graph.node.append(helper.make_node("MatMul", [f"x{number}", "layer"], [f"x{number + 1}"]))
        graph.node.extend(
            [
                helper.make_node("ReduceMean", [f"x{layers}"], ["mean"], axes=[1], keepdims=1),
                helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
                helper.make_node("Add", ["sum", "zero"], ["total"]),
            ]
        )

    return _changed(bias, slow_down)


def _changed(bias: float, change: Any) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_model_from_string(sum_model(bias, output="sum"))
    graph = model.graph
    graph.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]))
    change(graph)
    graph.output[0].name = "total"
    return bytes(model.SerializeToString())


@dataclass
class Load:
    """Open-loop load on ``alpha``; every fifth request has a negative ``a``."""

    url: str
    rate: float = 60.0
    outcomes: list[tuple[float, str, str | None]] = field(default_factory=list)
    """When it was answered (monotonic s), ``good`` or what was wrong, and the version that answered."""

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        async with (
            httpx.AsyncClient(timeout=10, trust_env=False, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            started = time.monotonic()
            for number in itertools.count():
                if self._stop.is_set():
                    return
                await asyncio.sleep(max(0.0, started + number / self.rate - time.monotonic()))
                tasks.create_task(self._ask(client, NEGATIVE if number % 5 == 0 else ROW))

    async def _ask(self, client: httpx.AsyncClient, row: Any) -> None:
        version = None
        try:
            answer = await client.post(f"{self.url}/services/alpha/v2/models/alpha/infer", json=encode_request([row]))
            if answer.status_code == 200:
                decoded = decode_response(answer.json(), answer.headers, 0)
                version = decoded.model_version
                # Version n adds n - 1.
                right = version is not None and decoded.outputs["total"] == [row["a"] + 2 + int(version) - 1]
                outcome = "degraded" if decoded.degraded else "good" if right else "wrong"
            else:
                outcome = str(answer.status_code)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        self.outcomes.append((time.monotonic(), outcome, version))

    def counts(self) -> Counter[str]:
        return Counter(outcome for _, outcome, _ in self.outcomes)

    def versions(self) -> Counter[str | None]:
        return Counter(version for _, _, version in self.outcomes)

    def await_more(self, requests: int) -> None:
        target = len(self.outcomes) + requests
        wait_until(lambda: len(self.outcomes) >= target, f"{requests} more answers", timeout=60)


def main() -> None:
    canary.SHORTEST = 0.1  # its shares are held for less than a second
    systems = systems_of(Home(Path(sys.argv[1])))
    plan = begin(systems, "alpha", sys.argv[2], by="ada", again=len(sys.argv) > 3)
    record = promote(systems, plan, approve=lambda: None, judge=plain_judge)
    print(record.facts["outcome"], record.facts["why"])


if __name__ == "__main__":
    main()
