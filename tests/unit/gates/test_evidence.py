"""A failover may rely on exactly one kind of record: fresh, about this data and this suite, and a yes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.gates.evidence import earlier_rows, fresh_verdict, record
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Severity, Suite, UsualRows
from ninelives.gates.verdict import Failure, GateResult, Verdict
from ninelives.ports import Record

HOUR = timedelta(hours=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    url = f"sqlite:///{tmp_path}/ledger.db"
    migrate(url)
    ledger = SqlLedger(url)
    yield ledger
    ledger.close()


NIGHT = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 6, tzinfo=UTC))
DAY = Interval(NIGHT.start, NIGHT.start + 24 * HOUR)


def result(
    verdict: Verdict, fingerprint: str = "data-1", suite: str = "suite-1", interval: Interval | None = None
) -> GateResult:
    failure = Failure("row_count", None, Severity.CRITICAL, {"rows": 3}, "too few")
    return GateResult(
        verdict=verdict,
        rows=3,
        expectations=2,
        failures=() if verdict is Verdict.PASS else (failure,),
        errors=("boom",) if verdict is Verdict.ERROR else (),
        suite_sha256=suite,
        fingerprint=fingerprint,
        engine="e",
        seconds=0.123456,
        checked_at=datetime.now(UTC),
        interval=interval,
    )


def look(ledger: SqlLedger, **changes: object) -> Record | None:
    asked: dict[str, object] = {
        "fingerprint": "data-1",
        "suite_sha256": "suite-1",
        "max_age": HOUR,
        "now": datetime.now(UTC),
    }
    return fresh_verdict(ledger, "flights", "dublin", **{**asked, **changes})  # type: ignore[arg-type]


def test_no_verdict_opens_nothing(ledger: SqlLedger) -> None:
    assert look(ledger) is None


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.WARN])
def test_a_fresh_yes_about_this_data_and_this_suite_is_found(ledger: SqlLedger, verdict: Verdict) -> None:
    written = record(ledger, "flights", "dublin", result(verdict))
    assert look(ledger) == written
    assert written.facts["verdict"] == verdict.value


@pytest.mark.parametrize("verdict", [Verdict.BLOCK, Verdict.ERROR])
def test_a_no_is_kept_as_evidence_and_opens_nothing(ledger: SqlLedger, verdict: Verdict) -> None:
    record(ledger, "flights", "dublin", result(verdict))
    assert look(ledger) is None
    assert ledger.records(kind="gate", subject="flights@dublin")[0].facts["failures"][0]["severity"] == "critical"


def test_the_newest_answer_counts_not_the_best(ledger: SqlLedger) -> None:
    record(ledger, "flights", "dublin", result(Verdict.PASS))
    record(ledger, "flights", "dublin", result(Verdict.ERROR))
    assert look(ledger) is None
    newest = record(ledger, "flights", "dublin", result(Verdict.WARN))
    assert look(ledger) == newest


def test_a_verdict_about_newer_data_does_not_hide_the_one_about_this(ledger: SqlLedger) -> None:
    mine = record(ledger, "flights", "dublin", result(Verdict.PASS))
    record(ledger, "flights", "dublin", result(Verdict.BLOCK, fingerprint="data-2"))
    assert look(ledger) == mine


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "data-2"},
        {"suite_sha256": "suite-2"},
        {"now": datetime.now(UTC) + 3 * HOUR},
        {"max_age": -HOUR},
    ],
)
def test_other_data_another_suite_or_an_old_verdict_open_nothing(ledger: SqlLedger, changes: dict[str, object]) -> None:
    record(ledger, "flights", "dublin", result(Verdict.PASS))
    assert look(ledger, **changes) is None


def test_another_site_opens_nothing(ledger: SqlLedger) -> None:
    record(ledger, "flights", "paris", result(Verdict.PASS))
    assert look(ledger) is None


def test_a_verdict_on_one_interval_is_not_taken_for_the_whole_nor_for_another_and_the_whole_not_for_it(
    ledger: SqlLedger,
) -> None:
    night = record(ledger, "flights", "dublin", result(Verdict.PASS, interval=NIGHT))
    assert look(ledger) is None
    assert look(ledger, interval=DAY) is None
    assert look(ledger, interval=NIGHT) == night
    assert night.facts["interval"] == "2026-01-01T00:00:00Z/2026-01-01T06:00:00Z"

    whole = record(ledger, "flights", "dublin", result(Verdict.PASS))
    record(ledger, "flights", "dublin", result(Verdict.BLOCK, interval=NIGHT))
    assert look(ledger) == whole, "a no about one interval says nothing about the verdict on the whole"
    assert look(ledger, interval=NIGHT) is None

    facts = result(Verdict.PASS, fingerprint="data-2", interval=NIGHT).facts()
    ledger.append("gate", "flights@dublin", facts)
    assert look(ledger, fingerprint="data-2") is None, "not even under the subject of the whole"


def test_a_verdict_against_other_reference_data_opens_nothing(ledger: SqlLedger) -> None:
    compared = replace(result(Verdict.PASS), references={"carriers": "one"})
    written = record(ledger, "flights", "dublin", compared)
    assert look(ledger, references={"carriers": "one"}) == written
    assert look(ledger, references={"carriers": "two"}) is None
    assert look(ledger) is None


def test_only_verdicts_on_the_whole_that_opened_say_what_is_usual(ledger: SqlLedger) -> None:
    usual = UsualRows(drop=0.1, growth=1, verdicts=3, reason="Because the test says so.")
    needed = {"column": "n"}
    suite = Suite.model_validate(
        {
            "dataset": "flights",
            "schema": {"n": "int64"},
            "min_rows": 1,
            "usual_rows": usual,
            "expectations": [{"type": "expect_column_to_exist", "kwargs": needed, "reason": "Because it says so."}],
        }
    )
    for rows, verdict in [
        (10, Verdict.PASS),
        (11, Verdict.PASS),
        (1, Verdict.BLOCK),
        (12, Verdict.WARN),
        (13, Verdict.PASS),
    ]:
        record(ledger, "flights", "dublin", replace(result(verdict), rows=rows))
    record(ledger, "flights", "dublin", replace(result(Verdict.PASS, interval=NIGHT), rows=2))
    record(ledger, "flights", "paris", replace(result(Verdict.PASS), rows=3))
    assert earlier_rows(ledger, suite, "dublin") == [13, 12, 11]
    assert earlier_rows(ledger, suite.model_copy(update={"usual_rows": None}), "dublin") == []


def test_a_verdict_that_is_not_one_of_ours_opens_nothing(ledger: SqlLedger) -> None:
    facts = {**result(Verdict.PASS).facts(), "verdict": "PASS"}
    ledger.append("gate", "flights@dublin", facts)
    assert look(ledger) is None
