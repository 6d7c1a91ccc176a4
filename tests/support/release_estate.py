"""A whole local estate on which versions are promoted and tried on users: four eyes, short canaries, models to change.

Everything is as its users have it: Airflow's own scheduler, triggerer and API server, MLflow, PostgreSQL, Envoy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from support.estate import MINUTES, ROOT, Estate, await_, free_base
from support.releases import NEGATIVE, Load

from ninelives.adapters.airflow_api import AirflowApi
from ninelives.adapters.mlflow import DIGEST_TAG
from ninelives.cli.drill import airflow_api
from ninelives.gates.evidence import has_verdict
from ninelives.releases.publish import digest_of, read_release
from ninelives.serving.protocol import decode_response, encode_request

HEADER = "ninelives-unit"
OVER = {"success", "failed"}
ODD = 1
"""Miles that no flight has: every fifth request has them, and some models no answer for them."""


def declaration() -> dict[str, Any]:
    """The demo's, without what is not needed here."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "include" / "estates" / "demo" / "estate.yaml").read_bytes())
    for unused in ("vault", "backups", "streams", "providers"):
        document.pop(unused)
    document["people"] = [
        {"name": "ada", "roles": ["operator"]},
        {"name": "grace", "roles": ["approver"]},
        {"name": "alan", "roles": ["approver"]},
    ]
    document["drills"] = {**document["drills"], "calendar": [], "schedule": None}
    for service in document["services"]:
        service["capacity"] = 400
        service["release"] = {
            "hardware": "cpu", "approval": "four-eyes", "shadow": 0, "canary": [{"share": 50, "hold": "30s"}],
            "patience": "10min", "keep_for": "20s",
        }  # fmt: skip
    document["services"][1]["release"]["labels"] = True
    return document


class ReleaseEstate(Estate):
    def declare(self, **changes: Any) -> None:
        (self.home.root / "estate.yaml").write_text(yaml.safe_dump(declaration() | changes))

    def of(self, person: str) -> AirflowApi:
        """Airflow's API, signed in as this person."""
        return AirflowApi(airflow_api(self.systems).url, person, self.passwords[person])

    def served(self, model: str) -> tuple[str, bytes]:
        """The version that serves now, and its file."""
        store = self.systems.store("paris")
        release = read_release(store, model)
        assert release
        data = store.get("models", release.object)
        assert data
        return release.version, data

    def stage(self, model: str, change: Callable[[Any], None], folder: Path) -> str:
        """A changed copy of what serves, registered and staged as a user does both; its version."""
        old, data = self.served(model)
        changed = with_change(data, change)
        registry = self.systems.connections.get("ninelives_mlflow")
        with httpx.Client(
            base_url=f"{registry.url}/api/2.0/mlflow/model-versions",
            auth=(registry.login or "", registry.password or ""),
        ) as client:
            found = client.get("get", params={"name": model, "version": old}).raise_for_status().json()
            source = {key: found["model_version"][key] for key in ("source", "run_id")}
            source["model_id"] = source["source"].removeprefix("models:/")
            tags = [{"key": DIGEST_TAG, "value": digest_of(changed)}]
            made = client.post("create", json={"name": model, **source, "tags": tags}).raise_for_status().json()
        version = str(made["model_version"]["version"])
        file = folder / f"{model}-{version}.onnx"
        file.write_bytes(changed)
        staged = self.run("release", "stage", model, "--version", version, "--onnx", str(file))
        assert staged.returncode == 0, staged.stderr
        return version


@contextmanager
def release_estate(folder: Path) -> Iterator[ReleaseEstate]:
    """Running, with a first version of both models at both sites; nothing of it is left running."""
    estate, file = ReleaseEstate(folder, free_base()), folder / "given.yaml"
    file.write_text(yaml.safe_dump(declaration()))
    try:
        up = estate.run("stack", "up", "--estate", str(file), "--without", "feeder", timeout=5 * MINUTES)
        assert up.returncode == 0, up.stderr[-3000:]
        systems = estate.systems
        api, models = airflow_api(systems), [one.name for one in systems.estate.models]

        def served_everywhere() -> bool:
            stores = systems.stores().values()
            copied = all(read_release(store, model) for store in stores for model in models)
            return copied and all(has_verdict(systems, "flights", site) for site in systems.estate.site_names)

        if not served_everywhere():
            await_(lambda: {"train_model", "replicate_data"} <= set(api.dag_ids()), 2 * MINUTES, "Airflow's first look")
            assert ended(api, "train_model", api.trigger("train_model", {})) == "success"
            await_(served_everywhere, 5 * MINUTES, "a release and a verdict at both sites")
        yield estate
    finally:
        down = estate.run("stack", "down")
        assert down.returncode == 0, down.stderr


