"""The verdict is closed wherever something was not looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.gates.suite import Expectation, Severity, Suite, UsualRows
from ninelives.gates.verdict import Evaluation, GateResult, ObjectSchema, Outcome, Verdict, judge, shorten

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = {"a": "int64", "b": "string"}


def expectation(column: str, severity: str = "critical") -> Expectation:
    return Expectation(
        type="expect_column_values_to_be_between",
        kwargs={"column": column, "min_value": 0},
        severity=Severity(severity),
        reason="It is never negative.",
    )


SUITE = Suite(
    dataset="d",
    schema=COLUMNS,
    min_rows=10,
    max_age=timedelta(days=1),
    expectations=(expectation("a"), expectation("b", "warning")),
)
GOOD = Evaluation(
    engine="e",
    schemas=(ObjectSchema(COLUMNS, 3, "d/1.parquet"),),
    rows=100,
    outcomes=(Outcome(0, True, 100), Outcome(1, True, 90)),
)


def judged(evaluation: Evaluation = GOOD, suite: Suite = SUITE, age: timedelta | None = timedelta(0)) -> GateResult:
    return judge(suite, evaluation, fingerprint="f", age=age, seconds=1.0, at=NOW)


def outcomes(*changes: Outcome) -> Evaluation:
    by_index = {outcome.index: outcome for outcome in changes}
    return replace(GOOD, outcomes=tuple(by_index.get(o.index, o) for o in GOOD.outcomes or ()))


def test_all_met_passes() -> None:
    result = judged()
    assert result.verdict is Verdict.PASS
    assert result.verdict.opens
    assert result.reasons == ()


def test_a_failed_warning_warns_and_still_opens() -> None:
    result = judged(outcomes(Outcome(1, False, 90)))
    assert result.verdict is Verdict.WARN
    assert result.verdict.opens


def test_a_failed_critical_expectation_blocks_whatever_else_passes() -> None:
    result = judged(outcomes(Outcome(0, False, 100, observed={"unexpected_count": 7})))
    assert result.verdict is Verdict.BLOCK
    assert not result.verdict.opens
    assert result.failures[0].column == "a"
    assert "unexpected_count 7" in result.reasons[0]


@pytest.mark.parametrize(
    ("evaluation", "says"),
    [
        (outcomes(Outcome(0, False, 100, raised="boom")), "boom"),
        (outcomes(Outcome(1, False, 90, raised="column gone")), "column gone"),
        (outcomes(Outcome(1, True, 90, raised="it raised and still said yes")), "it raised"),
        (replace(GOOD, outcomes=(Outcome(0, True, 100),)), "2 expectations were asked"),
        (replace(GOOD, outcomes=(Outcome(0, True, 100), Outcome(0, True, 100))), "2 expectations were asked"),
        (replace(GOOD, outcomes=(*(GOOD.outcomes or ()), Outcome(2, True, 1))), "2 expectations were asked"),
        (replace(GOOD, outcomes=()), "2 expectations were asked"),
        (replace(GOOD, outcomes=None), "were not run"),
        (outcomes(Outcome(0, True, 0)), "judged no row"),
        (outcomes(Outcome(1, True, None)), "judged no row"),
        (replace(GOOD, rows=0), "no rows"),
        (replace(GOOD, rows=None), "could not be counted"),
        (replace(GOOD, schemas=()), "no object's schema"),
        (replace(GOOD, errors=("disk on fire",)), "disk on fire"),
        (Evaluation("none", errors=("no manifest",)), "no manifest"),
        (Evaluation("none"), "could not be counted"),
    ],
)
def test_what_was_not_looked_at_is_an_error_whatever_its_severity(evaluation: Evaluation, says: str) -> None:
    result = judged(evaluation)
    assert result.verdict is Verdict.ERROR
    assert not result.verdict.opens
    assert any(says in error for error in result.errors)


def test_a_suite_without_expectations_is_an_error() -> None:
    nothing = SUITE.model_copy(update={"expectations": ()})
    assert judged(replace(GOOD, outcomes=()), nothing).verdict is Verdict.ERROR


def test_too_few_rows_block() -> None:
    result = judged(replace(GOOD, rows=9))
    assert result.verdict is Verdict.BLOCK
    assert result.failures[0].type == "row_count"


@pytest.mark.parametrize(
    ("columns", "verdict", "observed"),
    [
        ({"b": "string"}, Verdict.BLOCK, "missing"),
        ({"a": "double", "b": "string"}, Verdict.BLOCK, "double"),
        ({**COLUMNS, "c": "int64"}, Verdict.WARN, "new"),
        (dict(reversed(COLUMNS.items())), Verdict.PASS, ""),
    ],
)
def test_a_schema_that_lost_something_blocks_and_one_that_gained_something_warns(
    columns: dict[str, str], verdict: Verdict, observed: str
) -> None:
    one_odd_object = (*GOOD.schemas, ObjectSchema(columns, 1, "d/odd.parquet"))
    result = judged(replace(GOOD, schemas=one_odd_object))
    assert result.verdict is verdict
    assert all(observed in f.observed["column"] and "d/odd.parquet" in f.observed["column"] for f in result.failures)


def test_a_schema_that_blocks_needs_no_expectations_to_have_run() -> None:
    far_off = replace(GOOD, schemas=(ObjectSchema({"b": "string"}, 1, "d/odd.parquet"),), outcomes=None)
    result = judged(far_off)
    assert result.verdict is Verdict.BLOCK
    assert result.errors == ()


@pytest.mark.parametrize(
    ("age", "verdict"),
    [
        (timedelta(days=1), Verdict.PASS),
        (timedelta(days=1, microseconds=1), Verdict.BLOCK),
        (timedelta(seconds=-30), Verdict.PASS),
        (timedelta(minutes=-2), Verdict.ERROR),
        (None, Verdict.ERROR),
    ],
)
def test_stale_data_blocks_and_data_of_unknown_or_impossible_age_is_an_error(
    age: timedelta | None, verdict: Verdict
) -> None:
    assert judged(age=age).verdict is verdict


def test_without_a_limit_the_age_need_not_be_known() -> None:
    assert judged(suite=SUITE.model_copy(update={"max_age": None}), age=None).verdict is Verdict.PASS


USUAL = UsualRows(drop=0.1, growth=1.0, reason="It only ever grows, and never doubles.")


@pytest.mark.parametrize(
    ("rows", "earlier", "verdict"),
    [
        (90, [100, 110, 120], Verdict.PASS),
        (89, [100, 110, 120], Verdict.BLOCK),
        (240, [100, 110, 120], Verdict.PASS),
        (241, [100, 110, 120], Verdict.BLOCK),
        (50, [100, 110], Verdict.PASS),
        (50, [100] * 20 + [50], Verdict.BLOCK),
    ],
)
def test_rows_outside_of_the_usual_band_block_once_something_is_usual(
    rows: int, earlier: list[int], verdict: Verdict
) -> None:
    suite = SUITE.model_copy(update={"usual_rows": USUAL})
    result = judge(
        suite, replace(GOOD, rows=rows), fingerprint="f", age=timedelta(0), seconds=0, at=NOW, earlier=earlier
    )
    assert result.verdict is verdict, result.reasons
    assert result.usual_rows == (None if len(earlier) < 3 else (90, 240 if len(earlier) == 3 else 200))


@given(st.lists(st.integers(0, 10**12), min_size=3, max_size=40))
def test_what_was_seen_lately_is_always_usual(earlier: list[int]) -> None:
    fewest, most = USUAL.band(earlier) or (1, 0)
    assert all(fewest <= rows <= most for rows in earlier[: USUAL.verdicts])


def test_facts_stay_small_however_much_went_wrong() -> None:
    errors = tuple(f"object {n} " + "x" * 10_000 for n in range(1000))
    facts = judged(replace(GOOD, errors=errors)).facts()
    assert len(json.dumps(facts)) < 20_000
    assert facts["errors"][-1] == "and 980 more"
    assert shorten(["one"]) == ("one",)


flags = st.booleans()
outcome_lists = st.lists(
    st.builds(
        Outcome,
        index=st.integers(-1, 3),
        success=flags,
        judged=st.none() | st.integers(0, 5),
        raised=st.none() | st.just("boom"),
    ),
    max_size=4,
)
evaluations = st.builds(
    Evaluation,
    engine=st.just("e"),
    schemas=st.sampled_from([(), GOOD.schemas, (ObjectSchema({"b": "string"}, 1, "k"),)]),
    rows=st.none() | st.integers(0, 20),
    outcomes=st.none() | outcome_lists.map(tuple),
    errors=st.sampled_from([(), ("boom",)]),
)


@given(evaluations, st.none() | st.integers(-10, 200_000).map(lambda s: timedelta(seconds=s)))
def test_it_opens_only_for_a_complete_look_with_nothing_critical(evaluation: Evaluation, age: timedelta | None) -> None:
    result = judged(evaluation, age=age)
    if result.verdict.opens:
        answers: dict[int, Any] = {o.index: o for o in evaluation.outcomes or ()}
        assert not evaluation.errors
        assert evaluation.rows is not None
        assert evaluation.rows >= SUITE.min_rows
        assert evaluation.schemas == GOOD.schemas
        assert sorted(answers) == [0, 1]
        assert len(evaluation.outcomes or ()) == 2
        assert answers[0].success
        assert all(o.raised is None and o.judged for o in answers.values())
        assert age is not None
        assert age <= timedelta(days=1)
        assert (result.verdict is Verdict.PASS) == answers[1].success
    json.dumps(result.facts())


@pytest.mark.parametrize("newest", [NOW - timedelta(hours=9, seconds=17), NOW + timedelta(hours=9, seconds=17)])
def test_the_newest_time_is_no_secret_unless_its_column_is_redacted(newest: datetime) -> None:
    def said(**changes: Any) -> str:
        columns = COLUMNS | {"at": "timestamp[us, tz=UTC]"}
        time = {"column": "at", "max_lag": "1h"}
        suite = Suite.model_validate(SUITE.model_dump(by_alias=True) | {"schema": columns, "time": time} | changes)
        seen = replace(GOOD, schemas=(ObjectSchema(columns, 3, "d/1.parquet"),), newest=newest)
        return json.dumps(judged(seen, suite).facts())

    assert newest.isoformat() in said() or "9:00:17" in said()
    hidden = said(redact=["at"])
    assert newest.isoformat() not in hidden
    assert "9:00:17" not in hidden
    assert "verdict" in hidden
