"""Whose requests count: users' always, and what drills and probes send never as theirs.

The gateway writes one line for each request, with the header ``ninelives-traffic``, which no user's has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ninelives.probing.records import BAD, DRILL

LOG = "access.jsonl"
"""Below the home's ``logs``; its rotated copy has ``.1`` after it."""


def user_failures(lines: Iterable[str], service: str) -> list[datetime]:
    """When users of ``service`` got an error or a degraded answer, oldest first. Pure.

    A request that asks for what is not there is the user's own failure (4xx), and what the gateway was killed while
    writing is no line.
    """
    return sorted(
        datetime.fromisoformat(one["at"])
        for one in _parsed(lines)
        if one.get("service") == service and not one.get("traffic") and _failed(one)
    )


def read_user_failures(logs: Path, service: str) -> list[datetime] | None:
    """As ``user_failures``, from the gateway's log on this machine; ``None`` where there is none."""
    found: list[datetime] = []
    read = False
    for name in (f"{LOG}.1", LOG):
        try:
            with (logs / name).open(encoding="utf-8", errors="replace") as file:
                found += user_failures(file, service)
        except FileNotFoundError:
            continue  # nothing was rotated yet, or no gateway has run here
        read = True
    return sorted(found) if read else None


def bad_seconds(probes: pa.Table, users: Iterable[datetime] | None, interval: float) -> float:
    """Seconds of one service that are charged to its error budget. Pure.

    :param probes: rows of the service; each stands for ``interval`` seconds
    :param users: when users got no good answer; ``None``: nobody knows, and then every bad probe is charged
    """
    bad = pc.is_in(probes.column("outcome"), value_set=pa.array([str(outcome) for outcome in BAD]))
    in_drill = pc.fill_null(pc.equal(probes.column("traffic"), DRILL), False)
    if users is None:
        return float((pc.sum(bad).as_py() or 0) * interval)
    outside = pc.sum(pc.and_(bad, pc.invert(in_drill))).as_py() or 0
    seconds = {int(at.timestamp()) for at in probes.filter(in_drill).column("scheduled_at").to_pylist()}
    return float(outside * interval + len({int(at.timestamp()) for at in users} & seconds))


def _parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if '"traffic":"' in line:
            continue  # most lines are probes': not worth parsing
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and one.get("at"):
            yield one


def _failed(one: dict[str, Any]) -> bool:
    status = int(one.get("status") or 0)
    return status == 0 or status >= 500 or bool(one.get("degraded"))
