"""A real MLflow server with its own accounts: who may do what, the champion, and deletions with their artefacts."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.models import estate_of_two_sites, sum_model
from support.processes import Process, SiteProcesses, free_port, stopping, wait_until

from ninelives.access.registry import apply, check
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.mlflow import ALIAS, DATA_TAG, DIGEST_TAG, MlflowRegistry
from ninelives.adapters.mlflow_accounts import MlflowAccounts
from ninelives.artefacts.orphans import find
from ninelives.artefacts.prune import KIND, prune
from ninelives.errors import Refused, Unavailable
from ninelives.estate import Estate
from ninelives.home import Home
from ninelives.ports import Connection, GatewayState
from ninelives.releases.publish import digest_of, object_key

pytestmark = pytest.mark.stack

MODEL = "alpha"
ROLES = {"rosa": "reader", "tom": "trainer", "rita": "releaser"}
PASSWORD = "a-long-password-for-tests"


class Server:
    """MLflow as the local estate starts it, with its database in a file and its artefacts at paris."""

    def __init__(self, folder: Path) -> None:
        self.sites = {name: SiteProcesses(name, folder / name, models="", replicas=0) for name in ("paris", "dublin")}
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
            store = site.start_store()
            store.ensure_bucket("models")
            store.ensure_bucket("mlflow")
        self.process.start()
        wait_until(lambda: answers(f"{self.url}/health"), "MLflow's health", timeout=120, every=0.2)

    def connection(self, who: str = "admin") -> Connection:
        return Connection("ninelives_mlflow", "127.0.0.1", self.port, who, PASSWORD)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


class Systems:
    """An estate whose registry, stores and ledger are real; it has no gateway that would divide requests."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.home = server, Home(folder / "home")
        document = estate_of_two_sites().model_dump(mode="json")
        document["models"][0]["registry"] = [{"who": who, "role": role} for who, role in ROLES.items()]
        document["models"][0]["retention"] = {"keep": 1, "keep_for": "1d"}
        self.estate = Estate.model_validate(document)
        url = f"sqlite:///{folder / 'ledger.db'}"
        migrate(url)
        self._ledger = SqlLedger(url)
        self.connections: Any = self

    def find(self, conn_id: str) -> Connection:
        return Connection(conn_id, login=conn_id.rpartition("_")[2], password=PASSWORD)

    def store(self, site: str) -> Any:
        return self.server.sites[site].store

    def registry(self) -> MlflowRegistry:
        return MlflowRegistry(self.server.connection())

    def ledger(self) -> SqlLedger:
        return self._ledger

    def gateway(self) -> Any:
        class Gateway:
            @staticmethod
            def state() -> GatewayState:
                return GatewayState({}, frozenset(), {})

        return Gateway


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        with stopping(*server.sites.values(), server.process):
            server.start()
            yield server


@pytest.fixture(scope="module")
def systems(server: Server) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        systems: Any = Systems(server, Path(folder))
        accounts = MlflowAccounts(server.connection())
        first = apply(systems, accounts)
        assert "rosa has no account" in first
        yield systems


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


def train(server: Server, systems: Systems, who: str, number: int, folder: Path) -> str:
    """A run with an ONNX file and a logged model, registered as ``adapters.mlflow.register`` does."""
    onnx = sum_model(float(number))
    path = folder / "model.onnx"
    path.write_bytes(onnx)
    tags = {DIGEST_TAG: digest_of(onnx), DATA_TAG: "d.dir"}
    with client_of(server, who) as client:
        experiment = client.get_experiment_by_name(MODEL).experiment_id
        run = client.create_run(experiment, tags=tags)
        client.log_metric(run.info.run_id, "mae", 1.0)
        client.log_artifact(run.info.run_id, str(path), "onnx")
        logged = client.create_logged_model(experiment, name="model", source_run_id=run.info.run_id)
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
        made = client.create_model_version(
            MODEL, source=logged.model_uri, run_id=run.info.run_id, tags=tags, model_id=logged.model_id
        )
    for site in systems.estate.site_names:
        systems.store(site).put("models", object_key(MODEL, digest_of(onnx)), onnx)
    return str(made.version)


