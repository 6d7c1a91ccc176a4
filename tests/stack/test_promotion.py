"""A promotion on real replicas and Envoy, under load: nothing is lost, and what is worse goes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from support.models import ROW
from support.processes import ROOT, Process, wait_until
from support.promotion import release_of
from support.releases import Load, ReleaseWorld, flaky_model, plain_judge, release_world, slow_model

from ninelives.releases import canary
from ninelives.releases.journal import Entry, Journal, Outcome, of_run, read
from ninelives.releases.promotion import begin, promote, roll_back, steps
from ninelives.releases.publish import read_release, stage
from ninelives.serving.protocol import encode_request

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shares of these promotions are held for less than a second."""
    monkeypatch.setattr(canary, "SHORTEST", 0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseWorld]:
    with release_world(tmp_path_factory.mktemp("sites")) as started:
        yield started


def served(world: ReleaseWorld) -> tuple[set[str], str | None, set[str]]:
    """Pointers, alias, and what the replicas answer with by themselves."""
    systems = world.systems()
    pointers = {read_release(store, "alpha").version for store in systems.stores().values()}  # type: ignore[union-attr]
    answering = {one.infer("alpha", [ROW]).model_version for site in world.sites for one in systems.replicas(site)}
    return pointers, systems.registry().champion("alpha"), {str(version) for version in answering}


def put(world: ReleaseWorld, version: str, onnx: bytes | None = None) -> None:
    stage(world.sites["paris"].store, *release_of(version, float(int(version) - 1), onnx))


def journal_of(world: ReleaseWorld) -> Journal:
    return read(world.systems().ledger(), "alpha")[-1]


@pytest.mark.parametrize(
    ("version", "model", "why"),
    [("2", flaky_model, "errors"), ("3", slow_model, "latency")],
)
def test_a_version_that_fails_or_is_slow_goes_back_by_itself_and_its_users_notice_nothing(
    world: ReleaseWorld, version: str, model: type, why: str
) -> None:
    world.policy = {**ReleaseWorld.policy, "shadow": 0}
    systems = world.systems()
    put(world, version, model(float(int(version) - 1)))
    with Load(world.envoy.url) as load:
        load.await_more(40)
        plan = begin(systems, "alpha", version, by="ada")
        record = promote(systems, plan, approve=lambda: None)
        load.await_more(40)
    assert (record.facts["outcome"], set(load.counts())) == ("rolled back", {"good"}), load.counts()
    assert why in record.facts["why"]
    journal = of_run(systems.ledger(), plan)
    canary, back = journal.find(Entry.TRAFFIC, "canary-20"), journal.find(Entry.TRAFFIC, "back")
    assert canary
    assert back
    print(f"{why}: {(back.at - canary.at).total_seconds():.2f} s from first canary request to old version only")
    assert served(world) == ({"1"}, "1", {"1"})
    assert systems.gateway().state().versions == {}


def test_copied_requests_are_compared_and_never_answered(world: ReleaseWorld) -> None:
    world.policy = {**ReleaseWorld.policy, "shadow": 100, "shadow_for": "10s"}
    systems = world.systems()
    put(world, "4", flaky_model(3.0))
    with Load(world.envoy.url) as load:
        load.await_more(20)
        record = promote(systems, begin(systems, "alpha", "4", by="ada"), approve=lambda: None)
        load.await_more(20)
    assert (set(load.counts()), set(load.versions())) == ({"good"}, {"1"})
    assert record.facts["outcome"] == "rolled back"
    assert "'agreed': 0" in record.facts["why"], "it answers 3 more than the version that is served"


def test_a_good_version_comes_in_under_load_is_addressable_and_can_be_taken_back(world: ReleaseWorld) -> None:
    world.policy = ReleaseWorld.policy
    systems = world.systems()
    put(world, "5")
    with Load(world.envoy.url) as load:
        load.await_more(20)
        plan = begin(systems, "alpha", "5", by="ada")
        record = promote(systems, plan, approve=lambda: None, judge=plain_judge)
        began = len(load.outcomes)
        load.await_more(40)
        after = load.outcomes[began + 10 :]
        assert record.facts["outcome"] == "promoted", record.facts
        assert {version for _, _, version in after} == {"5"}
        assert served(world) == ({"5"}, "5", {"5"})
        for version in ("1", "5"):
            path = f"{world.envoy.url}/services/alpha/v2/models/alpha/versions/{version}/infer"
            answer = httpx.post(path, json=encode_request([ROW])).json()
            assert answer["outputs"][0]["data"] == [3.5 + int(version) - 1]
        roll_back(systems, plan, by="grace", reasons=["complaints"])
        began = len(load.outcomes)
        load.await_more(40)
    assert {version for _, _, version in load.outcomes[began + 10 :]} == {"1"}
    assert set(load.counts()) == {"good"}, load.counts()
    assert served(world) == ({"1"}, "1", {"1"})


def test_killed_at_each_step_of_a_real_promotion_nothing_is_lost_and_all_agree(world: ReleaseWorld) -> None:
    world.policy = ReleaseWorld.policy
    systems = world.systems()
    put(world, "6")
    names = [*steps(systems, begin(systems, "alpha", "6", by="ada"), approve=lambda: None), ""]
    command = [sys.executable, "-m", "support.releases", str(world.home.root), "6"]
    environment = {"PYTHONPATH": f"{ROOT / 'include'}:{ROOT / 'tests'}"}
    with Load(world.envoy.url, rate=40) as load:
        for done, name in enumerate(names[:-1]):
            child = Process(command, world.home.root / "promote.log", environment)
            child.start()

            def reached(done: int = done) -> bool:
                return len(journal_of(world).done) > done or journal_of(world).outcome is not None

            wait_until(reached, f"{name} is done", timeout=120, every=0.002)
            child.kill()
            journal, gateway = journal_of(world), systems.gateway().state().versions.get("alpha")
            shares = {one: share for one, share in gateway.shares.items() if share} if gateway else {"1": 100}
            assert shares in [dict(one) for one in journal.shares], (name, shares)
            alias = systems.registry().champion("alpha")
            assert alias == "1" or journal.find(Entry.TRAFFIC, "full"), name
        ended = subprocess.run(
            command, env={**child.environment}, capture_output=True, text=True, timeout=120, check=True
        )
        load.await_more(20)
    assert ended.stdout.startswith("promoted"), ended.stdout
    assert journal_of(world).outcome is Outcome.PROMOTED
    assert served(world) == ({"6"}, "6", {"6"})
    assert set(load.counts()) == {"good"}, load.counts()
