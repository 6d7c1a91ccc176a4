"""What Great Expectations really does here on DuckDB and on PostgreSQL: every trap that the gate closes, on the real
engines, and the same verdict on the same rows whichever it is.

One module, because importing Great Expectations costs seconds. If it fails after an upgrade, read ``gx_worker`` first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL
from support.postgres import libpq, load, postgres, run_sql

from ninelives.adapters.great_expectations import GreatExpectations
from ninelives.errors import Unavailable
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Severity, Suite
from ninelives.gates.verdict import Evaluation, GateResult, Outcome, Verdict, asked_of, judge
from ninelives.ports import Connection

pytestmark = pytest.mark.slow

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = {"memory_limit": "500MB", "threads": "2"}
TIMEOUT = 60_000
Run = Callable[..., tuple[GateResult, Evaluation]]


def table(**columns: Any) -> pa.Table:
    base: dict[str, Any] = {
        "n": pa.array(range(100), pa.int64()),
        "word": pa.array(["alpha", "beta"] * 50),
        "at": pa.array([T0 + timedelta(minutes=m) for m in range(100)], pa.timestamp("us", tz="UTC")),
        "maybe": pa.array([1, None] * 50, pa.int64()),
    }
    return pa.table(base | columns)


def check(type_: str, severity: str = "critical", /, **kwargs: Any) -> dict[str, Any]:
    return {"type": type_, "kwargs": kwargs, "severity": severity, "reason": "Because the test says so."}


NOT_NULL = check("expect_column_values_to_not_be_null", column="n")


def suite_of(data: pa.Table, *checks: dict[str, Any], **suite: Any) -> Suite:
    document = {
        "dataset": "d",
        "schema": {field.name: str(field.type) for field in data.schema},
        "min_rows": 1,
        "expectations": checks,
    }
    return Suite.model_validate(document | suite)


def judged(suite: Suite, evaluation: Evaluation, interval: Interval | None) -> tuple[GateResult, Evaluation]:
    json.dumps(asdict(evaluation), allow_nan=False, default=str)
    result = judge(suite, evaluation, fingerprint=None, age=timedelta(0), seconds=0, at=T0, interval=interval)
    return result, evaluation


def over_parquet(folder: Path, settings: Mapping[str, str] = SETTINGS, **where: Any) -> Run:
    """A check of Parquet objects below ``folder``, by DuckDB unless ``where`` says otherwise."""
    from ninelives.adapters import gx_worker

    def run(
        data: pa.Table | Mapping[str, pa.Table],
        *checks: dict[str, Any],
        interval: Interval | None = None,
        rows: int = 0,
        others: Mapping[str, list[Path]] | None = None,
        **suite: Any,
    ) -> tuple[GateResult, Evaluation]:
        tables = data if isinstance(data, Mapping) else {"d/part-0.parquet": data}
        files = {}
        for key, content in tables.items():
            files[key] = folder / key
            files[key].parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(content, files[key])
        asked = suite_of(next(iter(tables.values())), *checks, **suite)
        evaluation = gx_worker.evaluate(asked_of(asked, interval), files, settings, interval, rows, others, **where)
        return judged(asked, evaluation, interval)

    return run


@pytest.fixture
def on_files(tmp_path: Path) -> Run:
    """DuckDB over Parquet objects."""
    return over_parquet(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    with postgres() as url:
        run_sql(url, "CREATE SCHEMA gate")
        yield url


@pytest.fixture
def in_table(server: URL) -> Run:
    """PostgreSQL over a table of its own."""
    from ninelives.adapters import gx_worker

    def run(
        data: pa.Table,
        *checks: dict[str, Any],
        interval: Interval | None = None,
        rows: int = 0,
        others: Mapping[str, list[Path]] | None = None,
        **suite: Any,
    ) -> tuple[GateResult, Evaluation]:
        load(server, "gate.d", data)
        for name, paths in (others or {}).items():
            load(server, f"gate.{name}", pq.read_table(paths))
        asked = suite_of(data, *checks, **suite)
        evaluation = gx_worker.evaluate_table(
            asked_of(asked, interval),
            "gate.d",
            libpq(server),
            TIMEOUT,
            interval,
            rows,
            {name: f"gate.{name}" for name in others or ()},
        )
        return judged(asked, evaluation, interval)

    return run


@pytest.fixture(params=["duckdb", "postgresql"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue({"duckdb": "on_files", "postgresql": "in_table"}[request.param])


def quantiles(low: int, high: int) -> dict[str, Any]:
    ranges = {"quantiles": [0.5], "value_ranges": [[low, high]]}
    return check("expect_column_quantile_values_to_be_between", column="n", quantile_ranges=ranges)


WORDS = {"values": ["alpha", "beta"], "weights": [0.5, 0.5]}
SKEWED = {"values": ["alpha", "beta"], "weights": [0.95, 0.05]}
MET_AND_NOT = [
    (NOT_NULL, check("expect_column_values_to_not_be_null", column="maybe")),
    (
        check("expect_column_values_to_not_be_null", column="maybe", mostly=0.5),
        check("expect_column_values_to_not_be_null", column="maybe", mostly=0.51),
    ),
    (
        check("expect_column_values_to_be_null", column="maybe", mostly=0.5),
        check("expect_column_values_to_be_null", column="n"),
    ),
    (
        check("expect_column_values_to_be_between", column="n", min_value=0, max_value=99),
        check("expect_column_values_to_be_between", column="n", min_value=1),
    ),
    (
        check("expect_column_values_to_be_in_set", column="word", value_set=["alpha", "beta"]),
        check("expect_column_values_to_be_in_set", column="word", value_set=["alpha"]),
    ),
    (check("expect_column_values_to_be_unique", column="n"), check("expect_column_values_to_be_unique", column="word")),
    (
        check("expect_compound_columns_to_be_unique", column_list=["word", "n"]),
        check("expect_compound_columns_to_be_unique", column_list=["word", "maybe"]),
    ),
    (
        check(
            "expect_column_pair_values_a_to_be_greater_than_b",
            column_A="n",
            column_B="maybe",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            mostly=0.9,
        ),
        check(
            "expect_column_pair_values_a_to_be_greater_than_b",
            column_A="maybe",
            column_B="n",
            ignore_row_if="either_value_is_missing",
        ),
    ),
    (
        check("expect_column_mean_to_be_between", column="n", min_value=49, max_value=50),
        check("expect_column_mean_to_be_between", column="n", max_value=49),
    ),
    (
        check("expect_column_max_to_be_between", column="n", max_value=99),
        check("expect_column_max_to_be_between", column="n", max_value=98),
    ),
    (
        check("expect_column_stdev_to_be_between", column="n", min_value=28, max_value=30),
        check("expect_column_stdev_to_be_between", column="n", max_value=1),
    ),
    (quantiles(49, 51), quantiles(60, 70)),
    (
        check("expect_column_unique_value_count_to_be_between", column="word", max_value=2),
        check("expect_column_unique_value_count_to_be_between", column="word", max_value=1),
    ),
    (
        check("expect_table_row_count_to_be_between", min_value=100),
        check("expect_table_row_count_to_be_between", min_value=101),
    ),
    (
        check("expect_column_kl_divergence_to_be_less_than", column="word", partition_object=WORDS, threshold=0.1),
        check("expect_column_kl_divergence_to_be_less_than", column="word", partition_object=SKEWED, threshold=0.1),
    ),
    (
        check("unexpected_rows_expectation", unexpected_rows_query="SELECT n FROM {batch} WHERE n < 0"),
        check("unexpected_rows_expectation", unexpected_rows_query="SELECT n FROM {batch} WHERE n > 0"),
    ),
]


def test_every_kind_of_expectation_says_yes_and_no_in_one_run_each(run: Run) -> None:
    met, not_met = zip(*MET_AND_NOT, strict=True)
    good, _ = run(table(), *met)
    assert good.verdict is Verdict.PASS, good.reasons
    bad, evaluation = run(table(), *not_met)
    assert bad.verdict is Verdict.BLOCK, bad.errors
    assert [o.index for o in evaluation.outcomes or () if o.success] == []


def test_details_are_asked_for_only_where_the_answer_is_no(run: Run) -> None:
    _, evaluation = run(
        table(), NOT_NULL, check("expect_column_values_to_be_in_set", column="word", value_set=["alpha"])
    )
    met, not_met = evaluation.outcomes or ()
    assert met.observed == {}
    assert not_met.observed == {
        "element_count": 100, "unexpected_count": 50, "unexpected_percent": 50.0, "missing_percent": 0.0,
        "unexpected": ["beta"] * 5,
    }  # fmt: skip


def test_data_docs_show_what_was_asked_run_nothing_and_fetch_nothing(run: Run) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    asked = [check("expect_column_values_to_be_in_set", column="word", value_set=["alpha"])]
    _, evaluation = run(table(word=pa.array([hostile] * 100)), NOT_NULL, *asked)
    assert evaluation.docs
    assert "100 unexpected values found" in evaluation.docs
    assert "values must never be null" in evaluation.docs
    assert not re.search(r"<(script|link|img)\b", evaluation.docs)


def test_there_are_no_data_docs_where_no_expectation_was_asked(run: Run) -> None:
    _, evaluation = run(table(), NOT_NULL, schema={"n": "int64", "other": "string"})
    assert evaluation.docs is None


def test_a_regular_expression_is_searched_for_as_everywhere_else_in_great_expectations(run: Run) -> None:
    good, _ = run(
        table(),
        check("expect_column_values_to_match_regex", column="word", regex="a$"),
        check("expect_column_values_to_not_match_regex", column="word", regex="^lpha|^eta"),
        check("expect_column_values_to_match_regex", column="word", regex="^[a-z]+$"),
    )
    assert good.verdict is Verdict.PASS, good.reasons
    bad, _ = run(
        table(),
        check("expect_column_values_to_match_regex", column="word", regex="^lpha"),
        check("expect_column_values_to_not_match_regex", column="word", regex="lph"),
    )
    assert len(bad.failures) == 2


def test_an_expectation_that_raises_is_an_error_even_as_a_warning_and_leaves_the_others_alone(run: Run) -> None:
    broken = check("unexpected_rows_expectation", "warning", unexpected_rows_query="SELECT nonsense FROM {batch}")
    failing = check("expect_column_values_to_be_between", column="n", min_value=1)
    result, evaluation = run(table(), NOT_NULL, broken, failing, quantiles(49, 51))
    assert result.verdict is Verdict.ERROR
    assert [(o.success, o.raised is None) for o in evaluation.outcomes or ()] == [
        (True, True), (False, False), (False, True), (True, True),
    ]  # fmt: skip
    assert "nonsense" in result.errors[0]


def test_a_query_that_fails_while_its_rows_are_fetched_leaves_the_others_alone_in_any_order(run: Run) -> None:
    lazily = check("unexpected_rows_expectation", unexpected_rows_query="SELECT word::INT FROM {batch}")
    failing = [
        check("expect_column_values_to_be_in_set", column="word", value_set=["alpha"]),
        check("expect_compound_columns_to_be_unique", column_list=["word", "maybe"]),
        check("expect_column_distinct_values_to_be_in_set", column="word", value_set=["alpha"]),
    ]
    for _ in range(8):  # the engine asks in the order of a set, which differs from run to run
        result, _ = run(table(), *failing, lazily)
        assert (len(result.errors), len(result.failures)) == (1, 3), result.errors


@pytest.mark.parametrize(
    "wrong",
    [
        check("expect_column_values_to_be_lucky", column="n"),
        check("expect_column_values_to_be_in_set", column="n"),
        check("expect_column_values_to_be_between", column="n", min_value=0, maxvalue=3),
        check("expect_column_values_to_be_between", column="n", min_value=0, row_condition={"type": "nonsense"}),
        check("expect_column_mean_to_be_between", column="word", min_value=0),
        check("unexpected_rows_expectation", unexpected_rows_query="SELECT s.n FROM {batch} AS s WHERE FALSE;;"),
    ],
)
def test_an_expectation_that_cannot_be_asked_is_an_error(run: Run, wrong: dict[str, Any]) -> None:
    result, _ = run(table(), NOT_NULL, wrong | {"severity": "warning"})
    assert result.verdict is Verdict.ERROR


def test_what_is_wrong_with_a_suite_is_told_whole_also_where_values_are_redacted(run: Run) -> None:
    unknown = check("expect_column_values_to_be_lucky", column="n")
    misspelt = check("expect_column_values_to_be_between", column="n", min_value=0, maxvalue=3)
    result, _ = run(table(), NOT_NULL, unknown, misspelt, redact=["n", "word"])
    assert [error.partition(" cannot be asked: ")[2] for error in result.errors] == [
        "ExpectationNotFoundError: expect_column_values_to_be_lucky not found",
        "maxvalue: extra fields not permitted",
    ]


@pytest.mark.parametrize("names", [("word", "Word"), ("Word", "word"), ("word", "word")])
def test_columns_that_no_engine_could_tell_apart_are_an_error(on_files: Run, names: tuple[str, str]) -> None:
    data = pa.table([[1, 2], ["mine", "yours"], ["a secret", "another"]], names=["n", *names])
    asked = [NOT_NULL, check("expect_column_values_to_be_between", column="n", max_value=0)]
    result, evaluation = on_files(data, *asked, rows=5, redact=["word"])
    assert "rename one" in result.errors[0]
    assert result.verdict is Verdict.ERROR
    assert evaluation.outcomes is None


def test_a_query_over_the_batch_may_name_it_in_a_common_table_expression(run: Run) -> None:
    query = "WITH b AS (SELECT n FROM {batch}) SELECT b.n FROM b WHERE b.n < 0"
    assert run(table(), check("unexpected_rows_expectation", unexpected_rows_query=query))[0].verdict is Verdict.PASS


def nullity(column: str, *, is_null: bool) -> dict[str, Any]:
    return {"type": "nullity", "column": {"name": column}, "is_null": is_null}


def comparison(column: str, operator: str, parameter: Any) -> dict[str, Any]:
    return {"type": "comparison", "column": {"name": column}, "operator": operator, "parameter": parameter}


def test_a_row_condition_decides_which_rows_are_judged(run: Run) -> None:
    both = {"type": "and", "conditions": [nullity("maybe", is_null=False), comparison("n", ">", 50)]}
    either = {"type": "or", "conditions": [comparison("word", "IN", ["alpha"]), comparison("n", "<", 1)]}
    asked = [
        check("expect_column_values_to_be_between", column="n", min_value=51, row_condition=both),
        check("expect_column_values_to_be_in_set", column="word", value_set=["alpha"], row_condition=either),
    ]
    result, evaluation = run(table(), *asked)
    assert result.verdict is Verdict.PASS, result.reasons
    assert [o.judged for o in evaluation.outcomes or ()] == [24, 50]


def test_a_row_condition_that_matches_nothing_passes_in_the_engine_and_is_an_error_here(run: Run) -> None:
    nowhere = comparison("n", ">", 1000)
    asked = check("expect_column_values_to_be_between", "warning", column="n", max_value=-1, row_condition=nowhere)
    result, evaluation = run(table(), NOT_NULL, asked)
    assert [o.success for o in evaluation.outcomes or ()] == [True, True], "Great Expectations itself passes it"
    assert result.verdict is Verdict.ERROR
    assert "judged no row" in result.errors[0]


def test_a_column_that_is_null_throughout_passes_in_the_engine_and_is_an_error_here(run: Run) -> None:
    empty = table(maybe=pa.nulls(100, pa.int64()))
    asked = [
        check("expect_column_values_to_be_between", column="maybe", min_value=5),
        check("expect_column_values_to_be_in_set", column="maybe", value_set=[1]),
        check("expect_column_values_to_be_unique", column="maybe"),
    ]
    result, evaluation = run(empty, *asked)
    assert [o.success for o in evaluation.outcomes or ()] == [True] * 3, "Great Expectations itself passes it"
    assert result.verdict is Verdict.ERROR
    assert len(result.errors) == 3


def test_no_rows_at_all_is_an_error_although_the_engine_would_pass_nearly_everything(run: Run) -> None:
    result, evaluation = run(table().slice(0, 0), NOT_NULL, quantiles(0, 1))
    assert result.verdict is Verdict.ERROR
    assert evaluation.outcomes is None


def test_a_schema_that_is_too_far_off_blocks_before_any_expectation_runs(run: Run) -> None:
    declared = {"n": "double", "word": "string", "gone": "int64"}
    result, evaluation = run(table(), NOT_NULL, schema=declared)
    assert result.verdict is Verdict.BLOCK
    assert {f.column for f in result.failures if f.severity is Severity.CRITICAL} == {"n", "gone"}
    assert evaluation.outcomes is None


def test_one_object_with_another_schema_among_many_is_found(on_files: Run) -> None:
    data = {"d/1.parquet": table(), "d/2.parquet": table(n=pa.array(range(100), pa.int32())), "d/3.parquet": table()}
    result, _ = on_files(data, NOT_NULL)
    assert result.verdict is Verdict.BLOCK
    assert "d/2.parquet" in result.reasons[0]


def test_new_columns_and_another_order_only_warn_wherever_they_come(on_files: Run) -> None:
    declared = {field.name: str(field.type) for field in table().schema}
    turned = table().select(["at", "maybe", "word", "n"])
    for data in (
        {"d/1.parquet": table(more=pa.array(range(100))), "d/2.parquet": turned},
        {"d/1.parquet": turned, "d/2.parquet": table(more=pa.array(range(100)))},
    ):
        result, _ = on_files(
            data, NOT_NULL, check("expect_column_max_to_be_between", column="n", max_value=99), schema=declared
        )
        assert result.verdict is Verdict.WARN, result.reasons
        assert result.rows == 200


def test_a_partition_folder_does_not_replace_a_column_of_its_name(on_files: Run) -> None:
    data = {"d/n=7/part-0.parquet": table()}
    result, _ = on_files(data, check("expect_column_values_to_be_unique", column="n"))
    assert result.verdict is Verdict.PASS, result.reasons


@pytest.mark.parametrize("start", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00", "2026-01-01 01:00:00+01:00"])
def test_instants_compare_in_utc_in_every_spelling(run: Run, start: str) -> None:
    good, _ = run(table(), check("expect_column_values_to_be_between", column="at", min_value=start))
    assert good.verdict is Verdict.PASS, good.reasons
    early = table(at=pa.array([T0 - timedelta(seconds=1)] * 100, pa.timestamp("us", tz="UTC")))
    bad, _ = run(early, check("expect_column_values_to_be_between", column="at", min_value=start))
    assert bad.verdict is Verdict.BLOCK, bad.errors
    assert "2025-12-31" in json.dumps(bad.facts())


TIME = {"column": "at", "min_rows": 1}


def minutes(start: int, end: int) -> Interval:
    return Interval(T0 + timedelta(minutes=start), T0 + timedelta(minutes=end))


def test_only_the_rows_of_the_interval_are_judged_its_start_among_them_and_its_end_not(run: Run) -> None:
    limits = check("expect_column_values_to_be_between", column="n", min_value=20, max_value=29)
    result, _ = run(table(), limits, time=TIME, interval=minutes(20, 30))
    assert (result.verdict, result.rows) == (Verdict.PASS, 10), result.reasons
    for wider in (minutes(19, 30), minutes(20, 31)):
        result, _ = run(table(), limits, time=TIME, interval=wider)
        assert (result.verdict, result.rows) == (Verdict.BLOCK, 11)
    assert run(table(), limits, time=TIME)[0].verdict is Verdict.BLOCK


@pytest.mark.parametrize("type_", [pa.timestamp("us"), pa.timestamp("us", tz="UTC"), pa.date32()])
def test_an_interval_is_in_utc_whatever_the_type_of_the_time_column(run: Run, type_: pa.DataType) -> None:
    judge_two_days_in_utc(run, type_)


def test_an_interval_is_in_utc_also_where_files_have_another_zone(on_files: Run) -> None:
    judge_two_days_in_utc(on_files, pa.timestamp("ns", tz="Europe/Paris"))


def judge_two_days_in_utc(run: Run, type_: pa.DataType) -> None:
    days = pa.array([T0 + timedelta(days=d) for d in range(100)], pa.timestamp("us", tz="UTC"))
    interval = Interval(T0 + timedelta(days=3), T0 + timedelta(days=5))
    result, _ = run(table(at=days.cast(type_)), NOT_NULL, time=TIME, interval=interval)
    assert (result.verdict, result.rows) == (Verdict.PASS, 2), result.reasons


def test_what_only_holds_of_the_whole_is_not_asked_of_an_interval(run: Run) -> None:
    many = check("expect_table_row_count_to_be_between", min_value=100) | {"whole": True}
    result, _ = run(table(), NOT_NULL, many, time=TIME, min_rows=100, interval=minutes(0, 10))
    assert (result.verdict, result.expectations) == (Verdict.PASS, 1), result.reasons


def test_an_interval_without_rows_is_an_error_or_a_warning_where_the_suite_lets_it_be_empty(run: Run) -> None:
    nowhere = minutes(1000, 1001)
    assert run(table(), NOT_NULL, time=TIME, interval=nowhere)[0].verdict is Verdict.ERROR
    result, _ = run(table(), NOT_NULL, time=TIME | {"min_rows": 0}, interval=nowhere)
    assert result.verdict is Verdict.WARN
    empty = table().slice(0, 0)
    assert run(empty, NOT_NULL, time=TIME | {"min_rows": 0})[0].verdict is Verdict.ERROR, "the whole may never be"


def test_nothing_to_judge_in_an_interval_is_an_error_unless_the_suite_expects_it(run: Run) -> None:
    limits = check("expect_column_values_to_be_between", column="maybe", max_value=1)
    odd = minutes(1, 2)  # its only row has no value there
    assert run(table(), limits, time=TIME, interval=odd)[0].verdict is Verdict.ERROR
    expected = limits | {"skip_idle": True}
    assert run(table(), expected, time=TIME, interval=odd)[0].verdict is Verdict.PASS
    nothing = table(maybe=pa.nulls(100, pa.int64()))
    assert run(nothing, expected, time=TIME)[0].verdict is Verdict.ERROR, "of the whole it is asked"


def test_no_value_of_a_redacted_column_reaches_the_evidence(run: Run) -> None:
    secret = "SECRET-4711"
    data = table(word=pa.array([secret] * 100))
    asked = [
        check("expect_column_values_to_be_in_set", column="word", value_set=["alpha"]),
        check("expect_compound_columns_to_be_unique", column_list=["word", "maybe"]),
        check("expect_column_distinct_values_to_be_in_set", column="word", value_set=["alpha"]),
        check("unexpected_rows_expectation", unexpected_rows_query="SELECT * FROM {batch}"),
        check("unexpected_rows_expectation", unexpected_rows_query="SELECT word::INT FROM {batch}"),
    ]
    open_result, _ = run(data, *asked)
    assert secret in json.dumps(open_result.facts()), "the test must be able to see a leak"
    result, evaluation = run(data, *asked, redact=["word"])
    assert secret not in json.dumps(asdict(evaluation), default=str)
    assert secret not in json.dumps(result.facts())
    assert len(result.failures) == 4, (result.errors, open_result.errors)


REFERENCE = {"dataset": "words", "columns": {"word": "spelling"}, "reason": "Every word is in the dictionary."}


def test_every_row_points_to_a_row_of_the_other_dataset_and_nulls_point_nowhere(run: Run, tmp_path: Path) -> None:
    def dictionary(*words: str) -> dict[str, list[Path]]:
        pq.write_table(pa.table({"spelling": list(words)}), tmp_path / "words.parquet")
        return {"words": [tmp_path / "words.parquet"]}

    some_null = table(word=pa.array(["alpha", "beta", None, "beta"] * 25))
    asked: dict[str, Any] = {"references": [REFERENCE], "rows": 2}
    good, evaluation = run(some_null, NOT_NULL, **asked, others=dictionary("alpha", "beta"))
    assert good.verdict is Verdict.PASS, good.reasons
    assert [outcome.judged for outcome in evaluation.outcomes or ()] == [100, 75]
    bad, evaluation = run(some_null, NOT_NULL, **asked, others=dictionary("alpha"))
    assert bad.verdict is Verdict.BLOCK
    assert (bad.failures[0].column, bad.failures[0].observed) == ("word", {"observed_value": 50})
    assert {row["word"] for row in (evaluation.outcomes or ())[1].rows} == {"beta"}
    for others in ({}, {"words": [tmp_path / "part-0.parquet"]}):
        pq.write_table(some_null, tmp_path / "part-0.parquet")
        assert run(some_null, NOT_NULL, **asked, others=others)[0].verdict is Verdict.ERROR, "nothing to compare with"
    nothing = table(word=pa.nulls(100, pa.string()))
    assert run(nothing, NOT_NULL, **asked, others=dictionary("alpha"))[0].verdict is Verdict.ERROR, "nothing judged"


def test_a_reference_to_a_row_that_is_there_twice_counts_no_row_twice(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"spelling": ["alpha", "alpha", None]}), tmp_path / "words.parquet")
    words = {"words": [tmp_path / "words.parquet"]}
    _, evaluation = run(table(), NOT_NULL, references=[REFERENCE], others=words)
    assert (evaluation.outcomes or ())[1].observed == {"observed_value": 50}


def test_rows_that_are_there_twice_are_counted_as_great_expectations_counts_them(run: Run) -> None:
    """A key with a null in it is nobody's twin, whichever rows are ignored; every one of several twins is counted."""
    halves = table(
        n=pa.array([*range(90), 0, 0, 1, 2, 3, 90, 91, 92, 93, 94], pa.int64()),
        word=pa.array(["a"] * 90 + ["a", "a", "a", None, "b", *"aaaaa"]),
        maybe=pa.array([None] * 50 + list(range(46)) + [0, 1, 2, 2], pa.int64()),
    )
    ignored = ("never", "all_values_are_missing", "any_value_is_missing")
    some = comparison("n", "<", 2)
    asked = [
        check("expect_column_values_to_be_unique", column="n"),
        check("expect_column_values_to_be_unique", column="maybe"),
        check("expect_column_values_to_be_unique", column="n", row_condition=some),
        *(check("expect_compound_columns_to_be_unique", column_list=["n", "word"], ignore_row_if=i) for i in ignored),
        check("expect_compound_columns_to_be_unique", column_list=["n", "word"], row_condition=some),
        check("expect_compound_columns_to_be_unique", column_list=["n", "word"], mostly=0.9),
        check("expect_compound_columns_to_be_unique", column_list=["n", "word"], mostly=0.97),
    ]
    outcomes = run(halves, *asked)[1].outcomes or ()
    counted = [outcome.observed.get("unexpected_count", 0) for outcome in outcomes]
    assert counted == [9, 7, 5, 5, 5, 5, 5, 0, 5]
    assert [outcome.raised for outcome in outcomes] == [None] * len(asked)


