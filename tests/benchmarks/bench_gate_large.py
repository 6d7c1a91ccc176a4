"""The gate on 50 million rows: its cost over DuckDB queries written by hand, and whether it obeys its memory.

    python tests/benchmarks/bench_gate_large.py [--rows 50000000] [--rounds 1] [--keep FOLDER] [--statements]

Data: ten columns in Parquet objects of five million rows, and a dataset that they refer to. Sixteen checks: a compound
key, a reference, nulls, ranges, sets, a regular expression, a pair of columns, mean, standard deviation, quantiles, a
histogram. Each measurement is a process of its own with the same memory; the hand-written queries check the same.
CPU is in seconds, of the process and its children; memory is the peak of resident memory in MB of the process that
does the work; ``after_import`` leaves out what starting the engine costs. Prints one JSON document. The data (1 GB)
goes to ``--keep`` or to a temporary folder that is removed. ``--statements`` prints instead what each statement of the
gate took, in seconds of wall and CPU, the dearest first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fresh_process import ROOT, measure, median, one

sys.path[:0] = [str(ROOT / "include")]

PART = 5_000_000
MEMORY = 2000
CURRENCIES = ("CHF", "EUR", "GBP", "JPY", "NOK", "SEK", "USD")

WRITE = """
COPY (SELECT
  i AS id, TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_milliseconds(i * 40) AS at, (hash(i) % 100000)::BIGINT AS account,
  CASE WHEN hash(i + 1) % 50 = 0 THEN NULL ELSE round(exp(3 + sqrt(-2 * ln((hash(i + 2) % 1000000 + 1) / 1000001.0))
    * cos(6.283185 * (hash(i + 3) % 1000000) / 1000000.0)), 2) END AS amount,
  ['CHF','EUR','GBP','JPY','NOK','SEK','USD'][1 + (hash(i + 4) % 7)::INT] AS currency,
  chr(65 + (hash(i + 5) % 26)::INT) || lpad((hash(i + 6) % 10000)::VARCHAR, 4, '0') AS code,
  (hash(i + 7) % 24)::BIGINT AS hour, 10 + (hash(i + 8) % 1000) / 10.0 AS low,
  120 + (hash(i + 9) % 1000) / 10.0 AS high,
  hash(i + 10) % 3 = 0 AS settled
FROM range({first}, {last}) t(i)) TO '{path}' (FORMAT parquet)
"""

BY_HAND = """
WITH d AS (SELECT * FROM read_parquet('{data}'))
SELECT count(*), count(*) - count(id), count(*) - count("at"), count(*) - count(account), count(amount) / count(*),
  count(*) FILTER (WHERE amount NOT BETWEEN 0 AND 100000), count(*) FILTER (WHERE hour NOT BETWEEN 0 AND 23),
  count(*) FILTER (WHERE currency NOT IN ('CHF', 'EUR', 'GBP', 'JPY', 'NOK', 'SEK', 'USD')),
  count(*) FILTER (WHERE NOT regexp_matches(code, '^[A-Z][0-9]{{4}}$')), count(*) FILTER (WHERE high <= low),
  avg(amount), stddev(amount), quantile_disc(amount, [0.05, 0.5, 0.95]), max("at")::VARCHAR, min(low),
  count(*) FILTER (WHERE "at" IS NULL AND settled)