def test_each_role_may_what_it_is_for_and_the_server_refuses_all_else(
    server: Server, systems: Any, tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    version = train(server, systems, "tom", 1, tmp_path)
    with client_of(server, "rita") as client:
        client.set_registered_model_alias(MODEL, ALIAS, version)
    experiment = MlflowAccounts(server.connection()).ensure_model(MODEL)

    def attempts(client: Any) -> dict[str, Callable[[], object]]:
        def register() -> object:
            return client.create_model_version(MODEL, source=f"models:/{MODEL}/{version}")

        return {
            "read": lambda: client.get_model_version(MODEL, version),
            "register": register,
            "move alias": lambda: client.set_registered_model_alias(MODEL, ALIAS, version),
            "remove alias": lambda: client.delete_registered_model_alias(MODEL, "other"),
            "delete version": lambda: client.delete_model_version(MODEL, version),
            "delete model": lambda: client.delete_registered_model(MODEL),
            "rename model": lambda: client.rename_registered_model(MODEL, "mine"),
            "change a tag": lambda: client.set_model_version_tag(MODEL, version, DIGEST_TAG, "sha256:0"),
            "make a model": lambda: client.create_registered_model("mine"),
            "make an experiment": lambda: client.create_experiment("mine"),
            "log a run": lambda: client.create_run(experiment),
        }

    allowed = {
        "rosa": {"read"},
        "tom": {"read", "register", "log a run"},
        "rita": {"read", "move alias"},
        "nobody": set(),
    }
    MlflowAccounts(server.connection()).ensure_user("nobody", PASSWORD)
    could: dict[str, set[str]] = {who: set() for who in allowed}
    refused: list[str] = []
    for who in allowed:
        with client_of(server, who) as client:
            for what, attempt in attempts(client).items():
                try:
                    attempt()
                except MlflowException as error:
                    refused.append(error.error_code)
                else:
                    could[who].add(what)
    assert could == allowed
    assert set(refused) == {"PERMISSION_DENIED"}, "refused by the server, not failed"
    with pytest.raises(Unavailable, match="401"):
        MlflowRegistry(Connection("m", "127.0.0.1", server.port, "rosa", "wrong")).ping()


def test_accounts_that_differ_from_what_is_declared_are_named_and_brought_back(server: Server, systems: Any) -> None:
    accounts = MlflowAccounts(server.connection())
    assert check(systems, accounts) == []
    accounts.set_role(f"ninelives:releaser:{MODEL}", accounts.read().roles[f"ninelives:releaser:{MODEL}"], {"tom"})
    accounts.set_role("by-hand", set(), {"rosa"})
    assert check(systems, accounts) == [
        "rosa has by-hand, which nobody declared",
        f"rita does not have ninelives:releaser:{MODEL}",
        f"tom has ninelives:releaser:{MODEL}, which nobody declared",
    ]
    apply(systems, accounts)
    assert check(systems, accounts) == ["rosa has by-hand, which nobody declared"], (
        "what is not ours is told, not undone"
    )
    accounts.remove_role("by-hand")


def test_the_champion_moves_and_is_read_back_as_promotions_do_it(server: Server, systems: Any, tmp_path: Path) -> None:
    registry = systems.registry()
    first, second = (train(server, systems, "tom", number, tmp_path) for number in (2, 3))
    for version in (first, second, first):
        registry.set_champion(MODEL, version)
        assert registry.champion(MODEL) == version
    found = {one.version: one for one in registry.versions() if one.model == MODEL}
    assert found[first].digest == digest_of(sum_model(2.0))
    assert found[second].data_version == "d.dir"
    assert abs(found[second].created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert registry.metrics(found[first]) == {"mae": 1.0}
    with pytest.raises(Refused, match="calls it champion"):
        registry.delete_version(MODEL, first)


def test_versions_that_are_due_go_with_their_artefacts_and_the_champion_stays_whole(
    server: Server, systems: Any, tmp_path: Path
) -> None:
    registry = systems.registry()
    versions = [train(server, systems, "tom", number, tmp_path) for number in (4, 5, 6)]
    registry.set_champion(MODEL, versions[1])
    store = systems.store("dublin")
    for info in list(systems.store("paris").list("mlflow")):  # as replication keeps a copy
        store.put("mlflow", info.key, systems.store("paris").get("mlflow", info.key))
    before = {(site, info.key) for site in ("paris", "dublin") for info in systems.store(site).list("mlflow")}
    later = datetime.now(UTC) + timedelta(days=2)
    assert find(systems, later).orphans == ()

    done = prune(systems, "test", lambda: later, by="ada")
    deleted = {one.version for one in done.deleted}
    left = {one.version for one in registry.versions() if one.model == MODEL}
    assert left == {versions[1], versions[2]}, "the champion, and the newest"
    assert versions[0] in deleted
    after = {(site, info.key) for site in ("paris", "dublin") for info in systems.store(site).list("mlflow")}
    assert sum(1 for one in done.deleted if one.objects) >= 1
    assert len(after) < len(before)
    for number, there in ((4.0, False), (5.0, True), (6.0, True)):
        key = object_key(MODEL, digest_of(sum_model(number)))
        assert all((systems.store(site).head("models", key) is not None) == there for site in ("paris", "dublin"))
    found = find(systems, later)
    assert (found.orphans, found.gone) == ((), ())
    entries = [one.facts["entry"] for one in systems.ledger().records(kind=KIND)]
    assert entries.count("deleting") == entries.count("deleted") == len(done.deleted)
    assert prune(systems, "test", lambda: later, by="ada").deleted == ()
    systems.store("paris").delete("models", object_key(MODEL, digest_of(sum_model(5.0))))
    systems.store("dublin").delete("models", object_key(MODEL, digest_of(sum_model(5.0))))
    assert [one.version for one in find(systems, later).gone] == [versions[1]]
