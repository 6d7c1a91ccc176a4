"""Parquet files judged by Spark: where its session runs, and for the gate's worker the rows and what is asked of them.

The suite is the same as everywhere, so Spark is told to read SQL as the others do: ANSI rules, names in double quotes,
times in UTC. It is optional: nothing here imports pyspark before it is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, reduce
from operator import add, and_, or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ninelives.errors import Refused
from ninelives.ports import Connection

if TYPE_CHECKING:
    from ninelives.gates.suite import Expectation, Suite

CONNECTION = "ninelives_spark"
_LOCAL = "local[*]"
_JAVA = 17
"""The oldest that Spark 4 runs on."""
_JVM = 400
"""Megabytes that the JVM takes beside its heap."""
LEAST_MEMORY = 1500
"""Megabytes of a whole check: what all that takes, and a heap without which Spark does not start."""
_SQL = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",  # a cast that fails is an error, not a null that nobody looks at
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # it would refuse them; see _column
}
_FEW_ROWS = {"spark.sql.shuffle.partitions": "4", "spark.sql.adaptive.enabled": "false"}
"""Spark's own 200 tasks for each of hundreds of questions take minutes, whatever the rows."""


def place(connection: Connection | None) -> dict[str, Any]:
    """Where the session runs, for the worker's request: in the worker itself where there is no connection.

    ``host`` (and ``port``) of a connection are a master, like ``spark://10.0.0.7``, or with ``sc://`` the server of
    Spark Connect, whose token is the password; ``conf`` in its extra are Spark's own settings.

    :raises Refused: pyspark is not installed, or there is no Java for it; says what to install
    """
    address = (connection.host if connection else None) or _LOCAL
    if connection and connection.port:
        address += f":{connection.port}"
    connect = address.startswith("sc://")
    if missing := [*_without_pyspark(), *([] if connect else _without_java())]:
        raise Refused("judge with Spark", [*missing, "or say gate_engine: duckdb, which needs neither"])
    if connect and connection and connection.password:
        address += f"/;use_ssl=true;token={connection.password}"
    settings = connection.extra.get("conf", {}) if connection else {}
    return {
        "address": address,
        "settings": {str(key): str(value) for key, value in settings.items()},
        "name": f"at {connection.conn_id}" if connection and connection.host else "in one process",
    }


def environment(place: Mapping[str, Any]) -> dict[str, str]:
    """What the worker's environment needs, beside what it has."""
    # Without an address Spark takes the host's first and waits for minutes where nothing can reach it.
    local = {"SPARK_LOCAL_IP": "127.0.0.1"} if _is_local(place["address"]) else {}
    # pyspark turns instants into the process's own time.
    return {"TZ": "UTC", "PYSPARK_PYTHON": sys.executable, **local}


def _without_pyspark() -> list[str]:
    if importlib.util.find_spec("pyspark"):
        return []
    return ["pyspark is not installed: pip install 'ninelives[gates,spark]' into this Python"]


def _without_java() -> list[str]:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    what = f"install a Java runtime {_JAVA} or newer, such as openjdk-{_JAVA}-jre-headless, or set JAVA_HOME to one"
    if java is None:
        return [f"there is no Java: {what}"]
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        return [f"{java} does not run ({error}): {what}"]
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < _JAVA:
        return [f"{java} is {said.splitlines()[0] if said else 'of no version'}: {what}"]
    return []


_sessions: dict[str, Any] = {}


def _is_local(address: str) -> bool:
    return address.startswith("local")


