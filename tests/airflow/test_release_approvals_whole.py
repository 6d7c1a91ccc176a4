"""Promotions and experiments run whole under Airflow's FAB auth manager, on real stores, replicas and gateway.

FAB knows its users by number, so that a question is assigned to nobody and anybody may answer it: the name in Airflow's
own record decides. Under simple users, on a whole local estate: ``tests/stack/test_releases_whole.py``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.airflow_runs import (
    PASSWORD,
    Api,
    Run,
    answer,
    api_server,
    environment,
    forge,
    make_database,
    meanwhile,
    run_by_hand,
)
from support.fab import ENVIRONMENT
from support.processes import ROOT
from support.promotion import release_of
from support.releases import POLICY, Load, Systems
from support.users import ExperimentWorld, Users, declared, experiment_world

from ninelives.experiments.run import journal_of
from ninelives.releases.journal import Journal, Outcome, read
from ninelives.releases.publish import read_release, stage
from ninelives_airflow.hooks.estate import EstateHook

pytestmark = [
    pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900),
]  # fmt: skip

PROMOTE, EXPERIMENT = "promote_model", "run_experiment"
ASKER = "alan"
"""Starts every run here, and may approve what others ask for."""


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    make_database()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExperimentWorld]:
    with experiment_world(tmp_path_factory.mktemp("sites")) as world:
        yield world


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, database: None) -> Iterator[Api]:
    with api_server(tmp_path_factory.mktemp("api"), "ada", "grace", ASKER, fab=True) as found:
        yield found


@pytest.fixture
def world(sites: ExperimentWorld, api: Api, monkeypatch: pytest.MonkeyPatch) -> ExperimentWorld:
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", ENVIRONMENT["AIRFLOW__CORE__AUTH_MANAGER"])
    given = json.loads(sites.home.connections_file.read_text())
    environment(sites.home.root, {**given, "ninelives_airflow_api": api.connection}, monkeypatch.setenv)
    for port in ("ledger", "registry"):
        monkeypatch.setattr(EstateHook, port, getattr(Systems, port))
    sites.policy = {**POLICY, "approval": "four-eyes", "shadow": 0, "canary": [{"share": 50, "hold": "20s"}],
                    "patience": "8min"}  # fmt: skip
    return sites


def put(world: ExperimentWorld, *experiments: str) -> str:
    """Stage a version that answers as it should, and declare these experiments with it; the version."""
    runs = [journal.plan for journal in read(world.systems().ledger(), "alpha")]
    tried = [plan.new for name in NAMES if (found := journal_of(world.systems(), name)) for plan in (found.plan,)]
    version = str(max([1, *(int(one) for one in (*tried, *(plan.new for plan in runs)))]) + 1)
    stage(world.sites["paris"].store, *release_of(version, float(int(version) - 1)))
    world.experiments = tuple(declared(name, version) for name in experiments)
    document = world.estate().model_dump(mode="json")
    document["people"] = [{"name": "ada", "roles": ["operator"]}] + [
        {"name": name, "roles": ["approver"]} for name in ("grace", ASKER)
    ]
    (world.home.root / "estate.yaml").write_text(yaml.safe_dump(document))
    return version


NAMES = ("rejected", "own", "forged")


def promoted(world: ExperimentWorld, version: str) -> Run:
    return run_by_hand(PROMOTE, {"service": "alpha", "version": version}, by=ASKER)


def journal(world: ExperimentWorld) -> Journal:
    return read(world.systems().ledger(), "alpha")[-1]


def nothing_moved(world: ExperimentWorld, version: str) -> None:
    """The version answers nobody, and no replica, pointer or alias has it."""
    systems = world.systems()
    assert systems.gateway().state().versions == {}
    for site, store in systems.stores().items():
        assert all(version not in one.attempts("alpha").loaded for one in systems.replicas(site))
        release = read_release(store, "alpha")
        assert release
        assert release.version != version
    assert systems.registry().champion("alpha") != version


# --- promotions --------------------------------------------------------------------------------------------------


def test_a_rejected_promotion_ends_without_a_failure_and_moves_nothing(world: ExperimentWorld, api: Api) -> None:
    version = put(world)
    with Load(world.envoy.url) as load, meanwhile(api, ("grace", answer("Reject")), dag=PROMOTE):
        run = promoted(world, version)
    assert run.state == "success", run.tasks
    assert {run.tasks[task] for task in ("warm_up", "try_on_users", "take_over", "judge_promotion")} == {"skipped"}
    nothing_moved(world, version)
    ended = journal(world).ended
    assert ended
    assert (ended.facts["outcome"], ended.facts["by"], ended.facts["why"]) == (
        "rolled back", "grace", "grace rejected it",
    )  # fmt: skip
    assert (set(load.counts()), set(load.versions())) == ({"good"}, {"1"})


@pytest.mark.parametrize(("person", "why"), [(ASKER, "who asked"), ("ada", "who is no approver")])
def test_an_approval_that_fab_takes_from_anybody_counts_only_from_another_who_may(
    world: ExperimentWorld, api: Api, person: str, why: str
) -> None:
    version = put(world)
    with meanwhile(api, (person, answer("Approve")), dag=PROMOTE):
        run = promoted(world, version)
    assert (run.state, run.tasks["approve_promotion"], run.tasks["warm_up"]) == ("failed", "success", "failed"), why
    nothing_moved(world, version)
    assert "approve" not in journal(world).done
    assert journal(world).outcome is Outcome.ROLLED_BACK


def test_an_approval_that_was_marked_as_done_and_forged_brings_nothing_in(world: ExperimentWorld, api: Api) -> None:
    version = put(world)
    with meanwhile(api, ("grace", forge), dag=PROMOTE):
        run = promoted(world, version)
    assert (run.state, run.tasks["approve_promotion"], run.tasks["warm_up"]) == ("failed", "success", "failed")
    nothing_moved(world, version)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="its lines need curl and jq")
def test_the_documented_request_of_deployment_tooling_is_one_run_however_often_it_is_sent(
    world: ExperimentWorld, api: Api
) -> None:
    """The very lines of docs/releases.md, run by a shell; nobody starts what they ask for, there is no scheduler."""
    text = (ROOT / "docs" / "releases.md").read_text()
    lines = text[text.index("    TOKEN=$(curl") :].split("\n\n")[0]
    lines = lines.replace('"deployer"', '"ada"').replace('"..."', json.dumps(PASSWORD)).replace("delay-7", "delay-77")

    lines = lines.replace("curl -X POST", "curl -s -w '\\n%{http_code}' -X POST")

    def send(script: str) -> tuple[int, dict[str, Any]]:
        given = {"AIRFLOW": f"http://127.0.0.1:{api.port}", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(["bash", "-c", script], env=given, capture_output=True, text=True, timeout=60, check=True)
        body, status = done.stdout.rsplit("\n", 1)
        return int(status), json.loads(body)

    status, made = send(lines)
    assert (status, made["dag_run_id"], made["state"]) == (200, "promote-arrival-delay-77", "queued"), made
    assert (made["triggering_user_name"], made["conf"]["version"]) == ("ada", "7")
    assert send(lines)[0] == 409
    status, wrong = send(lines.replace('"version": "7"', '"version": "latest"').replace("delay-77", "delay-78"))
    assert (status, "'latest' does not match" in json.dumps(wrong)) == (400, True), wrong
    api.of("ada")._send("DELETE", f"/api/v2/dags/{PROMOTE}/dagRuns/promote-arrival-delay-77")


def test_a_promotion_that_another_approved_comes_in_under_load(world: ExperimentWorld, api: Api) -> None:
    version = put(world)
    with Load(world.envoy.url, rate=100) as load:
        with meanwhile(api, ("grace", answer("Approve")), dag=PROMOTE):
            run = promoted(world, version)
        began = len(load.outcomes)
        load.await_more(60)
    assert (run.state, set(run.tasks.values())) == ("success", {"success"}), run.tasks
    assert set(load.counts()) == {"good"}, load.counts()
    assert {answered for _, _, answered in load.outcomes[began + 20 :]} == {version}
    made = journal(world)
    assert (made.plan.by, made.outcome) == (ASKER, Outcome.PROMOTED)
    assert made.find("step", "approve").facts["found"] == {"approved_by": "grace"}  # type: ignore[union-attr, arg-type]
    assert world.systems().registry().champion("alpha") == version


# --- experiments -------------------------------------------------------------------------------------------------


def nobody_saw(world: ExperimentWorld, name: str, version: str, users: Users) -> None:
    nothing_moved(world, version)
    assert (set(users.counts()), users.arms) == ({"good"}, {}), "nobody was ever in an arm"
    found = journal_of(world.systems(), name)
    assert found
    assert (found.open, found.find("divided")) == (False, None)  # type: ignore[arg-type]


def test_a_rejected_experiment_ends_without_a_failure_and_no_user_is_ever_in_it(
    world: ExperimentWorld, api: Api
) -> None:
    version = put(world, "rejected")
    with Users(world.envoy.url) as users, meanwhile(api, ("grace", answer("Reject")), dag=EXPERIMENT):
        run = run_by_hand(EXPERIMENT, {"experiment": "rejected"}, by=ASKER)
    assert run.state == "success", run.tasks
    assert {run.tasks[task] for task in ("warm_up", "watch_experiment", "judge_experiment")} == {"skipped"}
    returned = run.outputs["return_users"]
    assert (returned["verdict"], returned["reasons"]) == ("stop", ["grace rejected it"])
    nobody_saw(world, "rejected", version, users)


@pytest.mark.parametrize(("name", "act"), [("own", (ASKER, answer("Approve"))), ("forged", ("ada", forge))])
def test_an_experiment_that_nobody_else_approved_is_shown_to_no_user(
    world: ExperimentWorld, api: Api, name: str, act: Any
) -> None:
    version = put(world, name)
    with Users(world.envoy.url) as users, meanwhile(api, act, dag=EXPERIMENT):
        run = run_by_hand(EXPERIMENT, {"experiment": name}, by=ASKER)
    assert (run.state, run.tasks["approve_experiment"], run.tasks["warm_up"]) == ("failed", "success", "failed")
    nobody_saw(world, name, version, users)
