"""Object stores, model servers and Envoy as real processes: what users get while sites die, close and move."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from support.models import ROW, estate_of_two_sites, publish
from support.processes import ROOT, GatewayProcess, SiteProcesses, free_port, stopping, wait_until

from ninelives.adapters.envoy import EnvoyGateway
from ninelives.adapters.open_inference import GatewayClient, V2Replica
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.ports import Answer
from ninelives.serving.protocol import decode_response, encode_request
from ninelives.serving.warm_up import settle

pytestmark = pytest.mark.stack
MODELS = ("alpha", "beta", "gamma")
TOKENS = itertools.count(1)


@dataclass
class Stack:
    """Two sites with two replicas each behind Envoy; shared by the tests, each of which leaves it whole."""

    sites: dict[str, SiteProcesses]
    envoy: GatewayProcess

    @property
    def gateway(self) -> EnvoyGateway:
        return self.envoy.gateway

    def ask(self, service: str) -> Answer:
        return GatewayClient(self.envoy.url, service, service)([ROW])

    def replicas(self, site: str) -> list[V2Replica]:
        return [V2Replica(url, key=self.sites[site].key) for url in self.sites[site].urls]

    def make_whole(self) -> None:
        """Everything runs and is healthy, all sites are open, ``alpha`` is at paris."""
        for site in self.sites.values():
            for process in site.processes:
                if process.running:
                    process.signal(signal.SIGCONT)
                else:
                    process.start()
        if not self.envoy.process.running:
            self.envoy.start()
        for site in self.sites:
            self.gateway.open_site(site, token=next(TOKENS))
        # Envoy may still hold for healthy what was killed a moment ago.
        for replica in (replica for site in self.sites for replica in self.replicas(site)):
            wait_until(lambda one=replica: all(one.ready(model) for model in MODELS), "a replica is ready")
        for service in MODELS:
            self.envoy.await_healthy(service, paris=2, dublin=2)
        self.gateway.move("alpha", "paris", token=next(TOKENS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("gateway")
    sites = {name: SiteProcesses(name, folder / name, models=",".join(MODELS)) for name in ("paris", "dublin")}
    envoy = GatewayProcess(estate_of_two_sites(), list(sites.values()), folder / "gateway")
    with stopping(*sites.values(), envoy):
        for site in sites.values():
            store = site.start_store()
            for model in MODELS:
                publish(store, model)
            site.start_replicas()
        stack = Stack(sites, envoy)
        stack.make_whole()
        yield stack


@pytest.fixture
def stack(whole: Stack) -> Stack:
    whole.make_whole()
    return whole


@dataclass
class Load:
    """Open-loop load on one service: every request is sent on schedule, whatever the others do."""

    url: str
    service: str
    rate: float
    outcomes: list[tuple[float, float, str, str | None]] = field(default_factory=list)
    """When it was sent and answered (monotonic s), what came (``good``, ``degraded`` or the failure), whence."""

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
        async with (
            httpx.AsyncClient(timeout=10, trust_env=False, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            started = time.monotonic()
            for number in itertools.count():
                if self._stop.is_set():
                    return
                await asyncio.sleep(max(0.0, started + number / self.rate - time.monotonic()))
                tasks.create_task(self._ask(client))

    async def _ask(self, client: httpx.AsyncClient) -> None:
        sent, site = time.monotonic(), None
        try:
            path = f"{self.url}/services/{self.service}/v2/models/{self.service}/infer"
            answer = await client.post(path, json=encode_request([ROW]))
            if answer.status_code == 200:
                decoded = decode_response(answer.json(), answer.headers, 0)
                right = decoded.outputs["total"] == [3.5]
                outcome = "degraded" if decoded.degraded else "good" if right else "wrong"
                site = decoded.site
            else:
                outcome = str(answer.status_code)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        self.outcomes.append((sent, time.monotonic(), outcome, site))

    @property
    def slowest(self) -> float:
        """Seconds, the client's own delay on a busy machine included."""
        return max(done - sent for sent, done, _, _ in self.outcomes)

    def counts(self) -> Counter[str]:
        return Counter(outcome for _, _, outcome, _ in self.outcomes)

    def await_more(self, requests: int) -> None:
        """Return after so many further answers."""
        target = len(self.outcomes) + requests
        wait_until(lambda: len(self.outcomes) >= target, f"{requests} more answers", timeout=60)


def logged_durations(stack: Stack, service: str) -> list[int]:
    """Milliseconds that each request to ``service`` took in the gateway so far."""
    return [entry["duration_ms"] for entry in stack.envoy.requests() if entry["service"] == service]


