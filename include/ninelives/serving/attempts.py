"""What a replica remembers of its tries, per arm and version: retries hide a bad version from what users see."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

KEPT = 5000
"""Tries per arm and version, the newest: minutes of them at the rates that one replica can take."""

ARMS = ("stable", "canary", "shadow", "beside", "control", "experiment")

Row = tuple[float, float, bool, bool | None]
"""As ``ports.Attempt``: unix time, seconds, good, agrees."""


class AttemptLog:
    """Safe to use from several threads. In memory only: a new process has a new ``boot`` and remembers nothing."""

    def __init__(self) -> None:
        self.boot = uuid.uuid4().hex
        self._rows: dict[tuple[str, str, str], deque[Row]] = {}
        self._lock = threading.Lock()

    def add(
        self, model: str, arm: str, version: str, *, latency: float, good: bool, agrees: bool | None = None
    ) -> None:
        """:param arm: one that is not known is that of the release that is served"""
        key = (model, arm if arm in ARMS else "stable", version)
        with self._lock:
            self._rows.setdefault(key, deque(maxlen=KEPT)).append((time.time(), latency, good, agrees))

    def document(self, model: str, loaded: Sequence[str]) -> dict[str, Any]:
        with self._lock:
            arms = [
                {"arm": arm, "version": version, "attempts": list(rows)}
                for (name, arm, version), rows in self._rows.items()
                if name == model
            ]
        return {"boot": self.boot, "loaded": list(loaded), "arms": arms}