# --- runs --------------------------------------------------------------------------------------------------------


def ended(api: AirflowApi, dag: str, run: str, within: float = 12 * MINUTES) -> str:
    await_(lambda: api.run_state(dag, run) in OVER, within, f"the end of {dag} {run}")
    return api.run_state(dag, run)


def asked(api: AirflowApi, dag: str, run: str, task: str) -> None:
    """Wait until the task asks a person."""

    def waits() -> bool:
        assert api.run_state(dag, run) not in OVER, api.task_states(dag, run)
        return api.task_states(dag, run)[task] == "awaiting_input"

    await_(waits, 2 * MINUTES, f"a question of {task}")


def answer(person: AirflowApi, dag: str, run: str, task: str, choice: str) -> None:
    """As somebody at the screen, who answers anew what Airflow asks anew."""
    asked(person, dag, run, task)

    def taken() -> bool:
        if person.task_states(dag, run)[task] == "awaiting_input" and not person.human_decision(dag, run, task):
            person.answer(dag, run, task, choice)
        return person.task_states(dag, run)[task] in {*OVER, "skipped"}

    await_(taken, 1 * MINUTES, f"an answer to {task}")


def forge(person: AirflowApi, dag: str, run: str, task: str, value: Any, *, done: bool = True) -> None:
    """What anybody who may edit the DAG can write: the task's XCom, and that it is done."""
    path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}"
    if done:
        person._send("PATCH", path, json={"new_state": "success"})
    there = person._send("PATCH", f"{path}/xcomEntries/return_value", json={"value": value}, accept=(404,))
    if there.status_code == 404:
        person._send("POST", f"{path}/xcomEntries", json={"key": "return_value", "value": value})


def clear(person: AirflowApi, dag: str, run: str, *tasks: str, downstream: bool = True) -> None:
    body = {
        "dry_run": False, "dag_run_id": run, "task_ids": list(tasks), "only_failed": False,
        "include_downstream": downstream,
    }  # fmt: skip
    person._send("POST", f"/api/v2/dags/{dag}/clearTaskInstances", json=body)


# --- models and users --------------------------------------------------------------------------------------------


def with_change(onnx: bytes, change: Callable[[Any], None]) -> bytes:
    import onnx as library

    model = library.load_model_from_string(onnx)
    change(model.graph)
    library.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def same(note: str) -> Callable[[Any], None]:
    """Answers as before, under another digest."""
    return lambda graph: setattr(graph, "doc_string", note)


def flaky(graph: Any) -> None:
    """As before, but no number for a flight of ``ODD`` miles: an error, after its golden answers were right."""
    from onnx import TensorProto, helper

    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["whole" if name == output else name for name in node.output]
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in (("odd", 1.5), ("nothing", 0.0))
    )
    for operator, inputs, made in (
        ("Sub", ["miles", "odd"], "beyond"),
        ("Log", ["beyond"], "log"),
        ("Mul", ["log", "nothing"], "no_number"),
        ("Add", ["whole", "no_number"], output),
    ):
        if operator == "Sub":
            graph.node.append(helper.make_node("Cast", ["distance"], ["miles"], to=TensorProto.FLOAT))
        graph.node.append(helper.make_node(operator, inputs, [made]))


@dataclass
class Flights(Load):
    """Each request is of another user, of 500; every fifth is of a flight of ``ODD`` miles."""

    service: str = ""
    flight: dict[str, Any] | None = None
    rate: float = 40.0

    def __post_init__(self) -> None:
        self._path = f"{self.url}/services/{self.service}/v2/models/{self.service}/infer"
        self._right = [self._answer(httpx.post(self._path, json=encode_request([row]))) for row in self._rows()]

    def _rows(self) -> list[dict[str, Any]]:
        assert self.flight
        return [self.flight, {**self.flight, "distance": ODD}]

    @staticmethod
    def _answer(answer: httpx.Response) -> tuple[float, str | None, bool]:
        decoded = decode_response(answer.raise_for_status().json(), answer.headers, 0)
        ((value, *_),) = decoded.outputs.values()
        return float(value), decoded.model_version, bool(decoded.degraded)

    async def _ask(self, client: httpx.AsyncClient, row: Any) -> None:
        odd, version = row is NEGATIVE, None
        unit = f"user-{len(self.outcomes) % 500}"
        try:
            answer = await client.post(self._path, json=encode_request([self._rows()[odd]]), headers={HEADER: unit})
            if answer.status_code == 200:
                value, version, degraded = self._answer(answer)
                right = math.isclose(value, self._right[odd][0], abs_tol=0.01)
                outcome = "degraded" if degraded else "good" if right else "wrong"
            else:
                outcome = str(answer.status_code)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        self.outcomes.append((time.monotonic(), outcome, version))