def test_the_newest_row_may_not_be_older_than_the_suite_allows(run: Run) -> None:
    limit = {"time": TIME | {"max_lag": "1h"}}
    fresh = table(at=pa.array([T0 - timedelta(minutes=m) for m in range(59, 159)], pa.timestamp("us", tz="UTC")))
    result, evaluation = run(fresh, NOT_NULL, **limit)
    assert result.verdict is Verdict.PASS, result.reasons
    assert evaluation.newest == T0 - timedelta(minutes=59)
    late = table(at=pa.array([T0 - timedelta(minutes=m) for m in range(61, 161)], pa.timestamp("us", tz="UTC")))
    result, _ = run(late, NOT_NULL, **limit)
    assert (result.verdict, result.failures[0].type) == (Verdict.BLOCK, "lag")
    result, _ = run(table(), NOT_NULL, **limit)
    assert "in the future" in result.errors[0], "its rows are up to 99 minutes ahead"
    result, _ = run(table(at=pa.nulls(100, pa.timestamp("us", tz="UTC"))), NOT_NULL, **limit)
    assert result.verdict is Verdict.ERROR


def test_failing_rows_are_shown_where_they_are_asked_for_without_redacted_values(run: Run) -> None:
    asked = [
        check("expect_column_values_to_be_between", column="n", max_value=97),
        check("expect_compound_columns_to_be_unique", column_list=["word", "maybe"]),
        check("expect_column_values_to_not_be_null", column="maybe"),
        check("unexpected_rows_expectation", unexpected_rows_query="SELECT word AS w FROM {batch} WHERE n < 2"),
        check("expect_column_mean_to_be_between", column="n", max_value=3),
        NOT_NULL,
    ]
    result, evaluation = run(table(), *asked, rows=3)
    shown = [[dict(row) for row in outcome.rows] for outcome in evaluation.outcomes or ()]
    assert [(row["n"], row["word"]) for row in shown[0]] == [(98, "alpha"), (99, "beta")]
    assert [len(rows) for rows in shown] == [2, 3, 3, 2, 0, 0]
    assert shown[3] == [{"w": "alpha"}, {"w": "beta"}]
    assert "rows" not in json.dumps([f.observed for f in result.failures]), "rows are no evidence"

    _, evaluation = run(table(), *asked, rows=3, redact=["word"])
    shown = [[dict(row) for row in outcome.rows] for outcome in evaluation.outcomes or ()]
    assert [(row["n"], row["word"]) for row in shown[0]] == [(98, "redacted"), (99, "redacted")]
    assert shown[3] == [], "a query of the suite's own may call a redacted column anything"
    assert "alpha" not in json.dumps(asdict(evaluation), default=str)

    assert all(outcome.rows == () for outcome in run(table(), *asked)[1].outcomes or ())


