"""Great Expectations on DuckDB or Spark over local Parquet files, or in PostgreSQL over a table: one request on
standard input, one answer on standard output.

Run as ``python -m ninelives.adapters.gx_worker`` by ``ninelives.adapters.great_expectations``: importing Great
Expectations costs seconds of CPU and hundreds of megabytes, which no Airflow worker should carry, and a crash here is
an answer there.

The datasource exists because Great Expectations 1.24.1 closes its connection before it reads the result, which
discards the result in DuckDB's driver (fivetran/great_expectations #10738), and in PostgreSQL would ask every question
of another snapshot. It touches names that Great Expectations does not promise to keep: the version is pinned exactly,
and ``tests/unit/gates/test_engine_contract.py`` holds it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import logging
import os
import re
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakValueDictionary

from ninelives.errors import Unavailable
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Expectation, Suite, quoted
from ninelives.gates.verdict import Evaluation, ObjectSchema, Outcome, blocks, schema_failures

if TYPE_CHECKING:
    from ninelives.adapters.gx_postgres import Snapshot

_SAMPLES = 5
_SAMPLED = "partial_unexpected_list"
_NUMBERS = ("element_count", "unexpected_count", "unexpected_percent", "missing_percent")
_WITHHELD = "the message is withheld: it may quote a value of a redacted column"
_SAMPLE_TEXT = 200
_DATA = "gate_data"
_OWN_QUERY = "unexpected_rows_expectation"
_TABLE_ROWS = 2_000_000
"""Up to here the rows are read once into memory: each of a dozen queries over a view would open every object again.
On 365 objects with 336,776 rows: 2.4 s of CPU instead of 5.0 s; with tens of millions of rows a view is cheaper."""


def evaluate(
    suite: Suite,
    files: Mapping[str, Path],
    settings: Mapping[str, str],
    interval: Interval | None = None,
    rows_shown: int = 0,
    references: Mapping[str, Sequence[Path]] | None = None,
    spark: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Look at the schema first: where it is too far off no expectation could run, and none is paid for.

    :param settings: DuckDB's, e.g. ``memory_limit``; Spark keeps to the same
    :param references: dataset to its files, for every one that the suite refers to
    :param spark: where its session runs, see ``gx_spark.place``; ``None``: DuckDB
    """
    engine = f"{_version('great-expectations')}, {_version('duckdb')}"
    if spark:
        engine = f"{_version('great-expectations')}, {_version('pyspark')} {spark['name']}"
    schemas, rows, errors = _read_schemas(files)
    if errors or not rows or blocks(schema_failures(suite, schemas)):
        return Evaluation(engine, schemas, None if errors else rows, None, tuple(errors))
    data: _Data
    if spark:
        from ninelives.adapters.gx_spark import SparkData

        where = _within(suite, interval, "TIMESTAMP_LTZ") if interval else None
        keep = rows <= _TABLE_ROWS
        data = SparkData(files, suite.columns, where, references or {}, place=spark, settings=settings, keep=keep)
    else:
        reading = read_parquet(suite, list(files.values()), by_name=len(schemas) > 1)
        if interval:
            reading += f" WHERE {_within(suite, interval)}"
        create = [f"CREATE {'TABLE' if rows <= _TABLE_ROWS else 'VIEW'} {_DATA} AS {reading}"]
        create += [f"CREATE VIEW {quoted(name)} AS {_read(paths)}" for name, paths in (references or {}).items()]
        data = _Sql(lambda: _open_duckdb(create, settings))
    check = _Check(suite, data)
    if check.wrong:
        return Evaluation(engine, schemas, rows, None, check.wrong)
    judged, counted, newest = check.judged()
    if not counted:
        return Evaluation(engine, schemas, 0, None, ())
    if counted != rows and interval is None:
        errors.append(f"the objects' footers count {rows} rows, reading them gives {counted}")
    outcomes = tuple(check.outcomes(judged, rows_shown))
    return Evaluation(engine, schemas, counted, outcomes, tuple(errors), newest, docs=check.docs())


