"""Great Expectations' dearest questions, put to DuckDB and PostgreSQL as one would by hand.

Its own statements are general, and cost several times as much (docs/gates.md#where-the-time-goes). What stands here
counts the same rows, which ``tests/unit/gates/test_engine_contract.py`` holds on both engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def register(engine: type[Any]) -> None:
    """Let ``engine``, a SQL execution engine of Great Expectations', answer these; defining a class registers it."""
    import sqlalchemy as sa
    from great_expectations.core.metric_domain_types import MetricDomainTypes
    from great_expectations.expectations.metrics.column_aggregate_metric_provider import ColumnAggregateMetricProvider
    from great_expectations.expectations.metrics.column_map_metrics.column_values_unique import ColumnValuesUnique
    from great_expectations.expectations.metrics.metric_provider import MetricProvider, metric_value
    from great_expectations.expectations.metrics.multicolumn_map_metrics.compound_columns_unique import (
        CompoundColumnsUnique,
    )
    from great_expectations.expectations.metrics.query_metrics.query_table.unexpected_rows_query_table import (
        UnexpectedRowsQueryTable,
    )
    from great_expectations.validator.metric_configuration import MetricConfiguration

    class GateQuantiles(ColumnAggregateMetricProvider):
        """All quantiles of a column from one state; asked one by one, each keeps every value of the column."""

        metric_name = "column.quantile_values"
        value_keys = ("quantiles", "allow_relative_error")

        @metric_value(engine=engine)
        def _gate(
            cls,
            execution_engine: Any,
            metric_domain_kwargs: dict[str, Any],
            metric_value_kwargs: dict[str, Any],
            **_: Any,
        ) -> list[Any]:
            compute = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.COLUMN)
            selectable, _, names = compute
            fractions = ", ".join(repr(float(fraction)) for fraction in metric_value_kwargs["quantiles"])
            asked = sa.func.percentile_disc(sa.literal_column(f"CAST(ARRAY[{fractions}] AS DOUBLE PRECISION[])"))
            query = sa.select(asked.within_group(sa.column(names["column"]).asc())).select_from(selectable)
            found = execution_engine.execute_query(query).scalar()
            return list(found) if found is not None else [None] * len(metric_value_kwargs["quantiles"])

    class GateRepeatedValues(MetricProvider):
        """Without the window over all rows."""

        metric_name = "column_values.unique.unexpected_count"
        domain_keys = ColumnValuesUnique.condition_domain_keys

        @metric_value(engine=engine)
        def _gate(cls, execution_engine: Any, metric_domain_kwargs: dict[str, Any], **_: Any) -> int:
            return _repeated(execution_engine, metric_domain_kwargs, [metric_domain_kwargs["column"]])

    class GateRepeatedKeys(MetricProvider):
        """Without joining every row with the number of its like.

        That join drops a row with a null in any of the columns, whatever ``ignore_row_if`` is: so does this.
        """

        metric_name = "compound_columns.unique.unexpected_count"
        domain_keys = CompoundColumnsUnique.condition_domain_keys

        @metric_value(engine=engine)
        def _gate(cls, execution_engine: Any, metric_domain_kwargs: dict[str, Any], **_: Any) -> int:
            return _repeated(execution_engine, metric_domain_kwargs, metric_domain_kwargs["column_list"])

    class GateOwnQuery(UnexpectedRowsQueryTable):
        """The rows themselves only where there are any: counting reads fewer columns, and is done in any case."""

        @metric_value(engine=engine)
        def _gate(cls, execution_engine: Any, metrics: dict[str, Any], **kwargs: Any) -> list[dict[str, Any]]:
            if metrics[_COUNTED] == 0:
                return []
            fetch: Any = UnexpectedRowsQueryTable._sqlalchemy
            found: list[dict[str, Any]] = fetch(cls, execution_engine=execution_engine, metrics=metrics, **kwargs)
            return found

        @classmethod
        def _get_evaluation_dependencies(cls, metric: Any, *_: Any, **__: Any) -> dict[str, Any]:
            return {_COUNTED: MetricConfiguration(_COUNTED, metric.metric_domain_kwargs, metric.metric_value_kwargs)}


_COUNTED = "unexpected_rows_query.row_count"


def _repeated(engine: Any, domain: dict[str, Any], columns: Sequence[str]) -> int:
    """Rows whose values in ``columns``, none of them null, are those of another row too."""
    import sqlalchemy as sa
    from great_expectations.util import get_sqlalchemy_selectable

    rows = get_sqlalchemy_selectable(engine.get_domain_records(domain_kwargs=domain))
    key: list[Any] = [sa.column(name) for name in columns]
    number = sa.func.count().label("number")
    groups = sa.select(number).select_from(rows).where(*(column.is_not(None) for column in key))
    repeated = groups.group_by(*key).having(sa.func.count() > 1).subquery()
    return int(engine.execute_query(sa.select(sa.func.coalesce(sa.func.sum(repeated.c.number), 0))).scalar())
