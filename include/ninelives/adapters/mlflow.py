"""The registry: every model version with its run, metrics, signature and the exact data behind it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from ninelives.adapters.http_client import http_client
from ninelives.errors import Unavailable
from ninelives.ports import Connection, ModelVersion

ALIAS = "champion"
DIGEST_TAG = "ninelives.digest"
"""Of the ONNX file: the same data and code give the same digest, so a repeated task finds its version."""
DATA_TAG = "ninelives.data_version"
HASH_TAG = "ninelives.data_hash"
"""SHA-256 over the objects of the data version, beside DVC's own name, which is an MD5."""

PAGE = 1000
PING = 5.0
"""seconds"""


def register(
    connection: Connection,
    *,
    model: str,
    native: Any,
    onnx: bytes,
    digest: str,
    example: Any,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    data_version: str,
    data_hash: str = "",
) -> str:
    """Log a trained model and register it with the alias ``champion``; return its version.

    :param native: the scikit-learn model
    :param example: a data frame of some input rows, for the signature
    :param data_hash: SHA-256 over the objects of ``data_version``
    :raises Unavailable: MLflow does not answer
    """
    with _asking(connection) as mlflow:
        client = mlflow.MlflowClient()
        version = _registered(client, model, digest)
        if version is None:
            tags = {DATA_TAG: data_version, HASH_TAG: data_hash, DIGEST_TAG: digest}
            version = _log(mlflow, client, model, native, onnx, example, parameters, metrics, tags)
        if int(version) >= _champion(client, model):
            client.set_registered_model_alias(model, ALIAS, version)
    return version


class MlflowRegistry:
    """``ports.Registry`` on an MLflow server."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def versions(self) -> list[ModelVersion]:
        with _asking(self.connection) as mlflow:
            client, found, token = mlflow.MlflowClient(), [], None
            while True:
                page = client.search_model_versions(max_results=PAGE, page_token=token)
                found += [_model_version(one) for one in page]
                token = page.token
                if not token:
                    return found

    def champion(self, model: str) -> str | None:
        with _asking(self.connection) as mlflow:
            return str(_champion(mlflow.MlflowClient(), model) or "") or None

    def set_champion(self, model: str, version: str) -> None:
        with _asking(self.connection) as mlflow:
            mlflow.MlflowClient().set_registered_model_alias(model, ALIAS, version)

    def metrics(self, version: ModelVersion) -> Mapping[str, float]:
        with _asking(self.connection) as mlflow:
            return dict(mlflow.MlflowClient().get_run(version.run).data.metrics)

    def ping(self) -> None:
        """Asks for one model: that the server is up does not show that its database answers."""
        import httpx  # without MLflow's own client, which takes seconds to import: the triggerer asks too

        known = (self.connection.login, self.connection.password or "") if self.connection.login else None
        path = "/api/2.0/mlflow/registered-models/search"
        try:
            with http_client(self.connection.url, auth=known, timeout=PING) as client:
                client.get(path, params={"max_results": 1}).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"MLflow at {self.connection.url}: {error!r}") from error


def _model_version(found: Any) -> ModelVersion:
    tags = found.tags
    return ModelVersion(
        model=found.name,
        version=str(found.version),
        digest=tags.get(DIGEST_TAG),
        data_version=tags.get(DATA_TAG),
        data_hash=tags.get(HASH_TAG) or None,
        run=found.run_id,
    )


@contextmanager
def _asking(connection: Connection) -> Iterator[Any]:
    """The MLflow library, signed in; what it raises is ``Unavailable``."""
    os.environ["MLFLOW_TRACKING_USERNAME"] = connection.login or ""
    os.environ["MLFLOW_TRACKING_PASSWORD"] = connection.password or ""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(connection.url)
    try:
        yield mlflow
    except (MlflowException, OSError) as error:
        raise Unavailable(f"MLflow at {connection.url}: {error}") from error


def _champion(client: Any, model: str) -> int:
    """Version that the alias names, 0 for none: training old data again must not take the newer model's place."""
    return int(client.get_registered_model(model).aliases.get(ALIAS, 0))


def _registered(client: Any, model: str, digest: str) -> str | None:
    for found in client.search_model_versions(f"name='{model}'"):
        if found.tags.get(DIGEST_TAG) == digest and found.status == "READY":
            return str(found.version)
    return None


def _log(
    mlflow: Any,
    client: Any,
    model: str,
    native: Any,
    onnx: bytes,
    example: Any,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:
    from mlflow.models import infer_signature

    mlflow.set_experiment(model)
    with mlflow.start_run(tags=tags) as run, tempfile.TemporaryDirectory() as folder:
        mlflow.log_params(dict(parameters))
        mlflow.log_metrics(dict(metrics))
        path = Path(folder) / "model.onnx"
        path.write_bytes(onnx)
        mlflow.log_artifact(str(path), "onnx")
        logged = mlflow.sklearn.log_model(
            native,
            name="model",
            signature=infer_signature(example, native.predict(example)),
            # Named, because finding them out takes MLflow a minute; skops refuses LightGBM's types.
            pip_requirements=[f"{library}=={metadata.version(library)}" for library in ("scikit-learn", "lightgbm")],
            serialization_format="cloudpickle",
        )
        try:
            client.create_registered_model(model)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
            model, source=logged.model_uri, run_id=run.info.run_id, tags=tags, model_id=logged.model_id
        )
    return str(made.version)
