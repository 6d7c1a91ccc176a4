from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ninelives.errors import EstateError
from ninelives.gates.suite import MAX_BYTES, Suite, load_suite

NOT_NULL: dict[str, Any] = {
    "type": "expect_column_values_to_not_be_null",
    "kwargs": {"column": "a"},
    "reason": "Nothing works without it.",
}
MINIMAL: dict[str, Any] = {"dataset": "d", "schema": {"a": "int64"}, "min_rows": 1, "expectations": [NOT_NULL]}


def written(folder: Path, document: Any) -> Path:
    path = folder / "suite.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


SHIFT = "expect_column_kl_divergence_to_be_less_than"
HISTOGRAM = {"column": "a", "partition_object": {"values": [1, 2], "weights": [0.5, 0.5]}}
BETWEEN, QUERY = "expect_column_mean_to_be_between", "unexpected_rows_expectation"
QUANTILES, IN_SET = "expect_column_quantile_values_to_be_between", "expect_column_values_to_not_be_in_set"
NO_QUANTILES = {"column": "a", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[None, None]]}}
REFERENCE = {"dataset": "other", "columns": {"a": "b"}, "reason": "Every a is known there."}


def problems(folder: Path, **changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(EstateError) as caught:
        load_suite(written(folder, {**MINIMAL, **changes}))
    return [(problem.path, problem.message) for problem in caught.value.problems]


def with_expectation(**changes: Any) -> list[dict[str, Any]]:
    return [{**NOT_NULL, **changes}]


def test_the_hash_ignores_layout_and_nothing_else(tmp_path: Path) -> None:
    first = load_suite(written(tmp_path, MINIMAL))
    same = load_suite(written(tmp_path, json.dumps(dict(reversed(MINIMAL.items())), indent=4)))
    other = load_suite(written(tmp_path, {**MINIMAL, "min_rows": 2}))
    assert first.sha256 == same.sha256
    assert first.sha256 != other.sha256


def test_severity_is_critical_unless_the_suite_says_otherwise(tmp_path: Path) -> None:
    assert load_suite(written(tmp_path, MINIMAL)).expectations[0].severity == "critical"


def test_every_problem_is_named_with_its_place(tmp_path: Path) -> None:
    found = problems(tmp_path, min_rows=0, expectations=with_expectation(reason="why"), typo=1)
    assert {path for path, _ in found} >= {"min_rows", "expectations[0].reason", "typo"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expectations": []}, "at least 1"),
        ({"expectations": [{k: v for k, v in NOT_NULL.items() if k != "reason"}]}, "required"),
        ({"expectations": with_expectation(type="ExpectColumnToExist")}, "pattern"),
        ({"expectations": with_expectation(severity="info")}, "critical"),
        ({"expectations": with_expectation(kwargs={"column": "b"})}, "the schema does not have"),
        ({"expectations": with_expectation(kwargs={"column_list": ["a", "b"]})}, "the schema does not have"),
        ({"expectations": with_expectation(kwargs={"column": "a", "mostly": 0})}, "nothing is checked"),
        ({"expectations": with_expectation(kwargs={"column": "a", "mostly": "0.9"})}, "nothing is checked"),
        ({"expectations": with_expectation(kwargs={"column": "a", "severity": "info"})}, "cannot be set here"),
        ({"expectations": with_expectation(kwargs={"column": "a", "result_format": "SUMMARY"})}, "cannot be set here"),
        ({"expectations": with_expectation(kwargs={"column": "a", "row_condition": "a > 1"})}, "as an object"),
        ({"expectations": with_expectation(kwargs={"column_list": 5})}, "write a list of columns"),
        ({"expectations": with_expectation(kwargs={"column_list": "a"})}, "write a list of columns"),
        (
            {"expectations": with_expectation(kwargs={"column": "a", "min_value": {"$PARAMETER": "x"}})},
            "write the value",
        ),
        ({"expectations": with_expectation(type=BETWEEN)}, "accepts any value"),
        ({"expectations": with_expectation(type=BETWEEN, kwargs={"column": "a", "min_value": None})}, "any value"),
        ({"expectations": with_expectation(type=QUANTILES, kwargs=NO_QUANTILES)}, "accepts any value"),
        (
            {"expectations": with_expectation(type=IN_SET, kwargs={"column": "a", "value_set": []})},
            "value_set is empty",
        ),
        ({"expectations": with_expectation(type=QUERY, kwargs={"unexpected_rows_query": "SELECT 1"})}, "{batch}"),
        ({"min_rows": True}, "valid integer"),
        ({"redact": ["b"]}, "the schema does not have"),
        ({"time": {"column": "a"}}, "no timestamp or date of that name"),
        ({"memory": "799MB"}, "needs 800 MB"),
        ({"memory": "lots"}, "pattern"),
        ({"references": [REFERENCE | {"columns": {"b": "a"}}]}, "the schema does not have"),
        ({"references": [REFERENCE | {"columns": {}}]}, "at least 1"),
        ({"usual_rows": {"drop": 0, "growth": 1, "reason": "because of this test"}}, "greater than 0"),
        ({"expectations": with_expectation(type=SHIFT, kwargs={"column": "a", "threshold": 0.1})}, "any distribution"),
        ({"expectations": with_expectation(type=SHIFT, kwargs=HISTOGRAM | {"threshold": None})}, "any distribution"),
        ({"schema": {}}, "at least 1"),
        ({"max_age": "soon"}, "not a duration"),
    ],
)
def test_a_suite_that_would_check_less_than_it_says_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    assert any(says in message for _, message in problems(tmp_path, **changes))


