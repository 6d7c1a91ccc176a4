"""What users get from the gateway while replicas hang, are slow or overrun, with its breaker and ladder and without.

    python tests/benchmarks/bench_breaker.py [--seconds 12] [--only NAME]

A real Envoy before four stand-in servers at two sites with a known capacity: 50 requests a second each, 200 in all,
250 ms promised. Open loop: every request is sent on schedule, whatever the others do. Without: the same Envoy with the
same health checks and balancing, but no retries, no hedging, no ejection, no limits and no ladder, and 5 s of patience.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

PROMISED = 0.25
"""seconds"""
CALM, AFTER = 3.0, 6.0
"""Seconds before and after the trouble."""
FEATURES = 20
"""Different requests that users send."""


@dataclass
class Site:
    name: str
    replica_ports: list[int]
    processes: list[Any]


@dataclass
class Sent:
    at: float
    """Seconds since the load began."""
    took: float
    outcome: str
    kind: str


class Rig:
    def __init__(self, folder: Path, *, protected: bool) -> None:
        from support.models import estate_of_two_sites
        from support.processes import GatewayProcess, Process, free_port

        from ninelives.estate import Estate

        document = estate_of_two_sites().model_dump(mode="json")
        (beta,) = [one for one in document["services"] if one["name"] == "beta"]
        beta["capacity"] = 50
        beta["fallback"]["cached_for"] = "1h"
        document["services"], document["models"] = [beta], [one for one in document["models"] if one["name"] == "beta"]
        self.sites = []
        for name in ("paris", "dublin"):
            ports = [free_port() for _ in range(2)]
            server = str(ROOT / "tests/benchmarks/slow_server.py")
            processes = [Process([sys.executable, server, str(port), name], folder / f"{port}.log") for port in ports]
            self.sites.append(Site(name, ports, processes))
        self.envoy = GatewayProcess(Estate.model_validate(document), self.sites, folder / "gateway")
        if not protected:
            unprotect(self.envoy.folder)
        self.url = f"{self.envoy.url}/services/beta/v2/models/beta/infer"

    def __enter__(self) -> Rig:
        for process in self.processes:
            process.start()
        self.envoy.start()
        self.envoy.await_healthy("beta", paris=2, dublin=2)
        return self

    def __exit__(self, *_: object) -> None:
        self.envoy.kill()
        for process in self.processes:
            process.kill()

    @property
    def processes(self) -> list[Any]:
        return [process for site in self.sites for process in site.processes]


def unprotect(folder: Path) -> None:
    """Take the breaker out of the compiled files; health checks and balancing stay."""

    def change(name: str, edit: Any) -> None:
        path = folder / name
        document = json.loads(path.read_text())
        edit(document["resources"][0])
        path.write_text(json.dumps(document))

    def routes(document: dict[str, Any]) -> None:
        for route in document["virtual_hosts"][0]["routes"]:
            route.pop("typed_per_filter_config", None)
            for key in ("retry_policy", "hedge_policy"):
                route["route"].pop(key, None)
            route["route"]["timeout"] = "5s"

    def cluster(document: dict[str, Any]) -> None:
        document.pop("outlier_detection", None)
        for one in document["circuit_breakers"]["thresholds"]:
            one.pop("retry_budget")
            one |= {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}

    change("rds.yaml", routes)
    change("cds.yaml", cluster)


async def send(rig: Rig, plan: list[tuple[float, float, str]], trouble: Any, seconds: float) -> list[Sent]:
    """Requests at the rate of ``plan`` (until, per second, class), and ``trouble`` at its time."""
    import aiohttp

    from ninelives.serving.protocol import encode_request

    bodies = [json.dumps(encode_request([{"a": float(n), "b": 2, "tag": "x"}])).encode() for n in range(FEATURES)]
    sent: list[Sent] = []
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=10)
    timeout = aiohttp.ClientTimeout(total=6)

    async def one(client: aiohttp.ClientSession, began: float, number: int, kind: str) -> None:
        started = time.monotonic()
        headers = {"content-type": "application/json", "x-ninelives-class": kind}
        try:
            async with client.post(rig.url, data=bodies[number % FEATURES], headers=headers) as answer:
                await answer.read()
                took = time.monotonic() - started
                real = "good" if took <= PROMISED else "late"
                degraded = "x-ninelives-degraded" in answer.headers
                outcome = "failed" if answer.status != 200 else "degraded" if degraded else real
        except (aiohttp.ClientError, TimeoutError):
            took, outcome = time.monotonic() - started, "failed"
        sent.append(Sent(started - began, took, outcome, kind))

    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client, asyncio.TaskGroup() as tasks:
        began = time.monotonic()

        async def stream(kind: str, rates: list[tuple[float, float]]) -> None:
            at, number = 0.0, 0
            for until, rate in rates:
                while rate and at < until:
                    await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                    tasks.create_task(one(client, began, number, kind))
                    at, number = at + 1 / rate, number + 1
                at = max(at, until)

        for kind in dict.fromkeys(kind for _, _, kind in plan):
            tasks.create_task(stream(kind, [(until, rate) for until, rate, of in plan if of == kind]))
        if trouble:
            await asyncio.sleep(CALM)
            await trouble(rig, client)
    return sent


async def wedge(rig: Rig, client: Any) -> None:
    rig.sites[0].processes[0].signal(signal.SIGSTOP)


async def slow_site(rig: Rig, client: Any) -> None:
    for port in rig.sites[0].replica_ports:
        async with client.post(f"http://127.0.0.1:{port}/slow", json={"ms": 600}) as answer:
            await answer.read()


def recovery(sent: list[Sent], since: float, end: float) -> str:
    """Seconds from ``since`` to the first second from which on all further ones had 99 % of good answers."""
    last_bad = since
    at = since
    while at + 1 <= end:
        here = [one for one in sent if at <= one.at < at + 1]
        if here and sum(one.outcome == "good" for one in here) < 0.99 * len(here):
            last_bad = at + 1
        at += 0.25
    return f"{last_bad - since:.1f} s" if last_bad < end - 1 else "not while it lasted"


def report(name: str, protected: bool, sent: list[Sent], during: tuple[float, float], since: float, end: float) -> None:
    users = [one for one in sent if one.kind == "inference"]
    here = [one for one in users if during[0] <= one.at < during[1]]
    counts = Counter(one.outcome for one in here)
    times = sorted(one.took for one in here)
    share = {what: 100 * counts[what] / len(here) for what in ("good", "late", "degraded", "failed")}
    print(
        f"| {name} | {'with' if protected else 'without'} | {share['good']:.1f} | {share['late']:.1f} | "
        f"{share['degraded']:.1f} | {share['failed']:.1f} | {times[int(0.99 * len(times))] * 1000:.0f} | "
        f"{recovery(users, since, end)} |",
        flush=True,
    )


def added_latency(rig: Rig, requests: int = 1500) -> None:
    """One request after the other, directly and through the gateway in turn, with servers that need no time."""
    import httpx

    from ninelives.serving.protocol import encode_request

    port = rig.sites[0].replica_ports[0]
    direct, body = f"http://127.0.0.1:{port}/v2/models/beta/infer", encode_request([{"a": 1.0, "b": 2, "tag": "x"}])
    took: dict[str, list[float]] = {"direct": [], "gateway": []}
    with httpx.Client(trust_env=False) as client:
        for one in rig.sites:
            for each in one.replica_ports:
                client.post(f"http://127.0.0.1:{each}/slow", json={"work_ms": 0})
        for _ in range(requests):
            for name, url in (("direct", direct), ("gateway", rig.url)):
                started = time.perf_counter()
                client.post(url, json=body)
                took[name].append((time.perf_counter() - started) * 1000)
    for name, values in took.items():
        print(f"{name}: p50 {statistics.median(values):.2f} ms, p99 {sorted(values)[int(0.99 * requests)]:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=12, help="How long the trouble lasts.")
    parser.add_argument("--only", default="", help="One scenario: wedged, slow, overload, batch or latency.")
    options = parser.parse_args()
    until = CALM + options.seconds
    end = until + AFTER
    scenarios: dict[str, tuple[str, list[tuple[float, float, str]], Any, float]] = {
        "wedged": ("one replica of four wedged, 60/s", [(end, 60, "inference")], wedge, CALM),
        "slow": ("one site of two 600 ms late, 60/s", [(end, 60, "inference")], slow_site, CALM),
        "overload": (
            "600/s, three times what there is",
            [(CALM, 100, "inference"), (until, 600, "inference"), (end, 100, "inference")],
            None,
            until,
        ),
        "batch": (
            "600/s of batch beside 60/s of users",
            [(end, 60, "inference"), (CALM, 0, "batch"), (until, 600, "batch")],
            None,
            CALM,
        ),
    }
    print("| trouble | breaker | good % | late % | degraded % | failed % | p99 ms | good again after |")
    print("|---|---|---|---|---|---|---|---|")
    for key, (name, plan, trouble, since) in scenarios.items():
        if options.only not in ("", key):
            continue
        for protected in (True, False):
            with tempfile.TemporaryDirectory() as folder, Rig(Path(folder), protected=protected) as rig:
                sent = asyncio.run(send(rig, plan, trouble, options.seconds))
                measured_to = end if since == until else until
                report(name, protected, sent, (CALM, until), since, measured_to)
    if options.only in ("", "latency"):
        with tempfile.TemporaryDirectory() as folder, Rig(Path(folder), protected=True) as rig:
            added_latency(rig)


if __name__ == "__main__":
    main()
