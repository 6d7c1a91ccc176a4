"""The gate by Spark: the contract of the other engines on a third, the same verdicts as DuckDB's on the same rows, and
no JVM that outlives its check.

Spark is optional, and no part of what the lock installs. To run this: ``pip install 'pyspark>=4,<5'`` into an
environment of its own on top of this one, with Java 17 or newer.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.gate import gated_site, january, objects, publish
from support.processes import ROOT, wait_until
from typer.testing import CliRunner
from unit.gates.test_engine_contract import (  # noqa: F401 - what Spark is asked too, with the ``run`` of this module
    ALIKE,
    NEITHER,
    NOT_NULL,
    T0,
    TIME,
    Run,
    check,
    comparison,
    judge_two_days_in_utc,
    minutes,
    over_parquet,
    suite_of,
    table,
    test_a_column_that_is_null_throughout_passes_in_the_engine_and_is_an_error_here,
    test_a_regular_expression_is_searched_for_as_everywhere_else_in_great_expectations,
    test_a_row_condition_decides_which_rows_are_judged,
    test_a_row_condition_that_matches_nothing_passes_in_the_engine_and_is_an_error_here,
    test_an_expectation_that_raises_is_an_error_even_as_a_warning_and_leaves_the_others_alone,
    test_data_docs_show_what_was_asked_run_nothing_and_fetch_nothing,
    test_details_are_asked_for_only_where_the_answer_is_no,
    test_every_kind_of_expectation_says_yes_and_no_in_one_run_each,
    test_every_row_points_to_a_row_of_the_other_dataset_and_nulls_point_nowhere,
    test_failing_rows_are_shown_where_they_are_asked_for_without_redacted_values,
    test_instants_compare_in_utc_in_every_spelling,
    test_no_value_of_a_redacted_column_reaches_the_evidence,
    test_only_the_rows_of_the_interval_are_judged_its_start_among_them_and_its_end_not,
    test_the_newest_row_may_not_be_older_than_the_suite_allows,
)

from ninelives.adapters import gx_spark
from ninelives.cli import app
from ninelives.cli.common import ExitCode
from ninelives.gates.verdict import Outcome, Verdict

_MISSING = [
    *([] if importlib.util.find_spec("pyspark") else ["no pyspark"]),
    *([] if shutil.which("java") else ["no Java"]),
]
pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(_MISSING), reason=f"{' and '.join(_MISSING)} here: the gate by Spark, and its verdicts, are not tested"
    ),
]

PLACE = {"address": "local[2]", "settings": {}, "name": "in one process"}
MEMORY = {"memory_limit": "1400MB"}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The one session of this module; its JVM is gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gx_spark.environment(PLACE).items():
            patch.setenv(name, value)
        time.tzset()
        patch.chdir(tmp_path_factory.mktemp("spark"))
        yield
        gx_spark.stop()
    time.tzset()


@pytest.fixture
def run(tmp_path: Path, session: None) -> Run:
    return over_parquet(tmp_path / "by-spark", MEMORY, spark=PLACE)


@pytest.fixture
def by_duckdb(tmp_path: Path) -> Run:
    return over_parquet(tmp_path / "by-duckdb")


def test_spark_sees_the_same_as_duckdb_in_the_same_rows_with_every_kind_of_expectation(
    run: Run, by_duckdb: Run
) -> None:
    def without_samples(outcome: Outcome) -> Outcome:
        """Rows have no order, so either may show others that fail; a quantile of whole numbers is 49 or 49.0."""
        seen = {k: str(v).replace(".0", "") for k, v in outcome.observed.items() if k != "unexpected"}
        return replace(outcome, observed=seen)

    spark, duckdb = ([*map(without_samples, run(table(), *ALIKE)[1].outcomes or ())] for run in (run, by_duckdb))
    assert [(s, d) for s, d in zip(spark, duckdb, strict=True) if s != d] == []
    assert len(spark) == len(ALIKE)
    assert not [outcome.raised for outcome in spark if outcome.raised]
    result, _ = run(table(), *NEITHER, NOT_NULL)
    assert (result.verdict, len(result.errors)) == (Verdict.ERROR, len(NEITHER)), result.reasons


def test_an_interval_is_in_utc_whatever_the_type_of_the_time_column(run: Run) -> None:
    types = [pa.timestamp("us"), pa.timestamp("us", tz="UTC"), pa.date32(), pa.timestamp("ns", tz="Europe/Paris")]
    for type_ in [*types, pa.timestamp("ns")]:
        judge_two_days_in_utc(run, type_)


def test_names_of_all_kinds_are_names_and_values_of_all_kinds_are_values(run: Run, by_duckdb: Run) -> None:
    data = pa.table(
        {
            "per cent %": ["it's", 'say "x"', "a\\b", None],
            "order": [1, 2, 3, 4],
            "a`b": [1.0, 2.0, 3.0, 4.0],
            "a.b": [1, 2, 3, 4],
        }
    )
    asked = [
        check("expect_column_values_to_be_in_set", column="per cent %", value_set=["it's", 'say "x"']),
        check("expect_column_values_to_be_between", column="a.b", max_value=2),
        check("expect_column_values_to_match_like_pattern", column="per cent %", like_pattern="%'s"),
        *(
            check(
                "expect_column_values_to_be_between",
                column="order",
                max_value=0,
                row_condition=comparison("per cent %", operator, value),
            )
            for operator, value in (("==", "it's"), ("!=", 'say "x"'), ("IN", ["a\\b", "it's"]), ("==", "a\\b"))
        ),
    ]
    spark, duckdb = (
        [(o.success, o.judged, o.raised) for o in r(data, *asked)[1].outcomes or ()] for r in (run, by_duckdb)
    )
    assert spark == duckdb
    assert [judged for _, judged, _ in spark] == [3, 4, 3, 1, 2, 2, 1]


def test_every_object_is_read_whatever_it_is_called_and_one_under_two_keys_twice(run: Run, tmp_path: Path) -> None:
    from ninelives.adapters import gx_worker

    keys = ["d/n=7/part [0].parquet", "d/{a,b}*?.parquet", "d/%20 x.parquet"]
    result, _ = run(
        dict.fromkeys(keys, table()), NOT_NULL, check("expect_column_max_to_be_between", column="n", max_value=99)
    )
    assert (result.verdict, result.rows) == (Verdict.PASS, 300), result.reasons

    pq.write_table(table(), tmp_path / "same")
    files = dict.fromkeys(("d/1", "d/2", "d/3"), tmp_path / "same")
    unique = suite_of(table(), check("expect_column_values_to_be_unique", column="n"), time=TIME)
    for interval, rows in ((None, 300), (minutes(0, 10), 30)):
        evaluation = gx_worker.evaluate(unique, files, MEMORY, interval, spark=PLACE)
        assert (evaluation.rows, [o.success for o in evaluation.outcomes or ()]) == (rows, [False])
    hidden = suite_of(table(), NOT_NULL)
    pq.write_table(table(), tmp_path / "_hidden")
    with pytest.raises(Exception, match=r"every object|UNABLE_TO_INFER|PATH_NOT_FOUND"):
        gx_worker.evaluate(hidden, files | {"d/4": tmp_path / "_hidden"}, MEMORY, spark=PLACE)


def test_a_dataset_that_says_so_is_judged_by_spark_and_its_verdict_is_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = (ROOT / "include/estates/demo/estate.yaml").read_text()
    (tmp_path / "estate.yaml").write_text(estate.replace("suite: flights", "suite: flights\n    gate_engine: spark"))
    monkeypatch.setenv("NINELIVES_ESTATE", str(tmp_path / "estate.yaml"))
    (tmp_path / "temporary").mkdir()
    with gated_site(tmp_path / "site") as site:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        monkeypatch.setenv("NINELIVES_HOME", str(site.home.root))
        monkeypatch.setenv("NINELIVES_EXPECTATIONS", str(ROOT / "expectations"))
        publish(site.store, objects(january()))
        done = CliRunner().invoke(app, ["gate", "run", "flights", "--site", "dublin", "--json"])
        assert done.exit_code == ExitCode.MET, done.output
        (answer,) = json.loads(done.stdout)
        assert (answer["verdict"], answer["rows"]) == ("pass", 27_004), answer
        (record,) = site.systems().ledger().records(kind="gate", subject="flights@dublin")
        assert "pyspark 4" in record.facts["engine"]
        assert record.facts["engine"].endswith("in one process")
        assert "key" in record.facts["docs"]
    assert list((tmp_path / "temporary").iterdir()) == []


def jvms(family: psutil.Process) -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """Each with the worker that it belongs to; a smaller one that puts together its command line does not count."""
    for process in family.children(recursive=True):
        parent = process.parent()
        if process.name() == "java" and parent and "ninelives.adapters.gx_worker" in parent.cmdline():
            yield process, parent


def gone(process: psutil.Process) -> bool:
    """Also where nobody has asked yet how it ended."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


