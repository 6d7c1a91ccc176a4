"""The registry: every model version with its run, metrics, signature and the exact data behind it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ninelives.errors import Unavailable
from ninelives.ports import Connection

ALIAS = "champion"
DIGEST_TAG = "ninelives.digest"
"""Of the ONNX file: the same data and code give the same digest, so a repeated task finds its version."""
DATA_TAG = "ninelives.data_version"


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
) -> str:
    """Log a trained model and register it with the alias ``champion``; return its version.

    :param native: the scikit-learn model
    :param example: a data frame of some input rows, for the signature
    :raises Unavailable: MLflow does not answer
    """
    os.environ["MLFLOW_TRACKING_USERNAME"] = connection.login or ""
    os.environ["MLFLOW_TRACKING_PASSWORD"] = connection.password or ""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(connection.url)
    try:
        client = mlflow.MlflowClient()
        version = _registered(client, model, digest)
        if version is None:
            version = _log(mlflow, client, model, native, onnx, digest, example, parameters, metrics, data_version)
        if int(version) >= _champion(client, model):
            client.set_registered_model_alias(model, ALIAS, version)
    except (MlflowException, OSError) as error:
        raise Unavailable(f"MLflow at {connection.url}: {error}") from error
    return version


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
    digest: str,
    example: Any,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    data_version: str,
) -> str:
    from mlflow.models import infer_signature

    mlflow.set_experiment(model)
    tags = {DATA_TAG: data_version, DIGEST_TAG: digest}
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
