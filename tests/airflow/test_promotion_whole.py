"""``promote_model`` run whole by Airflow on real stores, replicas and gateway: its steps in order, and the way back.

With approvals by people, and with a good version that the judge needs minutes for: ``make soak``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.airflow_runs import environment, make_database, run_by_hand
from support.promotion import release_of
from support.releases import POLICY, Load, Systems, flaky_model, release_world

from ninelives.releases import canary
from ninelives.releases.journal import Entry, read
from ninelives.releases.publish import read_release, stage
from ninelives_airflow.hooks.estate import EstateHook

pytestmark = [pytest.mark.airflow, pytest.mark.stack, pytest.mark.timeout(180)]


def test_every_check_comes_before_any_user_and_a_failing_version_goes_back_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_database()
    monkeypatch.setattr(canary, "SHORTEST", 0.1)  # its share is held for less than a second
    with release_world(tmp_path) as world:
        world.policy = {**POLICY, "shadow": 0, "canary": [{"share": 20, "hold": "300ms"}]}
        (world.home.root / "estate.yaml").write_text(yaml.safe_dump(world.estate().model_dump(mode="json")))
        environment(world.home.root, json.loads(world.home.connections_file.read_text()), monkeypatch.setenv)
        for port in ("ledger", "registry"):
            monkeypatch.setattr(EstateHook, port, getattr(Systems, port))
        stage(world.sites["paris"].store, *release_of("2", 1.0, flaky_model(1.0)))
        with Load(world.envoy.url) as load:
            run = run_by_hand("promote_model", {"service": "alpha", "version": "2"}, by="ada")
            load.await_more(20)
        systems = world.systems()
        (journal,) = read(systems.ledger(), "alpha")
        pointers = [read_release(store, "alpha").version for store in systems.stores().values()]  # type: ignore[union-attr]
        left = [one.attempts("alpha").loaded for site in world.sites for one in systems.replicas(site)]

    assert (run.state, run.failed) == ("failed", ["judge_promotion", "try_on_users"]), run.tasks
    assert run.tasks["take_over"] == "upstream_failed"
    assert set(load.counts()) == {"good"}, load.counts()
    assert load.versions()["2"] > 0, "some users had it"
    told = [one.facts.get("name") or str(one.facts["entry"]) for one in journal.records]
    users = told.index("canary-20")
    assert told[:users] == [
        "begun", "check_interface", "check_hardware", "scan_artefact", "verify_data", "approve", "warm_up", "shadow",
    ]  # fmt: skip
    assert journal.find(Entry.ENDED, "back")
    assert journal.plan.by == "ada"
    assert "errors" in run.outputs["record_promotion"]["why"]
    assert systems.gateway().state().versions == {}
    assert (pointers, systems.registry().champion("alpha"), left) == (["1"] * 2, "1", [("1",)] * 2)
