"""A look at Parquet files with DuckDB, or at a table in PostgreSQL, for ``ninelives gate suggest``; runs in the gate's
worker process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninelives.gates.suggest import CATEGORIES, ColumnProfile, Profile, is_exact

if TYPE_CHECKING:
    from ninelives.adapters.gx_postgres import Snapshot

_KEY_COLUMNS = 4
_KEY_ROWS = 5_000_000
"""Beyond this only a single column is tried: each trial is a sort of the whole."""
_BINS = 10
_NUMBERS = ("int", "uint", "float", "double", "decimal")
_CATEGORICAL = ("int", "uint", "string", "large_string", "bool")
_NO_KEY = ("float", "double", "json", "xml")
"""Of the last two PostgreSQL cannot tell whether two are equal."""
_Ask = Callable[[str], list[tuple[Any, ...]]]


def profile(columns: Mapping[str, str], files: Sequence[Path], settings: Mapping[str, str]) -> Profile:
    """Describe ``files``; numbers of different values are estimates, nulls, extremes and the key are exact.

    :param columns: name to Arrow type
    :param settings: DuckDB's, e.g. ``memory_limit``
    """
    import duckdb

    with duckdb.connect(config=dict(settings)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        paths = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
        names = ", ".join(map(_quoted, columns))
        connection.execute(
            f"CREATE VIEW data AS SELECT {names} FROM "  # noqa: S608
            f"read_parquet([{paths}], hive_partitioning = false, union_by_name = true)"
        )
        return _Look(lambda query: connection.execute(query).fetchall(), columns).profile()


def profile_table(table: str, snapshot: Snapshot) -> Profile | None:
    """The same of a table, all of it in one snapshot, and nothing is an estimate; ``None`` where there is none.

    :param table: ``schema.name``
    """
    from ninelives.adapters.gx_postgres import arrow_type, selection

    columns = snapshot.columns(table)
    data = f"WITH data AS NOT MATERIALIZED ({selection(table, columns)})"
    types = {name: arrow_type(type_) for name, type_ in columns.items()}
    return _PostgresLook(lambda query: snapshot.rows(f"{data} {query}"), types).profile() if columns else None


class _Look:
    """In DuckDB.

    :param ask: answers a query over the relation ``data``
    """

    DIFFERENT = "approx_count_distinct({})"
    FINITE = "isfinite({})"
    QUANTILES = "approx_quantile({}, {})"

    def __init__(self, ask: _Ask, columns: Mapping[str, str]) -> None:
        self.ask = ask
        self.types = columns
        parts = [f"count({_quoted(c)}), {self.DIFFERENT.format(_quoted(c))}" for c in columns]
        self.rows, *numbers = self._row(f"SELECT count(*), {', '.join(parts)} FROM data")  # noqa: S608
        self.filled = dict(zip(columns, numbers[::2], strict=True))
        self.distinct = dict(zip(columns, numbers[1::2], strict=True))

    def profile(self) -> Profile:
        return Profile(self.rows, tuple(self.column(name) for name in self.types), self.key())

    def column(self, name: str) -> ColumnProfile:
        kind = self.types[name]
        seen: dict[str, Any] = {}
        if self.filled[name] and kind.startswith(_CATEGORICAL) and self.distinct[name] <= 2 * CATEGORIES:
            seen |= self._values(name)
        if self.filled[name] and kind.startswith(_NUMBERS):
            seen |= self._range(name, with_bins="values" not in seen)
        return ColumnProfile(name, kind, self.rows - self.filled[name], **seen)

    def _values(self, name: str) -> dict[str, Any]:
        column = _quoted(name)
        found = self.ask(
            f"SELECT {column}, count(*) FROM data WHERE {column} IS NOT NULL GROUP BY 1 LIMIT {CATEGORIES + 1}"  # noqa: S608
        )
        exact = all(not isinstance(value, int) or is_exact(value) for value, _ in found)
        return {"values": tuple(found)} if len(found) <= CATEGORIES and exact else {}

    def _range(self, name: str, *, with_bins: bool) -> dict[str, Any]:
        column = f"{_quoted(name)}::FLOAT8"
        finite = self.FINITE.format(column)
        at = [number / _BINS for number in range(1, _BINS)]
        number, low, high, quantiles = self._row(
            f"SELECT count(*), min({column}), max({column}), {self.QUANTILES.format(column, at)} FROM data "  # noqa: S608
            f"WHERE {finite}"
        )
        if odd := self.filled[name] - number:
            return {"not_finite": odd}
        if low is None or not (is_exact(low) and is_exact(high)):
            return {}
        bins = sorted({low, *(round(q, 6) for q in quantiles if low < q < high), high})
        if not with_bins or len(bins) < 3:
            return {"low": low, "high": high}
        # Like Great Expectations: each bin has its lower edge and not its upper one, the last has both.
        upper = [f"{column} < {edge!r}" for edge in bins[1:-1]] + ["true"]
        parts = [f"count(*) FILTER (WHERE {column} >= {a!r} AND {b})" for a, b in zip(bins, upper, strict=False)]
        counts = self._row(f"SELECT {', '.join(parts)} FROM data WHERE {finite}")  # noqa: S608
        return {"low": low, "high": high, "bins": tuple(bins), "counts": tuple(counts)}

    def key(self) -> tuple[str, ...]:
        """Grown by the column that tells most rows apart, then every column is left out that is not needed."""
        usable = [c for c, kind in self.types.items() if self.filled[c] == self.rows and kind not in _NO_KEY]
        usable.sort(key=lambda c: -self.distinct[c])
        chosen: list[str] = []
        while usable and len(chosen) < _KEY_COLUMNS:
            apart = {column: self._apart([*chosen, column]) for column in (usable if chosen else usable[:1])}
            best = max(apart, key=lambda column: (apart[column], -self.distinct[column]))
            chosen.append(best)
            usable.remove(best)
            if apart[best] == self.rows:
                for column in tuple(chosen):
                    others = [other for other in chosen if other != column]
                    if others and self._apart(others) == self.rows:
                        chosen = others
                return tuple(chosen)
            if self.rows > _KEY_ROWS:
                return ()
        return ()

    def _apart(self, columns: Sequence[str]) -> int:
        names = ", ".join(map(_quoted, columns))
        return int(self._row(f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM data)")[0])  # noqa: S608

    def _row(self, query: str) -> tuple[Any, ...]:
        (row,) = self.ask(query)
        return row


class _PostgresLook(_Look):
    DIFFERENT = "count(DISTINCT {}::text)"  # not every type knows when two are equal
    FINITE = "{} NOT IN ('NaN', 'Infinity', '-Infinity')"
    QUANTILES = "percentile_disc(ARRAY{1}) WITHIN GROUP (ORDER BY {0})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
