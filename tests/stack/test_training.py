"""From flights to a release, on a real store, a real MLflow server and DVC."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes import Process, SiteProcesses, free_port, program, stopping, wait_until

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.dvc import BUCKET as DVC_BUCKET
from ninelives.adapters.dvc import keep_version, restore_version
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.mlflow import ALIAS, DATA_TAG, DIGEST_TAG, register
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.errors import Corrupted, Unavailable
from ninelives.flights import pipeline
from ninelives.flights.data import Flights, history
from ninelives.home import Home
from ninelives.ports import Connection
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import newest_golden_version, read_release
from ninelives.serving.model import OnnxModel

pytestmark = [pytest.mark.stack, pytest.mark.slow]


class LedgerOnDisk(ConnectedEstate):
    """The demo's estate, with its ledger in a file instead of a server."""

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.home.root / 'ledger.db'}")


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerOnDisk]:
    folder = tmp_path_factory.mktemp("training")
    paris = SiteProcesses("paris", folder / "paris", models="", replicas=0)
    port = free_port()
    mlflow = Process(
        [
            program("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", "s3://mlflow",
            "--allowed-hosts", f"127.0.0.1:{port}",
        ],
        folder / "mlflow.log",
        {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{paris.store_port}",
            "AWS_ACCESS_KEY_ID": paris.login,
            "AWS_SECRET_ACCESS_KEY": paris.password,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        },
    )  # fmt: skip
    home = Home(folder / "home")
    home.connections_file.parent.mkdir(parents=True)
    document = {**paris.connections(), "ninelives_mlflow": {"conn_type": "http", "host": "127.0.0.1", "port": port}}
    home.connections_file.write_text(json.dumps(document))
    migrate(f"sqlite:///{home.root / 'ledger.db'}")
    with stopping(paris, mlflow):
        mlflow.start()
        store = paris.start_store()
        store.ensure_bucket("mlflow")
        wait_until(
            lambda: httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200, "MLflow", timeout=180
        )
        yield LedgerOnDisk.of_home(home)


@pytest.fixture(scope="module")
def written(systems: LedgerOnDisk) -> dict[str, object]:
    return pipeline.write_history(systems)


@pytest.fixture(scope="module")
def version(systems: LedgerOnDisk, written: dict[str, object]) -> str:
    return str(pipeline.version_data(systems)["data_version"])


@pytest.fixture(scope="module")
def trained(systems: LedgerOnDisk, version: str) -> dict[str, dict[str, object]]:
    return {m.name: pipeline.train_and_register(systems, m.name, version) for m in systems.estate.models}


def test_the_history_is_written_once(systems: LedgerOnDisk, written: dict[str, object]) -> None:
    assert (written["objects"], written["written"], written["rows"]) == (304, 304, 281_373)
    assert pipeline.write_history(systems) == {**written, "written": 0}


def test_the_same_data_have_the_same_version(systems: LedgerOnDisk, version: str) -> None:
    assert version.endswith(".dir")
    assert pipeline.version_data(systems)["data_version"] == version


def test_a_version_comes_back_bit_for_bit(systems: LedgerOnDisk, version: str, tmp_path: Path) -> None:
    files = restore_version(systems.store("paris"), version)
    (tmp_path / "flights.parquet").write_bytes(files["flights.parquet"])
    flights = Flights.load()
    expected = pa.concat_tables([flights.day(day) for day in history()])
    assert pq.read_table(tmp_path / "flights.parquet").equals(expected)
    listed = json.loads(files["manifest.json"])
    assert listed["fingerprint"] == pipeline.training_data(systems).fingerprint


def test_the_stores_key_is_readable_by_nobody_else(systems: LedgerOnDisk, version: str) -> None:
    private = systems.home.root / "dvc" / ".dvc" / "config.local"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    secret = systems.connections.get("ninelives_paris_store").password
    assert secret
    assert secret in private.read_text()
    others = [p for p in (systems.home.root / "dvc").rglob("*") if p.is_file() and p != private]
    assert not [path for path in others if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_version_harmed_in_the_store_is_noticed_and_made_whole(
    systems: LedgerOnDisk, version: str, harm: str
) -> None:
    store = systems.store("paris")
    good = {o.key: store.get(DVC_BUCKET, o.key) for o in store.list(DVC_BUCKET)}
    assert len(good) == 3
    for key, data in good.items():
        assert data is not None
        store.delete(DVC_BUCKET, key)
        if harm == "damaged":
            store.put(DVC_BUCKET, key, bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(Corrupted, match=harm):
            restore_version(store, version)
        assert pipeline.version_data(systems)["data_version"] == version
        assert store.get(DVC_BUCKET, key) == data


def test_a_store_that_does_not_take_the_version_is_unavailable(systems: LedgerOnDisk, tmp_path: Path) -> None:
    nobody = Connection("s", login="key", password="secret", extra={"endpoint_url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(Unavailable):
        keep_version(tmp_path / "dvc", nobody, S3ObjectStore.from_connection(nobody, "nowhere"), {"a": b"1"})


def test_models_are_registered_with_data_version_metrics_and_signature(
    systems: LedgerOnDisk, trained: dict[str, dict[str, object]], version: str
) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    for model, result in trained.items():
        found = client.get_model_version_by_alias(model, ALIAS)
        release = read_release(systems.store("paris"), model)
        assert release is not None
        assert (found.version, found.tags[DATA_TAG], found.tags[DIGEST_TAG]) == (
            result["version"], version, release.digest,
        )  # fmt: skip
        metrics = client.get_run(found.run_id).data.metrics
        assert any(name.startswith("baseline_") for name in metrics)
        assert metrics["rows"] == 273_355
        info = mlflow.models.get_model_info(f"models:/{model}@{ALIAS}")
        assert "carrier" in info.signature.inputs.input_names()


def test_what_is_served_answers_as_the_registered_model_does(
    systems: LedgerOnDisk, trained: dict[str, dict[str, object]]
) -> None:
    import mlflow
    import pandas as pd

    for model in trained:
        release = read_release(systems.store("paris"), model)
        assert release is not None
        onnx = systems.store("paris").get("models", release.object)
        assert onnx is not None
        served = OnnxModel(model, release.version, release.digest, onnx)
        native = mlflow.sklearn.load_model(f"models:/{model}@{ALIAS}")
        for golden in release.golden:
            row = pd.DataFrame([golden.inputs])
            value = native.predict(row)[0] if model == "arrival-delay" else native.predict_proba(row)[0, 1]
            (name,) = golden.outputs
            assert answers_match(golden.outputs, {name: [float(value)]}, 1e-9)
            assert answers_match(golden.outputs, served.answer([golden.inputs]), release.tolerance)


def test_training_again_registers_and_publishes_nothing(
    systems: LedgerOnDisk, trained: dict[str, dict[str, object]], version: str
) -> None:
    import mlflow

    model = "late-arrival"
    assert pipeline.train_and_register(systems, model, version) == {**trained[model], "published": False}
    assert len(mlflow.MlflowClient().search_model_versions(f"name='{model}'")) == 1
    assert len(systems.ledger().records(kind="release", subject=model)) == 1
    assert newest_golden_version(systems.home, model) == trained[model]["version"]


def test_a_registration_that_died_before_its_release_is_found_again(
    systems: LedgerOnDisk, trained: dict[str, dict[str, object]], version: str
) -> None:
    store, model = systems.store("paris"), "late-arrival"
    before = read_release(store, model)
    assert before is not None
    store.delete("models", f"{model}/release.json")
    result = pipeline.train_and_register(systems, model, version)
    assert (result["version"], result["published"]) == (trained[model]["version"], True)
    after = read_release(store, model)
    assert after is not None
    assert after.model_copy(update={"created_at": before.created_at}) == before


def test_an_older_model_trained_again_does_not_become_champion(systems: LedgerOnDisk, version: str) -> None:
    import mlflow
    import pandas as pd
    from sklearn.dummy import DummyRegressor

    example = pd.DataFrame({"a": [1.0, 2.0]})

    def again(digest: str) -> str:
        return register(
            systems.connections.get("ninelives_mlflow"), model="dummy", digest=digest, onnx=digest.encode(),
            native=DummyRegressor().fit(example, [0, 1]), example=example, parameters={}, metrics={}, data_version="d",
        )  # fmt: skip

    assert [again("sha256:a"), again("sha256:b"), again("sha256:a")] == ["1", "2", "1"]
    assert mlflow.MlflowClient().get_model_version_by_alias("dummy", ALIAS).version == "2"


def test_a_registry_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = Connection("ninelives_mlflow", host="127.0.0.1", port=free_port())
    with pytest.raises(Unavailable, match="MLflow at"):
        register(
            nobody, model="m", native=None, onnx=b"", digest="sha256:0", example=None, parameters={}, metrics={},
            data_version="d",
        )  # fmt: skip