def evaluate_table(
    suite: Suite,
    table: str,
    database: Mapping[str, Any],
    timeout: int,
    interval: Interval | None = None,
    rows_shown: int = 0,
    references: Mapping[str, str] | None = None,
) -> Evaluation:
    """The same of a table in PostgreSQL, in one snapshot of it.

    :param table: ``schema.name``
    :param database: what libpq needs to sign in
    :param timeout: milliseconds that a statement may take
    :param references: dataset to its table, for every one that the suite refers to
    :raises Unavailable: the database does not answer, does not let us in, or went away
    """
    import psycopg2  # type: ignore[import-untyped]
    from sqlalchemy.exc import DBAPIError

    from ninelives.adapters.gx_postgres import Snapshot

    snapshot = Snapshot(database, timeout)
    engine = f"{_version('great-expectations')}, postgresql {snapshot.version}"
    try:
        found = _evaluate_snapshot(suite, table, snapshot, interval, rows_shown, references or {})
    except Exception as error:
        if snapshot.lost:
            raise Unavailable(f"the database went away while {table} was judged") from None
        if not isinstance(error, psycopg2.Error | DBAPIError):
            raise
        found = Evaluation(engine, errors=(_WITHHELD if suite.redact else _first_line(error),))
    finally:
        snapshot.connection.close()
    return replace(found, engine=engine, as_of=snapshot.as_of)


def _evaluate_snapshot(
    suite: Suite,
    table: str,
    snapshot: Snapshot,
    interval: Interval | None,
    rows_shown: int,
    references: Mapping[str, str],
) -> Evaluation:
    from ninelives.adapters.gx_postgres import arrow_type, selection

    tables = {suite.dataset: table, **references}
    columns = {name: snapshot.columns(each) for name, each in tables.items()}
    if missing := [tables[name] for name, found in columns.items() if not found]:
        return Evaluation("", errors=tuple(f"the database has no table or view {each}" for each in missing))
    schemas = (ObjectSchema({n: arrow_type(t) for n, t in columns[suite.dataset].items()}, 1, table),)
    stopped = blocks(schema_failures(suite, schemas))
    where = _within(suite, interval) if interval and not stopped else "true"
    rows, own = snapshot.fingerprint(table, columns[suite.dataset], where)
    fingerprints = {suite.dataset: own}
    if stopped or not rows:
        return Evaluation("", schemas, rows, None, (), fingerprints=fingerprints)
    fingerprints |= {name: snapshot.fingerprint(each, columns[name])[1] for name, each in references.items()}
    relations = {name: selection(each, columns[name]) for name, each in references.items()}
    relations[_DATA] = selection(table, {name: columns[suite.dataset][name] for name in suite.columns}, where)
    check = _Check(suite, _Sql(lambda: _without_transactions(snapshot.engine(relations))))
    if check.wrong:
        return Evaluation("", schemas, rows, None, check.wrong, fingerprints=fingerprints)
    judged, counted, newest = check.judged()
    outcomes = tuple(check.outcomes(judged, rows_shown))
    errors = () if counted == rows and snapshot.unbroken else ("not everything was asked of the same snapshot",)
    return Evaluation("", schemas, rows, outcomes, errors, newest, fingerprints, docs=check.docs())


def _read_schemas(files: Mapping[str, Path]) -> tuple[tuple[ObjectSchema, ...], int, list[str]]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    rows, errors = 0, []
    for key, path in files.items():
        try:
            footer = pq.ParquetFile(path)
            columns = tuple((field.name, str(field.type)) for field in footer.schema_arrow)
            rows += footer.metadata.num_rows
            footer.close()
        except (ArrowException, OSError) as error:
            errors.append(f"{key} cannot be read as Parquet: {_first_line(error)}")
            continue
        names = [name.lower() for name, _ in columns]
        if alike := [name for name, _ in columns if names.count(name.lower()) > 1]:
            which = f"{key} has columns that differ in case at most ({', '.join(alike)})"
            errors.append(f"{which}, and one would be judged for the other; rename one")
        found.setdefault(columns, []).append(key)
    schemas = tuple(ObjectSchema(dict(columns), len(keys), keys[0]) for columns, keys in found.items())
    return schemas, rows, errors


