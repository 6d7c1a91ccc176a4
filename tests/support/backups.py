"""An estate to back up: two sites, four databases on a real server, a vault, and something in each of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL
from support.models import estate_of_two_sites, publish
from support.postgres import libpq, run_sql
from support.sites import KEY, SECRET, Site
from support.vault import VaultProcess

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import migrate
from ninelives.adapters.model_signing import make_keys
from ninelives.estate import Estate
from ninelives.evidence import anchor
from ninelives.home import Home
from ninelives.versions.objects import object_key

REGISTRY = """
import sys
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking
url = sys.stdin.read().strip()
tracking, registry = Tracking(url, "mlflow-artifacts:/"), Registry(url)
run = tracking.create_run("0", "ada", 0, [], "run")
registry.create_registered_model("alpha")
registry.create_model_version("alpha", f"mlflow-artifacts:/0/{run.info.run_id}/artifacts/model", run.info.run_id, [])
print(run.info.run_id)
"""
PLAIN = (
    "CREATE TABLE model_versions (name text, version int, source text, storage_location text)",
    "INSERT INTO model_versions VALUES ('alpha', 1, 'mlflow-artifacts:/0/one/artifacts/model', NULL)",
    "CREATE TABLE runs (run_uuid text)",
    "INSERT INTO runs VALUES ('one')",
)
"""As much of a registry as a backup asks for: MLflow takes ten seconds of CPU to make its own."""


def backed_up_estate() -> Estate:
    document = estate_of_two_sites().model_dump(mode="json")
    document["people"].append({"name": "hedy", "roles": ["keeper"]})
    document["drills"]["approval"] = "none"
    document["vault"] = {"site": "reykjavik", "keeper": "hedy"}
    document["backups"] = {"schedule": "30 2 * * *", "rpo": "26h", "rto": "5min", "verify": "30 4 * * *"}
    return Estate.model_validate(document)


class BackedUp:
    """Everything that a backup needs, running; the sites' and the databases' contents can be changed by tests."""

    def __init__(self, folder: Path, server: URL, empty_vault: Path, *, mlflow: bool) -> None:
        self.home = Home(folder / "home")
        self.server = server
        self.sites = [Site(name, folder / name) for name in ("paris", "dublin")]
        self.vault = VaultProcess(folder / "vault", empty_vault)
        self.mlflow = mlflow
        self.databases = {"ledger": f"ledger_{id(self)}", "registry": f"registry_{id(self)}",
                          "airflow": f"airflow_{id(self)}"}  # fmt: skip

    def start(self) -> None:
        for one in (*self.sites, self.vault):
            one.start()
        for name in self.databases.values():
            run_sql(self.server, f'CREATE DATABASE "{name}"')
        self.ledger_id = migrate(self.url("ledger"))
        run_sql(self.url("airflow"), "CREATE TABLE dag_run (id int)", "INSERT INTO dag_run VALUES (1), (2)")
        run = self._registry()
        for folder in (self.home.root / "secrets", self.home.gateway):
            folder.mkdir(parents=True)
        (self.home.gateway / "state.json").write_text('{"active": {}}')
        self.connections_given = self.connections()
        self.home.connections_file.write_text(json.dumps(self.connections_given))
        (self.home.root / "estate.yaml").write_text(json.dumps(backed_up_estate().model_dump(mode="json")))
        self.systems = ConnectedEstate(backed_up_estate(), FileConnections(self.home.connections_file), self.home)
        listing = json.dumps([{"md5": hashlib.md5(b"data").hexdigest(), "relpath": "data"}]).encode()
        self.version = f"{hashlib.md5(listing).hexdigest()}.dir"
        for site in self.sites:
            for model in ("alpha", "beta"):
                publish(site.store, model)
            site.store.ensure_bucket("dvc")
            site.store.put("dvc", object_key(self.version), listing)
            site.store.put("mlflow", f"0/{run}/artifacts/model/model.pkl", b"a pickled model")
        if not self.mlflow:  # there the ledger is as new as an estate's before its first backup
            self.systems.ledger().append("release", "alpha", {"version": "1"})
            anchor(self.systems.ledger(), self.systems.stores())

    def _registry(self) -> str:
        if not self.mlflow:
            run_sql(self.url("registry"), *PLAIN)
            return "one"
        url = self.url("registry").render_as_string(hide_password=False)
        done = subprocess.run([sys.executable, "-c", REGISTRY], input=url, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip().splitlines()[-1]

    def url(self, part: str) -> URL:
        return self.server.set(database=self.databases[part])

    def connections(self) -> dict[str, Any]:
        given = libpq(self.server)
        database = {"conn_type": "postgres", "host": given["host"], "port": given.get("port"), "login": given["user"]}
        ledger = {**database, "host": None, "schema": self.databases["ledger"]}
        found: dict[str, Any] = {
            "ninelives_vault": self.vault.connection if not self.mlflow else self._signing(),
            "ninelives_ledger": {**ledger, "host": given["host"]},
        }
        for part, name in self.databases.items():
            found[f"ninelives_backup_{part}"] = {**database, "schema": name, "extra": {"databases": [name]}}
        for site in self.sites:
            extra = {"endpoint_url": f"http://127.0.0.1:{site.port}", "region_name": "us-east-1"}
            found[f"ninelives_{site.name}_store"] = {
                "conn_type": "aws", "login": KEY, "password": SECRET, "extra": extra
            }  # fmt: skip
        return found

    def _signing(self) -> dict[str, Any]:
        private, public = make_keys()
        keys = {"signing_key": private, "verify_key": public}
        return {**self.vault.connection, "extra": {**self.vault.connection["extra"], **keys}}

    def object(self, site: str, key: str, bucket: str = "models") -> Path:
        """An object on a site's disk."""
        return next(one.folder for one in self.sites if one.name == site) / bucket / key

    def stop(self) -> None:
        for one in (*self.sites, self.vault):
            one.kill()


@contextmanager
def backed_up(folder: Path, server: URL, empty_vault: Path, *, mlflow: bool = False) -> Iterator[BackedUp]:
    """:param server: several may share one, each with databases of its own
    :param mlflow: with a registry as MLflow makes it, and signed backups: it takes seconds of CPU
    """
    world = BackedUp(folder, server, empty_vault, mlflow=mlflow)
    try:
        world.start()
        yield world
    finally:
        world.stop()