def test_numbers_that_json_does_not_have_are_written_as_text(run: Run) -> None:
    data = table(x=pa.array([1.0] * 99 + [float("inf")]))
    result, _ = run(data, check("expect_column_max_to_be_between", column="x", max_value=1), NOT_NULL)
    assert result.failures[0].observed == {"observed_value": "inf"}


def test_damaged_parquet_is_an_error_that_names_the_object(tmp_path: Path) -> None:
    from ninelives.adapters import gx_worker

    suite = Suite.model_validate({"dataset": "d", "schema": {"n": "int64"}, "min_rows": 1, "expectations": [NOT_NULL]})
    path = tmp_path / "part-0.parquet"
    pq.write_table(pa.table({"n": pa.array(range(10_000), pa.int64())}), path, compression="gzip", use_dictionary=False)
    whole = path.read_bytes()
    broken_page = bytearray(whole)
    broken_page[100:2000] = bytes(1900)
    for content in (whole[: len(whole) // 2], b"", b"not parquet at all", whole[:-4] + b"XXXX"):
        path.write_bytes(content)
        evaluation = gx_worker.evaluate(suite, {"d/part-0.parquet": path}, SETTINGS)
        assert "d/part-0.parquet cannot be read as Parquet" in evaluation.errors[0]
    path.write_bytes(broken_page)
    evaluation = GreatExpectations().evaluate(suite, {"d/part-0.parquet": path})
    assert evaluation.errors
    assert "died (exit code 1)" in evaluation.errors[0]


HALVES = {"bins": [0, 50, 99], "weights": [0.9, 0.1]}
ALIKE = [
    *(expectation for both in MET_AND_NOT for expectation in both),
    check("expect_column_values_to_match_like_pattern", column="word", like_pattern="al%"),
    check("expect_column_values_to_not_match_like_pattern_list", column="word", like_pattern_list=["al%"]),
    check("expect_column_values_to_match_regex_list", column="word", regex_list=["^a", "^b"]),
    check("expect_column_values_to_not_match_regex_list", column="word", regex_list=["^a"]),
    check("expect_column_values_to_not_be_in_set", column="word", value_set=["alpha"]),
    check("expect_column_value_lengths_to_be_between", column="word", max_value=4),
    check("expect_column_value_lengths_to_equal", column="word", value=5),
    check("expect_column_value_z_scores_to_be_less_than", column="n", threshold=1, double_sided=True),
    check("expect_column_median_to_be_between", column="n", max_value=10),
    check("expect_column_min_to_be_between", column="n", min_value=1),
    check("expect_column_sum_to_be_between", column="n", max_value=1),
    check("expect_column_mean_to_be_between", column="maybe", max_value=0),
    check("expect_column_most_common_value_to_be_in_set", column="word", value_set=["gamma"]),
    check("expect_column_proportion_of_unique_values_to_be_between", column="word", min_value=0.5),
    check("expect_column_proportion_of_non_null_values_to_be_between", column="maybe", min_value=0.9),
    check("expect_column_distinct_values_to_be_in_set", column="word", value_set=["alpha"]),
    check("expect_column_distinct_values_to_contain_set", column="word", value_set=["gamma"]),
    check("expect_column_distinct_values_to_equal_set", column="word", value_set=["gamma"]),
    check("expect_column_pair_values_to_be_equal", column_A="n", column_B="maybe"),
    check("expect_column_pair_values_to_be_in_set", column_A="n", column_B="maybe", value_pairs_set=[[0, 1]]),
    check("expect_select_column_values_to_be_unique_within_record", column_list=["n", "maybe"]),
    check("expect_multicolumn_sum_to_equal", column_list=["n", "maybe"], sum_total=3),
    check("expect_table_columns_to_match_ordered_list", column_list=["n", "word", "at"]),
    check("expect_table_column_count_to_equal", value=4),
    check("expect_column_kl_divergence_to_be_less_than", column="n", partition_object=HALVES, threshold=0.1),
    check("expect_column_values_to_be_between", column="at", max_value="2026-01-01T00:30:00+00:00"),
]
NEITHER = [
    check("expect_column_values_to_be_of_type", column="n", type_="BIGINT"),
    check("expect_column_values_to_be_increasing", column="n"),
]
"""What a database does not answer: the schema says the type, and rows have no order."""


def test_both_engines_see_the_same_in_the_same_rows_with_every_kind_of_expectation(
    on_files: Run, in_table: Run
) -> None:
    def without_samples(outcome: Outcome) -> Outcome:
        """Rows have no order, so either may show others that fail."""
        return replace(outcome, observed={k: v for k, v in outcome.observed.items() if k != "unexpected"})

    files, rows = ([*map(without_samples, run(table(), *ALIKE)[1].outcomes or ())] for run in (on_files, in_table))
    assert files == rows
    assert len(files) == len(ALIKE)
    assert not [outcome.raised for outcome in files if outcome.raised]
    for run in (on_files, in_table):
        result, _ = run(table(), *NEITHER, NOT_NULL)
        assert (result.verdict, len(result.errors)) == (Verdict.ERROR, len(NEITHER)), result.reasons


# --- only in PostgreSQL


def in_database(server: URL, *checks: dict[str, Any], timeout: int = TIMEOUT, **suite: Any) -> Evaluation:
    """The suite on the table that is there."""
    from ninelives.adapters import gx_worker

    asked = suite_of(table(), *(checks or [NOT_NULL]), **suite)
    return gx_worker.evaluate_table(asked, "gate.d", libpq(server), timeout)


def own_query(query: str) -> dict[str, Any]:
    return check("unexpected_rows_expectation", unexpected_rows_query=query)


def errors_of(evaluation: Evaluation) -> list[str]:
    return [*evaluation.errors, *(outcome.raised for outcome in evaluation.outcomes or () if outcome.raised)]


TYPES = {
    "boolean": "bool", "smallint": "int16", "integer": "int32", "bigint": "int64", "oid": "uint32", "real": "float",
    "double precision": "double", "text": "string", "varchar": "string", "varchar(7)": "string", "char(5)": "string",
    "name": "string", "bytea": "binary", "date": "date32[day]", "time": "time64[us]", "time(3)": "time64[us]",
    "timestamp": "timestamp[us]", "timestamp(0)": "timestamp[us]", "timestamptz": "timestamp[us, tz=UTC]",
    "timestamptz(3)": "timestamp[us, tz=UTC]", "numeric(9)": "decimal128(9, 0)", "numeric(38,2)": "decimal128(38, 2)",
    "numeric(50,4)": "decimal256(50, 4)", "gate.mood": "string", "gate.price": "decimal128(10, 2)",
    "numeric": "numeric", "numeric(90,1)": "numeric(90,1)", "uuid": "uuid", "jsonb": "jsonb", "integer[]": "integer[]",
    "interval": "interval", "timetz": "time with time zone",
}  # fmt: skip


def test_every_type_of_the_database_has_arrow_s_name_or_keeps_its_own(server: URL) -> None:
    from ninelives.adapters.gx_postgres import Snapshot, arrow_type

    columns = ", ".join(f"c{number} {type_}" for number, type_ in enumerate(TYPES))
    run_sql(
        server,
        "DROP TABLE IF EXISTS gate.types",
        "CREATE TYPE gate.mood AS ENUM ('good', 'bad')",
        "CREATE DOMAIN gate.price AS numeric(10, 2) CHECK (VALUE > 0)",
        f"CREATE TABLE gate.types (gone text, {columns})",
        "ALTER TABLE gate.types DROP COLUMN gone",
    )
    found = Snapshot(libpq(server), TIMEOUT).columns("gate.types")
    assert dict(zip(TYPES, map(arrow_type, found.values()), strict=True)) == TYPES


def test_what_arrow_calls_a_string_is_compared_as_text_and_odd_names_are_no_matter(server: URL) -> None:
    from ninelives.adapters import gx_worker

    run_sql(
        server,
        "DROP TABLE IF EXISTS gate.odd",
        "CREATE TYPE gate.colour AS ENUM ('red', 'blue')",
        'CREATE TABLE gate.odd ("user" gate.colour, "per cent %%" char(5), "a ""b"" :c" bigint, hidden text)',
        "INSERT INTO gate.odd VALUES ('red', 'ab', 1, 'x'), ('blue', 'ab', 2, 'x')",
    )
    columns = {"user": "string", "per cent %": "string", 'a "b" :c': "int64"}
    asked = suite_of(
        table(),
        check("expect_column_values_to_be_in_set", column="user", value_set=["red", "no such colour"]),
        check("expect_column_values_to_match_regex", column="per cent %", regex="^ab$"),
        check("expect_column_values_to_be_between", column='a "b" :c', max_value=1),
        schema=columns,
    )
    evaluation = gx_worker.evaluate_table(asked, "gate.odd", libpq(server), TIMEOUT, rows_shown=5)
    assert [(o.success, o.raised) for o in evaluation.outcomes or ()] == [(False, None), (True, None), (False, None)]
    shown = [[dict(row) for row in outcome.rows] for outcome in evaluation.outcomes or ()]
    assert shown[2] == [{"user": "blue", "per cent %": "ab", 'a "b" :c': 2}], (
        "nothing of what the suite does not declare"
    )


def test_the_fingerprint_is_that_of_the_rows_in_any_order_and_of_nothing_else(server: URL) -> None:
    def fingerprint(data: pa.Table) -> str:
        load(server, "gate.d", data)
        return in_database(server).fingerprints["d"]

    whole = fingerprint(table())
    assert fingerprint(table()) == whole
    assert fingerprint(table().take(list(reversed(range(100))))) == whole
    swapped = table(word=pa.array(["beta", "alpha"] * 50))
    others = [table().slice(1), pa.concat_tables([table(), table().slice(0, 2)]), swapped, swapped.slice(1)]
    assert len({whole, *map(fingerprint, others)}) == 5
    load(server, "gate.d", table())
    run_sql(server, "UPDATE gate.d SET word = NULL WHERE n = 7")
    null = in_database(server).fingerprints["d"]
    run_sql(server, "UPDATE gate.d SET word = '' WHERE n = 7")
    assert len({whole, null, in_database(server).fingerprints["d"]}) == 3
    run_sql(server, "UPDATE gate.d SET word = 'beta' WHERE n = 7")
    assert in_database(server).fingerprints["d"] == whole


def test_an_interval_has_the_fingerprint_of_its_rows_alone(server: URL, in_table: Run) -> None:
    def fingerprint(of: Interval) -> str:
        return in_table(table(), NOT_NULL, time=TIME, interval=of)[1].fingerprints["d"]

    assert fingerprint(minutes(0, 10)) == fingerprint(minutes(0, 10)) != fingerprint(minutes(10, 20))


def test_all_of_it_sees_the_same_rows_whatever_is_written_meanwhile(server: URL) -> None:
    from ninelives.adapters.gx_postgres import Snapshot

    load(server, "gate.d", table())
    snapshot = Snapshot(libpq(server), TIMEOUT)
    columns = snapshot.columns("gate.d")
    before = snapshot.fingerprint("gate.d", columns)
    run_sql(server, "DELETE FROM gate.d WHERE n > 50", "INSERT INTO gate.d VALUES (-1)")
    assert (snapshot.fingerprint("gate.d", columns)[0], before[0], snapshot.unbroken) == (100, 100, True)


def test_a_query_that_leaves_the_snapshot_is_an_error(server: URL) -> None:
    load(server, "gate.d", table())
    evaluation = in_database(server, NOT_NULL, own_query("SELECT n FROM {batch} WHERE n < 0) x; COMMIT; SELECT 0 --"))
    assert "not everything was asked of the same snapshot" in errors_of(evaluation), errors_of(evaluation)


def test_nothing_can_be_written(server: URL) -> None:
    load(server, "gate.d", table())
    run_sql(server, "CREATE SEQUENCE gate.numbers")
    writing = own_query("SELECT nextval('gate.numbers') AS n FROM {batch}")
    (error,) = errors_of(in_database(server, writing, NOT_NULL))
    assert "read-only transaction" in error


def test_a_statement_that_takes_too_long_is_stopped_and_an_error_of_its_own(server: URL) -> None:
    load(server, "gate.d", table())
    slow = own_query("SELECT n FROM {batch} WHERE n = 1 AND pg_sleep(20) IS NULL")
    evaluation = in_database(server, slow, NOT_NULL, timeout=700)
    assert [(o.success, o.raised is None) for o in evaluation.outcomes or ()] == [(False, False), (True, True)]
    assert "statement timeout" in errors_of(evaluation)[0]


def test_a_database_that_goes_away_meanwhile_gives_no_verdict(server: URL) -> None:
    load(server, "gate.d", table())
    killing = own_query("SELECT n FROM {batch} WHERE n = 1 AND pg_terminate_backend(pg_backend_pid())")
    for asked in ([NOT_NULL, killing], [killing, NOT_NULL]):
        with pytest.raises(Unavailable, match="went away"):
            in_database(server, *asked)


def test_a_table_that_is_not_there_or_not_ours_to_read_is_an_error(server: URL) -> None:
    run_sql(server, "DROP TABLE IF EXISTS gate.d")
    evaluation = in_database(server)
    assert evaluation.errors == ("the database has no table or view gate.d",)
    load(server, "gate.d", table())
    run_sql(
        server,
        "CREATE ROLE reader LOGIN",
        "GRANT USAGE ON SCHEMA gate TO reader",
        "CREATE POLICY first_ten ON gate.d FOR SELECT USING (n < 10)",
    )
    reader = server.set(username="reader")
    assert "permission denied for table d" in in_database(reader).errors[0]
    run_sql(server, "GRANT SELECT ON gate.d TO reader", "ALTER TABLE gate.d ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in in_database(reader).errors[0], "a part of the rows is not the table"
    run_sql(server, "ALTER TABLE gate.d DISABLE ROW LEVEL SECURITY")
    assert in_database(reader).rows == 100, "a role that may only read is enough"


@pytest.mark.parametrize("where", [{"host": "127.0.0.1", "port": 1}, {"user": "locked", "password": "hunter2-4711"}])
def test_a_database_that_does_not_let_us_in_is_to_be_tried_again_and_nobody_reads_how(
    server: URL, where: dict[str, Any]
) -> None:
    from ninelives.adapters import gx_worker

    lock(server)
    with pytest.raises(Unavailable) as refused:
        gx_worker.evaluate_table(suite_of(table(), NOT_NULL), "gate.d", libpq(server, **where), TIMEOUT)
    assert not {"locked", "hunter2-4711"} & set(str(refused.value).replace('"', " ").split()), refused.value


def lock(server: URL) -> None:
    """Let the role ``locked`` in only with its password."""
    engine = sa.create_engine(server, poolclass=sa.NullPool)
    with engine.connect() as connection:
        rules = Path(connection.exec_driver_sql("SHOW hba_file").scalar_one())
    rule = "local all locked scram-sha-256\n"
    if not rules.read_text().startswith(rule):
        run_sql(server, "CREATE ROLE locked LOGIN PASSWORD 'right-4711'", "GRANT USAGE ON SCHEMA gate TO locked")
        rules.write_text(rule + rules.read_text())
        run_sql(server, "SELECT pg_reload_conf()")


def test_the_password_reaches_the_process_where_nobody_else_sees_it(server: URL) -> None:
    lock(server)
    load(server, "gate.d", table())
    run_sql(server, "GRANT SELECT ON gate.d TO locked")
    parameters = libpq(server, user="locked", password="right-4711")
    database = Connection(
        "ninelives_paris_database", parameters["host"], None, "locked", "right-4711", parameters["dbname"]
    )
    seen: list[str] = []

    def watch() -> None:
        while not (found := workers()):
            pass
        seen.extend([*found[0].cmdline(), *found[0].environ().values()])

    watching = threading.Thread(target=watch)
    watching.start()
    suite = suite_of(table(), NOT_NULL, check("expect_column_max_to_be_between", column="n", max_value=1))
    evaluation = GreatExpectations().evaluate_table(suite, "gate.d", database=database)
    watching.join()
    assert evaluation.rows == 100, evaluation.errors
    assert "postgresql" in evaluation.engine
    assert evaluation.as_of is not None
    assert "right-4711" not in " ".join(seen) + json.dumps(asdict(evaluation), default=str)

    with pytest.raises(Unavailable, match="connection ninelives_paris_database: ") as refused:
        GreatExpectations().evaluate_table(suite, "gate.d", database=replace(database, password="wrong-4711"))
    assert "4711" not in str(refused.value)


# --- the process around it


SMALL = Suite.model_validate({"dataset": "d", "schema": {"n": "int64"}, "min_rows": 1, "expectations": [NOT_NULL]})


def small_file(folder: Path) -> dict[str, Path]:
    pq.write_table(pa.table({"n": pa.array(range(10), pa.int64())}), folder / "small.parquet")
    return {"d/small.parquet": folder / "small.parquet"}


def test_a_check_that_takes_too_long_is_killed_and_an_error(tmp_path: Path) -> None:
    evaluation = GreatExpectations(timeout=timedelta(milliseconds=200)).evaluate(SMALL, small_file(tmp_path))
    assert "did not finish" in evaluation.errors[0]
    assert workers() == []


def test_a_check_that_is_killed_is_an_error(tmp_path: Path) -> None:
    def kill_it() -> None:
        while not (found := workers()):
            pass
        found[0].kill()

    killer = threading.Thread(target=kill_it)
    killer.start()
    evaluation = GreatExpectations().evaluate(SMALL, small_file(tmp_path))
    killer.join()
    assert "SIGKILL" in evaluation.errors[0]


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ninelives.adapters.gx_worker" in child.cmdline()]


def test_nothing_heavy_is_imported_by_those_who_only_ask() -> None:
    program = (
        "import sys, ninelives.cli.gate, ninelives.gates.evidence, ninelives.adapters.great_expectations\n"
        "heavy = {'great_expectations', 'duckdb', 'pandas', 'pyarrow', 'sqlalchemy', 'airflow'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "include")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
