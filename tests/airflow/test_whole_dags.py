"""The DAG files of the calendar and of the way back, run whole by Airflow on real stores, vault and gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from support.access import FLIGHTS, aws
from support.access import World as Permissions
from support.airflow_runs import (
    Person,
    Run,
    api_server,
    environment,
    make_database,
    run_by_calendar,
    run_by_hand,
)
from support.backups import BackedUp, backed_up
from support.gate import january, objects, publish
from support.postgres import libpq, load, postgres, run_sql
from support.processes import ROOT, GatewayProcess, SiteProcesses, stopping, wait_until
from support.two_sites import Systems, World, two_sites
from support.vault import flip

from ninelives.adapters.ledger import migrate
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.estate import load_estate
from ninelives.flights.data import Flights, day_key, to_parquet
from ninelives.recovery.failover import fail_over_here
from ninelives.recovery.return_site import reopen_site
from ninelives.replication.manifest import BUCKET
from ninelives_airflow.hooks.estate import EstateHook

pytestmark = [
    pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    make_database()


def ended(run: Run, state: str, *failed: str) -> Run:
    """Whatever else: every task has ended, and only these have failed."""
    assert (run.state, run.failed) == (state, sorted(failed)), run.tasks
    assert set(run.tasks.values()) <= {"success", "failed", "skipped", "upstream_failed"}
    return run


# --- a vault -----------------------------------------------------------------------------------------------------


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackedUp]:
    with postgres() as server, backed_up(tmp_path, server, tmp_path / "empty", mlflow=True) as world:
        environment(world.home.root, world.connections_given, monkeypatch.setenv)
        yield world


def test_the_calendar_backs_up_and_proves_and_a_damage_fails_the_judges_alone(vault: BackedUp) -> None:
    made = ended(run_by_calendar("back_up_estate"), "success")
    assert made.type == "scheduled"
    assert made.outputs["judge_backup"] == made.outputs["back_up"]
    proven = ended(run_by_calendar("verify_backups"), "success")
    assert proven.outputs["examine_vault"]["verdict"] == "met"
    assert proven.outputs["choose_backups"] == [{"backup": made.outputs["back_up"]["snapshot"]}]
    assert proven.tasks["prove_restore[0]"] == "success"
    assert proven.outputs["judge_proof"]["proven"] == 1

    gone = "'mlflow-artifacts:/0/gone'"
    run_sql(vault.url("registry"), f"UPDATE model_versions SET source = {gone}, storage_location = {gone}")
    ended(run_by_hand("back_up_estate"), "failed", "judge_backup")
    flip(max(vault.vault.files("data"), key=lambda path: path.stat().st_size), 800)
    damaged = ended(run_by_hand("verify_backups"), "failed", "judge_proof")
    assert [damaged.tasks[f"prove_restore[{number}]"] for number in (0, 1)] == ["success"] * 2
    assert "corrupted" in {damaged.outputs[f"prove_restore[{number}]"]["verdict"] for number in (0, 1)}


# --- two sites that can fail over --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with two_sites(tmp_path_factory.mktemp("sites")) as world:
        yield world


@pytest.fixture
def world(sites: World, monkeypatch: pytest.MonkeyPatch) -> World:
    declare(sites)
    environment(sites.home.root, json.loads(sites.home.connections_file.read_text()), monkeypatch.setenv)
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: Systems.ledger(hook))
    return sites


def declare(world: World, **changes: Any) -> None:
    document = world.estate().model_dump(mode="json")
    document["people"].append({"name": "grace", "roles": ["approver"]})
    (world.home.root / "estate.yaml").write_text(yaml.safe_dump(document | changes))


def test_the_calendar_finds_every_standby_ready_and_one_that_is_not_fails_the_judge(world: World) -> None:
    ready = ended(run_by_calendar("check_readiness"), "success")
    assert set(ready.outputs["judge_readiness"].values()) == {"pass"}
    assert ready.outputs["check_standbys"]["playbooks"], "the first run makes every playbook"
    again = ended(run_by_hand("check_readiness"), "success")
    assert again.outputs["check_standbys"]["playbooks"] == []
    world.sites["dublin"].store_process.kill()
    try:
        lost = ended(run_by_calendar("check_readiness"), "failed", "judge_readiness")
        assert "alpha" in lost.outputs["check_standbys"]["reasons"]
    finally:
        world.sites["dublin"].store_process.start()
        wait_until(lambda: world.sites["dublin"].store.ping() is None, "the store answers again")


def at_dublin(world: World) -> None:
    systems = world.systems()
    ((record, problem),) = fail_over_here(systems, lost_site="paris", holder=f"run-{datetime.now(UTC)}", by="ada")
    assert (record.facts["outcome"], problem) == ("moved", None)
    reopen_site(systems, "paris", holder=f"return-{record.seq}")


def where(world: World) -> tuple[str, ...]:
    return world.systems().gateway().state().active["alpha"]


def test_a_service_goes_back_whole_with_the_approval_of_another_and_not_without(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"service": "alpha"}
    refused = ended(run_by_hand("fail_back", asked), "failed", "plan_failback", "judge_failback")
    assert refused.tasks["shift_traffic"] == "upstream_failed"

    at_dublin(world)
    moved = ended(run_by_hand("fail_back", asked), "success")
    assert moved.outputs["judge_failback"]["outcome"] == "moved"
    assert where(world) == ("paris",)

    at_dublin(world)
    policy = world.estate().recovery.model_dump(mode="json")
    declare(world, recovery={**policy, "failback": {**policy["failback"], "approval": "four-eyes"}})
    with api_server(tmp_path, "ada", "grace") as api:
        environment(world.home.root, {"ninelives_airflow_api": api.connection}, monkeypatch.setenv)
        with Person(api, "grace", "fail_back", "Reject"):
            rejected = ended(run_by_hand("fail_back", asked), "success")
        assert rejected.tasks["shift_traffic"] == "skipped"
        assert where(world) == ("dublin",)
        with Person(api, "grace", "fail_back", "Approve"):
            approved = ended(run_by_hand("fail_back", asked), "success")
    assert approved.outputs["shift_traffic"]["approved_by"] == "grace"
    assert where(world) == ("paris",)


# --- two sites that lived apart ----------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, S3ObjectStore]]:
    """Two stores with the same month of flights, of which each is judged by the demo's own suite."""
    both = {name: SiteProcesses(name, tmp_path / name, models="", replicas=1) for name in ("paris", "dublin")}
    home = tmp_path / "home"
    home.mkdir()
    (home / "estate.yaml").write_bytes((ROOT / "include" / "estates" / "demo" / "estate.yaml").read_bytes())
    gateway = GatewayProcess(load_estate(home / "estate.yaml"), list(both.values()), home / "gateway")  # not started
    extra = {"folder": str(gateway.folder), "url": gateway.url, "admin": gateway.admin}
    connections = {name: value for one in both.values() for name, value in one.connections().items()}
    connections["ninelives_gateway"] = {"conn_type": "generic", "extra": extra}
    environment(home, connections, monkeypatch.setenv)
    migrate(f"sqlite:///{home / 'ledger.db'}")
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: Systems.ledger(hook))
    with stopping(*both.values()):
        stores = {name: one.start_store() for name, one in both.items()}
        for store in stores.values():
            store.ensure_bucket(BUCKET)
            publish(store, objects(january()))
        yield stores


