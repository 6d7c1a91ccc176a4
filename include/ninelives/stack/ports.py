"""Which loopback port each process of the local estate listens on."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil

from ninelives.errors import Refused

BASE_VARIABLE = "NINELIVES_PORT_BASE"
DEFAULT_BASE = 18400
REPLICAS = 2
"""Model servers per site."""
_FIRST_SITE = 10
_PER_SITE = 5


@dataclass(frozen=True)
class SitePorts:
    store: int
    replicas: tuple[int, ...]
    link: int
    """The way to the store from outside the site."""


@dataclass(frozen=True)
class Ports:
    """Fixed offsets from one base, so that two clones need nothing but two bases."""

    base: int
    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        last = self.base + _FIRST_SITE + _PER_SITE * len(self.sites)
        if not (self.base >= 1024 and last <= 65535):
            raise Refused(
                f"{BASE_VARIABLE}={self.base}", [f"ports from 1024 to 65535 are usable, {last} would be the last"]
            )

    @property
    def gateway(self) -> int:
        return self.base

    @property
    def gateway_admin(self) -> int:
        return self.base + 1

    @property
    def airflow(self) -> int:
        return self.base + 2

    @property
    def mlflow(self) -> int:
        return self.base + 3

    @property
    def postgres(self) -> int:
        return self.base + 4

    @property
    def vault(self) -> int:
        return self.base + 5

    def site(self, name: str) -> SitePorts:
        first = self.base + _FIRST_SITE + _PER_SITE * self.sites.index(name)
        replicas = tuple(range(first + 1, first + 1 + REPLICAS))
        return SitePorts(first, replicas, link=replicas[-1] + 1)

    def named(self) -> dict[str, int]:
        """What listens where, in words."""
        ports = {
            "gateway": self.gateway,
            "gateway-admin": self.gateway_admin,
            "airflow-api": self.airflow,
            "mlflow": self.mlflow,
            "postgres": self.postgres,
            "vault": self.vault,
        }
        for name in self.sites:
            site = self.site(name)
            ports |= {f"{name}-store": site.store, f"{name}-link": site.link}
            ports |= {f"{name}-replica-{number}": port for number, port in enumerate(site.replicas, 1)}
        return ports


def port_base(recorded: int | None) -> int:
    """From the environment, else as recorded at the last start, else the default; raises ``Refused``."""
    text = os.environ.get(BASE_VARIABLE)
    if text is None:
        return recorded or DEFAULT_BASE
    if not text.isdecimal():
        raise Refused(f"{BASE_VARIABLE}={text}", ["it must be a whole number such as 18400"])
    return int(text)


def check_free(ports: dict[str, int]) -> None:
    """Raise ``Refused`` naming every port that is taken, by whom, and what to set."""
    taken = {what: port for what, port in ports.items() if _is_taken(port)}
    if taken:
        holders = _holders(taken.values())
        reasons = [
            f"port {port} ({what}) is held by {holders.get(port, 'a process of another user')}"
            for what, port in taken.items()
        ]
        raise Refused("cannot start", [*reasons, f"stop what holds it, or set {BASE_VARIABLE} to another base"])


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: a port that is only in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise
        return False


def _holders(ports: Iterable[int]) -> dict[int, str]:
    wanted = set(ports)
    return {port: f"{name} (pid {pid})" for port, pid, name in _listeners() if port in wanted}


def _listeners() -> Iterator[tuple[int, int, str]]:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr:
            try:
                yield connection.laddr.port, connection.pid, psutil.Process(connection.pid).name()
            except psutil.NoSuchProcess:
                continue
