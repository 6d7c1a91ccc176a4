"""The demo's way from flights to a served model, one function per task; each may be killed and repeated."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from ninelives.errors import Refused
from ninelives.flights.data import DATASET, history, write_partitions
from ninelives.flights.train import read_days, train
from ninelives.ports import Systems
from ninelives.releases.publish import TOLERANCE, Release, digest_of, golden_answers, object_key, publish, record_golden
from ninelives.replication.manifest import Manifest, fingerprint, read_manifest


def write_history(systems: Systems) -> dict[str, Any]:
    """Write the year's days up to the feeder's first one to the primary site's store, one object per day."""
    return write_partitions(systems.store(systems.estate.dataset_by_name[DATASET].primary), history())


def version_data(systems: Systems) -> dict[str, Any]:
    """Keep exactly the data that will be trained on with DVC, and name it.

    Only whole days count: what the feeder streams changes every few seconds and is left for the next training.
    """
    from ninelives.adapters.dvc import BUCKET, keep_version

    primary = systems.estate.dataset_by_name[DATASET].primary
    store = systems.store(primary)
    chosen = training_data(systems)
    snapshot = io.BytesIO()
    pq.write_table(read_days(store, chosen), snapshot)
    store.ensure_bucket(BUCKET)
    connection = systems.connections.get(f"ninelives_{primary}_store")
    version = keep_version(
        systems.home.root / "dvc",
        connection,
        store,
        {"flights.parquet": snapshot.getvalue(), "manifest.json": chosen.model_dump_json(indent=1).encode()},
    )
    return {"data_version": version, "fingerprint": chosen.fingerprint, "objects": len(chosen.objects)}


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
    """
    from ninelives.adapters.mlflow import register

    store = systems.store(systems.estate.dataset_by_name[DATASET].primary)
    trained = train(model, read_days(store, training_data(systems)))
    if not trained.beats_baseline:
        raise Refused(f"register {model}", [f"a constant answers as well on later days: {trained.metrics}"])
    digest = digest_of(trained.onnx)
    version = register(
        systems.connections.get("ninelives_mlflow"),
        model=model,
        native=trained.native,
        onnx=trained.onnx,
        digest=digest,
        example=trained.example.to_pandas(),
        parameters=trained.parameters,
        metrics=trained.metrics,
        data_version=data_version,
    )
    inputs = [
        dict(golden.inputs)
        for service in systems.estate.services
        if service.model == model
        for golden in service.golden
    ]
    if not inputs:
        raise Refused("train", [f"no service serves {model}, so there is no golden request"])
    release = Release(
        model=model,
        version=version,
        digest=digest,
        object=object_key(model, digest),
        size=len(trained.onnx),
        data_version=data_version,
        tolerance=TOLERANCE,
        golden=golden_answers(inputs, trained.answer(inputs)),
        created_at=datetime.now(UTC),
    )
    # The prober first: a correct answer that it does not know yet would count as wrong.
    record_golden(systems.home, release)
    published = publish(store, release, trained.onnx)
    facts = {
        "version": version,
        "digest": digest,
        "data_version": data_version,
        "metrics": {name: round(value, 6) for name, value in trained.metrics.items()},
        "site": store.site,
    }
    ledger, key = systems.ledger(), f"release/{model}/{version}/{digest}"
    record = ledger.written(key) or ledger.append("release", model, facts, once=key)
    return {"model": model, "version": version, "published": published, "evidence": record.seq, **trained.metrics}