class SparkData:
    """What the worker's check asks: the rows of ``files``, in a session of Spark.

    :param files: key to file; two keys may lead to the same one, whose rows then count twice
    :param types: column to Arrow type, of all that is read
    :param where: SQL condition of the rows that are judged
    :param references: dataset to its files
    :param settings: of the process, as DuckDB calls them: ``memory_limit``, ``temp_directory``, ``threads``
    :param keep: whether the rows are read once and kept, in memory as far as it goes and then on the disk
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        types: Mapping[str, str],
        where: str | None,
        references: Mapping[str, Sequence[Path]],
        *,
        place: Mapping[str, Any],
        settings: Mapping[str, str],
        keep: bool,
    ) -> None:
        self.files, self.types, self.where, self.references = files, types, where, references
        self.place, self.settings, self.keep = place, settings, keep

    def open(self, context: Any) -> tuple[Any, Any]:
        """Great Expectations' engine and batch."""
        _register()
        session = _sessions["gate"] = _session(self.place, self.settings, _SQL | (_FEW_ROWS if self.keep else {}))
        self.rows = self._read(session)
        if self.where:
            self.rows = self.rows.filter(self.where)
        for name, paths in self.references.items():
            _parquet(session.read.option("mergeSchema", True), paths).createOrReplaceTempView(f"`{name}`")
        source = context.data_sources.add_gate_spark("gate", persist=self.keep)
        batches = source.add_dataframe_asset("gate_data").add_batch_definition_whole_dataframe("all")
        batch = batches.get_batch({"dataframe": self.rows})
        return source.get_execution_engine(), batch

    def _read(self, session: Any) -> Any:
        from pyspark.sql import functions as F

        paths = list(self.files.values())
        names = [F.col(_quoted(name)) for name in self.types]
        # One schema for all, because every object has these columns, and some may have more or in another order.
        schema = _parquet(session.read, paths[:1]).select(names).schema
        rows = _parquet(session.read.schema(schema), paths)
        return rows.select([_column(field, self.types[field.name]) for field in schema.fields])

    def judged(self, suite: Suite, engine: Any) -> tuple[list[int], int, datetime | None]:
        """See ``gx_worker``: rows that each expectation can judge, number of rows, newest time."""
        from pyspark.sql import functions as F

        counts = [F.count(F.when(_judgeable(engine, expectation), 1)) for expectation in suite.asked]
        time = F.col(_quoted(suite.time.column)) if suite.time else F.lit(None)
        newest = F.max(F.unix_micros(time.cast("timestamp")))
        rows, latest, *judged = self.rows.agg(F.count(F.lit(1)), newest, *counts).first()
        at = None if latest is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=latest)
        return [int(n) for n in judged], int(rows), at


def stop() -> None:
    """End the JVM that this process has started, at once: everything of it is the check's own and temporary."""
    from pyspark import SparkContext

    if (gateway := SparkContext._gateway) is not None and (process := getattr(gateway, "proc", None)) is not None:
        process.kill()
        process.wait()


def _session(place: Mapping[str, Any], settings: Mapping[str, str], sql: Mapping[str, str]) -> Any:
    from pyspark.sql import SparkSession

    address, builder = place["address"], SparkSession.builder
    if address.startswith("sc://"):
        builder = builder.remote(address)
    else:
        for key, value in (_process(address, settings) | place["settings"]).items():
            builder = builder.config(key, value)
    session = builder.getOrCreate()
    if not address.startswith("sc://"):
        session.catalog.clearCache()  # where one process checks several times, none sees what another has left
        session = session.newSession()
    for key, value in sql.items():
        session.conf.set(key, value)
    return session


def _process(address: str, settings: Mapping[str, str]) -> dict[str, str]:
    """How the driver, in local mode the whole of Spark, keeps within what the check may take."""
    heap = int(settings["memory_limit"].removesuffix("MB")) - _JVM
    folder = settings.get("temp_directory", ".")
    if address == _LOCAL and "threads" in settings:
        address = f"local[{settings['threads']}]"
    options = f"-Djava.io.tmpdir={folder} -XX:+ExitOnOutOfMemoryError -XX:MaxMetaspaceSize={_JVM // 2}m"
    own = {
        "spark.master": address,
        "spark.app.name": "ninelives gate",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": f"{heap}m",
        "spark.driver.extraJavaOptions": options,
        "spark.local.dir": folder,
        "spark.sql.warehouse.dir": folder,
        "spark.sql.catalogImplementation": "in-memory",
    }
    return own | ({"spark.driver.host": "127.0.0.1"} if _is_local(address) else {})


def _parquet(reader: Any, paths: Sequence[Path]) -> Any:
    """The rows of all ``paths``; Spark reads a file that is named twice only once, and leaves out some by their names.

    :raises ValueError: Spark does not read all of them
    """
    frames, left = [], Counter(map(str, paths))
    while left:
        some = sorted(left)
        exactly = ["file://" + re.sub(r"([][{}*?\\])", r"\\\1", path) for path in some]  # no path is a pattern
        frames.append(reader.option("recursiveFileLookup", True).parquet(*exactly))  # and no folder a partition
        if len(set(frames[-1].inputFiles())) != len(some):
            raise ValueError("Spark does not read every object; it leaves out names that begin with _ or a dot")
        left -= Counter(some)
    return reduce(lambda one, other: one.unionAll(other), frames)


def _column(field: Any, arrow: str) -> Any:
    """Whole nanoseconds, which Spark does not have, as the microseconds that it does."""
    from pyspark.sql import functions as F

    name = _quoted(field.name)
    if not arrow.startswith("timestamp[ns") or field.dataType.typeName() != "long":
        return F.col(name)
    instant = f"timestamp_micros(({name} - pmod({name}, 1000)) div 1000)"
    return F.expr(instant if "tz=" in arrow else f"cast({instant} AS timestamp_ntz)").alias(field.name)


