"""The registry: every model version with its run, metrics, signature and the exact data behind it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ninelives.adapters.http_client import http_client
from ninelives.backups.contents import artefact_prefix
from ninelives.errors import Refused, Unavailable
from ninelives.ports import Connection, ModelVersion

ALIAS = "champion"
DIGEST_TAG = "ninelives.digest"
"""Of the ONNX file: the same data and code give the same digest, so a repeated task finds its version."""
DATA_TAG = "ninelives.data_version"
HASH_TAG = "ninelives.data_hash"
"""SHA-256 over the objects of the data version, beside DVC's own name, which is an MD5."""

ONNX = "onnx"
"""Folder of a run's artefacts that holds the file that is served."""
PAGE = 1000
LOGGED_PAGE = 50
"""The most that MLflow gives of logged models at once."""
PING = 5.0
"""seconds"""


def register(
    connection: Connection,
    *,
    releaser: Connection | None = None,
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

    :param connection: of an account that may train
    :param releaser: of one that may move the alias; by default the same
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
    with _asking(releaser or connection) as mlflow:
        client = mlflow.MlflowClient()
        if int(version) >= _champion(client, model):
            client.set_registered_model_alias(model, ALIAS, version)
    return version


class MlflowRegistry:
    """``ports.Registry`` on an MLflow server.

    :param releaser: model to the connection of the account that moves its alias; by default the same
    """

    def __init__(self, connection: Connection, releaser: Callable[[str], Connection] | None = None) -> None:
        self.connection = connection
        self._releaser = releaser or (lambda _: connection)

    def versions(self) -> list[ModelVersion]:
        with _asking(self.connection) as mlflow:
            return [_model_version(one) for one in _pages(mlflow.MlflowClient().search_model_versions)]

    def champion(self, model: str) -> str | None:
        with _asking(self.connection) as mlflow:
            return str(_champion(mlflow.MlflowClient(), model) or "") or None

    def set_champion(self, model: str, version: str) -> None:
        with _asking(self._releaser(model)) as mlflow:
            mlflow.MlflowClient().set_registered_model_alias(model, ALIAS, version)

    def metrics(self, version: ModelVersion) -> Mapping[str, float]:
        with _asking(self.connection) as mlflow:
            return dict(mlflow.MlflowClient().get_run(version.run).data.metrics)

    def artefacts(self, version: ModelVersion) -> tuple[str, ...]:
        with _asking(self.connection) as mlflow:
            client = mlflow.MlflowClient()
            places = [str(client.get_model_version_download_uri(version.model, version.version))]
            if version.run:
                places.append(f"{client.get_run(version.run).info.artifact_uri}/{ONNX}")
        return tuple(prefix for place in places if (prefix := _prefix(place)))

    def delete_version(self, model: str, version: str) -> None:
        with _asking(self.connection) as mlflow:
            client = mlflow.MlflowClient()
            found = [one for one in client.search_model_versions(f"name='{model}'") if str(one.version) == version]
            if not found:
                return
            # MLflow deletes a version that an alias names, and the alias with it, without a word.
            names = [name for name, of in client.get_registered_model(model).aliases.items() if str(of) == version]
            if names:
                raise Refused(f"delete {model} version {version}", [f"the registry calls it {', '.join(names)}"])
            client.delete_model_version(model, version)
            if found[0].model_id:
                client.delete_logged_model(found[0].model_id)

    def known_artefacts(self) -> frozenset[str]:
        with _asking(self.connection) as mlflow:
            client = mlflow.MlflowClient()
            experiments = [one.experiment_id for one in _pages(client.search_experiments)]
            places = [one.info.artifact_uri for one in _pages(client.search_runs, experiments)] if experiments else []
            if experiments:
                logged = _pages(client.search_logged_models, experiments, most=LOGGED_PAGE)
                places += [one.artifact_location for one in logged]
            for one in _pages(client.search_model_versions):
                places.append(client.get_model_version_download_uri(one.name, one.version))
        return frozenset(prefix for place in places if (prefix := _prefix(str(place))))

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


def _pages(search: Callable[..., Any], *arguments: Any, most: int = PAGE) -> Iterator[Any]:
    token = None
    while True:
        page = search(*arguments, max_results=most, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _prefix(place: str) -> str:
    """Of ``mlflow-artifacts:/1/models/m-1/artifacts``: where the server keeps it in its bucket. Empty for another
    place."""
    return artefact_prefix(place) if place.startswith("mlflow-artifacts:") else ""


def _model_version(found: Any) -> ModelVersion:
    tags = found.tags
    return ModelVersion(
        model=found.name,
        version=str(found.version),
        digest=tags.get(DIGEST_TAG),
        data_version=tags.get(DATA_TAG),
        data_hash=tags.get(HASH_TAG) or None,
        run=found.run_id,
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
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
        mlflow.log_artifact(str(path), ONNX)
        logged = mlflow.sklearn.log_model(
            native,
            name="model",
            signature=infer_signature(example, native.predict(example)),
            # Named, because finding them out takes MLflow a minute; skops refuses LightGBM's types.
            pip_requirements=[f"{library}=={metadata.version(library)}" for library in ("scikit-learn", "lightgbm")],
            serialization_format="cloudpickle",
        )
        # Not simply made: whoever may only train is refused then, also where it is there.
        if not client.search_registered_models(f"name='{model}'"):
            try:
                client.create_registered_model(model)
            except mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        made = client.create_model_version(
            model, source=logged.model_uri, run_id=run.info.run_id, tags=tags, model_id=logged.model_id
        )
    return str(made.version)
