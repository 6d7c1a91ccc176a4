"""What Great Expectations and DuckDB really do here: every trap that the gate closes, on the real engine.

One module, because importing Great Expectations costs seconds. If it fails after an upgrade, read ``gx_worker`` first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ninelives.adapters.great_expectations import GreatExpectations
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Severity, Suite
from ninelives.gates.verdict import Evaluation, GateResult, Verdict, asked_of, judge

pytestmark = pytest.mark.slow

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = {"memory_limit": "500MB", "threads": "2"}
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


@pytest.fixture
def run(tmp_path: Path) -> Run:
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
            files[key] = tmp_path / key
            files[key].parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(content, files[key])
        first = next(iter(tables.values()))
        document = {
            "dataset": "d",
            "schema": {field.name: str(field.type) for field in first.schema},
            "min_rows": 1,
            "expectations": checks,
        }
        asked = Suite.model_validate(document | suite)
        evaluation = gx_worker.evaluate(asked_of(asked, interval), files, SETTINGS, interval, rows, others)
        json.dumps(asdict(evaluation), allow_nan=False, default=str)
        result = judge(asked, evaluation, fingerprint=None, age=timedelta(0), seconds=0, at=T0, interval=interval)
        return result, evaluation

    return run


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
        check("expect_column_values_to_be_between", column="n"),
        check("expect_column_values_to_be_between", column="n", min_value=0, maxvalue=3),
        check("expect_column_mean_to_be_between", column="word", min_value=0),
        check("unexpected_rows_expectation", unexpected_rows_query="SELECT s.n FROM {batch} AS s WHERE FALSE;;"),
    ],
)
def test_an_expectation_that_cannot_be_asked_is_an_error(run: Run, wrong: dict[str, Any]) -> None:
    result, _ = run(table(), NOT_NULL, wrong | {"severity": "warning"})
    assert result.verdict is Verdict.ERROR


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


def test_one_object_with_another_schema_among_many_is_found(run: Run) -> None:
    data = {"d/1.parquet": table(), "d/2.parquet": table(n=pa.array(range(100), pa.int32())), "d/3.parquet": table()}
    result, _ = run(data, NOT_NULL)
    assert result.verdict is Verdict.BLOCK
    assert "d/2.parquet" in result.reasons[0]


def test_new_columns_and_another_order_only_warn_wherever_they_come(run: Run) -> None:
    declared = {field.name: str(field.type) for field in table().schema}
    turned = table().select(["at", "maybe", "word", "n"])
    for data in (
        {"d/1.parquet": table(more=pa.array(range(100))), "d/2.parquet": turned},
        {"d/1.parquet": turned, "d/2.parquet": table(more=pa.array(range(100)))},
    ):
        result, _ = run(
            data, NOT_NULL, check("expect_column_max_to_be_between", column="n", max_value=99), schema=declared
        )
        assert result.verdict is Verdict.WARN, result.reasons
        assert result.rows == 200


def test_a_partition_folder_does_not_replace_a_column_of_its_name(run: Run) -> None:
    data = {"d/n=7/part-0.parquet": table()}
    result, _ = run(data, check("expect_column_values_to_be_unique", column="n"))
    assert result.verdict is Verdict.PASS, result.reasons


@pytest.mark.parametrize("start", ["2026-01-01", "2026-01-01T00:00:00+00:00", "2026-01-01 00:00:00"])
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


@pytest.mark.parametrize("type_", [pa.timestamp("us"), pa.timestamp("ns", tz="Europe/Paris"), pa.date32()])
def test_an_interval_is_in_utc_whatever_the_type_of_the_time_column(run: Run, type_: pa.DataType) -> None:
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
        (tmp_path / "part-0.parquet").write_bytes((tmp_path / "d" / "part-0.parquet").read_bytes())
        assert run(some_null, NOT_NULL, **asked, others=others)[0].verdict is Verdict.ERROR, "nothing to compare with"
    nothing = table(word=pa.nulls(100, pa.string()))
    assert run(nothing, NOT_NULL, **asked, others=dictionary("alpha"))[0].verdict is Verdict.ERROR, "nothing judged"


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
