"""What the gate costs PostgreSQL: the same rows, the same sixteen checks as ``bench_gate_large.py``, in a table.

    python tests/benchmarks/bench_gate_table.py [--rows 1000000] [--rounds 1]

``client`` is the gate's own process: wall and CPU in seconds, peak of resident memory in MB. ``server_cpu`` is that of
PostgreSQL meanwhile, in seconds; ``fingerprint`` what of the wall time the fingerprint alone takes, asked by itself;
``start`` is the gate on ten rows. Prints one JSON document; the server and its data (0.2 GB per million rows) are
removed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import duckdb
import psutil
import psycopg2
import pyarrow.parquet as pq
from fresh_process import ROOT
from sqlalchemy.engine import URL

sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from bench_gate_large import suite, write  # noqa: E402
from support.postgres import libpq, load, postgres, run_sql  # noqa: E402

from ninelives.adapters.great_expectations import GreatExpectations  # noqa: E402
from ninelives.adapters.gx_postgres import Snapshot  # noqa: E402
from ninelives.gates.suite import Suite  # noqa: E402
from ninelives.ports import Connection  # noqa: E402


def fill(url: URL, rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ninelives-bench-") as temporary, duckdb.connect() as connection:
        folder = Path(temporary)
        write(folder, rows)
        load(url, "public.accounts", pq.read_table(folder / "accounts.parquet"))
        load(url, "public.payments", pq.read_schema(folder / "data" / "000.parquet").empty_table())
        connection.execute("SET TimeZone = 'UTC'")
        text = folder / "payments.csv"
        connection.execute(f"COPY (FROM '{folder}/data/*.parquet') TO '{text}' (HEADER false)")
        with closing(psycopg2.connect(**libpq(url))) as database, text.open() as file:
            database.cursor().copy_expert("COPY public.payments FROM STDIN (FORMAT csv)", file)
            database.commit()
    run_sql(url, "VACUUM ANALYZE public.payments", "CREATE TABLE public.few AS SELECT * FROM public.payments LIMIT 10")


def server_cpu() -> float:
    """Of every PostgreSQL process below this one, those that ended with their parent's."""
    total = 0.0
    for process in psutil.process_iter(["name", "cpu_times"]):
        if process.info["name"] == "postgres":
            times = process.info["cpu_times"]
            total += times.user + times.system + times.children_user + times.children_system
    return total


def judge(database: Connection, table: str, asked: Suite) -> dict[str, float]:
    begun, before, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), server_cpu()
    engine = GreatExpectations(timeout=timedelta(hours=1))
    found = engine.evaluate_table(asked, table, database=database, references={"accounts": "public.accounts"})
    if found.errors or not all(outcome.success for outcome in found.outcomes or ()):
        raise SystemExit(f"the gate did not pass: {found}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall": time.perf_counter() - begun,
        "client_cpu": cpu,
        "client_peak_mb": usage.ru_maxrss / 1024,
        "server_cpu": server_cpu() - used,
        "rows": found.rows or 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with postgres() as url:
        fill(url, options.rows)
        at = libpq(url)
        database = Connection("ninelives_paris_database", at["host"], None, at["user"], None, at["dbname"])
        asked = Suite.model_validate(suite())
        runs = [judge(database, "public.payments", asked) for _ in range(options.rounds)]
        begun = time.perf_counter()
        snapshot = Snapshot(at, 3_600_000)
        snapshot.fingerprint("public.payments", snapshot.columns("public.payments"))
        fingerprint = time.perf_counter() - begun
        few = Suite.model_validate(suite() | {"expectations": suite()["expectations"][:4], "references": []})
        start = GreatExpectations()
        begun = time.perf_counter()
        start.evaluate_table(few, "public.few", database=database)
        medians = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        answer = {**medians, "fingerprint": round(fingerprint, 2), "start": round(time.perf_counter() - begun, 2)}
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
