"""The suite of the real flights passes on them and says no to every kind of damage it was written for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ninelives.flights.data import SCHEMA, Flights, read_source
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Suite, load_suite
from ninelives.gates.verdict import GateResult, Verdict, asked_of, judge

pytestmark = pytest.mark.slow

SUITE = Path(__file__).parents[3] / "expectations" / "flights" / "suite.json"
AT = datetime(2026, 1, 1, tzinfo=UTC)
Gate = Callable[..., GateResult]


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite(SUITE)


@pytest.fixture(scope="module")
def year() -> pa.Table:
    return read_source()


@pytest.fixture(scope="module")
def january(year: pa.Table) -> pa.Table:
    """The smallest thing that counts as this dataset: broken copies of a month are judged faster than of a year."""
    return year.filter(pc.equal(year["month"], 1))


@pytest.fixture
def gate(tmp_path: Path, suite: Suite) -> Gate:
    from ninelives.adapters.gx_worker import evaluate

    def gate(*tables: pa.Table) -> GateResult:
        paths = {}
        for number, table in enumerate(tables):
            paths[f"flights/{number}.parquet"] = tmp_path / f"{number}.parquet"
            pq.write_table(table, tmp_path / f"{number}.parquet")
        evaluation = evaluate(suite, paths, {"memory_limit": "500MB"})
        return judge(suite, evaluation, fingerprint=None, age=timedelta(0), seconds=0, at=AT)

    return gate


def replaced(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    typed = values.cast(table.schema.field(column).type)
    return table.set_column(table.schema.get_field_index(column), column, typed)


def blocked_by(result: GateResult) -> set[str]:
    assert result.verdict is Verdict.BLOCK, result.reasons
    return {f.column or f.type for f in result.failures if f.severity == "critical"}


def test_every_limit_has_a_reason_and_every_feature_is_checked(suite: Suite) -> None:
    checked = {e.kwargs.get("column") for e in suite.expectations if e.type == "expect_column_values_to_not_be_null"}
    assert checked >= {"month", "day", "hour", "minute", "carrier", "origin", "dest", "distance", "arr_delay"}
    assert dict(suite.columns) == {field.name: str(field.type) for field in SCHEMA}
    assert all(len(e.reason) > 20 for e in suite.expectations)


def test_the_real_year_passes(gate: Gate, year: pa.Table) -> None:
    result = gate(year)
    assert result.verdict is Verdict.PASS, result.reasons
    assert result.rows == 336_776


@pytest.mark.parametrize("month", [2, 7, 9])
def test_the_months_with_most_cancellations_and_delays_and_with_least_pass(
    gate: Gate, year: pa.Table, month: int
) -> None:
    result = gate(year.filter(pc.equal(year["month"], month)))
    assert result.verdict is Verdict.PASS, result.reasons


def test_a_dropped_column_blocks(gate: Gate, january: pa.Table) -> None:
    assert blocked_by(gate(january.drop_columns(["tailnum"]))) == {"tailnum"}


def test_a_column_of_another_type_blocks(gate: Gate, january: pa.Table) -> None:
    delays = january["arr_delay"].cast(pa.float64())
    index = january.schema.get_field_index("arr_delay")
    assert blocked_by(gate(january.set_column(index, "arr_delay", delays))) == {"arr_delay"}


def test_delays_in_seconds_block(gate: Gate, january: pa.Table) -> None:
    assert "arr_delay" in blocked_by(gate(replaced(january, "arr_delay", pc.multiply(january["arr_delay"], 60))))


def test_delays_with_the_wrong_sign_block(gate: Gate, january: pa.Table) -> None:
    assert "arr_delay" in blocked_by(gate(replaced(january, "arr_delay", pc.negate(january["arr_delay"]))))


def test_the_feed_of_one_large_carrier_lost_blocks_although_every_row_is_fine(gate: Gate, year: pa.Table) -> None:
    assert blocked_by(gate(year.filter(pc.not_equal(year["carrier"], "UA")))) == {"carrier"}


def test_delays_that_keep_their_mean_and_quantiles_and_not_their_shape_block(gate: Gate, january: pa.Table) -> None:
    every_second = pa.array([n % 2 == 0 for n in range(january.num_rows)])
    filled = pc.if_else(pc.and_(every_second, pc.is_valid(january["arr_delay"])), 0, january["arr_delay"])
    result = gate(replaced(january, "arr_delay", filled))
    assert blocked_by(result) == {"arr_delay"}
    assert {f.type for f in result.failures} == {"expect_column_kl_divergence_to_be_less_than"}


def test_hours_that_are_one_off_everywhere_block(gate: Gate, january: pa.Table) -> None:
    hours = pc.add(january["hour"], 1)
    moved = replaced(january, "hour", pc.if_else(pc.equal(hours, 24), 0, hours))
    assert "hour" in blocked_by(gate(moved))


def test_one_hour_of_a_blizzard_is_judged_by_itself(suite: Suite, year: pa.Table, tmp_path: Path) -> None:
    from ninelives.adapters.gx_worker import evaluate

    pq.write_table(year.filter(pc.equal(year["month"], 2)), tmp_path / "february.parquet")
    hour = Interval.parse("2013-02-09T00:00Z/2013-02-09T01:00Z")  # 60 flights, and not one of them flew
    evaluation = evaluate(asked_of(suite, hour), {"flights/2.parquet": tmp_path / "february.parquet"}, {}, hour)
    result = judge(suite, evaluation, fingerprint=None, age=timedelta(0), seconds=0, at=AT, interval=hour)
    assert (result.verdict, result.rows) == (Verdict.PASS, 60), result.reasons


def test_distances_in_kilometres_block(gate: Gate, january: pa.Table) -> None:
    kilometres = pc.round(pc.multiply(january["distance"].cast(pa.float64()), 1.609344))
    assert "distance" in blocked_by(gate(replaced(january, "distance", kilometres)))


def test_flight_times_in_hours_block(gate: Gate, january: pa.Table) -> None:
    hours = pc.ceil(pc.divide(january["air_time"].cast(pa.float64()), 60))
    assert "unexpected_rows_expectation" in blocked_by(gate(replaced(january, "air_time", hours)))


def test_a_day_written_twice_blocks(gate: Gate, january: pa.Table) -> None:
    twice = january.filter(pc.equal(january["day"], 17))
    assert "time_hour, carrier, flight, origin" in blocked_by(gate(january, twice))


def test_a_day_written_twice_under_other_flight_numbers_blocks(gate: Gate, january: pa.Table) -> None:
    twice = january.filter(pc.equal(january["day"], 17))
    renumbered = replaced(twice, "flight", pc.add(twice["flight"], 10_000))
    assert blocked_by(gate(january, renumbered)) == {"unexpected_rows_expectation"}


@pytest.mark.parametrize(("day", "verdict"), [(17, Verdict.WARN), (31, Verdict.PASS)])
def test_a_gap_warns_and_the_newest_day_may_still_be_arriving(
    gate: Gate, january: pa.Table, day: int, verdict: Verdict
) -> None:
    others = january.filter(pc.not_equal(january["day"], day))
    part = january.filter(pc.equal(january["day"], day)).slice(0, 300)
    assert gate(others, part).verdict is verdict


def test_the_stream_after_the_year_passes(gate: Gate) -> None:
    flights = Flights.load()
    newest = date(2014, 1, 31)
    days = [flights.day(newest - timedelta(days=n)) for n in range(1, 90)]
    result = gate(*days, *(flights.hour(newest, hour) for hour in flights.hours(newest)[:5]))
    assert result.verdict is Verdict.PASS, result.reasons


def test_a_few_days_alone_are_not_the_dataset(gate: Gate, january: pa.Table) -> None:
    assert blocked_by(gate(january.filter(pc.less(january["day"], 8)))) == {"row_count"}


def test_an_empty_dataset_is_an_error(gate: Gate, january: pa.Table) -> None:
    assert gate(january.slice(0, 0)).verdict is Verdict.ERROR


def test_nulls_in_a_feature_block_and_too_many_in_the_label_too(gate: Gate, january: pa.Table) -> None:
    one_in_ten = pa.array([n % 10 == 0 for n in range(january.num_rows)])
    for column in ("carrier", "arr_delay"):
        holes = pc.if_else(one_in_ten, pa.scalar(None, january.schema.field(column).type), january[column])
        assert column in blocked_by(gate(replaced(january, column, holes)))


def test_a_label_that_is_null_throughout_is_no(gate: Gate, january: pa.Table) -> None:
    result = gate(replaced(january, "arr_delay", pa.nulls(january.num_rows, pa.int64())))
    assert not result.verdict.opens


@pytest.mark.parametrize(("column", "code"), [("carrier", "XX"), ("origin", "BOS"), ("dest", "Boston")])
def test_wrong_codes_block(gate: Gate, january: pa.Table, column: str, code: str) -> None:
    wrong = pc.if_else(pc.equal(january["day"], 17), code, january[column])
    result = gate(replaced(january, column, wrong))
    assert column in blocked_by(result)
    assert code in str(next(f.observed for f in result.failures if f.column == column))


def test_features_that_contradict_the_schedule_block(gate: Gate, january: pa.Table) -> None:
    shifted = pc.if_else(pc.equal(january["hour"], 6), 18, january["hour"])
    assert "unexpected_rows_expectation" in blocked_by(gate(replaced(january, "hour", shifted)))


def test_an_unusual_month_of_an_unimportant_column_only_warns(gate: Gate, january: pa.Table) -> None:
    holes = pc.if_else(
        pa.array([n % 10 == 0 for n in range(january.num_rows)]), pa.scalar(None, pa.string()), january["tailnum"]
    )
    result = gate(replaced(january, "tailnum", holes))
    assert result.verdict is Verdict.WARN, result.reasons
    assert [f.column for f in result.failures] == ["tailnum"]


def test_a_truncated_object_is_an_error(tmp_path: Path, suite: Suite, january: pa.Table) -> None:
    from ninelives.adapters.gx_worker import evaluate

    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    pq.write_table(january, whole)
    cut.write_bytes(whole.read_bytes()[:-1000])
    evaluation = evaluate(suite, {"flights/1": whole, "flights/2": cut}, {})
    result = judge(suite, evaluation, fingerprint=None, age=timedelta(0), seconds=0, at=AT)
    assert result.verdict is Verdict.ERROR
    assert "flights/2" in result.errors[0]