def _judgeable(engine: Any, expectation: Expectation) -> Any:
    from great_expectations.expectations.row_conditions import deserialize_row_condition
    from pyspark.sql import functions as F

    columns = () if "null" in expectation.type else expectation.columns
    clauses = [F.lit(True), *(F.col(_quoted(name)).isNotNull() for name in columns)]
    if (condition := expectation.kwargs.get("row_condition")) is not None:
        clauses.append(F.expr(engine.condition_to_filter_clause(deserialize_row_condition(condition))))
    return reduce(and_, clauses)


@cache
def _register() -> None:
    """Teach Great Expectations ``context.data_sources.add_gate_spark``, and for Spark what databases say."""
    from great_expectations.datasource.fluent.spark_datasource import SparkDatasource
    from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
    from great_expectations.expectations.row_conditions import Operator

    class GateSparkEngine(SparkDFExecutionEngine):
        def _comparison_condition_to_filter_clause(self, condition: Any) -> str:
            """With literals of SQL; Great Expectations writes those of Python, whose double quotes are names here."""
            column, operator, value = _quoted(condition.column.name), condition.operator, condition.parameter
            if operator in (Operator.IN, Operator.NOT_IN):
                connector = "IN" if operator == Operator.IN else "NOT IN"
                return f"{column} {connector} ({', '.join(map(_literal, value))})"
            return f"{column} {operator} {_literal(value)}"

    class GateSparkDatasource(SparkDatasource):
        type: Literal["gate_spark"] = "gate_spark"  # type: ignore[assignment]

        @property
        def execution_engine_type(self) -> Any:
            return GateSparkEngine

        def get_spark(self) -> Any:
            """The session that is there; Great Expectations would look for Spark Connect first."""
            self.update_forward_refs()
            self._spark = _sessions["gate"]
            return self._spark

    _teach_patterns()
    _teach_nulls()


def _teach_nulls() -> None:
    """A row with a null in its key is no other's double, and one in a sum says nothing: in Great Expectations that is
    so in databases, and in Spark two nulls are the same and count as nought.
    """
    from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    metrics: Any = importlib.import_module("great_expectations.expectations.metrics.multicolumn_map_metrics")
    providers: Any = importlib.import_module("great_expectations.expectations.metrics.map_metric_provider")

    def unique(columns: Sequence[Any], _: Any) -> Any:
        return F.count(F.lit(1)).over(Window.partitionBy(*columns)) <= 1

    def sum_equal(columns: Sequence[Any], sum_total: Any) -> Any:
        return reduce(add, columns) == F.lit(sum_total)

    def unless_null(met: Callable[..., Any]) -> Callable[..., Any]:
        def condition(_: Any, column_list: Any, sum_total: Any = None, **__: Any) -> Any:
            columns = [F.col(_quoted(name)) for name in column_list.columns]
            return reduce(or_, [column.isNull() for column in columns], met(columns, sum_total))

        return condition

    for metric, met in ((metrics.CompoundColumnsUnique, unique), (metrics.MulticolumnSumEqual, sum_equal)):
        _teach(metric, providers.multicolumn_condition_partial(engine=SparkDFExecutionEngine)(unless_null(met)))


def _teach(metric: Any, condition: Any) -> None:
    type(metric)(f"Spark{metric.__name__}", (metric,), {"_spark": condition})  # defining it registers it


def _teach_patterns() -> None:
    """Great Expectations has LIKE for databases only."""
    from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
    from pyspark.sql import functions as F

    metrics: Any = importlib.import_module("great_expectations.expectations.metrics.column_map_metrics")
    providers: Any = importlib.import_module("great_expectations.expectations.metrics.map_metric_provider")

    def like(column: Any, patterns: Sequence[str], escape: str | None, every: bool = False) -> Any:
        escaped = [] if escape is None else [F.lit(escape)]
        found = [F.like(column, F.lit(pattern), *escaped) for pattern in patterns]
        return reduce(and_ if every else or_, found)

    def match(_: Any, column: Any, like_pattern: str, escape: str | None = None, **__: Any) -> Any:
        return like(column, [like_pattern], escape)

    def match_list(
        _: Any, column: Any, like_pattern_list: Sequence[str], match_on: str | None = None, escape: str | None = None,
        **__: Any,
    ) -> Any:  # fmt: skip
        return like(column, like_pattern_list, escape, every=match_on == "all")

    def unlike(condition: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **named: ~condition(*arguments, **named)

    conditions = {
        metrics.ColumnValuesMatchLikePattern: match,
        metrics.ColumnValuesNotMatchLikePattern: unlike(match),
        metrics.ColumnValuesMatchLikePatternList: match_list,
        metrics.ColumnValuesNotMatchLikePatternList: unlike(match_list),
    }
    for metric, condition in conditions.items():
        _teach(metric, providers.column_condition_partial(engine=SparkDFExecutionEngine)(condition))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _literal(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
