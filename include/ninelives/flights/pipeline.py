"""The demo's way from flights to a served model, one function per task; each may be killed and repeated."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from ninelives.errors import Refused, Unavailable
from ninelives.estate import Estate
from ninelives.estate.artefacts import RegistryRole
from ninelives.flights import features as features_module
from ninelives.flights import train as train_module
from ninelives.flights.data import DATASET, history, write_partitions
from ninelives.flights.train import Progress, TrainedModel, read_days, train
from ninelives.ports import ObjectStore, Systems
from ninelives.releases.publish import TOLERANCE, Release, digest_of, golden_answers, object_key, publish, record_golden
from ninelives.replication.manifest import Manifest, fingerprint, read_manifest
from ninelives.training.attempt import Wait, attempt
from ninelives.training.checkpoints import Keeper
from ninelives.training.records import Training, unfinished
from ninelives.versions.objects import BUCKET, read_version, record_version
from ninelives.versions.prune import alone

SNAPSHOT = "flights.parquet"
"""The data of a version, in the order of its days."""
TREES = "trees.txt"
"""The file of a checkpoint."""


def write_history(systems: Systems) -> dict[str, Any]:
    """Write the year's days up to the feeder's first one to the primary site's store, one object per day."""
    return write_partitions(systems.store(systems.estate.dataset_by_name[DATASET].primary), history())


def version_data(systems: Systems) -> dict[str, Any]:
    """Keep exactly the data that will be trained on with DVC, and name it.

    Only whole days count: what the feeder streams changes every few seconds and is left for the next training.
    """
    from ninelives.adapters.dvc import keep_version

    primary = systems.estate.dataset_by_name[DATASET].primary
    store = systems.store(primary)
    chosen = training_data(systems)
    snapshot = io.BytesIO()
    pq.write_table(read_days(store, chosen), snapshot)
    store.ensure_bucket(BUCKET)
    connection = systems.connections.get(f"ninelives_{primary}_store")
    files = {SNAPSHOT: snapshot.getvalue(), "manifest.json": chosen.model_dump_json(indent=1).encode()}
    with alone(systems.ledger(), f"version_data {uuid4()}"):
        version = keep_version(systems.home.root / "dvc", connection, store, files)
        kept = record_version(store, DATASET, version, datetime.now(UTC))
    return {
        "data_version": version,
        "data_hash": kept.fingerprint,
        "fingerprint": chosen.fingerprint,
        "objects": len(chosen.objects),
    }


def training_data(systems: Systems) -> Manifest:
    """The whole days of the primary site's manifest.

    :raises Refused: there is no data yet
    """
    store = systems.store(systems.estate.dataset_by_name[DATASET].primary)
    manifest = read_manifest(store, DATASET)
    if manifest is None:
        raise Refused("train", [f"{store.site} has no {DATASET} yet; write_history comes first"])
    days = tuple(listed for listed in manifest.objects if listed.key.endswith("/part-0.parquet"))
    # Named by its content alone, so that the same days are the same version whenever they were listed.
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return Manifest(dataset=DATASET, created_at=epoch, objects=days, fingerprint=fingerprint(days))


def train_and_register(systems: Systems, model: str, data_version: str) -> dict[str, Any]:
    """Train, register, and publish to the primary site's store; replication takes the release to the others.

    :return: ``model``, ``version``, ``published`` (false where it already was), ``evidence`` and the metrics
    :raises Unavailable: something that it needs does not answer; a repeat goes on from the last whole checkpoint
    """
    done = attempt_training(systems, model, data_version, holder=f"train_and_register {uuid4()}", gated=False)
    if isinstance(done, Wait):
        raise Unavailable(done.text)
    return done


def attempt_training(
    systems: Systems, model: str, data_version: str, *, holder: str, gated: bool
) -> dict[str, Any] | Wait:
    """The same, as far as it goes now; see ``training.attempt``."""
    training = training_of(model, data_version)
    return attempt(
        systems,
        training,
        lambda site, keeper: _fit(systems.store(site), training, keeper),
        lambda trained, data_hash: _publish(systems, trained, data_version, data_hash),
        holder=holder,
        gated=gated,
    )


def training_of(model: str, data_version: str) -> Training:
    """Whatever changes the outcome is in its recipe: a checkpoint of other code or parameters is never gone on from."""
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (train_module, features_module))
    libraries = [metadata.version(name) for name in ("lightgbm", "numpy", "scikit-learn")]
    recipe = json.dumps([hashlib.sha256(code).hexdigest(), train_module.PARAMETERS, libraries], sort_keys=True)
    return Training(model, DATASET, data_version, hashlib.sha256(recipe.encode()).hexdigest())