CHECK = """
import json, sys
from pathlib import Path
from ninelives.adapters.great_expectations import GreatExpectations
from ninelives.gates.suite import Suite
suite, file, place = json.loads(sys.argv[1])
print(GreatExpectations(spark=place).evaluate(Suite.model_validate(suite), {"d/1": Path(file)}).errors)
"""


@pytest.mark.parametrize("killed", ["the worker", "who asked it"])
def test_a_check_that_is_killed_leaves_no_jvm_behind(tmp_path: Path, killed: str) -> None:
    pq.write_table(table(), tmp_path / "1.parquet")
    suite = suite_of(table(), NOT_NULL).model_dump(mode="json", by_alias=True)
    argument = json.dumps([suite, str(tmp_path / "1.parquet"), PLACE])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "include"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", CHECK, argument]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as asking:
        family = psutil.Process(asking.pid)
        jvm, worker = wait_until(lambda: next(jvms(family), None), "a JVM", 60)
        (worker if killed == "the worker" else family).kill()
        wait_until(lambda: gone(jvm) and gone(worker), "the end of the JVM")
        said = asking.stdout.read() if asking.stdout else ""
    if killed == "the worker":
        assert "SIGKILL" in said
        assert [path.name for path in tmp_path.iterdir()] == ["1.parquet"], "nothing of the check is left"
