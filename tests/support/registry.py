"""MLflow as the local estate starts it, with its own accounts, beside two sites' object stores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from support.models import sum_model
from support.processes import Process, SiteProcesses, free_port, wait_until

from ninelives.adapters.mlflow import DATA_TAG, DIGEST_TAG
from ninelives.ports import Connection, Systems
from ninelives.releases.publish import digest_of, object_key

PASSWORD = "a-long-password-for-tests"


class Server:
    """MLflow as the local estate starts it, with its database in a file and its artefacts at paris."""

    def __init__(self, folder: Path, sites: Mapping[str, SiteProcesses] | None = None) -> None:
        """:param sites: whose stores are used; by default two of its own"""
        self.own = sites is None
        self.sites = sites or {
            name: SiteProcesses(name, folder / name, models="", replicas=0) for name in ("paris", "dublin")
        }
        paris, self.port = self.sites["paris"], free_port()
        config = folder / "auth.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
            "admin_username = admin\nauth_cache_ttl_seconds = 60\n"
            "authorization_function = ninelives.adapters.mlflow_authorize:authenticate\n"
        )
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--app-name", "basic-auth", "--artifacts-destination", "s3://mlflow"]
        environment = {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-key-of-the-test",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{paris.store_port}",
            "AWS_ACCESS_KEY_ID": paris.login,
            "AWS_SECRET_ACCESS_KEY": paris.password,
            "AWS_DEFAULT_REGION": "local",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        self.process = Process(command, folder / "mlflow.log", environment)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        for site in self.sites.values():
            store = site.start_store() if self.own else site.store
            store.ensure_bucket("models")
            store.ensure_bucket("mlflow")
        self.process.start()
        wait_until(lambda: _answers(f"{self.url}/health"), "MLflow's health", timeout=120, every=0.2)

    def connection(self, who: str = "admin") -> Connection:
        return Connection("ninelives_mlflow", "127.0.0.1", self.port, who, PASSWORD)

    def connections(self, *accounts: str) -> dict[str, Any]:
        """The administrator's, and of each account, as the local estate writes them."""
        names = {"ninelives_mlflow": "admin"} | {f"ninelives_mlflow_{who}": who for who in accounts}
        way = {"conn_type": "http", "host": "127.0.0.1", "port": self.port, "password": PASSWORD}
        return {name: {**way, "login": who} for name, who in names.items()}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def client_of(server: Server, who: str) -> Iterator[Any]:
    """MLflow's own client, signed in; what it raises is MLflow's."""
    import mlflow

    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    os.environ.update(MLFLOW_TRACKING_USERNAME=who, MLFLOW_TRACKING_PASSWORD=PASSWORD, MLFLOW_DISABLE_TELEMETRY="true")
    mlflow.set_tracking_uri(server.url)
    try:
        yield mlflow.MlflowClient()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def train(server: Server, systems: Systems, who: str, number: int, folder: Path, model: str = "alpha") -> str:
    """A run with an ONNX file and a logged model, registered as ``adapters.mlflow.register`` does."""
    onnx = sum_model(float(number))
    path = folder / "model.onnx"
    path.write_bytes(onnx)
    tags = {DIGEST_TAG: digest_of(onnx), DATA_TAG: "d.dir"}
    with client_of(server, who) as client:
        experiment = client.get_experiment_by_name(model).experiment_id
        run = client.create_run(experiment, tags=tags)
        client.log_metric(run.info.run_id, "mae", 1.0)
        client.log_artifact(run.info.run_id, str(path), "onnx")
        logged = client.create_logged_model(experiment, name="model", source_run_id=run.info.run_id)
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
        made = client.create_model_version(
            model, source=logged.model_uri, run_id=run.info.run_id, tags=tags, model_id=logged.model_id
        )
    for site in systems.estate.site_names:
        systems.store(site).put("models", object_key(model, digest_of(onnx)), onnx)
    return str(made.version)