def _open_duckdb(create: Sequence[str], settings: Mapping[str, str]) -> Any:
    """A SQLAlchemy engine on one DuckDB in memory, in which ``create`` was run."""
    import duckdb_engine
    import sqlalchemy as sa

    class Compiler(duckdb_engine.Dialect.statement_compiler):  # type: ignore[misc, valid-type]
        def visit_custom_op_binary(self, element: Any, operator: Any, **kw: Any) -> Any:
            # DuckDB's ~ matches the whole string; Great Expectations means a search, as PostgreSQL's does.
            if operator.opstring in ("~", "!~"):
                search = f"regexp_matches({self.process(element.left, **kw)}, {self.process(element.right, **kw)})"
                return search if operator.opstring == "~" else f"(NOT {search})"
            return super().visit_custom_op_binary(element, operator, **kw)

    config = {"config": dict(settings)}
    engine = _without_transactions(sa.create_engine("duckdb:///:memory:", connect_args=config, poolclass=sa.StaticPool))
    engine.dialect.statement_compiler = Compiler
    with engine.connect() as connection:
        keywords = connection.exec_driver_sql("SELECT keyword_name FROM duckdb_keywords()").scalars()
        engine.dialect.identifier_preparer.reserved_words |= set(keywords)
        connection.exec_driver_sql("SET TimeZone = 'UTC'")
        connection.exec_driver_sql("SET enable_progress_bar = false")
        for statement in create:
            connection.exec_driver_sql(statement)
    return engine


def _without_transactions(engine: Any) -> Any:
    """Nothing is written, and a statement that fails, sometimes only while its rows are fetched, then concerns itself
    alone; inside a transaction of SQLAlchemy's it would abort whatever is asked next."""
    engine.dialect.do_begin = engine.dialect.do_commit = engine.dialect.do_rollback = _nothing
    return engine


class _Data(Protocol):
    """The rows of a check, wherever they are."""

    def open(self, context: Any) -> tuple[Any, Any]:
        """Great Expectations' execution engine and batch."""
        ...

    def judged(self, suite: Suite, engine: Any) -> tuple[list[int], int, datetime | None]:
        """Rows that each expectation can judge at all, the number of rows, the newest time; one scan for everything.

        An expectation over values ignores nulls, so a column that is null throughout would pass anything.
        """
        ...


class _Sql:
    """The relation ``gate_data`` of what ``open_data`` opens: a SQLAlchemy engine."""

    def __init__(self, open_data: Callable[[], Any]) -> None:
        self._open_data = open_data

    def open(self, context: Any) -> tuple[Any, Any]:
        _register()
        # Great Expectations keeps and copies a datasource's arguments, so they are a name and never how to sign in.
        self._engine = self._open_data()
        _opened[name := f"gate:{id(self._engine)}"] = self._engine
        source = context.data_sources.add_gate("gate", connection_string=name)
        batches = source.add_table_asset(_DATA, table_name=_DATA).add_batch_definition_whole_table("all")
        return source.get_execution_engine(), batches.get_batch()

    def judged(self, suite: Suite, engine: Any) -> tuple[list[int], int, datetime | None]:
        import sqlalchemy as sa

        # The same question of a dozen expectations is asked once.
        about = [_about(expectation) for expectation in suite.asked]
        counts = {one: sa.func.count().filter(self._judgeable(engine, *one)) for one in about}
        time = suite.time
        newest = sa.func.max(sa.cast(sa.column(time.column) if time else None, sa.TIMESTAMP(timezone=True)))
        with engine.get_connection() as connection:
            asked = sa.select(sa.func.count(), newest, *counts.values()).select_from(sa.table(_DATA))
            rows, latest, *found = connection.execute(asked).one()
        judged = dict(zip(counts, found, strict=True))
        return [int(judged[one]) for one in about], int(rows), latest

    def _judgeable(self, engine: Any, columns: Sequence[str], condition: str) -> Any:
        import sqlalchemy as sa
        from great_expectations.expectations.row_conditions import deserialize_row_condition

        clauses = [sa.column(name).is_not(None) for name in columns]
        if asked := json.loads(condition):
            clauses.append(engine.condition_to_filter_clause(deserialize_row_condition(asked)))
        return sa.and_(sa.true(), *clauses)


