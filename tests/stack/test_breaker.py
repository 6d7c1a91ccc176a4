"""The gateway as circuit breaker and ladder: a real Envoy before real model servers that die, fill up and change."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import httpx
import pytest
from support.models import ROW, publish
from support.processes import wait_until
from support.promotion import release_of
from support.two_sites import World, stopping
from typer.testing import CliRunner

from ninelives.breaker.control import close_breaker, last_change, open_breaker
from ninelives.cli import app
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.ports import VersionSplit
from ninelives.recovery.standby import ServiceReadiness
from ninelives.recovery.why import explain
from ninelives.releases.publish import stage
from ninelives.serving.protocol import encode_request

pytestmark = pytest.mark.stack
TOKENS = itertools.count(1_000_000)  # above the ledger's


class LadderWorld(World):
    """``beta`` falls back to ``gamma``'s model, then to kept answers; ``alpha`` to kept answers only."""

    def estate(self, **changes: Any) -> Estate:
        document = super().estate().model_dump(mode="json")
        alpha, beta, _ = document["services"]
        alpha["fallback"]["cached_for"] = "1h"
        beta["fallback"] |= {"service": "gamma", "cached_for": "1h"}
        beta["capacity"] = 40  # of two replicas within 250 ms: ten under way, two of batch
        return Estate.model_validate(document | changes)

    def post(self, service: str) -> httpx.Response:
        path = f"{self.envoy.url}/services/{service}/v2/models/{service}/infer"
        return self.client.post(path, json=encode_request([ROW]))

    @cached_property
    def client(self) -> httpx.Client:
        """Each request on a connection of its own, so that each worker of the gateway gets some."""
        return httpx.Client(trust_env=False, headers={"connection": "close"})

    def rung(self, service: str) -> str | None:
        return self.post(service).headers.get("x-ninelives-degraded")

    def warm(self, service: str) -> None:
        """So many that every worker of the gateway has kept the answer."""
        for _ in range(25):
            assert self.post(service).status_code == 200

    def unload(self, *models: str) -> None:
        """Out of service everywhere, although every process runs."""
        for site in self.sites:
            for replica in self.systems().replicas(site):
                for model in models:
                    replica.unload(model)

    def load(self, *models: str) -> None:
        for site in self.sites:
            for replica in self.systems().replicas(site):
                for model in models:
                    replica.load(model)
        for model in models:
            self.envoy.await_healthy(model, paris=1, dublin=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LadderWorld]:
    world = LadderWorld(tmp_path_factory.mktemp("breaker"))
    with stopping(*world.sites.values(), world.envoy):
        world.start()
        yield world


@pytest.fixture
def world(whole: LadderWorld) -> Iterator[LadderWorld]:
    yield whole
    for service in whole.envoy.gateway.state().open_breakers:
        close_breaker(whole.systems(), service, by="ada", holder="first")
    whole.load("alpha", "beta", "gamma")


def test_the_ladder_is_climbed_down_rung_by_rung_each_marked_and_counted(world: LadderWorld) -> None:
    assert world.rung("beta") is None
    world.warm("alpha")
    world.warm("beta")
    before = Counter(world.envoy.gateway.breaker("beta").answers)
    world.unload("beta")
    smaller = world.post("beta")
    assert (smaller.status_code, smaller.headers["x-ninelives-degraded"]) == (200, "smaller")
    assert smaller.json()["model_name"] == "gamma"
    assert smaller.headers["x-ninelives-site"] in world.sites
    world.unload("gamma", "alpha")
    wait_until(lambda: world.rung("beta") == "cached", "kept answers")
    kept = world.post("beta")
    assert kept.json()["outputs"][0]["data"] == [3.5]
    assert (kept.headers["x-ninelives-model-version"], int(kept.headers["age"]) < 60) == ("1", True)
    other = {**ROW, "a": 2.5}  # a request that nobody asked before
    url = f"{world.envoy.url}/services/beta/v2/models/beta/infer"
    last = httpx.post(url, json=encode_request([other]))
    assert (last.status_code, last.headers["x-ninelives-degraded"]) == (200, "default")
    wait_until(lambda: world.rung("alpha") == "cached", "alpha has no smaller model")

    after = Counter(world.envoy.gateway.breaker("beta").answers) - before
    assert after["smaller"] >= 1
    assert after["cached"] >= 2
    assert after["default"] >= 1


def test_after_a_change_of_version_no_answer_of_the_old_one_is_served_again(world: LadderWorld) -> None:
    """A promotion as the gateway sees it: the new release is loaded, then the switch is made in one step."""
    world.warm("alpha")
    for site in world.sites.values():
        publish(site.store, "alpha", version="2", bias=1.0)
    world.load("alpha")
    world.envoy.gateway.split("alpha", None, token=next(TOKENS))
    try:
        world.unload("alpha")
        world.envoy.await_healthy("alpha", paris=0, dublin=0)
        assert {world.rung("alpha") for _ in range(25)} == {"default"}
        world.load("alpha")
        world.warm("alpha")
        world.unload("alpha")
        wait_until(lambda: world.rung("alpha") == "cached", "answers of version 2 are kept")
        assert {world.post("alpha").headers.get("x-ninelives-model-version") for _ in range(25)} <= {"2", None}
    finally:
        for site in world.sites.values():
            publish(site.store, "alpha")
        world.load("alpha")
        world.envoy.gateway.split("alpha", None, token=next(TOKENS))


