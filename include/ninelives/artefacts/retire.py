"""Old versions that were kept for as long as declared are let go, without anybody having to remember them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ninelives.errors import NinelivesError, Unavailable
from ninelives.estate import Service
from ninelives.experiments import journal as experiments
from ninelives.ports import Systems
from ninelives.releases.journal import Journal, Outcome, read
from ninelives.releases.promotion import retire
from ninelives.releases.stays import forget


@dataclass(frozen=True)
class Retired:
    retired: tuple[str, ...] = ()
    """``MODEL@VERSION``, once the way back of a promotion."""
    forgotten: tuple[str, ...] = ()
    """Loaded at a replica, and asked for by nobody."""
    waiting: tuple[str, ...] = ()
    """Why a service was left alone this time."""
    problems: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        return {name: list(value) for name, value in asdict(self).items()}

    def raise_problems(self) -> None:
        """:raises Unavailable: something of a service could not be let go; everything else was"""
        if self.problems:
            raise Unavailable("; ".join(self.problems))


def retire_overdue(systems: Systems, now: datetime, services: Sequence[Service] | None = None) -> Retired:
    """Retire at every service what is overdue; what goes wrong at one is told and does not hold up the others.

    :param services: only these
    """
    retired: list[str] = []
    forgotten: list[str] = []
    waiting: list[str] = []
    problems: list[str] = []
    for service in systems.estate.services if services is None else services:
        try:
            if why := _busy(systems, service):
                waiting.append(f"{service.name}: {why}")
                continue
            # Each, not only the newest: an earlier one keeps its old version until its own time is over.
            for one in read(systems.ledger(), service.name):
                if one.outcome is Outcome.PROMOTED and not one.retired and retire(systems, one.plan, now=now):
                    retired.append(f"{one.plan.model}@{one.plan.old}")
            forgotten += [
                f"{service.model}@{version} at {url}"
                for url, versions in forget(systems, service).items()
                for version in versions
            ]
        except NinelivesError as error:
            problems.append(f"{service.name}: {error}")
    return Retired(tuple(retired), tuple(forgotten), tuple(waiting), tuple(problems))


def _busy(systems: Systems, service: Service) -> str:
    """Requests that are divided for another reason must not be joined by us."""
    ledger = systems.ledger()
    runs: list[Journal | experiments.Journal] = [*read(ledger, service.name), *experiments.read(ledger, service.name)]
    return ", ".join(f"{one.plan.run} is not over" for one in runs if one.open)
