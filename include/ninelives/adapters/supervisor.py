"""Processes under supervisord, through its XML-RPC interface on a Unix socket or on HTTP."""

from __future__ import annotations

import base64
import http.client
import socket
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from ninelives.errors import Unavailable
from ninelives.ports import Connection, ProcessState

_NOT_RUNNING = 70  # supervisor.xmlrpc.Faults
_ALREADY_STARTED = 60


@dataclass(frozen=True)
class ProcessInfo:
    """One program as supervisord sees it."""

    group: str
    name: str
    state: str
    """STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN"""
    pid: int | None
    uptime: float | None
    """seconds, ``None`` unless running"""
    detail: str


class Supervisor:
    """One supervisord. Every method raises ``Unavailable`` when it does not answer within ``timeout`` seconds."""

    def __init__(self, server: str, login: str | None, password: str | None, *, timeout: float = 10.0) -> None:
        self._server = server
        transport = _Transport(server, login, password, timeout)
        url = server if server.startswith("http") else "http://localhost"
        self._proxy = xmlrpc.client.ServerProxy(f"{url.rstrip('/')}/RPC2", transport=transport, allow_none=True)

    def call(self, method: str, *arguments: object, tolerate: frozenset[int] = frozenset()) -> Any:
        """Call ``supervisor.<method>``; returns ``None`` for a fault whose code is in ``tolerate``."""
        try:
            return getattr(self._proxy, f"supervisor.{method}")(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in tolerate:
                return None
            about = f" {arguments[0]}" if arguments else ""
            raise Unavailable(f"supervisord did not {method}{about}: {fault.faultString}") from fault
        except xmlrpc.client.ProtocolError as error:
            raise Unavailable(f"supervisord at {self._server} refused {method}: {error.errmsg}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"supervisord at {self._server} does not answer ({error}); see `ninelives stack status`"
            ) from error

    def pid(self) -> int:
        return int(self.call("getPID"))

    def processes(self, group: str | None = None) -> list[ProcessInfo]:
        """Every program, or those of one group, in the order of the configuration."""
        infos = [_info(raw) for raw in self.call("getAllProcessInfo")]
        return [info for info in infos if group is None or info.group == group]

    def start(self, group: str, name: str) -> None:
        """Ask for a program to be started and return at once; one that runs already is left alone."""
        self.call("startProcess", f"{group}:{name}", False, tolerate=frozenset({_ALREADY_STARTED}))

    def stop(self, group: str, name: str) -> None:
        """Ask for a program to be stopped and return at once; one that is stopped already is left alone."""
        self.call("stopProcess", f"{group}:{name}", False, tolerate=frozenset({_NOT_RUNNING}))

    def signal(self, group: str, name: str, signal: str) -> None:
        self.call("signalProcess", f"{group}:{name}", signal, tolerate=frozenset({_NOT_RUNNING}))


class SupervisorSite:
    """A site whose processes are one supervisord group, configured with ``stopsignal=KILL`` and ``killasgroup``."""

    def __init__(
        self, site: str, supervisor: Supervisor, group: str, answers: tuple[str, ...] = (), *, patience: float = 60.0
    ) -> None:
        self.site = site
        self._supervisor = supervisor
        self._group = group
        self._answers = answers
        self._patience = patience

    @classmethod
    def from_connection(cls, conn: Connection, site: str) -> SupervisorSite:
        """``extra``: ``server``, ``group`` and, optional, ``answers``: URLs that answer once the site is back."""
        supervisor = Supervisor(conn.extra["server"], conn.login, conn.password)
        return cls(site, supervisor, conn.extra.get("group", site), tuple(conn.extra.get("answers", ())))

    def lose(self) -> datetime:
        """Kill -9 everything of the site; the instant is taken just before, so an outage is never understated."""
        self._members()
        instant = datetime.now(UTC)
        self._supervisor.call("stopProcessGroup", self._group, False)

        def left() -> list[str]:
            still = [info for info in self._members() if info.state not in {"STOPPED", "FATAL"}]
            for info in still:
                # One that crashed a moment ago is EXITED: it cannot be stopped, and supervisord starts it once more.
                self._supervisor.stop(info.group, info.name)
            return [f"{info.name} ({info.state})" for info in still]

        self._wait(left, "was killed but is not gone")
        return instant

    def restore(self) -> None:
        """Start every process that is not running, and return when the site answers."""
        for info in self._members():
            self._supervisor.start(info.group, info.name)

        def left() -> list[str]:
            members = self._members()
            if fatal := [info.name for info in members if info.state == "FATAL"]:
                raise Unavailable(f"site {self.site}: {', '.join(fatal)} cannot run; see their logs")
            return [f"{info.name} ({info.state})" for info in members if info.state != "RUNNING"]

        self._wait(left, "was started but does not run")
        self._wait(lambda: [url for url in self._answers if not answers(url)], "runs but does not answer")

    def processes(self) -> list[ProcessState]:
        return [
            ProcessState(info.name, info.state == "RUNNING", info.pid, info.detail or info.state)
            for info in self._members()
        ]

    def _members(self) -> list[ProcessInfo]:
        members = self._supervisor.processes(self._group)
        if not members:
            raise Unavailable(f"site {self.site}: supervisord has no group {self._group}; was the estate changed?")
        return members

    def _wait(self, left: Callable[[], list[str]], what: str) -> None:
        """Poll until nothing is ``left``."""
        deadline = time.monotonic() + self._patience
        while names := left():
            if time.monotonic() > deadline:
                raise Unavailable(f"site {self.site} {what} within {self._patience:.0f} s: {', '.join(names)}")
            time.sleep(0.05)


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether something speaks HTTP at ``url``: refusing an unsigned request is an answer, a server error is not."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=timeout)
    try:
        connection.request("GET", target.path or "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _info(raw: dict[str, Any]) -> ProcessInfo:
    running = raw["statename"] == "RUNNING"
    return ProcessInfo(
        group=raw["group"],
        name=raw["name"],
        state=raw["statename"],
        pid=raw["pid"] or None,
        uptime=float(raw["now"] - raw["start"]) if running else None,
        detail=raw["spawnerr"] or raw["description"],
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    """The standard library's transport with basic authentication, a timeout, and Unix sockets.

    supervisor's own transport has no timeout: a drill that asks a stopped supervisord would wait for ever.
    """

    def __init__(self, server: str, login: str | None, password: str | None, timeout: float) -> None:
        headers = []
        if login is not None:
            token = base64.b64encode(f"{login}:{password or ''}".encode()).decode()
            headers.append(("Authorization", f"Basic {token}"))
        super().__init__(headers=headers)
        self._server = server
        self._timeout = timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        # A new connection per call: supervisord closes idle ones, and callers live in several threads.
        if self._server.startswith("unix://"):
            return _UnixConnection(self._server.removeprefix("unix://"), self._timeout)
        return http.client.HTTPConnection(self.get_host_info(host)[0], timeout=self._timeout)