def limits(type_: str, limit: str) -> dict[str, Any]:
    most = {"column": "a", "max_value": limit}
    return {
        "schema": {"a": type_},
        "expectations": with_expectation(type="expect_column_max_to_be_between", kwargs=most),
    }


@pytest.mark.parametrize(
    ("type_", "limit", "says"),
    [
        ("timestamp[us, tz=UTC]", "2026-01-31", "with an offset, like 2026-01-31T00:00:00Z"),
        ("timestamp[us, tz=UTC]", "2026-01-31T12:00:00", "with an offset"),
        ("timestamp[us, tz=UTC]", "20260131T120000Z", "with an offset"),
        ("timestamp[us]", "2026-01-31", "without an offset"),
        ("timestamp[us]", "2026-01-31T12:00:00+00:00", "without an offset"),
        ("date32[day]", "2026-01-31T12:00:00", "write a day"),
        ("timestamp[us]", "yesterday", "without an offset"),
    ],
)
def test_a_limit_that_would_be_compared_by_the_day_or_not_at_all_is_refused(
    tmp_path: Path, type_: str, limit: str, says: str
) -> None:
    ((_, message),) = problems(tmp_path, **limits(type_, limit))
    assert f"expectations[0].kwargs.max_value is {limit!r}" in message
    assert says in message


@pytest.mark.parametrize(
    ("type_", "limit"),
    [
        ("timestamp[us, tz=Europe/Paris]", "2026-01-31T12:00:00+01:00"),
        ("timestamp[us, tz=UTC]", "2026-01-31T12:00Z"),
        ("timestamp[s]", "2026-01-31T12:00:00"),
        ("date32[day]", "2026-01-31"),
        ("string", "2026-01-31"),
    ],
)
def test_a_limit_of_the_columns_own_kind_is_taken(tmp_path: Path, type_: str, limit: str) -> None:
    load_suite(written(tmp_path, {**MINIMAL, **limits(type_, limit)}))


def test_a_missing_a_huge_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EstateError, match="cannot be read"):
        load_suite(tmp_path / "none.json")
    with pytest.raises(EstateError, match="at most"):
        load_suite(written(tmp_path, " " * (MAX_BYTES + 1)))
    for content in ("", "{", "[1]", "null", "\x00", "[" * 100_000):
        with pytest.raises(EstateError):
            load_suite(written(tmp_path, content))


@pytest.mark.parametrize("limit", [2**60, float("inf"), float("nan")])
def test_a_number_without_a_canonical_form_is_refused_when_the_suite_is_read(tmp_path: Path, limit: float) -> None:
    beyond_double = with_expectation(type=BETWEEN, kwargs={"column": "a", "min_value": limit})
    with pytest.raises(EstateError, match="canonical"):
        load_suite(written(tmp_path, {**MINIMAL, "expectations": beyond_double}))


def test_a_key_that_stands_twice_is_refused_because_only_the_last_would_count(tmp_path: Path) -> None:
    redacted = json.dumps({**MINIMAL, "redact": ["a"]})
    with pytest.raises(EstateError, match="'redact' stands there twice"):
        load_suite(written(tmp_path, redacted[:-1] + ', "redact": []}'))


def test_a_suite_cannot_be_changed_after_it_was_read() -> None:
    suite = Suite.model_validate(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        suite.min_rows = 0  # type: ignore[misc]
