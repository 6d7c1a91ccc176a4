"""From flights to a release, on a real store, a real MLflow server and DVC."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from support.airflow_runs import make_database, run_by_hand
from support.processes import Process, SiteProcesses, free_port, program, stopping, wait_until
from typer.testing import CliRunner

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.dvc import keep_version
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.mlflow import ALIAS, DATA_TAG, DIGEST_TAG, HASH_TAG, register
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.cli import app
from ninelives.errors import Corrupted, Unavailable
from ninelives.flights import pipeline
from ninelives.flights.data import Flights, history, write_partitions
from ninelives.home import Home
from ninelives.ports import Connection
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import newest_golden_version, read_release
from ninelives.replication.checkpoints import manifest_key
from ninelives.serving.model import OnnxModel
from ninelives.training import connectivity
from ninelives.training.attempt import Wait
from ninelives.versions.objects import BUCKET as DVC_BUCKET
from ninelives.versions.objects import read_record, read_version
from ninelives.versions.replicate import replicate_versions
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.training import ListTrainingsOperator, TrainModelOperator
from ninelives_airflow.triggers.connectivity import ConnectivityTrigger

pytestmark = [pytest.mark.stack, pytest.mark.slow]


class LedgerOnDisk(ConnectedEstate):
    """The demo's estate, with its ledger in a file instead of a server."""

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.home.root / 'ledger.db'}")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteProcesses]:
    folder = tmp_path_factory.mktemp("sites")
    return {site: SiteProcesses(site, folder / site, models="", replicas=0) for site in ("paris", "dublin")}


@pytest.fixture(scope="module")
def systems(sites: dict[str, SiteProcesses], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerOnDisk]:
    folder, paris = tmp_path_factory.mktemp("training"), sites["paris"]
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
    stores = paris.connections() | sites["dublin"].connections()
    document = {**stores, "ninelives_mlflow": {"conn_type": "http", "host": "127.0.0.1", "port": port}}
    home.connections_file.write_text(json.dumps(document))
    migrate(f"sqlite:///{home.root / 'ledger.db'}")
    with stopping(*sites.values(), mlflow):
        mlflow.start()
        store = paris.start_store()
        sites["dublin"].start_store()
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


def test_a_version_comes_back_bit_for_bit(systems: LedgerOnDisk, version: str, tmp_path: Path) -> None:
    files = read_version(systems.store("paris"), version)
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


