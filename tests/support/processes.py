"""Real processes for tests: object stores, model servers and a gateway, each in a process group of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from ninelives.adapters.envoy import EnvoyGateway
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.estate import Estate
from ninelives.ports import Connection

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 30.0, every: float = 0.02) -> Any:
    """The first true value of ``condition``; what it raises counts as not yet."""
    deadline, last = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
            last = None
        except Exception as error:
            last = error
        time.sleep(every)
    raise AssertionError(f"{what} did not happen within {timeout} s ({last!r})")


def program(name: str) -> str:
    """Path of a program that the lock installs beside this Python."""
    return str(BIN / name)


class Process:
    """A child in its own process group; output goes to ``log``."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command, self.log = command, log
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "include"), **(environment or {})}
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.child is not None
        os.killpg(self.child.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.child is not None and self.child.poll() is None:
            self.signal(signal.SIGKILL)
            self.child.wait(10)

    def terminate(self, timeout: float = 15) -> int:
        """SIGTERM; the exit code."""
        assert self.child is not None
        self.signal(signal.SIGTERM)
        return self.child.wait(timeout)

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.poll() is None


class SiteProcesses:
    """A site as the local estate has it: one object store with keys and some model servers, on free ports."""

    def __init__(
        self, name: str, folder: Path, *, models: str, replicas: int = 2, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.folder = name, folder
        self.login, self.password, self.key = f"key{name}", secrets.token_hex(16), secrets.token_hex(16)
        self.store_port = free_port()
        self.replica_ports = [free_port() for _ in range(replicas)]
        disk = folder / "store"
        disk.mkdir(parents=True)
        self.connections_file = folder / "connections.json"
        self.connections_file.write_text(json.dumps(self.connections()))
        self.connections_file.chmod(0o600)
        self.store_process = Process(
            [
                program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{self.store_port}",
                "--config", "/dev/null", str(disk),
            ],
            folder / "store.log",
            {"RCLONE_AUTH_KEY": f'"{self.login},{self.password}"'},
        )  # fmt: skip
        self.replica_processes = [
            Process(
                [sys.executable, "-m", "ninelives.serving.server"],
                folder / f"replica-{number}.log",
                {
                    "NINELIVES_SITE": name,
                    "NINELIVES_PORT": str(port),
                    "NINELIVES_CONNECTIONS": str(self.connections_file),
                    "NINELIVES_MODELS": models,
                    "NINELIVES_CACHE": str(folder / f"cache-{number}"),
                    **(environment or {}),
                },
            )
            for number, port in enumerate(self.replica_ports)
        ]

    def connections(self) -> dict[str, Any]:
        return {
            f"ninelives_{self.name}_store": {
                "conn_type": "aws",
                "login": self.login,
                "password": self.password,
                "extra": {"endpoint_url": f"http://127.0.0.1:{self.store_port}", "region_name": "us-east-1"},
            },
            f"ninelives_{self.name}_replicas": {
                "conn_type": "generic",
                "password": self.key,
                "extra": {"urls": self.urls},
            },
        }

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.replica_ports]

    @cached_property
    def store(self) -> S3ObjectStore:
        document = self.connections()[f"ninelives_{self.name}_store"]
        return S3ObjectStore.from_connection(
            Connection("store", login=document["login"], password=document["password"], extra=document["extra"]),
            self.name,
        )

    @property
    def processes(self) -> list[Process]:
        return [self.store_process, *self.replica_processes]

    def start_store(self) -> S3ObjectStore:
        self.store_process.start()
        store = self.store
        wait_until(lambda: store.ping() is None, f"the store of {self.name} answers")
        store.ensure_bucket("models")
        return store

    def start_replicas(self) -> None:
        for process in self.replica_processes:
            process.start()

    def lose(self) -> None:
        """kill -9 of everything, the disk stays."""
        for process in self.processes:
            if process.running:
                process.signal(signal.SIGKILL)
        for process in self.processes:
            process.kill()


class GatewayProcess:
    """Envoy before some sites, steered by the real adapter."""

    def __init__(self, estate: Estate, sites: Sequence[SiteProcesses], folder: Path, **settings: Any) -> None:
        self.url, self.admin = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self.folder = folder
        endpoints = {site.name: [f"127.0.0.1:{port}" for port in site.replica_ports] for site in sites}
        self.gateway = EnvoyGateway(folder, estate, endpoints, self.url.removeprefix("http://"), self.admin, **settings)
        self.gateway.initialise()
        self.process = Process(
            [
                program("envoy"), "-c", str(folder / "bootstrap.yaml"), "--disable-hot-restart",
                "--file-flush-interval-msec", "100", "--concurrency", "2", "--log-level", "warning",
            ],
            folder / "envoy.log",
        )  # fmt: skip

    def start(self) -> None:
        """Start and wait until Envoy has read everything and made its first health checks."""
        self.process.start()
        wait_until(lambda: httpx.get(f"{self.admin}/ready", timeout=1).status_code == 200, "Envoy is ready")

    def kill(self) -> None:
        self.process.kill()

    def requests(self) -> list[dict[str, Any]]:
        """The access log, which shares a file with Envoy's own warnings; a line half written is left out."""
        lines = self.process.log.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def await_healthy(self, service: str, **replicas: int) -> None:
        """Wait until the gateway sees so many healthy replicas per site."""
        wait_until(lambda: dict(self.gateway.healthy_sites(service)) == replicas, f"{service} is healthy: {replicas}")


@contextmanager
def stopping(*owners: Process | SiteProcesses | GatewayProcess) -> Iterator[None]:
    """Whatever happens inside, nothing is left running."""
    try:
        yield
    finally:
        for owner in owners:
            owner.lose() if isinstance(owner, SiteProcesses) else owner.kill()