def _about(expectation: Expectation) -> tuple[tuple[str, ...], str]:
    """Columns that a row needs to be judged by it at all, and its ``row_condition`` as JSON."""
    columns = () if "null" in expectation.type else tuple(sorted(set(expectation.columns)))
    return columns, json.dumps(expectation.kwargs.get("row_condition"), sort_keys=True)


class _Check:
    """One suite over ``data``."""

    def __init__(self, suite: Suite, data: _Data) -> None:
        _spare_imports()
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self.suite, self.data = suite, data
        self.wrong = tuple(_cannot_be_asked(suite))
        if self.wrong:
            return  # told before any data is read, so that no message has to be withheld
        self.results: dict[int, Any] = {}
        self.context = gx.get_context(mode="ephemeral")
        self.context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self.engine, self.batch = data.open(self.context)  # after the imports, which want memory too

    def judged(self) -> tuple[list[int], int, datetime | None]:
        return self.data.judged(self.suite, self.engine)

    def outcomes(self, judged: Sequence[int], rows_shown: int) -> Iterator[Outcome]:
        """Ask yes or no first; ask for details, which cost a query each, only where the answer is no."""
        answers = self._ask(range(len(self.suite.asked)), "BOOLEAN_ONLY")
        failed = [index for index, answer in answers.items() if not answer["success"] and answer["raised"] is None]
        details = self._details(failed, rows_shown)
        for index, answer in sorted(answers.items()):
            detail = details.get(index, answer)
            asked = self.suite.asked[index]
            error = answer["raised"] or detail["raised"]
            yield Outcome(
                index=index,
                success=answer["success"],
                judged=judged[index],
                # A database's message may quote the value it stumbled over.
                raised=_WITHHELD if error and self.suite.redact else error,
                observed=observed(self.suite, asked, detail["result"]),
                rows=tuple(failing_rows(self.suite, asked, detail["result"], rows_shown)),
            )

    def _details(self, failed: Sequence[int], rows_shown: int) -> dict[int, dict[str, Any]]:
        if not rows_shown:
            return self._ask(failed, "SUMMARY")
        # A query of the suite's own hands out its rows, at most 200 of them, only with COMPLETE. For anything else that
        # would bring every unexpected value here.
        own = [index for index in failed if self.suite.asked[index].type == _OWN_QUERY]
        rows = {"result_format": "SUMMARY", "include_unexpected_rows": True, "partial_unexpected_count": rows_shown}
        return self._ask(own, "COMPLETE") | self._ask([index for index in failed if index not in own], rows)

    def _ask(self, indexes: Sequence[int], result_format: str | dict[str, Any]) -> dict[int, dict[str, Any]]:
        from great_expectations import ExpectationSuite

        wanted, answers = [_as_expectation(self.suite.asked[index], index) for index in indexes], {}
        if wanted:
            asked = ExpectationSuite(name="gate", expectations=wanted)
            for result in self.batch.validate(asked, result_format=result_format).results:
                self.results[result.expectation_config.meta["index"]] = result
                answers[result.expectation_config.meta["index"]] = {
                    "success": result.success is True,
                    "raised": raised(result.exception_info),
                    "result": result.result,
                }
        return answers

    def docs(self) -> str | None:
        """Great Expectations' Data Docs page of what was asked, with no more of the data than the evidence has."""
        from great_expectations.core import ExpectationSuiteValidationResult
        from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
        from great_expectations.render.view.view import DefaultJinjaPageView

        if not self.results:
            return None
        for index, result in self.results.items():
            values = () if _redacted(self.suite, self.suite.asked[index]) else ("observed_value", _SAMPLED)
            seen = {key: result.result[key] for key in (*_NUMBERS, *values) if key in result.result}
            result.result = seen | ({_SAMPLED: seen[_SAMPLED][:_SAMPLES]} if seen.get(_SAMPLED) else {})
            if raised(result.exception_info) and self.suite.redact:
                result.exception_info = {
                    "raised_exception": True, "exception_message": _WITHHELD, "exception_traceback": ""
                }  # fmt: skip
        results = [result for _, result in sorted(self.results.items())]
        met = sum(result.success is True for result in results)
        statistics = {
            "evaluated_expectations": len(results),
            "successful_expectations": met,
            "unsuccessful_expectations": len(results) - met,
            "success_percent": 100 * met / len(results),
        }
        whole = ExpectationSuiteValidationResult(
            success=met == len(results),
            results=results,
            suite_name=self.suite.dataset,
            statistics=statistics,
            meta={"great_expectations_version": _version("great-expectations"), "active_batch_definition": {}},
        )
        try:
            document = ValidationResultsPageRenderer().render(whole)
            page: str = DefaultJinjaPageView().render(document)  # type: ignore[no-untyped-call]
        except Exception as error:  # drawing is for people, and must not change a verdict
            return f"<p>Great Expectations could not draw this ({type(error).__name__}); the evidence has it all.</p>"
        # It would fetch a dozen scripts and styles from elsewhere, and quotes data without escaping it.
        return re.sub(r"<script\b.*?</script\s*>|<(?:link|img)\b[^>]*>", "", page, flags=re.IGNORECASE | re.DOTALL)