def test_a_version_harmed_in_the_store_is_noticed_and_the_same_data_make_the_same_version_whole(
    systems: LedgerOnDisk, version: str
) -> None:
    store = systems.store("paris")
    assert version.endswith(".dir")
    good = {o.key: store.get(DVC_BUCKET, o.key) for o in store.list(DVC_BUCKET, "files/")}
    assert len(good) == 3
    for key, data in good.items():
        assert data is not None
        store.delete(DVC_BUCKET, key)
        with pytest.raises(Corrupted, match="missing"):
            read_version(store, version)
        store.put(DVC_BUCKET, key, bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(Corrupted, match="damaged"):
            read_version(store, version)
        store.put(DVC_BUCKET, key, data)
    (first, _), (second, data), _ = good.items()
    assert data is not None
    store.delete(DVC_BUCKET, first)
    store.put(DVC_BUCKET, second, bytes([data[0] ^ 1]) + data[1:])
    assert pipeline.version_data(systems)["data_version"] == version
    assert {key: store.get(DVC_BUCKET, key) for key in good} == good


def test_a_store_that_does_not_take_the_version_is_unavailable(systems: LedgerOnDisk, tmp_path: Path) -> None:
    nobody = Connection("s", login="key", password="secret", extra={"endpoint_url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(Unavailable):
        keep_version(tmp_path / "dvc", nobody, S3ObjectStore.from_connection(nobody, "nowhere"), {"a": b"1"})


def test_a_store_without_an_address_is_the_one_that_the_client_finds_by_itself(
    systems: LedgerOnDisk, sites: dict[str, SiteProcesses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = sites["paris"].connections()["ninelives_paris_store"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", given["extra"]["endpoint_url"])  # where AWS is, for these tests
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", given["login"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", given["password"])
    # A bucket of its own: what follows knows one version only.
    aws = Connection("ninelives_paris_store", extra={"region_name": "us-east-1", "bucket_prefix": "apart-"})
    store = S3ObjectStore.from_connection(aws, "paris")
    store.ensure_bucket(DVC_BUCKET)
    version = keep_version(tmp_path / "dvc", aws, store, {"a": b"1"})
    assert read_version(store, version) == {"a": b"1"}


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
        kept = read_record(systems.store("paris"), "flights", version)
        assert kept is not None
        assert found.tags[HASH_TAG] == kept.fingerprint
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
    again = pipeline.train_and_register(systems, model, version)
    assert again.pop("resumed_from") == {"step": 70, "site": "paris"}
    for key in again.keys() - {"published", "checkpoints"}:
        assert again[key] == trained[model][key], key
    assert not again["published"]
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
            native=DummyRegressor().fit(example, [0, 1]), example=example, parameters={}, metrics={},
            data_version=version,
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


# --- the data behind a model, by the command line ----------------------------------------------------------------


@pytest.fixture
def ninelives(systems: LedgerOnDisk, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Any]]:
    monkeypatch.setenv("NINELIVES_HOME", str(systems.home.root))

    def call(*arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        return done.exit_code, json.loads(done.stdout) if done.stdout else done.exception

    return call


def test_a_models_data_come_back_with_the_primary_gone_and_give_its_metrics_exactly(
    systems: LedgerOnDisk,
    sites: dict[str, SiteProcesses],
    trained: dict[str, dict[str, object]],
    version: str,
    ninelives: Callable[..., tuple[int, Any]],
    tmp_path: Path,
) -> None:
    replicate_versions(systems, "flights", "paris", "dublin")
    code, listed = ninelives("data", "versions")
    assert code == 0
    (one,) = listed["versions"]
    assert (one["version"], one["whole_at"]) == (version, ["paris", "dublin"])
    assert {"arrival-delay@1", "late-arrival@1"} <= set(one["models"])
    files = read_version(systems.store("paris"), version)

    sites["paris"].lose()
    try:
        code, back = ninelives(
            "data", "restore", "--model", "late-arrival@1", "--site", "dublin", "--to", str(tmp_path / "a"), "--retrain"
        )
        assert (code, back["told_by"], back["healed"]) == (0, "the registry", {})
        assert {name: (tmp_path / "a" / name).read_bytes() for name in files} == files
        assert back["metrics"]["brier"]["same"]
        assert len(back["metrics"]) == len(trained["late-arrival"].keys() & back["metrics"].keys())
    finally:
        sites["paris"].start_store()


def test_a_rotten_object_on_disk_is_replaced_from_the_other_site(
    systems: LedgerOnDisk,
    sites: dict[str, SiteProcesses],
    version: str,
    trained: dict[str, dict[str, object]],
    ninelives: Callable[..., tuple[int, Any]],
) -> None:
    replicate_versions(systems, "flights", "paris", "dublin")
    files = read_version(systems.store("paris"), version)
    objects = [path for path in (sites["dublin"].folder / "store" / DVC_BUCKET / "files").rglob("*") if path.is_file()]
    rot(max(objects, key=lambda path: path.stat().st_size))
    code, listed = ninelives("data", "versions")
    assert (code, [copy["state"] for copy in listed["versions"][0]["copies"]]) == (0, ["whole", "harmed"])
    code, back = ninelives("data", "restore", "--model", "arrival-delay@1", "--site", "dublin")
    assert (code, list(back["healed"].values())) == (0, ["paris"])
    assert {name: (Path(back["folder"]) / name).read_bytes() for name in files} == files
    assert read_version(systems.store("dublin"), version) == files


def rot(path: Path) -> None:
    """One bit, with size and time kept: no listing shows it."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# --- the operator ------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_the_task_waits_deferred_while_the_stores_are_away_and_then_ends_as_if_nothing_had_happened(
    systems: LedgerOnDisk,
    sites: dict[str, SiteProcesses],
    trained: dict[str, dict[str, object]],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NINELIVES_HOME", str(systems.home.root))
    for conn_id, connection in json.loads(systems.home.connections_file.read_text()).items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: systems.ledger())
    model = "late-arrival"
    operator = TrainModelOperator(
        task_id="train_model", model=model, version={"data_version": version}, steady=timedelta(seconds=1)
    )
    context: Any = {"run_id": "manual", "ti": SimpleNamespace(map_index=0)}
    for site in sites.values():
        site.lose()
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    trigger = deferred.value.trigger
    path, arguments = trigger.serialize()
    assert path.rsplit(".", 1)[1] == "ConnectivityTrigger"
    assert all(site in " ".join(arguments["reasons"]) for site in sites)
    restored = ConnectivityTrigger(**{**json.loads(json.dumps(arguments)), "every": 0.2})

    async def first_event() -> dict[str, Any]:
        async def bring_back() -> None:
            await asyncio.sleep(1)
            await asyncio.to_thread(sites["paris"].start_store)

        bringing = asyncio.create_task(bring_back())
        event = await anext(restored.run())
        await bringing
        return dict(event.payload)

    event = asyncio.run(first_event())
    assert event["state"] == "back"
    done = operator.resume(context, event, **deferred.value.kwargs)
    sites["dublin"].start_store()
    assert (done["version"], done["brier"], done["published"]) == ("1", trained[model]["brier"], False)
    (wait,) = done["waits"]
    assert wait["since"] < wait["until"] < wait["deadline"]

    ask = ListTrainingsOperator(task_id="list_trainings")
    assert ask.execute(context) == [], "every training here has finished"
    ask.model = model
    assert ask.execute(context) == [{"model": model, "version": {"data_version": version}}]

    late = ConnectivityTrigger(**{**arguments, "deadline": datetime.now(UTC).isoformat()})
    expired = asyncio.run(anext(late.run())).payload
    with pytest.raises(AirflowFailException, match="it waited until"):
        operator.resume(context, expired, **deferred.value.kwargs)


@pytest.mark.airflow
@pytest.mark.soak
def test_the_dag_finishes_a_training_whose_stores_were_killed_under_it_as_if_nothing_had_happened(
    systems: LedgerOnDisk,
    sites: dict[str, SiteProcesses],
    trained: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_database()
    monkeypatch.setenv("NINELIVES_HOME", str(systems.home.root))
    for conn_id, connection in json.loads(systems.home.connections_file.read_text()).items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: systems.ledger())
    model = "late-arrival"
    write_partitions(systems.store("paris"), history(305)[-1:])
    version = str(pipeline.version_data(systems)["data_version"])
    replicate_versions(systems, "flights", "paris", "dublin")
    unbroken = pipeline.retrain(systems, model, version, "paris").metrics
    half_written = manifest_key(pipeline.training_of(model, version).stream, 40)
    put, looked, waited = S3ObjectStore.put, connectivity.observe, set[str]()

    def killed_before(store: S3ObjectStore, bucket: str, key: str, data: bytes) -> None:
        if key == half_written and all(site.store_process.running for site in sites.values()):
            for site in sites.values():
                site.lose()
        put(store, bucket, key, data)

    def back_once_missed(hook: Any, sources: Any) -> Any:
        if silent := looked(hook, sources):
            waited.update(silent)
            for site in sites.values():
                if not site.store_process.running:
                    site.start_store()
        return silent

    monkeypatch.setattr(S3ObjectStore, "put", killed_before)
    assert isinstance(pipeline.attempt_training(systems, model, version, holder="a task", gated=False), Wait)
    monkeypatch.setattr(S3ObjectStore, "put", put)
    monkeypatch.setattr(connectivity, "observe", back_once_missed)

    run = run_by_hand("recover_retraining")
    assert run.tasks == {"list_trainings": "success", "resume_training[0]": "success"}, run
    done = run.outputs["resume_training[0]"]
    assert done["resumed_from"]["step"] == 30, "the half-written one is none"
    assert done["checkpoints"] == 4
    # Not the waits: of a deferral's kwargs ``dag.test()`` hands on none, so that here a retry went on.
    assert waited == {"store:paris", "store:dublin"}
    assert {name: done[name] for name in unbroken} == unbroken
    again = run_by_hand("recover_retraining")
    assert again.outputs["list_trainings"] == []