def test_active_active_loses_no_request_when_a_whole_site_is_killed_under_200_per_second(
    stack: Stack,
) -> None:
    with Load(stack.envoy.url, "gamma", rate=200) as load:
        load.await_more(300)
        stack.sites["paris"].lose()
        load.await_more(900)
        assert stack.gateway.healthy_sites("gamma")["dublin"] == 2
    longest = max(logged_durations(stack, "gamma"))
    print(f"kill -9 of a site at 200/s: {dict(load.counts())}; slowest {load.slowest:.3f} s, in Envoy {longest} ms")
    assert set(load.counts()) == {"good"}, load.counts()
    wait_until(lambda: "paris" in stack.gateway.unhealthy_sites(), "the gateway sees that paris is gone")
    assert "dublin" not in stack.gateway.unhealthy_sites()


def test_a_hung_site_costs_no_request_either(stack: Stack) -> None:
    with Load(stack.envoy.url, "gamma", rate=50) as load:
        load.await_more(100)
        for process in stack.sites["dublin"].replica_processes:
            process.signal(signal.SIGSTOP)
        load.await_more(250)
    print(f"SIGSTOP of a site at 50/s: {dict(load.counts())}; slowest {load.slowest:.3f} s")
    assert set(load.counts()) == {"good"}, load.counts()


def test_a_move_is_in_effect_when_it_returns_and_loses_nothing(stack: Stack) -> None:
    with Load(stack.envoy.url, "alpha", rate=100) as load:
        load.await_more(100)
        started = time.monotonic()
        stack.gateway.move("alpha", "dublin", token=next(TOKENS))
        moved = time.monotonic()
        load.await_more(150)
    print(f"move: {(moved - started) * 1000:.0f} ms")
    assert set(load.counts()) == {"good"}, load.counts()
    assert {site for _, done, _, site in load.outcomes if done < started} == {"paris"}
    assert {site for sent, _, _, site in load.outcomes if sent > moved} == {"dublin"}


def test_a_closed_site_gets_nothing_not_even_when_it_is_back_until_it_is_opened(stack: Stack) -> None:
    stack.sites["paris"].lose()
    stack.gateway.close_site("paris", token=next(TOKENS))
    stack.envoy.await_healthy("gamma", paris=0, dublin=2)  # else what was healthy before would be waited for
    for process in stack.sites["paris"].processes:
        process.start()
    stack.envoy.await_healthy("gamma", paris=2, dublin=2)  # seen as healthy, and still without traffic
    assert {stack.ask("gamma").site for _ in range(40)} == {"dublin"}
    stack.gateway.open_site("paris", token=next(TOKENS))
    assert {stack.ask("gamma").site for _ in range(40)} == {"paris", "dublin"}


def test_without_a_replica_the_fallback_answers_marked_and_only_where_it_is_declared(stack: Stack) -> None:
    stack.sites["paris"].lose()  # alpha's active site: its traffic must not go to dublin by itself
    answer = stack.ask("alpha")
    assert (answer.degraded, answer.outputs, answer.model_version) == ("default", {"total": [7.0]}, None)
    assert stack.ask("beta").degraded is None
    url = f"{stack.envoy.url}/services/alpha/v2/models/alpha"
    assert httpx.get(f"{url}/ready").status_code == 503
    stack.sites["dublin"].lose()
    wait_until(lambda: stack.ask("beta").degraded == "default", "beta falls back")
    with pytest.raises(Unavailable, match="503"):
        stack.ask("gamma")


def test_replicas_that_all_answer_with_errors_lead_to_the_fallback_from_the_first_request_on(stack: Stack) -> None:
    for site in stack.sites:
        for replica in stack.replicas(site):
            replica.unload("beta")
    try:
        assert {stack.ask("beta").degraded for _ in range(20)} == {"default"}
    finally:
        for site in stack.sites:
            for replica in stack.replicas(site):
                replica.load("beta")


def test_an_error_of_the_user_stays_one_and_never_becomes_the_fallback(stack: Stack) -> None:
    url = f"{stack.envoy.url}/services/alpha/v2/models/alpha/infer"
    bodies = {b"{": 400, b"[" * 100_000: 400, b'{"inputs": [NaN]}': 400, b"\xff": 400, b"x" * (2 << 20): 413}
    for body, status in bodies.items():
        answer = httpx.post(url, content=body)
        assert (answer.status_code, answer.headers.get("x-ninelives-degraded")) == (status, None)
        assert answer.json()["error"]