FROM d;
SELECT count(*) FROM (SELECT 1 FROM read_parquet('{data}') GROUP BY id, "at" HAVING count(*) > 1);
SELECT count(*) FROM read_parquet('{data}') d ANTI JOIN read_parquet('{accounts}') a ON a.number = d.account;
SELECT currency, count(*) FROM read_parquet('{data}') GROUP BY currency
"""


def suite() -> dict[str, Any]:
    def ask(type_: str, **kwargs: Any) -> dict[str, Any]:
        return {"type": f"expect_{type_}", "kwargs": kwargs, "reason": "Because the benchmark asks."}

    share = round(1 / len(CURRENCIES), 6)
    histogram = {"values": list(CURRENCIES), "weights": [share] * 6 + [round(1 - 6 * share, 6)]}
    of_currency = {"column": "currency", "partition_object": histogram, "threshold": 0.01}
    ranges = {"quantiles": [0.05, 0.5, 0.95], "value_ranges": [[0, 20], [10, 30], [50, 500]]}
    at_filled = {"type": "nullity", "column": {"name": "at"}, "is_null": False}
    return {
        "dataset": "payments",
        "schema": {
            "id": "int64", "at": "timestamp[us, tz=UTC]", "account": "int64", "amount": "double", "currency": "string",
            "code": "string", "hour": "int64", "low": "double", "high": "double", "settled": "bool",
        },
        "min_rows": 1,
        "memory": f"{MEMORY}MB",
        "time": {"column": "at"},
        "references": [{"dataset": "accounts", "columns": {"account": "number"}, "reason": "Every account is known."}],
        "expectations": [
            ask("compound_columns_to_be_unique", column_list=["id", "at"]),
            *(ask("column_values_to_not_be_null", column=name) for name in ("id", "at", "account")),
            ask("column_values_to_not_be_null", column="amount", mostly=0.95),
            ask("column_values_to_be_between", column="amount", min_value=0, max_value=100000),
            ask("column_values_to_be_between", column="hour", min_value=0, max_value=23),
            ask("column_values_to_be_in_set", column="currency", value_set=list(CURRENCIES)),
            ask("column_values_to_match_regex", column="code", regex="^[A-Z][0-9]{4}$"),
            ask("column_pair_values_a_to_be_greater_than_b", column_A="high", column_B="low"),
            ask("column_mean_to_be_between", column="amount", min_value=10, max_value=100),
            ask("column_stdev_to_be_between", column="amount", min_value=10, max_value=200),
            ask("column_quantile_values_to_be_between", column="amount", quantile_ranges=ranges),
            ask("column_min_to_be_between", column="low", min_value=0),
            ask("column_values_to_not_be_null", column="settled", row_condition=at_filled),
            {**ask("column_kl_divergence_to_be_less_than", **of_currency), "whole": True},
        ],
    }  # fmt: skip


def write(folder: Path, rows: int) -> None:
    import duckdb

    (folder / "data").mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for first in range(0, rows, PART):
            path = folder / "data" / f"{first // PART:03}.parquet"
            if not path.exists():
                connection.execute(WRITE.format(first=first, last=min(first + PART, rows), path=path))
        connection.execute(f"COPY (SELECT i AS number FROM range(100000) t(i)) TO '{folder}/accounts.parquet'")


def gate(folder: Path) -> int:
    from ninelives.adapters.great_expectations import GreatExpectations
    from ninelives.gates.suite import Suite
    from ninelives.gates.verdict import judge

    asked = Suite.model_validate(suite())
    files = {path.name: path for path in sorted((folder / "data").glob("*.parquet"))}
    engine = GreatExpectations(timeout=timedelta(hours=1))
    evaluation = engine.evaluate(asked, files, references={"accounts": {"a": folder / "accounts.parquet"}})
    result = judge(asked, evaluation, fingerprint=None, age=timedelta(0), seconds=0, at=datetime.now(UTC))
    if result.verdict != "pass":
        raise SystemExit(f"the gate did not pass: {result.reasons}")
    return result.rows or 0


def by_hand(folder: Path) -> int:
    program = (
        "import duckdb, sys\n"
        f"con = duckdb.connect(config={{'memory_limit': '{MEMORY - 100}MB', 'temp_directory': sys.argv[2]}})\n"
        "con.execute('SET enable_progress_bar = false')\n"
        "print([con.execute(query).fetchall() for query in sys.argv[1].split(';')][0][0][0])"
    )
    query = BY_HAND.format(data=folder / "data" / "*.parquet", accounts=folder / "accounts.parquet")
    with tempfile.TemporaryDirectory() as spill:
        done = subprocess.run(
            [sys.executable, "-c", program, query, spill], stdout=subprocess.PIPE, text=True, check=True
        )
    return int(done.stdout)


def import_only(_: Path) -> int:
    """What of the gate's cost is the start of the engine."""
    from ninelives.adapters.great_expectations import GreatExpectations
    from ninelives.gates.suite import Suite

    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary), 1000)
        files = {"000.parquet": Path(temporary) / "data" / "000.parquet"}
        references = {"accounts": {"a": Path(temporary) / "accounts.parquet"}}
        GreatExpectations().evaluate(Suite.model_validate(suite()), files, references=references)
    return 1000


def statements(folder: Path) -> None:
    """In this process, since its CPU is asked for; the statements run one after another."""
    import sqlalchemy as sa

    from ninelives.adapters.gx_worker import evaluate
    from ninelives.gates.suite import Suite

    took: list[tuple[float, float, str]] = []

    def begin(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        context.begun = time.perf_counter(), time.process_time()

    def end(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        wall, cpu = time.perf_counter() - context.begun[0], time.process_time() - context.begun[1]
        took.append((wall, cpu, " ".join(statement.split())))

    sa.event.listen(sa.Engine, "before_cursor_execute", begin)
    sa.event.listen(sa.Engine, "after_cursor_execute", end)
    files = {path.name: path for path in sorted((folder / "data").glob("*.parquet"))}
    with tempfile.TemporaryDirectory() as spill:
        settings = {"memory_limit": f"{MEMORY - 600}MB", "temp_directory": spill}
        evaluate(Suite.model_validate(suite()), files, settings, references={"accounts": [folder / "accounts.parquet"]})
    for wall, cpu, statement in sorted(took, key=lambda one: -one[1]):
        print(f"{wall:7.2f} {cpu:7.2f}  {statement[:300]}")


WAYS = {"import_only": import_only, "by_hand": by_hand, "gate": gate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where the data stays for the next time")
    parser.add_argument("--statements", action="store_true", help="show what each statement of the gate took")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(WAYS[options.one[0]], Path(options.one[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="ninelives-bench-") as temporary:
        folder = options.keep or Path(temporary)
        write(folder, options.rows)
        if options.statements:
            statements(folder)
            return
        medians = {way: median([measure(__file__, way, folder) for _ in range(options.rounds)]) for way in WAYS}
        after_import = medians["gate"]["cpu"] - medians["import_only"]["cpu"]
        print(json.dumps({
            "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "declared_mb": MEMORY, **medians,
            "cpu_ratio_after_import": round(after_import / medians["by_hand"]["cpu"], 2),
            "cpu_ratio_all": round(medians["gate"]["cpu"] / medians["by_hand"]["cpu"], 2),
        }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
