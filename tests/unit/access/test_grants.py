"""Killed at any instant, no grant is there that the ledger does not know, and a further run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from unit.access.test_compare import estate
from unit.replication.memory import Fuse, Killed
from unit.versions.estates import MemoryLedger, TwoSites

from ninelives.access.audit import check_access, withdraw_expired
from ninelives.access.grants import grant_access, open_grants, revoke_access
from ninelives.errors import Refused
from ninelives.ports import AccessPolicy

NOW = datetime.now(UTC)
FAILOVER = {"service": "arrival-delay", "lost_site": "paris", "standby": "dublin", "incident": "run-1"}


class MemoryAccess:
    """A site's permissions in memory; the process may die before any change."""

    def __init__(self, site: str, fuse: Fuse) -> None:
        self.site, self.fuse = site, fuse
        self.given: dict[tuple[str, str], Mapping[str, Any]] = {}

    def bucket(self, name: str) -> str:
        return name

    def policies(self, buckets: Sequence[str]) -> list[AccessPolicy]:
        return [AccessPolicy(name, document, who, name) for (who, name), document in self.given.items()]

    def public(self, buckets: Sequence[str]) -> dict[str, str]:
        return {}

    def put(self, who: str, name: str, document: Mapping[str, Any]) -> None:
        self.fuse.burn()
        self.given[who, name] = document

    def remove(self, who: str, name: str) -> None:
        self.fuse.burn()
        self.given.pop((who, name), None)


class DyingLedger(MemoryLedger):
    fuse = Fuse()

    def append(self, *arguments: Any, **named: Any) -> Any:
        self.fuse.burn()
        return super().append(*arguments, **named)


class Systems(TwoSites):
    def __init__(self) -> None:
        super().__init__()
        declared = estate().model_dump(mode="json")
        for site in declared["sites"]:
            site["access"] = "aws"
        self.estate = type(self.estate).model_validate(declared)
        self.the_ledger = DyingLedger()
        self.the_ledger.fuse = self.fuse
        self.controls = {site: MemoryAccess(site, self.fuse) for site in self.estate.site_names}

    def access(self, site: str) -> MemoryAccess | None:
        return self.controls[site]

    @property
    def given(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        return self.controls["dublin"].given

    def excess(self) -> list[str]:
        """What the audit would call too much at the standby."""
        drift = check_access(self, only="dublin").drift  # type: ignore[arg-type]
        return [str(one) for one in drift if one.kind != "missing"]


@pytest.mark.parametrize("steps", range(3))
def test_killed_while_granting_nothing_is_unknown_and_a_further_run_goes_on(steps: int) -> None:
    systems = Systems()
    systems.fuse.steps = steps
    with contextlib.suppress(Killed):
        grant_access(systems, **FAILOVER, now=NOW)  # type: ignore[arg-type]
    systems.fuse.steps = None
    assert systems.excess() == []
    (record,) = grant_access(systems, **FAILOVER, now=NOW + timedelta(hours=1))  # type: ignore[arg-type]
    assert len(open_grants(systems.the_ledger)) == len(systems.given) == 1
    if steps:  # the first try fixed its end
        assert record.facts["until"] == (NOW + timedelta(days=1)).isoformat()


@pytest.mark.parametrize("steps", range(3))
def test_killed_while_withdrawing_nothing_is_unknown_and_a_further_run_goes_on(steps: int) -> None:
    systems = Systems()
    grant_access(systems, **FAILOVER, now=NOW)  # type: ignore[arg-type]
    systems.fuse.steps = steps
    with contextlib.suppress(Killed):
        revoke_access(systems, incident="run-1")  # type: ignore[arg-type]
    systems.fuse.steps = None
    assert systems.excess() == []
    revoke_access(systems, incident="run-1")  # type: ignore[arg-type]
    assert (systems.given, open_grants(systems.the_ledger)) == ({}, [])


def test_only_what_is_named_is_withdrawn() -> None:
    systems = Systems()
    for service in ("arrival-delay", "late-arrival"):
        grant_access(systems, **{**FAILOVER, "service": service}, now=NOW)  # type: ignore[arg-type]
    assert len(systems.given) == 2
    assert revoke_access(systems, service="arrival-delay", site="paris") == []  # type: ignore[arg-type]
    (record,) = revoke_access(systems, service="arrival-delay", site="dublin")  # type: ignore[arg-type]
    assert record.facts["service"] == "arrival-delay"
    assert len(systems.given) == 1
    with pytest.raises(Refused, match="name an incident"):
        revoke_access(systems)  # type: ignore[arg-type]


def test_expiry_removes_what_is_over_and_nothing_else() -> None:
    systems = Systems()
    grant_access(systems, **FAILOVER, now=NOW - timedelta(days=2))  # type: ignore[arg-type]
    grant_access(systems, **{**FAILOVER, "incident": "run-2"}, now=NOW)  # type: ignore[arg-type]
    (record,) = withdraw_expired(systems)  # type: ignore[arg-type]
    assert (record.facts["incident"], record.facts["outcome"]) == ("run-1", "expired")
    assert [name for _, name in systems.given] == ["ninelives-arrival-delay-run-2"]
    # One that no ledger knows, because that was lost: over is over.
    systems.the_ledger.all.clear()
    assert withdraw_expired(systems, now=NOW) == []  # type: ignore[arg-type]
    assert len(withdraw_expired(systems, now=NOW + timedelta(days=2))) == 1  # type: ignore[arg-type]
    assert systems.given == {}
