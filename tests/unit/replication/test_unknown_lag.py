"""A copy of which nobody knows how far it is behind does not pass for longer than its RPO; a new estate does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from unit.versions.estates import TwoSites

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.replication.manifest import build_manifest, write_manifest
from ninelives.replication.run import breach_of, copy_of, refuse_breaches, replicate_and_record
from ninelives.replication.status import CopyStatus

RPO = timedelta(minutes=15)


class Systems(TwoSites):
    """With a real ledger, which stamps its records itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "home")
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        migrate(self.url)

    def ledger(self) -> SqlLedger:  # type: ignore[override]
        return SqlLedger(self.url)

    def lag_was(self, verdict: str | None) -> None:
        facts = {"lag": {"verdict": verdict}} if verdict else {"shard": "1/2"}
        self.ledger().append("replication", "flights@dublin", facts)

    def breach(self, after: timedelta, verdict: str = "unknown") -> str | None:
        status = CopyStatus("flights", "dublin", verdict, None, RPO.total_seconds(), None, None, None, "no answer")  # type: ignore[arg-type]
        return breach_of(self, status, datetime.now(UTC) + after)


@pytest.fixture
def systems(tmp_path: Path) -> Systems:
    return Systems(tmp_path)


LATER = RPO + timedelta(seconds=1)


def test_a_new_estate_without_any_evidence_passes_however_late_it_is(systems: Systems) -> None:
    assert systems.breach(timedelta(0)) is None
    assert systems.breach(timedelta(days=30)) is None


@pytest.mark.parametrize("verdict", ["met", "missed", "unknown", None])
def test_unknown_passes_until_its_rpo_is_over_and_then_no_more(systems: Systems, verdict: str | None) -> None:
    systems.lag_was(verdict)
    assert systems.breach(timedelta(0)) is None
    assert "has not been known for 900 s, which is its RPO: no answer" in str(systems.breach(LATER))


def test_attempts_that_do_not_know_either_do_not_put_it_off(systems: Systems) -> None:
    systems.lag_was("unknown")
    first = systems.ledger().records()[0].at
    for _ in range(3):
        systems.lag_was("unknown")
    last = systems.ledger().records()[0].at
    status = CopyStatus("flights", "dublin", "unknown", None, 0.0, None, None, None, "no answer")
    between = first + (last - first) / 2
    assert between > first
    assert breach_of(systems, status, between) is not None


def test_one_attempt_that_knew_within_the_rpo_is_enough(systems: Systems) -> None:
    systems.lag_was("unknown")
    systems.lag_was("met")
    systems.lag_was("unknown")
    assert systems.breach(RPO - timedelta(seconds=1)) is None
    assert systems.breach(LATER) is not None


def test_what_is_known_is_judged_as_before(systems: Systems) -> None:
    systems.lag_was("unknown")
    assert systems.breach(LATER, "met") is None
    assert "s behind" in str(
        breach_of(
            systems, CopyStatus("flights", "dublin", "missed", 1000.0, 900.0, 1, None, None), datetime.now(UTC) + LATER
        )
    )


def test_a_copy_whose_every_attempt_fails_is_refused_by_the_judge_of_the_run(
    systems: Systems, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems.paris.ensure_bucket("data")
    systems.paris.put("data", "flights/day=1", b"flights")
    systems.sites["dublin"].down = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            replicate_and_record(systems, "flights", "paris", "dublin")
    copies = [copy_of(systems, "flights", "dublin")]
    assert copies[0].verdict == "unknown"
    refuse_breaches(systems, copies)
    later = datetime.now(UTC) + systems.estate.dataset_by_name["flights"].rpo + timedelta(seconds=1)
    monkeypatch.setattr("ninelives.replication.run.utc_now", lambda: later)
    with pytest.raises(Refused, match="how far the copy of flights at dublin is behind has not been known"):
        refuse_breaches(systems, copies)


def test_a_copy_is_behind_the_site_that_it_is_made_from_and_not_behind_a_primary_that_is_away(systems: Systems) -> None:
    for store in systems.sites.values():
        store.ensure_bucket("data")
    write_manifest(systems.paris, build_manifest("flights", [], datetime.now(UTC)))
    systems.dublin.put("data", "flights/day=1", b"written at the standby")
    assert copy_of(systems, "flights", "paris").verdict == "met"
    assert copy_of(systems, "flights", "paris", "dublin").verdict == "missed"


def test_a_ledger_that_does_not_answer_does_not_let_it_pass(tmp_path: Path) -> None:
    broken = Systems(tmp_path)
    broken.url = f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}"
    with pytest.raises(NinelivesError):
        broken.breach(LATER)