def test_after_a_rollback_no_answer_of_the_version_that_was_taken_back_is_served_again(world: LadderWorld) -> None:
    """A promotion has one token from its begin to its end; only what it says of versions differs."""
    gateway, token = world.envoy.gateway, next(TOKENS)
    replicas = [one for site in world.sites for one in world.systems().replicas(site)]
    for site in world.sites.values():
        stage(site.store, *release_of("2", 1.0))
    for replica in replicas:
        replica.load_version("alpha", "2")
    try:
        gateway.split("alpha", VersionSplit("1", {"2": 100, "1": 0}), token=token)
        world.warm("alpha")
        assert world.post("alpha").json()["outputs"][0]["data"] == [4.5]
        world.unload("alpha")
        wait_until(lambda: world.rung("alpha") == "cached", "answers of version 2 are kept")
        gateway.split("alpha", VersionSplit("1", {"1": 100}), token=token)
        assert {world.rung("alpha") for _ in range(25)} == {"default"}
    finally:
        gateway.split("alpha", None, token=next(TOKENS))


def test_after_a_failover_no_answer_from_before_it_is_served_again(world: LadderWorld) -> None:
    world.warm("alpha")
    world.envoy.gateway.move("alpha", "dublin", token=next(TOKENS))
    world.unload("alpha")
    world.envoy.await_healthy("alpha", paris=0, dublin=0)
    assert {world.rung("alpha") for _ in range(25)} == {"default"}
    world.load("alpha")
    world.envoy.gateway.move("alpha", "paris", token=next(TOKENS))


def test_an_open_breaker_leaves_the_ladder_or_503_survives_a_restart_and_is_on_record(
    world: LadderWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = world.systems()
    record = open_breaker(systems, "beta", by="ada", reason="wrong since noon", holder="first")
    assert {world.rung("beta") for _ in range(20)} == {"smaller"}
    open_breaker(systems, "gamma", by="ada", reason="the same", holder="first")
    refused = world.post("gamma")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]
    assert world.rung("beta") == "smaller"  # gamma's own path is closed to its users; its replicas are whole
    readiness = ServiceReadiness("gamma", "active-active", ("paris", "dublin"), (), datetime.now(UTC))
    told = [one.text for one in explain(systems, systems.estate.service_by_name["gamma"], readiness)]
    assert any("ada opened it: the same." in one for one in told), told
    world.envoy.kill()
    world.envoy.gateway.initialise()
    world.envoy.start()
    assert world.post("gamma").status_code == 503

    monkeypatch.setattr("ninelives.cli.breaker.connected", world.systems)  # whose ledger is a file
    shown = CliRunner().invoke(app, ["breaker", "show", "gamma", "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert (document["open"], document["changed"]["by"], document["changed"]["reason"]) == (True, "ada", "the same")
    assert document["answers"]["error"] >= 1
    closed = CliRunner().invoke(app, ["breaker", "close", "gamma", "--by", "ada", "--reason", "rolled back"])
    assert closed.exit_code == 0, closed.output
    assert "closed (closed by ada: rolled back" in closed.stdout
    assert world.rung("gamma") is None
    assert CliRunner().invoke(app, ["breaker", "show", "omega"]).exit_code == 2

    with pytest.raises(Refused, match="no operator"):
        close_breaker(systems, "beta", by="mallory", holder="first")
    with pytest.raises(Refused, match="older"):
        world.envoy.gateway.close_breaker("beta", token=record.facts["token"] - 1)
    close_breaker(systems, "beta", by="ada", holder="first")
    newest = last_change(systems, "beta")
    assert newest
    assert newest.facts["state"] == "closed"
    assert world.rung("beta") is None


def test_what_is_over_the_limit_is_shed_at_once_and_batch_takes_no_place_from_users(world: LadderWorld) -> None:
    """A batch job asks for 30 slow answers at once; users ask meanwhile."""
    url = f"{world.envoy.url}/services/beta/v2/models/beta/infer"
    rows = encode_request([ROW] * 3000)

    async def flood() -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=None)) as client:
            batch = [client.post(url, json=rows, headers={"x-ninelives-class": "batch"}) for _ in range(30)]
            users = [client.post(url, json=encode_request([ROW])) for _ in range(6)]
            done = await asyncio.gather(*batch, *users)
            return done[:30], done[30:]

    batch, users = asyncio.run(flood())
    shed = [answer for answer in batch if answer.status_code == 503]
    assert shed, Counter(answer.status_code for answer in batch)
    assert all(answer.headers["retry-after"] == "1" for answer in shed)
    assert not any("x-ninelives-degraded" in answer.headers for answer in batch)  # a batch job wants real answers
    assert Counter(answer.status_code for answer in users) == {200: 6}
    assert not any("x-ninelives-degraded" in answer.headers for answer in users)
    seen = world.envoy.gateway.breaker("beta")
    assert seen.shed["batch"] >= len(shed)
    assert seen.shed["inference"] == 0
    assert seen.remaining == {"inference": 10, "batch": 2}