def test_nothing_but_infer_and_ready_is_routed(stack: Stack) -> None:
    gateway = stack.envoy.url
    for path in (
        "/v2/models/alpha/infer",
        "/v2/repository/index",
        "/services/alpha/v2/repository/index",
        "/services/alpha/v2/repository/models/alpha/unload",
        "/services/alpha/v2/models/beta/infer",
        "/services/alpha/v2/models/alpha/infer/../../../../repository/index",
        "/services/alpha/v2/models/alpha/infer%2f..%2funload",
    ):
        assert httpx.post(gateway + path, json={}).status_code in (400, 404), path
    assert httpx.get(f"{gateway}/services/alpha/v2/models/alpha/ready").status_code == 200


def test_users_cannot_pose_as_the_gateway_nor_change_its_retries(stack: Stack) -> None:
    hostile = {"x-ninelives-degraded": "no", "x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-max-retries": "0"}
    url = f"{stack.envoy.url}/services/gamma/v2/models/gamma/infer"
    answers = [httpx.post(url, json=encode_request([ROW]), headers=hostile) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert not any("x-ninelives-degraded" in answer.headers for answer in answers)


def test_an_older_token_is_refused_and_changes_nothing(stack: Stack) -> None:
    old, new = next(TOKENS), next(TOKENS)
    stack.gateway.move("alpha", "dublin", token=new)
    stack.gateway.move("alpha", "dublin", token=new)  # the same lease may repeat itself
    with pytest.raises(Refused, match="older"):
        stack.gateway.move("alpha", "paris", token=old)
    assert stack.gateway.state().active["alpha"] == ("dublin",)
    assert stack.ask("alpha").site == "dublin"
    site_token = next(TOKENS)
    stack.gateway.close_site("paris", token=site_token)
    with pytest.raises(Refused, match="older"):
        stack.gateway.open_site("paris", token=site_token - 1)
    assert stack.gateway.state().closed_sites == {"paris"}


@pytest.mark.parametrize(
    ("move", "reason"),
    [(("gamma", "paris"), "active-active"), (("alpha", "rome"), "not declared"), (("omega", "paris"), "no service")],
)
def test_a_move_that_makes_no_sense_is_refused(stack: Stack, move: tuple[str, str], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        stack.gateway.move(*move, token=next(TOKENS))


def test_traffic_moves_neither_to_a_closed_site_nor_to_one_without_a_healthy_replica(stack: Stack) -> None:
    impatient = replace(stack.gateway, target_timeout=0.2)
    stack.sites["dublin"].lose()
    wait_until(lambda: stack.gateway.healthy_sites("alpha")["dublin"] == 0, "the gateway sees that dublin is gone")
    with pytest.raises(Unavailable, match="no healthy replica"):
        impatient.move("alpha", "dublin", token=next(TOKENS))
    stack.gateway.close_site("dublin", token=next(TOKENS))
    with pytest.raises(Refused, match="closed"):
        stack.gateway.move("alpha", "dublin", token=next(TOKENS))
    assert stack.ask("alpha").site == "paris"


def test_the_last_open_site_is_closed_only_when_it_is_lost_anyway(stack: Stack) -> None:
    stack.gateway.close_site("dublin", token=next(TOKENS))
    with pytest.raises(Refused, match="last open site"):
        stack.gateway.close_site("paris", token=next(TOKENS))
    stack.sites["paris"].lose()
    wait_until(lambda: "paris" in stack.gateway.unhealthy_sites(), "the gateway sees that paris is gone")
    stack.gateway.close_site("paris", token=next(TOKENS))
    assert stack.gateway.state().closed_sites == {"paris", "dublin"}
    assert stack.ask("beta").degraded == "default"


def test_a_replica_told_to_stop_says_that_it_is_not_ready_drains_and_loses_nothing(stack: Stack) -> None:
    process, url = stack.sites["paris"].replica_processes[0], stack.sites["paris"].urls[0]
    with Load(stack.envoy.url, "gamma", rate=100) as load:
        load.await_more(100)
        assert process.child is not None
        os.kill(process.child.pid, signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 503, "it is not ready", timeout=5)
        assert httpx.get(f"{url}/v2/health/live").status_code == 200
        assert V2Replica(url).infer("gamma", [ROW]).outputs["total"] == [3.5]
        assert process.child.wait(15) == 0
        load.await_more(100)
    assert set(load.counts()) == {"good"}, load.counts()


def test_a_new_release_is_loaded_without_a_gap(stack: Stack) -> None:
    site = stack.sites["paris"]
    replica, store = stack.replicas("paris")[0], site.store
    stop, versions = threading.Event(), []

    def ask() -> None:
        client = V2Replica(replica.url)
        while not stop.is_set():
            answer = client.infer("gamma", [ROW])
            versions.append((answer.model_version, answer.outputs["total"]))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        publish(store, "gamma", version="2", bias=1.0)
        replica.load("gamma")
        wait_until(lambda: versions[-1][0] == "2", "version 2 answers")
    finally:
        stop.set()
        thread.join()
        publish(store, "gamma")
        replica.load("gamma")
    assert {(version, *total) for version, total in versions} == {("1", 3.5), ("2", 4.5)}
    assert settle(lambda: replica.infer("gamma", [ROW])).settled


def test_a_corrupted_object_and_a_model_with_wrong_answers_are_refused_and_the_good_one_stays(stack: Stack) -> None:
    replica, store = stack.replicas("dublin")[0], stack.sites["dublin"].store
    try:
        release = publish(store, "gamma", version="2", bias=2.0)
        flipped = bytearray(store.get("models", release["object"]) or b"")
        flipped[len(flipped) // 2] ^= 1
        store.put("models", release["object"], bytes(flipped))
        with pytest.raises(Corrupted, match="sha256"):
            replica.load("gamma")

        release = publish(store, "gamma", version="3", bias=3.0)
        release["golden"][0]["outputs"]["total"] = [99.0]
        store.put("models", "gamma/release.json", json.dumps(release).encode())
        with pytest.raises(Corrupted, match="not the model that was released"):
            replica.load("gamma")

        store.put("models", "gamma/release.json", json.dumps({**release, "golden": []}).encode())
        with pytest.raises(Corrupted, match="no golden answers"):
            replica.load("gamma")
        assert replica.infer("gamma", [ROW]).model_version == "1"
    finally:
        publish(store, "gamma")


def test_a_replica_restarts_without_its_store_from_its_verified_copies(stack: Stack) -> None:
    site = stack.sites["dublin"]
    site.lose()
    process, replica = site.replica_processes[0], stack.replicas("dublin")[0]
    copies = list((site.folder / "cache-0").glob("*/sha256/*.onnx"))
    assert len(copies) == len(MODELS)
    spoilt = next(copy for copy in copies if "gamma" in copy.parts)
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    process.start()
    wait_until(lambda: replica.ready("alpha") and replica.ready("beta"), "two models from the cache")
    assert replica.infer("alpha", [ROW]).outputs["total"] == [3.5]
    assert not replica.ready("gamma")  # its copy is not what was released
    assert httpx.get(f"{replica.url}/v2/health/ready").status_code == 503
    with pytest.raises(Unavailable):
        replica.load("alpha")  # an order to load means what the store says now
    site.store_process.start()
    wait_until(lambda: replica.ready("gamma"), "gamma once the store is back")


def test_the_repository_needs_its_key(stack: Stack) -> None:
    url = stack.sites["paris"].urls[0]
    for client in (V2Replica(url), V2Replica(url, key="wrong")):
        for order in (client.load, client.unload):
            with pytest.raises(Refused, match="401"):
                order("gamma")
    assert httpx.post(f"{url}/v2/repository/index").status_code == 401
    assert httpx.post(f"{url}/v2/models/gamma/infer", content=b"x" * (2 << 20)).status_code == 413


def test_health_answers_while_inference_is_busy(stack: Stack) -> None:
    url = stack.sites["paris"].urls[0]
    rows = encode_request([ROW] * 4000)
    with Load(url, "gamma", rate=1):
        threads = [threading.Thread(target=httpx.post, args=(f"{url}/v2/models/gamma/infer",), kwargs={"json": rows})
                   for _ in range(8)]  # fmt: skip
        for thread in threads:
            thread.start()
        assert V2Replica(url).live()
        for thread in threads:
            thread.join()


def test_every_request_is_logged_with_service_site_and_model_version(stack: Stack) -> None:
    stack.ask("alpha")

    def logged() -> bool:
        last = stack.envoy.requests()[-1]
        return (last["service"], last["site"], last["model_version"], last["attempts"]) == ("alpha", "paris", "1", 1)

    wait_until(logged, "the request is in the access log")


def test_what_envoy_does_not_take_is_put_back(stack: Stack) -> None:
    """A replica at an address that is none: Envoy rejects the file, and nothing of the attempt stays but the token."""
    before = stack.gateway.state()
    broken = replace(stack.gateway, listen="203.0.113.1:1")  # not an address of this machine
    token = next(TOKENS)
    with pytest.raises(Unavailable, match="did not take"):
        broken.close_site("dublin", token=token)
    assert stack.gateway.state().closed_sites == before.closed_sites
    assert stack.gateway.state().tokens["site:dublin"] == token
    stack.gateway.compile()
    assert {stack.ask("gamma").site for _ in range(40)} == {"paris", "dublin"}


def test_services_come_and_go_while_envoy_runs(stack: Stack) -> None:
    whole = stack.gateway
    without = replace(whole, estate=estate_of_two_sites(without="gamma"))
    with Load(stack.envoy.url, "beta", rate=50) as load:
        without.initialise()
        assert httpx.post(f"{stack.envoy.url}/services/gamma/v2/models/gamma/infer", json={}).status_code == 404
        assert not (stack.envoy.folder / "eds-gamma.yaml").exists()
        whole.initialise()
        wait_until(lambda: stack.ask("gamma").outputs["total"] == [3.5], "gamma answers again")
    assert set(load.counts()) == {"good"}, load.counts()


def test_the_state_survives_a_restart_of_the_gateway_and_of_whoever_steers_it(stack: Stack) -> None:
    stack.gateway.move("alpha", "dublin", token=next(TOKENS))
    stack.gateway.close_site("paris", token=next(TOKENS))
    stack.envoy.kill()
    with pytest.raises(Unavailable, match="did not answer"):
        stack.gateway.open_site("paris", token=next(TOKENS))
    assert stack.gateway.initialise().closed_sites == {"paris"}  # as at every start of the local estate
    stack.envoy.start()
    assert {stack.ask(service).site for service in MODELS for _ in range(10)} == {"dublin"}


def test_an_operation_killed_at_any_instant_is_completed_by_running_it_again(stack: Stack, tmp_path: Path) -> None:
    """The process that moves ``alpha`` is killed at ever later instants; its lock never stays behind."""
    script = tmp_path / "move.py"
    script.write_text(
        "import sys, pathlib, json\n"
        "from ninelives.adapters.envoy import EnvoyGateway\n"
        "from support.models import estate_of_two_sites\n"
        "endpoints = json.loads(sys.argv[4])\n"
        "folder, listen, admin = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "gateway = EnvoyGateway(folder, estate_of_two_sites(), endpoints, listen, admin)\n"
        "for target, token in json.loads(sys.argv[5]):\n"
        "    gateway.move('alpha', target, token=token)\n"
        "    print('moved', flush=True)\n"
    )
    gateway = stack.gateway
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'include'}:{ROOT / 'tests'}"}
    for delay in (0.0, 0.003, 0.01, 0.02, 0.04):
        moves = [("dublin" if number % 2 else "paris", next(TOKENS)) for number in range(200)]
        where = [str(gateway.folder), gateway.listen, gateway.admin, json.dumps(gateway.endpoints)]
        child = subprocess.Popen(
            [sys.executable, str(script), *where, json.dumps(moves)],
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        try:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(delay)  # an instant of the kill, not a wait for a condition
        finally:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
        last = stack.gateway.state().tokens["service:alpha"]
        assert last in {token for _, token in moves}
        stack.gateway.move("alpha", "dublin", token=next(TOKENS))
        assert {stack.ask("alpha").site for _ in range(5)} == {"dublin"}


def test_a_server_whose_store_has_no_release_yet_is_live_and_not_ready_until_it_has(tmp_path: Path) -> None:
    site = SiteProcesses("rome", tmp_path, models="alpha", replicas=1)
    with stopping(site):
        site.start_replicas()  # before its store
        replica = V2Replica(site.urls[0])
        wait_until(replica.live, "it is live")
        assert httpx.get(f"{replica.url}/v2/health/ready").status_code == 503
        with pytest.raises(Unavailable, match="503"):
            replica.infer("alpha", [ROW])
        publish(site.start_store(), "alpha")
        wait_until(lambda: httpx.get(f"{replica.url}/v2/health/ready").status_code == 200, "it is ready")
        assert replica.infer("alpha", [ROW]).site == "rome"


def test_a_server_that_is_gone_is_unavailable() -> None:
    replica = V2Replica(f"http://127.0.0.1:{free_port()}")
    calls: tuple[Callable[[], object], ...] = (
        replica.live,
        lambda: replica.ready("alpha"),
        lambda: replica.load("alpha"),
        lambda: replica.infer("alpha", [ROW]),
    )
    for call in calls:
        with pytest.raises(Unavailable):
            call()
