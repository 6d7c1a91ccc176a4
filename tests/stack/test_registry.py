"""A real MLflow server with its own accounts: who may do what, the champion, and deletions with their artefacts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.models import estate_of_two_sites, sum_model
from support.processes import stopping
from support.registry import PASSWORD, Server, client_of, train

from ninelives.access.audit import audit_access, refuse_drift
from ninelives.access.compare import Finding, Kind
from ninelives.access.registry import apply, check
from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.mlflow import ALIAS, DIGEST_TAG, MlflowRegistry, register
from ninelives.adapters.mlflow_accounts import MlflowAccounts, connection_for
from ninelives.artefacts.orphans import find
from ninelives.artefacts.prune import KIND, prune
from ninelives.errors import Refused, Unavailable
from ninelives.estate import Estate
from ninelives.estate.artefacts import RegistryRole
from ninelives.home import Home
from ninelives.ports import Connection, GatewayState
from ninelives.releases.publish import digest_of, object_key

pytestmark = pytest.mark.stack

MODEL = "alpha"
ROLES = {"rosa": "reader", "tom": "trainer", "rita": "releaser"}


class Systems(ConnectedEstate):
    """Registry, stores and ledger are real; there is no gateway that would divide requests."""

    def __init__(self, server: Server, folder: Path) -> None:
        document = estate_of_two_sites().model_dump(mode="json")
        document["models"][0]["registry"] = [{"who": who, "role": role} for who, role in ROLES.items()]
        document["models"][0]["retention"] = {"keep": 1, "keep_for": "1d"}
        home = Home(folder / "home")
        home.connections_file.parent.mkdir(parents=True)
        found = {name: one for site in server.sites.values() for name, one in site.connections().items()}
        home.connections_file.write_text(json.dumps(found | server.connections(*ROLES)))
        super().__init__(Estate.model_validate(document), FileConnections(home.connections_file), home)
        migrate(f"sqlite:///{folder / 'ledger.db'}")
        self._ledger = SqlLedger(f"sqlite:///{folder / 'ledger.db'}")

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
        assert Finding("registry", Kind.MISSING, "accounts", "rosa", "has no account") in apply(systems)
        yield systems


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


def test_accounts_that_differ_from_what_is_declared_are_named_fail_the_audit_and_are_brought_back(
    server: Server, systems: Any
) -> None:
    accounts = MlflowAccounts(server.connection())
    accounts.ensure_user("walter", PASSWORD)
    assert check(systems) == []
    report, record = audit_access(systems)
    assert (report.checked, report.drift, report.silent) == (("registry",), (), ())
    assert record.facts["registry"] == "3 accounts are as declared"
    refuse_drift(report, record)

    releaser = f"ninelives:releaser:{MODEL}"
    accounts.set_role(releaser, accounts.read().roles[releaser], {"tom"})
    accounts.set_role("by-hand", set(), {"rosa"})
    # As somebody does it who goes round the roles: one account's own permission, and one more administrator.
    direct = {"resource_type": "registered_model", "resource_id": MODEL, "username": "walter", "permission": "MANAGE"}
    accounts._ask("POST", "3.0", "users/permissions/grant", direct)
    accounts.ensure_user("mallory", PASSWORD)
    accounts._ask("PATCH", "2.0", "users/update-admin", {"username": "mallory", "is_admin": True})
    found = [str(one) for one in check(systems)]
    assert [one for one in found if "walter" not in one and "MANAGE" not in one] == [
        "registry: accounts: excess: mallory is an administrator, which nobody declared",
        "registry: role by-hand: excess: rosa has it, which nobody declared",
        f"registry: role {releaser}: missing: rita does not have it",
        f"registry: role {releaser}: excess: tom has it, which nobody declared",
    ]
    assert any("MANAGE" in one for one in found), "a permission of one account alone"
    report, record = audit_access(systems)
    assert record.facts["verdict"] == "missed"
    assert record.facts["registry"] == f"{len(found)} differences"
    with pytest.raises(Refused, match=r"mallory is an administrator.*access registry --apply"):
        refuse_drift(report, record)

    apply(systems)
    left = [str(one) for one in check(systems)]
    assert "registry: role by-hand: excess: rosa has it, which nobody declared" in left, "what is not ours is told"
    assert not any(releaser in one for one in left)
    accounts.remove_role("by-hand")
    for name in ("mallory", "walter"):
        accounts._ask("DELETE", "2.0", "users/delete", {"username": name})
    assert check(systems) == []


def test_a_silent_registry_is_never_sound_and_an_estate_without_accounts_says_so(systems: Any, tmp_path: Path) -> None:
    file = tmp_path / "connections.json"
    document = json.loads(systems.home.connections_file.read_text())
    document["ninelives_mlflow"]["password"] = "wrong"
    file.write_text(json.dumps(document))
    deaf = ConnectedEstate(systems.estate, FileConnections(file), systems.home)
    deaf.ledger = systems.ledger  # type: ignore[method-assign]
    report, record = audit_access(deaf)
    assert (report.verdict, report.silent) == ("unknown", ("registry",))
    with pytest.raises(Unavailable, match="registry: accounts: unchecked: cannot be checked now"):
        refuse_drift(report, record)
    undeclared = [model.model_copy(update={"registry": ()}) for model in systems.estate.models]
    deaf.estate = systems.estate.model_copy(update={"models": tuple(undeclared)})
    report, record = audit_access(deaf)
    assert record.facts["registry"] == "the estate declares no account of it"
    assert report.silent == ()


def test_training_registers_as_the_trainer_and_the_alias_moves_as_the_releaser(server: Server, systems: Any) -> None:
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    rows = pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 3.0]})
    native, accounts = LinearRegression().fit(rows, [3.0, 5.0]), MlflowAccounts(server.connection())

    def train_one(number: float) -> str:
        onnx, roles = sum_model(number), (RegistryRole.TRAINER, RegistryRole.RELEASER)
        trainer, releaser = (connection_for(systems.connections, systems.estate, MODEL, role) for role in roles)
        assert (trainer.login, releaser.login) == ("tom", "rita")
        return register(
            trainer, releaser=releaser, model=MODEL, native=native, onnx=onnx, digest=digest_of(onnx), example=rows,
            parameters={}, metrics={"mae": 1.0}, data_version="d.dir",
        )  # fmt: skip

    version = train_one(20.0)
    assert systems.registry().champion(MODEL) == version
    assert train_one(20.0) == version, "the same bytes are the same version"
    for role, refused in (
        ("trainer", lambda: train_one(21.0)),
        ("releaser", lambda: systems.registry().set_champion(MODEL, version)),
    ):
        name = f"ninelives:{role}:{MODEL}"
        grants, holders = accounts.read().roles[name], accounts.read().holders[name]
        accounts.set_role(name, grants, set())
        with pytest.raises(Unavailable, match="Permission denied"):
            refused()  # so it was not the administrator who did it
        accounts.set_role(name, grants, holders)
    systems.registry().set_champion(MODEL, version)


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
