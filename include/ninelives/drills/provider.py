"""Drills of the provider of a service's data: within its windows only, and its recorded feed as the fault."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ninelives.drills.nonsense import folder
from ninelives.drills.scenario import Drill
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.estate.outside import Provider
from ninelives.injections import Replayed, find_injection
from ninelives.ports import Systems
from ninelives.providers.replay import check_feed, replay_in_drill
from ninelives.providers.windows import check_window
from ninelives.replication.manifest import BUCKET

SHARE = 0.5
"""Of the drill's longest duration that the replay may take: the rest is for landing, watching and cleaning up."""


def providers_of(estate: Estate, service: str) -> list[Provider]:
    """Who sends what the service's dataset is made of, as far as the estate says."""
    dataset = estate.dataset_of(estate.service_by_name[service]).name
    feeding = {
        stream.name
        for stream in estate.streams
        if dataset in (stream.name, (stream.source.prefix or "").partition("/")[0])
    }
    return [one for one in estate.providers if one.feed is not None and one.feed.stream in feeding]


def outside_window(systems: Systems, drill: Drill) -> list[str]:
    """Why no provider of the service's data may be drilled now; nothing where the estate declares none."""
    reasons = []
    for provider in providers_of(systems.estate, drill.service):
        try:
            check_window(provider, datetime.now(UTC), systems.estate.drills.max_duration)
        except Refused as refused:
            reasons.append(str(refused))
    return reasons


def not_replayable(systems: Systems, drill: Drill) -> list[str]:
    """What keeps the feed from being replayed now."""
    reasons = outside_window(systems, drill)
    if not reasons:
        check_feed(systems, _provider(systems, drill).name)
    return reasons


def replay_of(systems: Systems, drill: Drill) -> Replayed:
    """:raises Refused: the estate declares no feed for the service's data"""
    provider = _provider(systems, drill)
    assert provider.feed is not None  # noqa: S101  (that is how it was found)
    site = systems.estate.stream_by_name[provider.feed.stream].site
    return Replayed(provider=provider.name, site=site, bucket=BUCKET, folder=folder(drill))


def replay(systems: Systems, drill: Drill) -> Mapping[str, Any]:
    """Let the feed come again and be landed, and say what became of it.

    :raises Refused: the drill was stopped meanwhile; nothing of the feed is left
    """
    injection = find_injection(systems.home, drill.id)
    (fault,) = [one for one in injection.faults if isinstance(one, Replayed)] if injection else []

    def over() -> bool:
        found = find_injection(systems.home, drill.id)
        return found is None or found.over

    def alive() -> None:
        if over():
            raise Refused("drill", [f"{drill.id} was undone while the feed was replayed"])

    seed = int.from_bytes(hashlib.sha256(drill.id.encode()).digest()[:4])  # the same for every try of the drill
    within = systems.estate.drills.max_duration * SHARE
    try:
        found = replay_in_drill(systems, fault, holder=drill.id, seed=seed, within=within, alive=alive)
    finally:
        if over():
            systems.faults().undo(fault)  # a batch may have landed behind the back of who undid it
    return {"by": f"replay of {fault.provider}", "evidence": None, "replayed": found.facts()}


def _provider(systems: Systems, drill: Drill) -> Provider:
    if not (found := providers_of(systems.estate, drill.service)):
        raise Refused("drill", [f"no provider of {drill.service}'s data has a feed; declare one below providers"])
    return found[0]