def raised(info: Any) -> str | None:
    """The first exception in ``info``, which nests one entry per metric inside another; ``None`` where none is."""
    if not isinstance(info, Mapping):
        return None
    if info.get("raised_exception"):
        return _first_line(info.get("exception_message") or "no message")
    return next((found for value in info.values() if (found := raised(value))), None)


def observed(suite: Suite, expectation: Expectation, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader needs to see of a failure: numbers, and a few values unless a column among them is redacted."""
    seen: dict[str, Any] = {}
    for key in _NUMBERS:
        if isinstance(number := result.get(key), int | float):
            seen[key] = round(number, 4)
    if _redacted(suite, expectation):
        return seen | {"values": "redacted"} if {"observed_value", _SAMPLED} & result.keys() else seen
    if "observed_value" in result:
        seen["observed_value"] = _small(result["observed_value"])
    if samples := result.get(_SAMPLED):
        seen["unexpected"] = [_small(sample) for sample in samples[:_SAMPLES]]
    return seen


def _redacted(suite: Suite, expectation: Expectation) -> bool:
    """Whether a column that it touches is; a query of the suite's own may return any, so it counts as touching all."""
    touched = expectation.columns if expectation.type != _OWN_QUERY else tuple(suite.columns)
    return bool(set(touched) & set(suite.redact))


def failing_rows(
    suite: Suite, expectation: Expectation, result: Mapping[str, Any], limit: int
) -> Iterator[dict[str, Any]]:
    """Some of the rows that fail, without any value of a redacted column."""
    own = expectation.type == _OWN_QUERY
    found = (result.get("details") or {}).get("unexpected_rows") if own else result.get("unexpected_rows")
    if own and suite.redact:  # its columns may be made of redacted ones, whatever they are called
        return
    for row in (found or ())[:limit]:
        yield {name: "redacted" if name in suite.redact else _small(value) for name, value in row.items()}


def _small(value: Any) -> Any:
    """What canonical JSON can hold, and short."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 2**53:  # not so for NaN and infinity either
        return value
    text = json.dumps(value, default=str) if isinstance(value, dict | list | tuple) else str(value)
    return text if len(text) <= _SAMPLE_TEXT else text[:_SAMPLE_TEXT] + "…"


def _first_line(error: Any) -> str:
    if isinstance(error, ValueError) and callable(found := getattr(error, "errors", None)):  # pydantic's, any version
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
    return name + (lines[0] if lines else "no message")


def read_parquet(suite: Suite, paths: Sequence[Path], *, by_name: bool) -> str:
    """The declared columns of all files, as SQL."""
    return _read(paths, ", ".join(map(quoted, suite.columns)), by_name=by_name)


def _read(paths: Sequence[Path], columns: str = "*", *, by_name: bool = True) -> str:
    files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    # Hive partitioning off: a folder day=2013-01-01 must not replace the column day.
    options = f"hive_partitioning = false, union_by_name = {'true' if by_name else 'false'}"
    return f"SELECT {columns} FROM read_parquet([{files}], {options})"  # noqa: S608


def _within(suite: Suite, interval: Interval, instant: str = "TIMESTAMPTZ") -> str:
    """A range predicate: DuckDB skips whole row groups by it, which it cannot for one over parts of a date."""
    if suite.time is None:
        raise ValueError(f"the suite of {suite.dataset} declares no time column")
    column = quoted(suite.time.column)
    return f"{column} >= {instant} '{interval.start}' AND {column} < {instant} '{interval.end}'"


class _Late(types.ModuleType):
    """Stands for a module until somebody needs something of it.

    ``importlib.util.LazyLoader`` would load it as soon as anybody walks over ``sys.modules``, which happens at once.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if found := importlib.util.find_spec(name):
            self.__spec__, self.__path__ = found, found.submodule_search_locations or []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _spare_imports() -> None:
    """Great Expectations imports two libraries for what few suites use: 2 of its 6.5 seconds of CPU.

    SciPy's statistics compute the Kullback-Leibler limits, and Altair draws what nobody looks at here.
    """
    for name in ("scipy.stats", "altair"):
        if name not in sys.modules:
            sys.modules[name] = _Late(name)


def _cannot_be_asked(suite: Suite) -> Iterator[str]:
    """An unknown type, wrong arguments."""
    for index, asked in enumerate(suite.asked):
        try:
            _as_expectation(asked, index)
        except Exception as error:
            what = f"expectations[{index}] {asked.type}" + (f" of {asked.column}" if asked.column else "")
            yield f"{what} cannot be asked: {_first_line(error)}"


def _as_expectation(declared: Expectation, index: int) -> Any:
    from great_expectations.expectations.metadata_types import FailureSeverity
    from great_expectations.expectations.registry import get_expectation_impl
    from great_expectations.expectations.row_conditions import deserialize_row_condition

    if declared.type in _NOT_ASKED:
        raise ValueError(_NOT_ASKED[declared.type])
    implementation = _quantiles() if declared.type == _QUANTILES else get_expectation_impl(declared.type)
    kwargs = dict(declared.kwargs)
    if "row_condition" in kwargs:
        kwargs["row_condition"] = deserialize_row_condition(kwargs["row_condition"])
    return implementation(**kwargs, severity=FailureSeverity(declared.severity.value), meta={"index": index})


_NOT_ASKED = {
    "expect_column_values_to_be_of_type": "every engine has names of its own for types; the schema says the type",
    "expect_column_values_to_be_in_type_list": "every engine has names of its own for types; the schema says the type",
    "expect_column_values_to_be_increasing": "rows have no order",
    "expect_column_values_to_be_decreasing": "rows have no order",
}
"""What some engine would answer, and the others not or otherwise."""
_QUANTILES = "expect_column_quantile_values_to_be_between"
_classes: dict[str, Any] = {}


def _quantiles() -> Any:
    """The quantile expectation with a plain ``bool``: marshmallow 4 does not serialise its ``numpy.bool``."""
    if _QUANTILES not in _classes:
        from great_expectations.expectations.core.expect_column_quantile_values_to_be_between import (
            ExpectColumnQuantileValuesToBeBetween,
        )

        class ExpectColumnQuantilesToBeBetween(ExpectColumnQuantileValuesToBeBetween):
            def _validate(self, *args: Any, **kwargs: Any) -> Any:
                result = super()._validate(*args, **kwargs)
                return result | {"success": bool(result["success"])}

        _classes[_QUANTILES] = ExpectColumnQuantilesToBeBetween
    return _classes[_QUANTILES]


_opened: WeakValueDictionary[str, Any] = WeakValueDictionary()


def _register() -> None:
    """Teach Great Expectations ``context.data_sources.add_gate``; defining the subclass registers it."""
    if "datasource" in _classes:
        return
    import sqlalchemy as sa
    from great_expectations.datasource.fluent.sql_datasource import SQLDatasource
    from great_expectations.execution_engine.sqlalchemy_execution_engine import SqlAlchemyExecutionEngine

    from ninelives.adapters import gx_metrics

    class GateExecutionEngine(SqlAlchemyExecutionEngine):
        def __init__(self, *, connection_string: str, create_temp_table: bool) -> None:
            super().__init__(engine=_opened[connection_string], create_temp_table=create_temp_table)
            self.dialect_module = sa.dialects.postgresql  # without it: "Regex is not supported for dialect duckdb"

        @contextmanager
        def get_connection(self) -> Iterator[Any]:
            """One connection for everything, as Great Expectations itself does for SQLite."""
            if self._connection is None:
                self._connection = self.engine.connect()
            yield self._connection

    class GateDatasource(SQLDatasource):
        type: Literal["gate"] = "gate"  # type: ignore[assignment]

        @property
        def execution_engine_type(self) -> Any:
            return GateExecutionEngine

        def get_engine(self) -> Any:
            return self.get_execution_engine().engine

    gx_metrics.register(GateExecutionEngine)
    _classes["datasource"] = GateDatasource


def _nothing(connection: Any) -> None:
    """Begin, commit or roll back where every statement stands alone."""


def _version(library: str) -> str:
    from importlib.metadata import version

    return f"{library} {version(library)}"


def _die_with_parent() -> None:
    """A killed task must not leave its check running; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _judge(request: Mapping[str, Any]) -> dict[str, Any]:
    suite = Suite.model_validate(request["suite"])
    interval = Interval.parse(request["interval"]) if request["interval"] else None
    if "table" in request:
        where = request["table"], request["database"], request["timeout"]
        try:
            return asdict(evaluate_table(suite, *where, interval, request["rows"], request["references"]))
        except Unavailable as error:
            return {"unavailable": str(error)}
    files = {key: Path(path) for key, path in request["files"].items()}
    references = {name: [Path(path) for path in paths] for name, paths in request["references"].items()}
    how = request["settings"], interval, request["rows"], references, request["spark"]
    return asdict(evaluate(suite, files, *how))


def _look(objects: Mapping[str, str], request: Mapping[str, Any]) -> dict[str, Any]:
    from ninelives.adapters.sql_profile import profile

    files = {key: Path(path) for key, path in objects.items()}
    schemas, _, errors = _read_schemas(files)
    if len(schemas) > 1:
        errors.append(f"objects have different columns or types: {schemas[0].example}, {schemas[1].example}")
    if errors or not schemas:
        return {"errors": errors or ["there are no objects"]}
    return {"profile": asdict(profile(schemas[0].columns, list(files.values()), request["settings"]))}


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    if "profile" in request:
        return _look(request["profile"], request)
    if "profile_table" in request:
        return _look_at_table(request["profile_table"], request)
    return _judge(request)


def _look_at_table(table: str, request: Mapping[str, Any]) -> dict[str, Any]:
    import psycopg2

    from ninelives.adapters.gx_postgres import Snapshot
    from ninelives.adapters.sql_profile import profile_table

    try:
        snapshot = Snapshot(request["database"], request["timeout"])
        found = profile_table(table, snapshot)
    except Unavailable as error:
        return {"unavailable": str(error)}
    except psycopg2.Error as error:
        return {"errors": [_first_line(error)]}
    return {"profile": asdict(found)} if found else {"errors": [f"the database has no table or view {table}"]}


def main() -> None:
    _die_with_parent()
    # Whatever a library prints goes to standard error; the answer has the real standard output for itself.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    request = json.load(sys.stdin)
    if spark := request.get("spark"):
        os.chdir(request["settings"]["temp_directory"])  # Spark leaves things where it is started
    else:
        sys.modules["pyspark"] = None  # type: ignore[assignment]  # Great Expectations imports it wherever it is
    json.dump(_answer(request), answer, default=str)
    answer.flush()
    if spark:
        from ninelives.adapters.gx_spark import stop

        stop()
    os._exit(0)  # nothing to clean up, and tearing down the interpreter costs a third of a second


if __name__ == "__main__":
    main()