def test_the_calendar_reconciles_and_a_person_decides_what_both_sites_changed(
    apart: dict[str, S3ObjectStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = ended(run_by_calendar("reconcile_sites"), "success")
    assert quiet.type == "scheduled"
    assert [quiet.outputs[f"check_quality[{copy}]"]["verdict"] for copy in (0, 1)] == ["pass", "pass"]
    assert quiet.outputs["list_questions"] == []
    again = ended(run_by_calendar("reconcile_sites"), "success")
    assert again.outputs["list_copies"] == [], "no copy is judged twice as it is"

    flights, day = january(), date(2013, 1, 5)
    rows = flights.day(day)
    mine, only = day_key(day), day_key(date(2013, 2, 1))
    new = to_parquet(Flights.load().day(date(2013, 2, 1)), date(2013, 2, 1))
    versions = {"paris": to_parquet(rows.slice(1), day), "dublin": to_parquet(rows.slice(2), day)}
    for site, data in versions.items():
        publish(apart[site], {**objects(flights), mine: data, **({only: new} if site == "paris" else {})})
    with api_server(tmp_path, "ada", "grace") as api:
        monkeypatch.setenv("AIRFLOW_CONN_NINELIVES_AIRFLOW_API", json.dumps(api.connection))
        with Person(api, "ada", "reconcile_sites", "dublin") as ada:
            decided = ended(run_by_hand("reconcile_sites"), "success")
    assert ada.answered == ["decide.ask_question"]
    assert {apart[site].get(BUCKET, mine) for site in apart} == {versions["dublin"]}
    assert [apart[site].get(BUCKET, only) for site in apart] == [new] * 2
    assert decided.outputs["decide.apply_decision[0]"]["by"] == "ada"
    assert decided.outputs["judge_reconciliation"] == {"decided": 1}
    assert decided.outputs["check_decided[0]"]["verdict"] == "pass"
    after = ended(run_by_calendar("reconcile_sites"), "success")
    assert after.outputs["list_copies"] == [], "no copy is left without a verdict"


def test_the_calendar_replicates_shard_by_shard_and_a_copy_behind_its_rpo_fails_its_judge_alone(
    apart: dict[str, S3ObjectStore], tmp_path: Path
) -> None:
    estate = tmp_path / "home" / "estate.yaml"
    estate.write_text(estate.read_text().replace("    suite: flights\n", "    suite: flights\n    shards: 3\n", 1))
    new = day_key(date(2013, 2, 1))
    publish(
        apart["paris"], {**objects(january()), new: to_parquet(Flights.load().day(date(2013, 2, 1)), date(2013, 2, 1))}
    )
    done = ended(run_by_calendar("replicate_data"), "success")
    shards = [done.outputs[f"replicate_dataset[{number}]"] for number in range(3)]
    assert sum(one["copied"] for one in shards) == 1
    assert done.outputs["judge_lag"]["flights@dublin"]["verdict"] == "met"
    assert apart["dublin"].get(BUCKET, new) == apart["paris"].get(BUCKET, new)
    assert {done.tasks[f"replicate_models[{number}]"] for number in (1, 2)} == {"skipped"}, "once, with the first shard"

    ack = {"seq": 0, "dataset": "flights", "key": "flights/lost", "size": 1, "sha256": "0" * 64, "site": "paris"}
    feed = tmp_path / "home" / "feed"
    feed.mkdir()
    (feed / "acks.jsonl").write_text(json.dumps({**ack, "acked_at": "2020-01-01T00:00:00Z", "monotonic_ns": 0}) + "\n")
    late = ended(run_by_calendar("replicate_data"), "failed", "judge_lag")
    records = EstateHook().ledger().records(kind="replication", subject="flights@dublin", limit=1)
    assert records[0].facts["lag"]["verdict"] == "missed"
    assert late.outputs["list_copies"] == [], "what is behind is judged as it is all the same"


def test_the_calendar_audits_and_fails_on_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with aws(tmp_path) as url:
        world = Permissions(tmp_path / "home", url)
        given = {"ninelives_dublin_access": world.access, "ninelives_dublin_store": world.store}
        environment(world.home.root, given, monkeypatch.setenv)
        monkeypatch.setattr(EstateHook, "ledger", lambda _: world.systems.ledger())
        sound = ended(run_by_calendar("audit_access"), "success")
        assert sound.outputs["audit_permissions"] == {"verdict": "unknown", "checked": ["dublin"], "evidence": 1}
        world.allow("copier", "copies", ["s3:GetObject"], [FLIGHTS])
        ended(run_by_calendar("audit_access"), "failed", "audit_permissions")
        (newest, *_) = world.systems.ledger().records(kind="access", limit=1)
        assert newest.facts["verdict"] == "missed"


# --- a table ------------------------------------------------------------------------------------------------------

THEIRS = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
from ninelives_airflow.operators.gate import QualityGateOperator

with DAG("sell_seats", schedule=None, default_args={"retries": 0}):
    gate = QualityGateOperator(task_id="check_bookings", dataset="bookings", site="paris")
    gate >> EmptyOperator(task_id="sell")
"""
SUITE = {
    "dataset": "bookings", "schema": {"id": "int64", "seats": "int64"}, "min_rows": 500,
    "expectations": [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "seats", "max_value": 9},
         "reason": "Nobody sells more at once."},
    ],
}  # fmt: skip
TABLES = "\ntables:\n  - {name: bookings, site: paris, table: public.bookings, suite: bookings}\n"


def test_a_table_is_judged_before_what_needs_it_and_holds_it_back_when_it_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sell_seats.py").write_text(THEIRS)
    (tmp_path / "expectations" / "bookings").mkdir(parents=True)
    (tmp_path / "expectations" / "bookings" / "suite.json").write_text(json.dumps(SUITE))
    (tmp_path / "estate.yaml").write_text((ROOT / "include/estates/demo/estate.yaml").read_text() + TABLES)
    monkeypatch.setenv("NINELIVES_EXPECTATIONS", str(tmp_path / "expectations"))
    with postgres() as url:
        migrate(url)
        at = libpq(url)
        connection = {"conn_type": "postgres", "host": at["host"], "login": at["user"], "schema": at["dbname"]}
        given = dict.fromkeys(("ninelives_ledger", "ninelives_paris_database"), connection)
        environment(tmp_path, given, monkeypatch.setenv)
        load(url, "public.bookings", pa.table({"id": pa.array(range(1000), pa.int64()), "seats": [1, 2] * 500}))
        good = ended(run_by_hand("sell_seats", folder=tmp_path / "theirs"), "success")
        assert (good.outputs["check_bookings"]["verdict"], good.outputs["check_bookings"]["rows"]) == ("pass", 1000)
        run_sql(url, "UPDATE public.bookings SET seats = 10 WHERE id = 7")
        bad = ended(run_by_hand("sell_seats", folder=tmp_path / "theirs"), "failed", "check_bookings")
        assert bad.tasks["sell"] == "upstream_failed"
