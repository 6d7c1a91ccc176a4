"""A network between sites that can be cut: packets vanish, and nobody is told.

Three network namespaces of the kernel, ``control`` - ``between`` - ``away``, joined by two pairs of interfaces. What
``between`` has a blackhole for it drops without a word, each direction by itself, which is what a partition does and a
killed process does not: a refusal is an answer. Nothing of the machine's own network is touched.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE, AWAY = "10.211.1.1", "10.211.2.1"
"""Addresses of ``control`` and ``away``; they exist inside of the namespaces only."""
_NETNS = 0x40000000


class Network:
    """Between ``control``, where the product runs, and ``away``, where one site is."""

    def __init__(self) -> None:
        self._names = {one: f"nl{os.getpid()}-{one}" for one in ("control", "between", "away")}

    def make(self) -> None:
        for name in self._names.values():
            _ip("netns", "add", name)
        for end, address, gateway in (("control", HERE, "10.211.1.2"), ("away", AWAY, "10.211.2.2")):
            inside, outside = self._names[end], self._names["between"]
            _ip("-n", inside, "link", "add", "site", "type", "veth", "peer", "name", end, "netns", outside)
            _ip("-n", inside, "address", "add", f"{address}/24", "dev", "site")
            _ip("-n", outside, "address", "add", f"{gateway}/24", "dev", end)
            for namespace, device in ((inside, "lo"), (inside, "site"), (outside, end)):
                _ip("-n", namespace, "link", "set", device, "up")
            _ip("-n", inside, "route", "add", "default", "via", gateway)
        # Without the filter, which would drop what comes from where nothing may go back to: the other direction, too.
        settings = ["ip_forward=1", *(f"conf/{one}/rp_filter=0" for one in ("all", "control", "away"))]
        for setting in settings:
            name, _, value = setting.partition("=")
            script = f"echo {value} > /proc/sys/net/ipv4/{name}"
            _ip("netns", "exec", self._names["between"], "sh", "-c", script)

    def remove(self) -> None:
        for name in self._names.values():
            _ip("netns", "delete", name)

    def at(self, end: str) -> list[str]:
        """What a command begins with that is to run there."""
        return ["ip", "netns", "exec", self._names[end]]

    @contextmanager
    def cut(self, *, requests: bool = True, answers: bool = True) -> Iterator[None]:
        """Packets to ``away``, and those back, vanish."""
        lost = [address for address, gone in ((AWAY, requests), (HERE, answers)) if gone]
        for address in lost:
            _ip("-n", self._names["between"], "route", "add", "blackhole", f"{address}/32")
        try:
            yield
        finally:
            for address in lost:
                _ip("-n", self._names["between"], "route", "delete", "blackhole", f"{address}/32")

    def inside(self, call: Callable[[], Any], end: str = "control") -> Any:
        """What ``call`` returns or raises; it and all that it starts, threads and children, are in that namespace."""
        done: list[Any] = []
        wrong: list[BaseException] = []

        def run() -> None:
            try:
                with Path(f"/run/netns/{self._names[end]}").open() as namespace:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(namespace.fileno(), _NETNS):
                        raise OSError(ctypes.get_errno(), "setns")
                done.append(call())
            except BaseException as error:
                wrong.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if wrong:
            raise wrong[0]
        return done[0]


def missing() -> str | None:
    """Why no such network can be made here; ``None`` where it can."""
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    probe = f"nl{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    _ip("netns", "delete", probe)
    return None


@contextmanager
def network() -> Iterator[Network]:
    found = Network()
    try:
        found.make()
        yield found
    finally:
        found.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
