"""A suggested suite passes the data it was made from, knows what is certain, and quotes nothing about people."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.adapters.great_expectations import GreatExpectations
from ninelives.errors import Refused
from ninelives.gates.suggest import CATEGORIES, ColumnProfile, Profile, as_text, suggest
from ninelives.gates.suite import Suite, load_suite
from ninelives.gates.verdict import Verdict, judge

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 3000


def payments() -> pa.Table:
    chance = random.Random(9)
    return pa.table(
        {
            "at": pa.array([T0 + timedelta(minutes=n // 3) for n in range(ROWS)], pa.timestamp("us", tz="UTC")),
            "till": pa.array([n % 3 for n in range(ROWS)], pa.int64()),
            "amount": pa.array([round(chance.lognormvariate(3, 1), 2) for _ in range(ROWS)], pa.float64()),
            "currency": pa.array(chance.choices(["EUR", "USD", "GBP"], [6, 3, 1], k=ROWS)),
            "rate": pa.array([None if n % 10 == 0 else chance.random() for n in range(ROWS)], pa.float64()),
            "customer_email": pa.array([f"person-{n % 7}@example.org" for n in range(ROWS)]),
            "note": pa.nulls(ROWS, pa.string()),
        }
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    pq.write_table(payments(), tmp_path / "part.parquet")
    return {"payments/part.parquet": tmp_path / "part.parquet"}


def kwargs(document: dict[str, Any], type_: str) -> list[dict[str, Any]]:
    return [e["kwargs"] for e in document["expectations"] if e["type"] == type_]


@pytest.mark.slow
def test_the_suggested_suite_can_be_read_passes_its_data_and_warns_of_shifted_data(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    from ninelives.adapters.gx_worker import evaluate

    document = suggest("payments", GreatExpectations().profile(files))
    (tmp_path / "suite.json").write_text(as_text(document))
    suite = load_suite(tmp_path / "suite.json")
    good = judge(suite, evaluate(suite, files, {}), fingerprint=None, age=timedelta(0), seconds=0, at=T0)
    assert good.verdict is Verdict.PASS, good.reasons

    table = payments()
    pounds = pa.array(["GBP"] * ROWS)
    pq.write_table(table.set_column(table.schema.get_field_index("currency"), "currency", pounds), tmp_path / "x")
    shifted = evaluate(suite, {"payments/x.parquet": tmp_path / "x"}, {})
    result = judge(suite, shifted, fingerprint=None, age=timedelta(0), seconds=0, at=T0)
    assert [(f.type, f.column) for f in result.failures] == [
        ("expect_column_kl_divergence_to_be_less_than", "currency")
    ]


def test_it_finds_the_key_the_time_what_is_never_null_and_what_is_about_people(files: dict[str, Path]) -> None:
    document = suggest("payments", GreatExpectations().profile(files))
    assert kwargs(document, "expect_compound_columns_to_be_unique") == [{"column_list": ["at", "till"]}]
    assert document["time"] == {"column": "at"}
    assert document["redact"] == ["customer_email"]
    assert "person-" not in json.dumps(document)
    nulls = {k["column"]: k.get("mostly") for k in kwargs(document, "expect_column_values_to_not_be_null")}
    assert nulls == {"at": None, "till": None, "amount": None, "currency": None, "rate": 0.8, "customer_email": None}


@pytest.mark.slow
def test_numbers_that_are_none_have_no_range_and_are_told(tmp_path: Path) -> None:
    from ninelives.adapters.gx_worker import evaluate

    odd = [float("nan"), float("inf"), *map(float, range(100))]
    pq.write_table(pa.table({"größe": pa.array(odd), "n": range(102)}), tmp_path / "part.parquet")
    files = {"d/part.parquet": tmp_path / "part.parquet"}
    document = suggest("d", GreatExpectations().profile(files))
    assert [e["reason"] for e in document["expectations"] if e["kwargs"]["column"] == "größe"] == [
        "Suggested: Never null in 102 rows. NaN or infinite in 2: may that be? Until then no range."
    ]
    assert '"größe"' in as_text(document), "for a person to edit"
    suite = Suite.model_validate(document)
    good = judge(suite, evaluate(suite, files, {}), fingerprint=None, age=timedelta(0), seconds=0, at=T0)
    assert good.verdict is Verdict.PASS, good.reasons


def test_objects_that_differ_or_cannot_be_read_are_refused(tmp_path: Path, files: dict[str, Path]) -> None:
    pq.write_table(pa.table({"at": [1]}), tmp_path / "other.parquet")
    with pytest.raises(Refused, match="different columns or types"):
        GreatExpectations().profile({**files, "payments/other.parquet": tmp_path / "other.parquet"})
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(Refused, match=r"payments/broken.parquet cannot be read"):
        GreatExpectations().profile({"payments/broken.parquet": tmp_path / "broken.parquet"})


def test_nothing_can_be_suggested_for_nothing() -> None:
    for profile in (Profile(0, (ColumnProfile("n", "int64", 0),)), Profile(3, (ColumnProfile("n", "int64", 3),))):
        with pytest.raises(Refused):
            suggest("d", profile)


numbers = st.floats(-1e12, 1e12, allow_nan=False)
seen = st.one_of(
    st.builds(
        lambda low, span: {"low": low, "high": low + span, "bins": (low, low + span / 2, low + span), "counts": (1, 2)},
        numbers,
        st.floats(1, 1e9),
    ),
    st.dictionaries(st.text(min_size=1, max_size=9), st.integers(1, 10**9), max_size=CATEGORIES).map(
        lambda values: {"values": tuple(values.items())}
    ),
    st.just({}),
)
columns = st.builds(
    lambda name, type_, nulls, seen: ColumnProfile(name, type_, nulls, **seen),
    st.from_regex(r"[a-z][a-z_]{0,12}", fullmatch=True),
    st.sampled_from(["int64", "double", "string", "timestamp[us, tz=UTC]"]),
    st.integers(0, 900),
    seen,
)


@given(st.lists(columns, min_size=1, max_size=5, unique_by=lambda column: column.name), st.integers(1000, 10**9))
def test_whatever_was_seen_the_suggestion_is_a_suite_with_reasons_whose_shares_sum_to_one(
    found: list[ColumnProfile], rows: int
) -> None:
    document = suggest("d", Profile(rows, tuple(found), (found[0].name,)))
    suite = Suite.model_validate_json(as_text(document))
    assert suite.sha256
    for expectation in suite.expectations:
        if histogram := expectation.kwargs.get("partition_object"):
            assert sum(histogram["weights"]) == pytest.approx(1, abs=1e-6)
            assert min(histogram["weights"]) >= 0
            assert expectation.whole