def unfinished_trainings(systems: Systems) -> list[Training]:
    """Those that began and can go on: with the code and the parameters of now."""
    return [
        one
        for one in unfinished(systems.ledger())
        if one.dataset == DATASET and one == training_of(one.model, one.data_version)
    ]


def newest_data_of(systems: Systems, model: str) -> str:
    """The data version of the model's newest registered version.

    :raises Refused: the model is not registered, or names no data
    """
    registered = [one for one in systems.registry().versions() if one.model == model and one.data_version]
    if not registered:
        raise Refused(f"train {model}", ["the registry has no version of it with a data version; run train_model"])
    return str(max(registered, key=lambda one: int(one.version)).data_version)


def recorded_metrics(systems: Systems, model: str, version: str) -> dict[str, float]:
    """What the registry recorded when the version was trained.

    :raises Refused: the registry does not have it
    """
    for one in systems.registry().versions():
        if (one.model, one.version) == (model, version):
            return dict(systems.registry().metrics(one))
    raise Refused(f"compare with {model}@{version}", ["the registry does not have it any more"])


def check_retrainable(systems: Systems, model: str) -> None:
    """Only what is trained on flights can be trained here; raises ``Refused`` for any other model of the estate."""
    declared = systems.estate.model_by_name.get(model)
    if declared is not None and declared.trained_on != DATASET:
        why = f"it is trained on {declared.trained_on}, and only trainings on {DATASET} are known here"
        raise Refused(f"train {model} again", [f"{why}; restore without --retrain, and train with your own code"])


def retrain(systems: Systems, model: str, data_version: str, site: str) -> TrainedModel:
    """Train once more on the data version at ``site``, from the beginning, and publish nothing.

    :raises Corrupted: the version is not whole at ``site``
    """
    return train(model, _snapshot(systems.store(site), data_version))


def _fit(store: ObjectStore, training: Training, keeper: Keeper) -> TrainedModel:
    found = keeper.newest()
    begun = Progress(found.step, found.files[TREES].decode()) if found else None
    flights = _snapshot(store, training.data_version)
    return train(training.model, flights, begun, lambda now: keeper.keep(now.rounds, {TREES: now.trees.encode()}))


def _snapshot(store: ObjectStore, data_version: str) -> pa.Table:
    return pq.read_table(io.BytesIO(read_version(store, data_version)[SNAPSHOT]))


def _publish(systems: Systems, trained: TrainedModel, data_version: str, data_hash: str) -> dict[str, Any]:
    from ninelives.adapters.mlflow import register
    from ninelives.adapters.mlflow_accounts import connection_for
    from ninelives.adapters.redeploy import record_redeployment

    model, store = trained.name, systems.store(systems.estate.dataset_by_name[DATASET].primary)
    if not trained.beats_baseline:
        raise Refused(f"register {model}", [f"a constant answers as well on later days: {trained.metrics}"])
    digest = digest_of(trained.onnx)
    accounts = systems.connections, systems.estate, model
    version = register(
        connection_for(*accounts, RegistryRole.TRAINER),
        releaser=connection_for(*accounts, RegistryRole.RELEASER),
        model=model,
        native=trained.native,
        onnx=trained.onnx,
        digest=digest,
        example=trained.example.to_pandas(),
        parameters=trained.parameters,
        metrics=trained.metrics,
        data_version=data_version,
        data_hash=data_hash,
    )
    release = release_of(systems.estate, trained, version, data_version, datetime.now(UTC))
    # The prober first: a correct answer that it does not know yet would count as wrong.
    record_golden(systems.home, release)
    published = publish(store, release, trained.onnx)
    facts = {
        "version": version,
        "digest": digest,
        "data_version": data_version,
        "data_hash": data_hash,
        "metrics": {name: round(value, 6) for name, value in trained.metrics.items()},
        "site": store.site,
    }
    ledger, key = systems.ledger(), f"release/{model}/{version}/{digest}"
    record = ledger.written(key) or ledger.append("release", model, facts, once=key)
    record_redeployment(systems, release)
    return {"model": model, "version": version, "published": published, "evidence": record.seq, **trained.metrics}


def release_of(estate: Estate, trained: TrainedModel, version: str, data_version: str, now: datetime) -> Release:
    """As the services that the model answers declare it: their golden requests, their hardware.

    :raises Refused: no service is answered by it
    """
    model, digest = trained.name, digest_of(trained.onnx)
    inputs = [dict(golden.inputs) for service in estate.services if service.model == model for golden in service.golden]
    if not inputs:
        raise Refused("train", [f"no service serves {model}, so there is no golden request"])
    return Release(
        model=model,
        version=version,
        digest=digest,
        object=object_key(model, digest),
        size=len(trained.onnx),
        data_version=data_version,
        tolerance=TOLERANCE,
        golden=golden_answers(inputs, trained.answer(inputs)),
        created_at=now,
        hardware=estate.hardware_of(model),
    )
